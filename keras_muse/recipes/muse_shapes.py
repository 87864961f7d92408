"""The training of the embedded preset `muse_shapes`, from nothing to the preset."""

import pathlib

import keras
from keras import ops

from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.image_tokenizer import VQGAN, VectorQuantizer, VQGANTrainer
from keras_muse.layers import register, set_trainable
from keras_muse.models import (
    MuseBackbone,
    MuseMaskedImageModel,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from keras_muse.presets import store_as_float16
from keras_muse.recipes import lessons
from keras_muse.recipes.measures import Log, TextUse, reconstruction_quality
from keras_muse.text import MuseTokenizer, T5TextEncoder, train_vocabulary
from keras_muse.transformer import MaskedTransformer

__all__ = ["WarmupStableDecay", "train"]

SEED = 7
TEXT_LENGTH = 20
LESSONS = 0.08  # share of the pictures that are lessons
# Noise this strong makes the order of the tokens random: by confidence alone background
# comes first, and then there is no room left for objects. On 200 held-out captions,
# temperatures from 0.7 to 1 and guidance from 1.2 to 1.5 do equally well.
SAMPLER = Sampler(
    num_steps=24,
    guidance_scale=1.4,
    guidance_schedule="constant",
    temperature=0.8,
    choice_temperature=50.0,
)


def train(
    folder,
    tokenizer_steps=3600,
    pictures=560_000,
    precision="mixed_bfloat16",
    steps_per_epoch=250,
    batch_size=64,
):
    """Trains the image tokenizer, then the base with its text encoder.

    What is finished in `folder` is not trained again, and what was stopped goes on.

    Args:
        folder: str or path. Gets `tokenizer/`, `preset/`, the logs `tokenizer.csv`
            and `base.csv`, and a checkpoint of each training.
        tokenizer_steps: int. Steps of 32 pictures. Defaults to 3600.
        pictures: int. Pictures that the base is trained on. Defaults to 560,000.
        precision: dtype policy of the base and the text encoder in training. Defaults
            to `"mixed_bfloat16"`.
        steps_per_epoch: int. Steps between two checkpoints. Defaults to 250.
        batch_size: int. Pictures of a step of the base. Defaults to 64.

    Returns:
        `pathlib.Path` of the preset.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    vqgan = train_tokenizer(folder, tokenizer_steps, min(200, steps_per_epoch))
    keras.utils.set_random_seed(SEED)
    backbone, preprocessor = train_base(
        folder, vqgan, pictures, precision, steps_per_epoch, batch_size
    )
    return save_preset(folder, backbone, preprocessor)


def make_tokenizer(stage=0):
    """One token for 8 x 8 pixels, of 64 x 64 at stage 0 and of 128 x 128 at stage 1.

    A token of stage 0 is a cell of the world, of which there are 340; a token of
    stage 1 is a quarter of one, of which there are 731, some of them rare.
    """
    quantizer = (
        VectorQuantizer(512, 32, name="quantizer"),
        VectorQuantizer(1024, 32, revival_threshold=0.01, name="quantizer"),
    )[stage]
    return VQGAN(
        quantizer,
        base_channels=16,
        channel_multipliers=(1, 4),
        strides=(8,),
        num_residual_blocks=(0, 1),
        groups=8,
        upsampling="depth_to_space",
        local_encoder=True,
        dtype="float32",
        name=("image_tokenizer", "high_res_tokenizer")[stage],
    )


def make_preprocessor():
    """A vocabulary of the world's words, and letters for all others."""
    words = shapes.words()
    tokenizer = MuseTokenizer(proto=train_vocabulary(words, words, vocabulary_size=128))
    return MuseTextToImagePreprocessor(tokenizer, TEXT_LENGTH)


def make_backbone(image_tokenizer, vocabulary_size, precision):
    """The small Muse: 8 x 8 tokens, a transformer of width 192."""
    text_encoder = T5TextEncoder(
        vocabulary_size=vocabulary_size,
        num_layers=3,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        dtype=precision,
        name="text_encoder",
    )
    start_with_neighbours(text_encoder)
    transformer = MaskedTransformer(
        codebook_size=image_tokenizer.codebook_size,
        grid_size=8,
        num_layers=4,
        hidden_dim=192,
        num_heads=6,
        text_dim=128,
        use_qk_norm=True,
        dtype=precision,
        name="base_transformer",
    )
    return MuseBackbone(
        text_encoder, [(image_tokenizer, transformer)], name="muse_shapes"
    )


def start_with_neighbours(text_encoder):
    """Makes the first text embeddings depend on what stands beside each word.

    T5 starts with words that outweigh their neighbours and a bias that hardly tells
    one distance from another. Trained from there along with the pictures, the encoder
    stays a bag of words: "red circle, blue square" is "blue circle, red square".
    """
    embeddings = text_encoder.token_embedding.embeddings
    embeddings.assign(0.3 * embeddings)
    table = text_encoder.relative_position_bias.table.embeddings
    table.assign(keras.random.normal(table.shape, seed=SEED))


@register
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up, a plateau, a linear decay to zero: a plateau can be prolonged."""

    def __init__(self, peak, warmup, decay_start, decay_end):
        """Peak rate and the three steps at which the schedule bends."""
        self.peak = peak
        self.warmup = warmup
        self.decay_start = decay_start
        self.decay_end = decay_end

    def __call__(self, step):
        """The learning rate of a step."""
        step = ops.cast(step, "float32")
        length = max(self.decay_end - self.decay_start, 1)
        left = (self.decay_end - step) / length
        return self.peak * ops.clip(ops.minimum(step / self.warmup, left), 0.0, 1.0)

    def get_config(self):
        """The arguments."""
        return vars(self)


def train_tokenizer(folder, steps, steps_per_epoch, batch_size=32, stage=0):
    """Trains the VQGAN of a stage on reconstruction; returns it."""
    name = ("tokenizer", "high_res_tokenizer")[stage]
    done = folder / name
    if done.exists():
        return VQGAN.from_preset(str(done))
    vqgan = make_tokenizer(stage)
    fit_tokenizer(folder, name, vqgan, steps, steps_per_epoch, batch_size, stage)
    vqgan.save_to_preset(done)
    # Before a transformer learns its tokens: rounding moves some cells to a code that
    # lies beside theirs.
    store_as_float16(done)
    return VQGAN.from_preset(str(done))


def fit_tokenizer(folder, name, vqgan, steps, steps_per_epoch, batch_size, stage):
    """Trains what is trainable of a VQGAN on the pictures of a stage."""
    trainer = VQGANTrainer(vqgan)
    trainer.compile(
        keras.optimizers.Adam(
            WarmupStableDecay(2e-3, 100, int(0.6 * steps), steps),
            beta_2=0.99,
            global_clipnorm=1.0,
        ),
        reconstruction="l2",
        reconstruction_weight=10.0,
    )
    scale = 2**stage
    images, captions = shapes.examples("held_out_captions", 0, 500, SEED + 1, scale)
    log = Log(
        folder / f"{name}.csv",
        batch_size * steps_per_epoch,
        lambda: reconstruction_quality(vqgan, images, captions),
    )
    # Fresh scenes for ever; a resumed run goes on where the stream was cut off.
    pictures = shapes.dataset(
        "train", SEED, scale, batch_size, start=log.pictures_seen()
    ).map(lambda batch: batch["images"])
    fit(trainer, folder / f"{name}_backup", log, pictures, steps, steps_per_epoch)


def fit(trainer, backup, log, batches, steps, steps_per_epoch):
    """`fit` with a checkpoint every epoch; `batches` are those not seen yet."""
    trainer.fit(
        batches.prefetch(8),
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        callbacks=[
            keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False),
            log,
        ],
        shuffle=False,
        verbose=0,
    )


def train_base(folder, vqgan, pictures, precision, steps_per_epoch=250, batch_size=64):
    """Trains the base transformer and the text encoder; returns the backbone.

    First on `LESSONS` of the pictures with all tokens masked, always: what is visible
    tells what is not, and as long as it does nobody has to read.
    """
    preprocessor = make_preprocessor()
    backbone = make_backbone(vqgan, preprocessor.tokenizer.vocabulary_size(), precision)
    measure = TextUse(backbone, preprocessor, SEED + 2)
    first = max(int(LESSONS * pictures) // batch_size, steps_per_epoch)
    for name, steps, min_mask_rate, decay in (
        ("lessons", first, 1.0, 0.0),
        ("base", pictures // batch_size - first, 0.0, 0.3),
    ):
        trainer = MuseMaskedImageModel(
            backbone,
            preprocessor,
            train_text_encoder=True,
            min_mask_rate=min_mask_rate,
            seed=SEED,
        )
        trainer.compile(make_optimizer(steps, decay))
        log = Log(
            folder / f"{name}.csv", batch_size * steps_per_epoch, measure, every=4
        )
        start = log.pictures_seen()
        if name == "lessons":
            batches = lessons.dataset(SEED, batch_size, start)
        else:
            batches = shapes.dataset(
                "train", SEED, batch_size=batch_size, start=start, two_groups=0.7
            )
        fit(trainer, folder / f"{name}_backup", log, batches, steps, steps_per_epoch)
    return backbone, preprocessor


def make_optimizer(steps, decay=0.3):
    """Muon for matrices, Adam for the rest, learning rate flat and then down to zero.

    Muon (arXiv 2502.16982) leaves the first plateau, where a model knows how frequent
    each token is and no more, after 20,000 pictures; AdamW (1e-3, batches of 32) was
    still on it after 36,000. At 4e-3 the feed-forward networks of the text encoder
    outgrow its attention, and captions become bags of words.
    """
    return keras.optimizers.Muon(
        WarmupStableDecay(2e-3, 300, int((1.0 - decay) * steps), steps),
        adam_lr_ratio=0.5,
        adam_beta_2=0.98,
        # Not matrices of a layer: the codes' logits, tables of positions.
        exclude_layers=["(^|/)head/", "relative"],
        weight_decay=0.02,
        adam_weight_decay=0.02,
    )


def save_preset(folder, backbone, preprocessor):
    """Writes the preset as it is shipped: float32 policy, float16 weights."""
    config = backbone.get_config()
    plain = MuseBackbone.from_config({**config, "dtype": "float32"})
    plain.set_weights(backbone.get_weights())
    set_trainable(plain, True)
    muse = MuseTextToImage(plain, preprocessor, samplers=SAMPLER)
    muse.save_to_preset(str(folder / "preset"))
    store_as_float16(folder / "preset")
    return folder / "preset"
