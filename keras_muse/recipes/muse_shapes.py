"""The training of the embedded preset `muse_shapes`, from nothing to the preset."""

import pathlib

import keras
from keras import ops

from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.image_tokenizer import VQGAN, VectorQuantizer, VQGANTrainer
from keras_muse.layers import register
from keras_muse.models import (
    MuseBackbone,
    MuseMaskedImageModel,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from keras_muse.presets import store_as_float16
from keras_muse.recipes.measures import Log, TextUse, reconstruction_quality
from keras_muse.text import MuseTokenizer, T5TextEncoder, train_vocabulary
from keras_muse.transformer import MaskedTransformer

__all__ = ["WarmupStableDecay", "train"]

SEED = 7
TEXT_LENGTH = 20
# What did best on 200 held-out captions. Noise this strong makes the order of the
# tokens random: by confidence alone background comes first, and then there is no room
# left for objects.
SAMPLER = Sampler(
    num_steps=24,
    guidance_scale=1.5,
    guidance_schedule="constant",
    temperature=0.7,
    choice_temperature=50.0,
)


def train(
    folder,
    tokenizer_steps=3600,
    pictures=320_000,
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
        pictures: int. Pictures that the base is trained on. Defaults to 320,000.
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


def make_tokenizer():
    """64 x 64 pixels to 8 x 8 tokens: one token is one cell of the world."""
    return VQGAN(
        VectorQuantizer(512, 32, name="quantizer"),
        base_channels=16,
        channel_multipliers=(1, 4),
        strides=(8,),
        num_residual_blocks=(0, 1),
        groups=8,
        upsampling="depth_to_space",
        local_encoder=True,
        dtype="float32",
        name="image_tokenizer",
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
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=256,
        dtype=precision,
        name="text_encoder",
    )
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


def train_tokenizer(folder, steps, steps_per_epoch, batch_size=32):
    """Trains the VQGAN on reconstruction; returns it."""
    done = folder / "tokenizer"
    if done.exists():
        return VQGAN.from_preset(str(done))
    vqgan = make_tokenizer()
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
    test_images, captions = shapes.examples("held_out_captions", 0, 500, SEED + 1)
    log = Log(
        folder / "tokenizer.csv",
        batch_size * steps_per_epoch,
        lambda: reconstruction_quality(vqgan, test_images, captions),
    )
    fit(
        trainer,
        folder / "tokenizer_backup",
        log,
        steps,
        steps_per_epoch,
        batch_size,
        prepare=lambda batch: batch["images"],
    )
    vqgan.save_to_preset(done)
    return vqgan


def fit(trainer, backup, log, steps, steps_per_epoch, batch_size, prepare=None):
    """`fit` on fresh pictures, with a checkpoint every epoch."""
    callbacks = [keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False), log]
    # Fresh scenes for ever; a resumed run goes on where the stream was cut off.
    pictures = shapes.dataset(
        "train", SEED, batch_size=batch_size, start=log.pictures_seen()
    )
    if prepare is not None:
        pictures = pictures.map(prepare)
    trainer.fit(
        pictures.prefetch(8),
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def train_base(folder, vqgan, pictures, precision, steps_per_epoch=250, batch_size=64):
    """Trains the base transformer and the text encoder; returns the backbone."""
    preprocessor = make_preprocessor()
    backbone = make_backbone(vqgan, preprocessor.tokenizer.vocabulary_size(), precision)
    trainer = MuseMaskedImageModel(
        backbone, preprocessor, train_text_encoder=True, seed=SEED
    )
    steps = pictures // batch_size
    trainer.compile(make_optimizer(steps))
    log = Log(
        folder / "base.csv",
        batch_size * steps_per_epoch,
        TextUse(backbone, preprocessor, SEED + 2),
        every=4,
    )
    fit(trainer, folder / "base_backup", log, steps, steps_per_epoch, batch_size)
    return backbone, preprocessor


def make_optimizer(steps):
    """Muon for matrices, Adam for the rest, learning rate flat and then down to zero.

    Muon is arXiv 2502.16982. How much it gains over AdamW here is not measured yet.
    """
    return keras.optimizers.Muon(
        WarmupStableDecay(4e-3, 300, int(0.7 * steps), steps),
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
    muse = MuseTextToImage(plain, preprocessor, samplers=SAMPLER)
    muse.save_to_preset(str(folder / "preset"))
    store_as_float16(folder / "preset")
    return folder / "preset"
