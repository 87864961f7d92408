"""From a Muse to a SavedModel that TF Serving takes: prompt in, picture out."""

from keras_muse.serving.saved_model import BACKENDS, PRECISIONS, export, export_preset

__all__ = ["BACKENDS", "PRECISIONS", "export", "export_preset"]
