"""The parts of a Muse, each trained on pictures and captions of one's own.

Every function trains one part in a folder: `checkpoints/`, `log.csv`, `samples/`, and
at the end `preset/`. What is finished is loaded, not trained again; what was stopped,
at any moment, goes on.
"""

import pathlib
import shutil
import warnings

import keras
import numpy as np
from keras import ops

from keras_muse.data import tf_batches
from keras_muse.image_tokenizer import (
    VQGAN,
    FiniteScalarQuantizer,
    PatchDiscriminator,
    PerceptualLoss,
    VectorQuantizer,
    VQGANTrainer,
)
from keras_muse.models import MuseMaskedImageModel, MuseTextToImage
from keras_muse.models.compilation import compile_inference
from keras_muse.recipes.checkpoints import Checkpoints, average_checkpoints
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.recipes.progress import CSVLog, SampleGrid, Throughput

__all__ = [
    "average_stage",
    "save_whole",
    "train_decoder",
    "train_image_tokenizer",
    "train_stage",
]

QUANTIZERS = {"vector": VectorQuantizer, "finite_scalar": FiniteScalarQuantizer}
# Of VGG16, the last layer of each block before it is pooled.
VGG_LAYERS = ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3"]
SAMPLES = 16


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
    validation=None,
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
        quantizer: optional dict: `"kind"`, `"vector"` or `"finite_scalar"`, and the
            arguments of that quantizer. Defaults to a `VectorQuantizer` of 1,024 codes
            of width 32.
        model: optional dict, arguments of `VQGAN`.
        optimizer: optional dict, arguments of `make_optimizer`. Defaults to `"paper"`
            with beta_2 .99 and no weight decay.
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
        validation: optional `PictureRecords`. Read after every epoch.
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
    settings = _settings(locals())

    def make():
        config = dict(quantizer or {"codebook_size": 1024, "embedding_dim": 32})
        kind = config.pop("kind", "vector")
        if kind not in QUANTIZERS:
            raise ValueError(
                f"`kind` of `quantizer` must be one of {list(QUANTIZERS)}: received "
                f"{kind!r}."
            )
        vqgan = VQGAN(QUANTIZERS[kind](name="quantizer", **config), **(model or {}))
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
    }
    return _train_vqgan(folder, records, make, loss, validation, settings, verbose)


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
        seed: likewise.
        verbose: likewise.

    Returns:
        `VQGAN` with the tokens of `vqgan`.

    Raises:
        ValueError, LossNotFinite, OSError: as `train_image_tokenizer`.
    """
    settings = _settings(locals())

    def make():
        return vqgan.with_decoder(base_channels, num_residual_blocks), None

    loss = {
        "reconstruction": reconstruction,
        "reconstruction_weight": reconstruction_weight,
        "perceptual": perceptual,
        "perceptual_weight": perceptual_weight,
    }
    return _train_vqgan(folder, records, make, loss, validation, settings, verbose)


def train_stage(
    folder,
    backbone,
    preprocessor,
    records,
    steps,
    stage=0,
    batch_size=64,
    steps_per_epoch=500,
    optimizer=None,
    train_text_encoder=False,
    caption_dropout=0.1,
    min_mask_rate=0.0,
    low_res_corruption=0.0,
    low_res_resampling=0.0,
    lora_rank=None,
    keep_every=None,
    validation=None,
    prompts=None,
    seed=0,
    verbose=1,
):
    """Trains the transformer of a stage, in place.

    Args:
        folder: str or path.
        backbone: `MuseBackbone`.
        preprocessor: `MuseTextToImagePreprocessor`.
        records: `PictureRecords` with captions, of the size of the stage or larger, or
            `TokenRecords` of it.
        steps: int.
        stage: int. Defaults to 0.
        batch_size: int. Defaults to 64.
        steps_per_epoch: int. Defaults to 500.
        optimizer: optional dict, arguments of `make_optimizer`. Defaults to `"paper"`.
        train_text_encoder: see `MuseMaskedImageModel`. Defaults to `False`.
        caption_dropout: likewise. Defaults to 0.1.
        min_mask_rate: likewise. Defaults to 0.
        low_res_corruption: likewise. Defaults to 0.
        low_res_resampling: likewise. Defaults to 0.
        lora_rank: optional int. Trains adapters of the attention layers alone (LoRA,
            arXiv 2106.09685), written to `adapters.lora.h5` for the transformer's
            `load_lora_weights`; the preset has them merged. Defaults to none.
        keep_every: optional int. Checkpoints of each of so many epochs stay, for
            `average_checkpoints`. Defaults to none.
        validation: optional records. Read after every epoch.
        prompts: optional list of str. Drawn after every epoch into `samples/`. Defaults
            to the first captions of `validation`, or of `records`, if there are any.
        seed: int. Of the order and of what is masked. Defaults to 0.
        verbose: int. Defaults to 1.

    Returns:
        `MuseTextToImage` of the parts, its stages up to this one trained.

    Raises:
        ValueError, LossNotFinite, OSError: as `train_image_tokenizer`.
    """
    settings = _settings(locals())
    folder = pathlib.Path(folder)
    muse = MuseTextToImage(backbone, preprocessor)
    if (folder / "preset").exists():
        done = MuseTextToImage.from_preset(str(folder / "preset"))
        backbone.set_weights(done.backbone.get_weights())
        return muse
    keras.utils.set_random_seed(seed)
    transformer = backbone.transformers[stage]
    if lora_rank is not None:
        transformer.enable_lora(lora_rank)
    trainer = MuseMaskedImageModel(
        backbone,
        preprocessor,
        stage=stage,
        caption_dropout=caption_dropout,
        train_text_encoder=train_text_encoder,
        min_mask_rate=min_mask_rate,
        low_res_corruption=low_res_corruption,
        low_res_resampling=low_res_resampling,
        seed=seed,
    )
    trainer.compile(make_optimizer(**{"steps": steps, **(optimizer or {})}))
    if prompts is None:
        prompts = _first_captions(validation or records)
    draw = None
    # A stage is drawn with those before it, and none behind it.
    if prompts and stage == len(backbone.stages) - 1:

        def draw():
            return muse.generate(prompts, seed=list(range(len(prompts))))

    unit = ("tokens", transformer.num_tokens)
    _fit(folder, trainer, records, validation, settings, unit, draw, verbose)
    if lora_rank is not None:
        transformer.save_lora_weights(str(folder / "adapters.lora.h5"))
    save_whole(muse, folder / "preset")
    return muse


def average_stage(folder, preset, decay=0.7):
    """Writes a preset of a trained stage with the average of its checkpoints.

    Args:
        folder: str or path that `train_stage` wrote, trained to its end.
        preset: str or path of the new folder.
        decay: float in [0, 1). Defaults to 0.7, the paper's.

    Returns:
        list of int, the epochs that are in the average.

    Raises:
        ValueError: as `average_checkpoints`, and if `preset` exists.
    """
    folder, preset = pathlib.Path(folder), pathlib.Path(preset)
    if preset.exists():
        raise ValueError(f"`preset` {str(preset)!r} exists, name another folder.")
    checkpoints = Checkpoints(folder / "checkpoints")
    if not checkpoints.paths() or not (folder / "preset").exists():
        raise ValueError(f"`folder` {str(folder)!r} is not that of a trained stage.")
    settings = checkpoints.verified(checkpoints.paths()[-1])["settings"]
    muse = MuseTextToImage.from_preset(str(folder / "preset"))
    trainer = MuseMaskedImageModel(
        muse.backbone,
        muse.preprocessor,
        stage=settings["stage"],
        train_text_encoder=settings["train_text_encoder"],
    )
    epochs = average_checkpoints(folder / "checkpoints", trainer, decay)
    save_whole(muse, preset)
    return epochs


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
    trainer.compile(make_optimizer(**{**optimizer, **settings["optimizer"]}), **loss)
    reconstruct = compile_inference(vqgan, vqgan.reconstruct)
    random = np.random.default_rng(0)
    shown = [
        (validation or records).load_picture(index, random)
        for index in range(min(SAMPLES // 2, len(validation or records)))
    ]

    def draw():
        made = ops.convert_to_numpy(reconstruct(ops.convert_to_tensor(np.stack(shown))))
        made = np.uint8(np.round(made * 255.0))
        # Each picture beside its reconstruction.
        return np.stack([p for pair in zip(shown, made) for p in pair])

    unit = ("pictures", 1)
    _fit(folder, trainer, records, validation, settings, unit, draw, verbose)
    save_whole(vqgan, folder / "preset")
    return VQGAN.from_preset(str(folder / "preset"))


def _fit(folder, trainer, records, validation, settings, unit, draw, verbose):
    """`fit` from where it was stopped to its end."""
    steps, batch_size = settings["steps"], settings["batch_size"]
    steps_per_epoch = min(settings["steps_per_epoch"], steps)
    if steps % steps_per_epoch:
        raise ValueError(
            "`steps` must be a multiple of `steps_per_epoch`: received "
            f"{steps} and {steps_per_epoch}."
        )
    keep_every = settings.get("keep_every")
    settings = {**settings, "num_records": len(records)}
    checkpoints = Checkpoints(folder / "checkpoints", settings, keep_every=keep_every)
    epoch = checkpoints.restore(trainer)
    batches = tf_batches(
        records,
        batch_size,
        seed=settings["seed"],
        start=epoch * steps_per_epoch * batch_size,
        bad_file=folder / "bad.jsonl",
    )
    name, count = unit
    callbacks = [
        Throughput(name, count * batch_size),
        checkpoints,
        CSVLog(folder / "log.csv", checkpoints, verbose),
    ]
    if draw is not None:
        callbacks.append(
            SampleGrid(folder / "samples", draw, tensorboard=folder / "tensorboard")
        )
    validation_steps = None
    if validation is not None:
        # Told how many there are, Keras does not warn of the end of the data.
        validation_steps = -(-len(validation) // batch_size)
        validation = tf_batches(
            validation,
            batch_size,
            shuffle=False,
            repeat=False,
            bad_file=folder / "bad_validation.jsonl",
        )
    trainer.fit(
        batches,
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        initial_epoch=epoch,
        validation_data=validation,
        validation_steps=validation_steps,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def _settings(arguments):
    """What must be the same in a run that goes on; JSON."""
    given = ("folder", "backbone", "preprocessor", "vqgan", "records", "validation")
    settings = {k: v for k, v in arguments.items() if k not in (*given, "verbose")}
    return {**settings, "optimizer": settings["optimizer"] or {}}


def _first_captions(records):
    """Captions of the first records that have one."""
    if not getattr(records, "captions", False):
        return []
    return [
        records.load_captions(index)[0] for index in range(min(SAMPLES, len(records)))
    ]


def _perceptual(name):
    """The perceptual loss of a name, `None` where it cannot be had."""
    if name == "none":
        return None
    if name != "vgg16":
        # In Keras' safe mode, which runs no code from the file.
        return PerceptualLoss(keras.saving.load_model(name, compile=False))
    try:
        network = keras.applications.VGG16(
            include_top=False, weights="imagenet", input_shape=(None, None, 3)
        )
    except Exception as error:
        warnings.warn(
            f"The weights of VGG16 cannot be had ({error}): training goes on without "
            "a perceptual loss. `perceptual` may be the path of another network.",
            stacklevel=4,
        )
        return None

    def preprocess(images):
        # As its weights were trained: BGR, 0 to 255, the mean of ImageNet taken off.
        mean = ops.convert_to_tensor([103.939, 116.779, 123.68], "float32")
        return ops.flip(images, axis=-1) * 255.0 - mean

    return PerceptualLoss(network, VGG_LAYERS, preprocess)


def save_whole(model, path):
    """A preset that is there as a whole or not at all."""
    beside = path.with_name(path.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_to_preset(str(beside))
    beside.rename(path)
