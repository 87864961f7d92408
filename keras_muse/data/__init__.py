"""Pictures and captions on disk to batches; the procedural shapes world."""

from keras_muse.data import shapes, shapes_checker

__all__ = ["shapes", "shapes_checker"]
