"""A training as a TOML file: from pictures and captions to a preset.

Every key is an argument of a function, where it is documented:

| table | function |
|---|---|
| `[data]` | `keras_muse.data.read_pictures` |
| `[text]` | `train_vocabulary`, `T5TextEncoder`, `MuseTextToImagePreprocessor` |
| `[[stages]]` | |
| `[stages.image_tokenizer]` | `recipes.vqgans.train_image_tokenizer` |
| `[stages.transformer]` | `MaskedTransformer`, `SuperResolutionTransformer` |
| `[stages.training]` | `recipes.stages.train_stage` |
| `[stages.decoder]` | `recipes.vqgans.train_decoder` |
| `[stages.sampler]` | `decoding.Sampler` |
| `[devices]` | `distribution.distribute` |
"""

import inspect
import json
import pathlib
import tomllib

import keras

from keras_muse import distribution
from keras_muse.data import files, read_pictures
from keras_muse.decoding import Sampler
from keras_muse.image_tokenizer import VQGAN, PatchDiscriminator
from keras_muse.models import (
    MuseBackbone,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.recipes.running import check_steps, save_whole
from keras_muse.recipes.stages import train_stage
from keras_muse.recipes.vqgans import (
    quantizer_of,
    train_decoder,
    train_image_tokenizer,
)
from keras_muse.text import MuseTokenizer, T5TextEncoder, train_vocabulary
from keras_muse.transformer import MaskedTransformer, SuperResolutionTransformer

__all__ = ["is_begun", "read_config", "train"]

TABLES = ("data", "text", "stages", "seed", "devices")
STAGE_TABLES = (
    "image_size",
    "image_tokenizer",
    "transformer",
    "training",
    "decoder",
    "sampler",
)


def read_config(path):
    """A config, checked: unknown tables and keys are errors before anything is read.

    Args:
        path: str or path of a TOML file.

    Returns:
        dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TOML, lacks a table, or has a key that no function
            takes; the message names the key and those that there are.
    """
    config = _parse(path)
    _check_keys("the config", config, TABLES, needed=("data", "text", "stages"))
    data_keys = ("source", "images", "caption_key", "crop", "flip")
    _check_keys("[data]", config["data"], (*data_keys, "validation"), data_keys[:1])
    _check_keys(
        "[text]",
        config["text"],
        ("vocabulary_size", "sequence_length", "encoder"),
        needed=("encoder",),
    )
    _check_arguments("encoder of [text]", config["text"]["encoder"], T5TextEncoder)
    _check_arguments("[devices]", config.get("devices", {}), distribution.distribute)
    for number, stage in enumerate(config["stages"]):
        _check_stage(f"[[stages]] {number}", number, stage)
    return config


def train(config, folder, verbose=1):
    """Trains all parts of a config, one after another.

    The same call goes on after it was stopped, at any moment, as if nothing had
    happened; what is finished is not trained again.

    Args:
        config: str or path of a TOML file.
        folder: str or path. Gets a folder for each part, with its checkpoints, log and
            samples, and `preset/`.
        verbose: int. 1 prints a line an epoch. Defaults to 1.

    Returns:
        `pathlib.Path` of the preset, for `from_preset`.

    Raises:
        ValueError: as `read_config`, and if the folder was begun with another config.
        LossNotFinite, OSError, TooManyBadRecords: as the functions of
            `recipes.vqgans` and `recipes.stages`.
    """
    folder = pathlib.Path(folder)
    # TensorFlow can join several workers only before it has done anything.
    _use_devices(_parse(config).get("devices"))
    config = read_config(config)
    _check_batch_sizes(config["stages"])
    # Where it is trained is no part of what is trained.
    config.pop("devices", None)
    _same_config(config, folder)
    if (folder / "preset").exists():
        return folder / "preset"
    common = {"seed": config.get("seed", 0), "verbose": verbose}
    stages, tokenizers = config["stages"], []
    for number, stage in enumerate(stages):
        records, validation = _read(config, stage["image_size"])
        tokenizers.append(
            train_image_tokenizer(
                folder / f"image_tokenizer_{number}",
                records,
                validation=validation,
                **{**common, **stage["image_tokenizer"]},
            )
        )
    muse = _make_muse(config, tokenizers, _vocabulary(config, folder))
    parts = []
    for number, stage in enumerate(stages):
        parts.append(muse.backbone.stages[number])
        # A stage is trained, and drawn, with those before it alone.
        backbone = MuseBackbone(muse.backbone.text_encoder, parts)
        records, validation = _read(config, stage["image_size"])
        # What is trained along, in one stage, is frozen behind it.
        train_stage(
            folder / f"stage_{number}",
            backbone,
            muse.preprocessor,
            records,
            stage=number,
            validation=validation,
            **{**common, **stage["training"]},
        )
    backbone = muse.backbone
    for number, stage in enumerate(stages):
        if "decoder" in stage:
            records, validation = _read(config, stage["image_size"])
            vqgan = train_decoder(
                folder / f"decoder_{number}",
                tokenizers[number],
                records,
                validation=validation,
                **{**common, **stage["decoder"]},
            )
            backbone = backbone.replace_image_tokenizer(number, vqgan)
    samplers = [Sampler(**stage.get("sampler", {})) for stage in stages]
    muse = MuseTextToImage(backbone, muse.preprocessor, samplers=samplers)
    save_whole(muse, folder / "preset")
    return folder / "preset"


def _parse(path):
    """A TOML file as a dict."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`config` must be a TOML file: there is no {path}.")
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{str(path)!r} is no TOML: {error}.") from error


def _use_devices(settings):
    """Those of a table; without one, those that `distribute` was asked for before."""
    if settings is not None:
        _check_arguments("[devices]", settings, distribution.distribute)
        distribution.distribute(**settings)
    count = distribution.launched_processes()
    if count != distribution.current().shard[1]:
        raise ValueError(
            f"This is one of {count} processes that were started together, and each "
            "would train alone into the same folder: the config needs [devices]."
        )


def _check_batch_sizes(stages):
    """That replicas can have equal parts, before the first of them is trained."""
    for stage in stages:
        for table, function in (
            ("image_tokenizer", train_image_tokenizer),
            ("training", train_stage),
            ("decoder", train_decoder),
        ):
            default = inspect.signature(function).parameters["batch_size"].default
            if table in stage:
                distribution.current().rows(stage[table].get("batch_size", default))


def _read(config, image_size):
    """(records, validation or `None`) at a size."""
    settings = dict(config["data"])
    share = settings.pop("validation", 0.0)
    records = read_pictures(**settings, image_size=image_size)
    return records.split(share) if share else (records, None)


def _vocabulary(config, folder):
    """Of the captions as they were at first: a later one would have other ids."""
    path = folder / "vocabulary.model"
    if distribution.current().is_chief and not path.exists():
        records, _ = _read(config, config["stages"][0]["image_size"])
        size = config["text"].get("vocabulary_size", 512)
        proto = train_vocabulary(records.all_captions(), vocabulary_size=size)
        with files.replace(path) as beside:
            pathlib.Path(beside).write_bytes(proto)
    distribution.current().barrier()
    return path.read_bytes()


def _make_muse(config, tokenizers, proto):
    """A Muse whose transformers have still to be trained."""
    text = config["text"]
    # A run that goes on has to begin with the same weights.
    keras.utils.set_random_seed(config.get("seed", 0))
    tokenizer = MuseTokenizer(proto=proto)
    preprocessor = MuseTextToImagePreprocessor(
        tokenizer, text.get("sequence_length", 32)
    )
    encoder = T5TextEncoder(
        vocabulary_size=tokenizer.vocabulary_size(), **text["encoder"]
    )
    parts = []
    for number, (stage, vqgan) in enumerate(zip(config["stages"], tokenizers)):
        side = stage["image_size"]
        sides = (side, side) if isinstance(side, int) else tuple(side)
        settings = {
            "codebook_size": vqgan.codebook_size,
            "grid_size": vqgan.grid_size(*sides),
            "text_dim": encoder.output.shape[-1],
            **stage["transformer"],
        }
        if number:
            before = parts[-1][1]
            settings["low_res_codebook_size"] = before.codebook_size
            settings["low_res_grid_size"] = before.grid_size
        make = SuperResolutionTransformer if number else MaskedTransformer
        parts.append((vqgan, make(**settings, name=f"transformer_{number}")))
    return MuseTextToImage(MuseBackbone(encoder, parts), preprocessor)


def is_begun(folder):
    """Whether anything in a folder would be lost.

    Args:
        folder: str or path, of `train`.

    Returns:
        bool: whether a part has a checkpoint or is finished.
    """
    folder = pathlib.Path(folder)
    return any(
        any(folder.glob(pattern))
        for pattern in ("*/checkpoints/*.json", "*/preset", "preset")
    )


def _same_config(config, folder):
    """Writes the config down, or holds that of the folder against it."""
    path = folder / "config.json"
    text = json.dumps(config, indent=1, sort_keys=True)
    found = path.read_text() if path.exists() else None
    if found != text and is_begun(folder):
        raise ValueError(
            f"`folder` {str(folder)!r} was begun with another config, which is in "
            f"{str(path)!r}. Go on with that one, or name an empty folder."
        )
    # Nobody writes before all have looked.
    distribution.current().barrier()
    if found == text or not distribution.current().is_chief:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # What no training has used is that of another vocabulary.
    (folder / "vocabulary.model").unlink(missing_ok=True)
    with files.replace(path) as beside:
        pathlib.Path(beside).write_text(text)


def _check_stage(name, number, stage):
    """Every key of a stage, so that no typo is found after days of training."""
    needed = ("image_size", "image_tokenizer", "transformer", "training")
    _check_keys(name, stage, STAGE_TABLES, needed)
    for table, function in (
        ("image_tokenizer", train_image_tokenizer),
        ("training", train_stage),
        ("decoder", train_decoder),
    ):
        if table in stage:
            settings, where = stage[table], f"{table} of {name}"
            _check_arguments(where, settings, function, needed=("steps",))
            check_steps(settings["steps"], settings.get("steps_per_epoch", 500))
            make_optimizer(**settings.get("optimizer", {}))
    transformer = SuperResolutionTransformer if number else MaskedTransformer
    _check_arguments(f"transformer of {name}", stage["transformer"], transformer)
    Sampler(**stage.get("sampler", {}))
    tokenizer = stage["image_tokenizer"]
    make_quantizer, quantizer = quantizer_of(tokenizer.get("quantizer", {}))
    for table, settings, function in (
        ("model", tokenizer.get("model", {}), VQGAN),
        ("quantizer", quantizer, make_quantizer),
        ("discriminator", tokenizer.get("discriminator", {}), PatchDiscriminator),
    ):
        _check_arguments(f"{table} of {name}", settings, function)


def _check_arguments(name, table, function, needed=()):
    """That every key is an argument which is not filled in here."""
    filled_in = ("folder", "records", "validation", "backbone", "preprocessor")
    filled_in += ("vqgan", "stage", "verbose", "self", "kwargs")
    arguments = inspect.signature(function).parameters
    _check_keys(name, table, [n for n in arguments if n not in filled_in], needed)


def _check_keys(name, table, known, needed=()):
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no key of {name}. There are {', '.join(known)}."
        )
    missing = [key for key in needed if key not in table]
    if missing:
        raise ValueError(f"{name} must have {missing[0]!r}: it has {list(table)}.")
