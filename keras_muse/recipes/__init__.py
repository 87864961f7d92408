"""Whole trainings, from nothing to a preset."""

from keras_muse.recipes import muse_shapes

__all__ = ["muse_shapes"]
