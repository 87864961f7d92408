"""Whole trainings, from nothing to a preset."""

from keras_muse.recipes import config, muse_shapes, stages, vqgans
from keras_muse.recipes.checkpoints import (
    Checkpoints,
    LossNotFinite,
    average_checkpoints,
)
from keras_muse.recipes.config import train
from keras_muse.recipes.optimizers import make_optimizer
from keras_muse.recipes.overfit import overfit_one_batch

__all__ = [
    "Checkpoints",
    "LossNotFinite",
    "average_checkpoints",
    "config",
    "make_optimizer",
    "muse_shapes",
    "overfit_one_batch",
    "stages",
    "train",
    "vqgans",
]
