"""Whole trainings, from nothing to a preset."""

from keras_muse.recipes import config, muse_shapes, pictures
from keras_muse.recipes.checkpoints import Checkpoints, LossNotFinite
from keras_muse.recipes.config import train
from keras_muse.recipes.optimizers import make_optimizer

__all__ = [
    "Checkpoints",
    "LossNotFinite",
    "config",
    "make_optimizer",
    "muse_shapes",
    "pictures",
    "train",
]
