"""Whole trainings, from nothing to a preset."""

from keras_muse.recipes import config, muse_shapes, stages, vqgans
from keras_muse.recipes.checkpoints import (
    Checkpoints,
    LossNotFinite,
    average_checkpoints,
)
from keras_muse.recipes.config import train
from keras_muse.recipes.optimizers import make_optimizer

__all__ = [
    "Checkpoints",
    "LossNotFinite",
    "average_checkpoints",
    "config",
    "make_optimizer",
    "muse_shapes",
    "stages",
    "train",
    "vqgans",
]
