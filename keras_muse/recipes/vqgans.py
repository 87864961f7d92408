"""Image tokenizers, and their larger decoders, trained on one's own pictures.

Every function trains one part in a folder: `checkpoints/`, `log.csv`, `samples/`, and
at the end `preset/`. What is finished is loaded, not trained again; what was stopped,
at any moment, goes on.
"""

import pathlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_muse import distribution
from keras_muse.image_tokenizer import (
    VQGAN,
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    PatchDiscriminator,
    PerceptualLoss,
    VectorQuantizer,
    VQGANTrainer,
)
from keras_muse.models.compilation import compile_inference
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.recipes.running import (
    first_good,
    fit_to_the_end,
    save_whole,
    settings_of,
)

__all__ = ["quantizer_of", "train_decoder", "train_image_tokenizer"]

QUANTIZERS = {
    "vector": VectorQuantizer,
    "finite_scalar": FiniteScalarQuantizer,
    "lookup_free": LookupFreeQuantizer,
}
# Of VGG16, the last layer of each block before it is pooled.
VGG_LAYERS = ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3"]
SHOWN = 8


def train_image_tokenizer(
    folder,
    records,
    steps,
    batch_size=32,
    steps_per_epoch=500,
    quantizer=None,
    model=None,
    optimizer=None,
    reconstruction="l2",
    reconstruction_weight=1.0,
    perceptual="vgg16",
    perceptual_weight=0.05,
    discriminator=None,
    adversarial="hinge",
    adversarial_weight=0.1,
    adversarial_start_step=0,
    lecam_weight=None,
    validation=None,
    max_bad_fraction=0.01,
    seed=0,
    verbose=1,
):
    """Trains a `VQGAN` on pictures.

    Args:
        folder: str or path.
        records: `PictureRecords` of the size that is trained on; captions are not
            looked at.
        steps: int. Training steps.
        batch_size: int. Defaults to 32.
        steps_per_epoch: int. Steps between two checkpoints, and lines of the log.
            Defaults to 500.
        quantizer: optional dict: `"kind"`, `"vector"`, `"finite_scalar"` or
            `"lookup_free"`, and the arguments of that quantizer. Defaults to a
            `VectorQuantizer` of 1,024 codes of width 32.
        model: optional dict, arguments of `VQGAN`.
        optimizer: optional dict, arguments of `make_optimizer`, of which here beta_2 is
            .99 and the weight decay 0, as the paper has it for image tokenizers, unless
            they are given. Defaults to `"paper"`. With `ema_momentum` the log's
            validation, the samples and the preset are those of the averaged weights.
        reconstruction: see `VQGANTrainer.compile`. Defaults to `"l2"`.
        reconstruction_weight: float. Defaults to 1.
        perceptual: `"vgg16"`, which is left out with a warning where its weights cannot
            be had; the path of a `.keras` file of a feature model of images in [0, 1];
            or `"none"`. Defaults to `"vgg16"`.
        perceptual_weight: float. Defaults to 0.05, the paper's.
        discriminator: optional dict, arguments of `PatchDiscriminator`. Defaults to
            `None`, no adversarial term.
        adversarial: `"hinge"` or `"non_saturating"`. Defaults to `"hinge"`.
        adversarial_weight: float. Defaults to 0.1, the paper's.
        adversarial_start_step: int. Defaults to 0.
        lecam_weight: optional float. See `VQGANTrainer.compile`. Defaults to no such
            term.
        validation: optional `PictureRecords`. Read after every epoch.
        max_bad_fraction: float in [0, 1]. The training stops if more of all records
            cannot be used. Defaults to 0.01.
        seed: int. Of the weights and the order. Defaults to 0.
        verbose: int. 1 prints a line an epoch. Defaults to 1.

    Returns:
        `VQGAN`, trained.

    Raises:
        ValueError: if an argument is out of range, or the folder has checkpoints of
            other settings.
        LossNotFinite: if the loss becomes NaN; the last good checkpoint stays.
        OSError: if a checkpoint cannot be written; the last one stays.
    """
    settings = settings_of(locals())

    def make():
        make_quantizer, config = quantizer_of(
            quantizer or {"codebook_size": 1024, "embedding_dim": 32}
        )
        vqgan = VQGAN(make_quantizer(name="quantizer", **config), **(model or {}))
        critic = None
        if discriminator is not None:
            critic = PatchDiscriminator(**discriminator)
            critic(np.zeros((1, *records.image_size, 3), "float32"))
        return vqgan, critic

    loss = {
        "reconstruction": reconstruction,
        "reconstruction_weight": reconstruction_weight,
        "perceptual": perceptual,
        "perceptual_weight": perceptual_weight,
        "adversarial": None if discriminator is None else adversarial,
        "adversarial_weight": adversarial_weight,
        "adversarial_start_step": adversarial_start_step,
        "lecam_weight": lecam_weight or 0.0,
    }
    return _train_vqgan(folder, records, make, loss, validation, settings, verbose)


def quantizer_of(settings):
    """The class of a quantizer and its arguments.

    Args:
        settings: dict, the arguments and optionally `"kind"`.

    Raises:
        ValueError: if there is no such kind.
    """
    settings = dict(settings)
    kind = settings.pop("kind", "vector")
    if kind not in QUANTIZERS:
        raise ValueError(
            f"`kind` of `quantizer` must be one of {list(QUANTIZERS)}: received "
            f"{kind!r}."
        )
    return QUANTIZERS[kind], settings


def train_decoder(
    folder,
    vqgan,
    records,
    steps,
    batch_size=32,
    steps_per_epoch=500,
    base_channels=256,
    num_residual_blocks=4,
    optimizer=None,
    reconstruction="l2",
    reconstruction_weight=1.0,
    perceptual="vgg16",
    perceptual_weight=0.05,
    validation=None,
    max_bad_fraction=0.01,
    seed=0,
    verbose=1,
):
    """Trains a larger decoder; encoder, codebook and transformers stay what they are.

    Muse, section 2.5. `MuseBackbone.replace_image_tokenizer` puts it into a Muse.

    Args:
        folder: str or path.
        vqgan: `VQGAN` that is trained.
        records: `PictureRecords`.
        steps: int.
        batch_size: int. Defaults to 32.
        steps_per_epoch: int. Defaults to 500.
        base_channels: int. Defaults to 256, the paper's.
        num_residual_blocks: int, or one for each level. Defaults to 4, the paper's.
        optimizer: see `train_image_tokenizer`.
        reconstruction: likewise.
        reconstruction_weight: likewise.
        perceptual: likewise.
        perceptual_weight: likewise.
        validation: likewise.
        max_bad_fraction: likewise.
        seed: likewise.
        verbose: likewise.

    Returns:
        `VQGAN` with the tokens of `vqgan`.

    Raises:
        ValueError, LossNotFinite, OSError: as `train_image_tokenizer`.
    """
    settings = settings_of(locals())

    def make():
        return vqgan.with_decoder(base_channels, num_residual_blocks), None

    loss = {
        "reconstruction": reconstruction,
        "reconstruction_weight": reconstruction_weight,
        "perceptual": perceptual,
        "perceptual_weight": perceptual_weight,
    }
    return _train_vqgan(folder, records, make, loss, validation, settings, verbose)


def _train_vqgan(folder, records, make, loss, validation, settings, verbose):
    """Trains what is trainable of a `VQGAN`; returns it."""
    folder = pathlib.Path(folder)
    if (folder / "preset").exists():
        return VQGAN.from_preset(str(folder / "preset"))
    records = records.without_captions()
    validation = None if validation is None else validation.without_captions()
    keras.utils.set_random_seed(settings["seed"])
    vqgan, discriminator = make()
    trainer = VQGANTrainer(vqgan, discriminator)
    optimizer = {"beta_2": 0.99, "weight_decay": 0.0, "steps": settings["steps"]}
    loss = {**loss, "perceptual": _perceptual(loss["perceptual"])}
    if loss["perceptual"] is None:
        # A run that begins with its weights must not go on without them.
        settings = {**settings, "perceptual": "none"}
    trainer.compile(make_optimizer(**{**optimizer, **settings["optimizer"]}), **loss)
    reconstruct = compile_inference(vqgan, vqgan.reconstruct)
    source, random = validation or records, np.random.default_rng(0)
    shown = first_good(source, SHOWN, lambda i: source.load_picture(i, random))

    def draw():
        made = ops.convert_to_numpy(reconstruct(ops.convert_to_tensor(np.stack(shown))))
        made = np.uint8(np.round(made * 255.0))
        # Each picture beside its reconstruction.
        return np.stack([p for pair in zip(shown, made) for p in pair])

    fit_to_the_end(
        folder,
        trainer,
        records,
        validation,
        settings,
        unit=("pictures", 1),
        draw=draw if shown else None,
        verbose=verbose,
    )
    save_whole(vqgan, folder / "preset")
    return VQGAN.from_preset(str(folder / "preset"))


def _perceptual(name):
    """The perceptual loss of a name, `None` where it cannot be had."""
    if name == "none":
        return None
    if name != "vgg16":
        # In Keras' safe mode, which runs no code from the file.
        return PerceptualLoss(keras.saving.load_model(name, compile=False))
    devices = distribution.current()
    if not devices.is_chief:
        # The first one downloads.
        devices.barrier()
    try:
        network = keras.applications.VGG16(
            include_top=False, weights="imagenet", input_shape=(None, None, 3)
        )
    except Exception as error:
        if devices.shard[1] > 1:
            # One process must not go on without what the others have.
            raise OSError(
                f"The weights of VGG16 cannot be had ({error}), which in several "
                "processes is an error: `perceptual` may be 'none' or another network."
            ) from error
        warnings.warn(
            f"The weights of VGG16 cannot be had ({error}): training goes on without "
            "a perceptual loss. `perceptual` may be the path of another network.",
            stacklevel=4,
        )
        return None
    finally:
        if devices.is_chief:
            devices.barrier()

    def preprocess(images):
        # As its weights were trained: BGR, 0 to 255, the mean of ImageNet taken off.
        mean = ops.convert_to_tensor([103.939, 116.779, 123.68], "float32")
        return ops.flip(images, axis=-1) * 255.0 - mean

    return PerceptualLoss(network, VGG_LAYERS, preprocess)
