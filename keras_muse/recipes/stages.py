"""Stages of a Muse, trained on one's own pictures and captions.

Every function trains one part in a folder: `checkpoints/`, `log.csv`, `samples/`, and
at the end `preset/`. What is finished is loaded, not trained again; what was stopped,
at any moment, goes on.
"""

import pathlib

import keras

from keras_muse import distribution
from keras_muse.models import MuseMaskedImageModel, MuseTextToImage
from keras_muse.recipes.checkpoints import Checkpoints, average_checkpoints
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.recipes.running import (
    first_good,
    fit_to_the_end,
    save_whole,
    settings_of,
)

__all__ = ["average_stage", "train_stage"]

SAMPLES = 16


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
    remat=False,
    lora_rank=None,
    keep_every=None,
    validation=None,
    max_bad_fraction=0.01,
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
        remat: likewise. Defaults to `False`.
        lora_rank: optional int. Trains adapters of the attention layers alone (LoRA,
            arXiv 2106.09685), written to `adapters.lora.h5` for the transformer's
            `load_lora_weights`; the preset has them merged. Defaults to none.
        keep_every: optional int. Checkpoints of each of so many epochs stay, for
            `average_checkpoints`. Defaults to none.
        validation: optional records. Read after every epoch.
        max_bad_fraction: float in [0, 1]. The training stops if more of all records
            cannot be used. Defaults to 0.01.
        prompts: optional list of str. Drawn after every epoch into `samples/`. Defaults
            to the first captions of `validation`, or of `records`, if there are any.
        seed: int. Of the order and of what is masked. Defaults to 0.
        verbose: int. Defaults to 1.

    Returns:
        `MuseTextToImage` of the parts, its stages up to this one trained.

    Raises:
        ValueError, LossNotFinite, OSError: as `train_image_tokenizer`.
    """
    settings = settings_of(locals())
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
        remat=remat,
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

    fit_to_the_end(
        folder,
        trainer,
        records,
        validation,
        settings,
        unit=("tokens", transformer.num_tokens),
        draw=draw,
        verbose=verbose,
    )
    if lora_rank is not None and distribution.current().is_chief:
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
    if not settings.get("keep_every"):
        raise ValueError(
            f"`folder` {str(folder)!r} must be that of a stage trained with "
            "`keep_every`, which keeps checkpoints that are equally far apart."
        )
    muse = MuseTextToImage.from_preset(str(folder / "preset"))
    trainer = MuseMaskedImageModel(
        muse.backbone,
        muse.preprocessor,
        stage=settings["stage"],
        train_text_encoder=settings["train_text_encoder"],
    )
    epochs = average_checkpoints(
        folder / "checkpoints", trainer, settings["keep_every"], decay
    )
    save_whole(muse, preset)
    return epochs


def _first_captions(records):
    """Captions of the first records that have one."""
    if not getattr(records, "captions", False):
        return []
    return first_good(records, SAMPLES, lambda i: records.load_captions(i)[0])
