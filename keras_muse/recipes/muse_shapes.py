"""The training of the embedded preset `muse_shapes`, from nothing to the preset."""

import pathlib

import keras
from keras import ops

from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.layers import set_trainable
from keras_muse.models import (
    MuseBackbone,
    MuseMaskedImageModel,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from keras_muse.models.compilation import compile_inference
from keras_muse.presets import store_as_float16
from keras_muse.recipes import lessons
from keras_muse.recipes.fitting import fit, muon
from keras_muse.recipes.measures import Log, TextUse, Translation
from keras_muse.recipes.tokenizers import (
    retire_unused_codes,
    train_decoder,
    train_tokenizer,
)
from keras_muse.text import MuseTokenizer, T5TextEncoder, train_vocabulary
from keras_muse.transformer import MaskedTransformer, SuperResolutionTransformer

__all__ = ["train"]

SEED = 7
TEXT_LENGTH = 20
LESSONS = 0.08  # share of the pictures that are lessons
SAMPLERS = (
    # By confidence, background comes first, and then there is no room left for objects.
    # In random order, tokens of one step must not be neighbours, which make one object,
    # nor all become the one object that is missing: benchmarks/results/samplers.md.
    Sampler(
        num_steps=48,
        guidance_scale=1.4,
        guidance_schedule="constant",
        temperature=0.8,
        order="random",
        spacing=2,
        draw="systematic",
    ),
    # Nearly all is said by the low-res tokens: no guidance, which costs a second pass.
    Sampler(num_steps=8, temperature=0.0, choice_temperature=0.0),
)


def train(
    folder,
    tokenizer_steps=3600,
    pictures=560_000,
    precision="mixed_bfloat16",
    steps_per_epoch=250,
    batch_size=64,
    super_resolution_pictures=40_000,
    initial_preset=None,
    seed=None,
    test_pictures=500,
):
    """Trains all parts: tokenizers, text encoder, base, super-resolution, decoder.

    What is finished in `folder` is not trained again, and what was stopped goes on.
    With `initial_preset` the base transformer goes on learning from pictures that it
    has not seen, and all other weights of the preset stay what they are.

    Args:
        folder: str or path. Gets `preset/`, the image tokenizers, and a log and a
            checkpoint of each training.
        tokenizer_steps: int. Steps of the base tokenizer, of 32 pictures each; the
            high-res tokenizer and the larger decoder get a quarter of its pictures
            each. Defaults to 3600.
        pictures: int. Pictures that the base is trained on. Defaults to 560,000.
        precision: dtype policy of the transformers and the text encoder in training.
            Defaults to `"mixed_bfloat16"`.
        steps_per_epoch: int. Steps between two checkpoints. Defaults to 250.
        batch_size: int. Pictures of a step of the base. Defaults to 64.
        super_resolution_pictures: int. Pictures that the super-resolution stage is
            trained on. Defaults to 40,000.
        initial_preset: optional str, a preset that this recipe made. Defaults to
            `None`: from nothing.
        seed: optional int, 0 or more, with `initial_preset` alone. Which scenes are
            shown and what is masked: give every training that goes on another one.
            Defaults to 7.
        test_pictures: int. Pictures of held-out captions that the image tokenizers
            are measured on after every epoch. Defaults to 500.

    Returns:
        `pathlib.Path` of the preset.

    Raises:
        ValueError: if `seed` is negative, or given without `initial_preset`.
    """
    if seed is not None and (initial_preset is None or seed < 0):
        raise ValueError(
            "`seed` must be an int of at least 0 with an `initial_preset`, and left "
            f"out without one: received seed={seed}, initial_preset={initial_preset}."
        )
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    often = min(200, steps_per_epoch)
    settings = (precision, steps_per_epoch, batch_size)
    keras.utils.set_random_seed(SEED)
    if initial_preset is None:
        vqgan = train_tokenizer(
            folder, tokenizer_steps, often, test_pictures=test_pictures
        )
        keras.utils.set_random_seed(SEED)
        backbone, preprocessor = train_base(folder, vqgan, pictures, *settings)
    else:
        backbone, preprocessor = prolong_base(
            folder,
            initial_preset,
            pictures,
            *settings,
            seed=SEED if seed is None else seed,
        )
        if len(backbone.stages) > 1:
            return save_preset(folder, backbone, preprocessor)
    keras.utils.set_random_seed(SEED)
    high_res_steps = max(tokenizer_steps // 2, often)
    often = min(100, often)
    high_res = {"batch_size": 16, "stage": 1, "test_pictures": test_pictures}
    vqgan = train_tokenizer(folder, high_res_steps, often, **high_res)
    backbone = train_super_resolution(
        folder, backbone, preprocessor, vqgan, super_resolution_pictures, *settings
    )
    keras.utils.set_random_seed(SEED)
    large = train_decoder(folder, vqgan, high_res_steps, often, **high_res)
    backbone = backbone.replace_image_tokenizer(1, large)
    return save_preset(folder, backbone, preprocessor)


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
        trainer.compile(muon(steps, decay))
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


def prolong_base(
    folder,
    preset,
    pictures,
    precision,
    steps_per_epoch=250,
    batch_size=64,
    seed=SEED,
):
    """Trains the transformer of a preset on more pictures; returns the backbone.

    The learning rate starts lower and falls nearly all the time: on a plateau of 2e-3 a
    base that had seen 560,000 pictures learned nothing from 336,000 more.
    """
    muse = MuseTextToImage.from_preset(preset)
    preprocessor = muse.preprocessor
    backbone = make_backbone(
        muse.backbone.stages[0].image_tokenizer,
        preprocessor.tokenizer.vocabulary_size(),
        precision,
    )
    backbone.text_encoder.set_weights(muse.backbone.text_encoder.get_weights())
    backbone.stages[0].transformer.set_weights(
        muse.backbone.stages[0].transformer.get_weights()
    )
    log_name = f"prolonged_{seed}"
    # Other scenes, and other tokens of them masked, than those it has learned from.
    seed = seed + 100
    trainer = MuseMaskedImageModel(backbone, preprocessor, seed=seed)
    steps = pictures // batch_size
    trainer.compile(muon(steps, decay=0.9, peak=1e-3))
    log = Log(
        folder / f"{log_name}.csv",
        batch_size * steps_per_epoch,
        TextUse(backbone, preprocessor, SEED + 2),
        every=4,
    )
    batches = shapes.dataset(
        "train",
        seed,
        batch_size=batch_size,
        start=log.pictures_seen(),
        two_groups=0.7,
    )
    fit(trainer, folder / f"{log_name}_backup", log, batches, steps, steps_per_epoch)
    # The tokens mean what they meant, so what translates and draws them fits.
    stages = [backbone.stages[0], *muse.backbone.stages[1:]]
    backbone = MuseBackbone(backbone.text_encoder, stages, name=backbone.name)
    return backbone, preprocessor


def add_super_resolution(backbone, image_tokenizer, precision):
    """A backbone with a second stage: 16 x 16 tokens, a transformer of width 128."""
    base = backbone.stages[0].transformer
    transformer = SuperResolutionTransformer(
        codebook_size=image_tokenizer.codebook_size,
        grid_size=16,
        num_layers=3,
        hidden_dim=128,
        num_heads=4,
        low_res_codebook_size=base.codebook_size,
        low_res_grid_size=base.grid_size,
        num_low_res_layers=1,
        text_dim=base.text_dim,
        use_qk_norm=True,
        dtype=precision,
        name="super_resolution_transformer",
    )
    stages = [backbone.stages[0], (image_tokenizer, transformer)]
    return MuseBackbone(backbone.text_encoder, stages, name=backbone.name)


def train_super_resolution(
    folder,
    backbone,
    preprocessor,
    image_tokenizer,
    pictures,
    precision,
    steps_per_epoch=250,
    batch_size=64,
    low_res_corruption=0.0,
):
    """Trains a second stage on twice the resolution; returns the backbone.

    Neither the text encoder nor the base learns any more.
    """
    backbone = add_super_resolution(backbone, image_tokenizer, precision)
    seed = SEED + 200
    trainer = MuseMaskedImageModel(
        backbone,
        preprocessor,
        stage=1,
        low_res_corruption=low_res_corruption,
        seed=seed,
    )
    # Each picture has four times the tokens of one of the base.
    batch_size = max(batch_size // 2, 1)
    steps = max(pictures // batch_size, steps_per_epoch)
    trainer.compile(muon(steps))
    log = Log(
        folder / "super_resolution.csv",
        batch_size * steps_per_epoch,
        Translation(backbone, preprocessor, SAMPLERS, SEED + 2),
        every=4,
    )
    low_res_tokenizer = backbone.stages[0].image_tokenizer
    batches = two_resolutions(
        low_res_tokenizer, seed, batch_size, start=log.pictures_seen()
    )
    backup = folder / "super_resolution_backup"
    fit(trainer, backup, log, batches, steps, steps_per_epoch)
    return backbone


def two_resolutions(low_res_tokenizer, seed, batch_size, start=0):
    """Pictures of stage 1 with the tokens of the same scenes drawn for stage 0.

    Downscaled pictures have other tokens for two of the 340 cells, which are all that
    the base knows; a second stage that learned from them drew noise for every large
    blue cross on black.
    """
    # A copy: on JAX the weights of a model in training are out of reach meanwhile.
    copy = type(low_res_tokenizer).from_config(low_res_tokenizer.get_config())
    copy.set_weights(low_res_tokenizer.get_weights())
    encode = compile_inference(copy, copy.encode)

    def batch(first):
        large, small = (
            shapes.examples("train", first, batch_size, seed, scale) for scale in (2, 1)
        )
        ids = encode(ops.convert_to_tensor(small[0]))
        return {
            "images": large[0],
            "captions": large[1],
            "low_res_ids": ops.convert_to_numpy(ids),
        }

    return shapes.endless(batch, batch_size, start)


def save_preset(folder, backbone, preprocessor):
    """Writes the preset as it is shipped: float32 policy, float16 weights."""
    config = backbone.get_config()
    plain = MuseBackbone.from_config({**config, "dtype": "float32"})
    plain.set_weights(backbone.get_weights())
    set_trainable(plain, True)
    for index, stage in enumerate(plain.stages):
        retire_unused_codes(stage.image_tokenizer, scale=index + 1)
    muse = MuseTextToImage(plain, preprocessor, samplers=SAMPLERS)
    muse.save_to_preset(str(folder / "preset"))
    store_as_float16(folder / "preset")
    return folder / "preset"
