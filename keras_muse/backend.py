"""Which backend Keras gets when nobody chose one; a process without TensorFlow."""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys

__all__ = ["choose_backend", "leave_out_tensorflow"]

# The first that is installed; TensorFlow always is.
ORDER = ("jax", "tensorflow", "torch")
WITHOUT = "KERAS_MUSE_WITHOUT_TENSORFLOW"


def choose_backend():
    """Sets `KERAS_BACKEND`, unless it is set, configured or too late.

    Keras reads it once, when it is imported, and without one takes TensorFlow. What
    Keras' own configuration file names stays, if it is installed.
    """
    if os.environ.get("KERAS_BACKEND") or "keras" in sys.modules:
        return
    for name in (_configured(), *ORDER):
        if name is not None and importlib.util.find_spec(name) is not None:
            os.environ["KERAS_BACKEND"] = name
            return


def leave_out_tensorflow():
    """Makes this a process without TensorFlow if `KERAS_MUSE_WITHOUT_TENSORFLOW` is 1.

    KerasHub imports it on every backend, for text in `tf.data` and in exported models:
    3 seconds and half a gigabyte, which a process that only makes pictures on JAX or
    PyTorch has no use for.

    Raises:
        ValueError: if the variable is neither 0 nor 1, or 1 with TensorFlow as the
            backend.
    """
    value = os.environ.get(WITHOUT, "0")
    if value not in ("0", "1"):
        raise ValueError(f"`{WITHOUT}` must be 0 or 1. Received: {value!r}.")
    if value == "0":
        return
    if os.environ.get("KERAS_BACKEND") == "tensorflow":
        raise ValueError(f"`{WITHOUT}` must be 0 where `KERAS_BACKEND` is tensorflow.")
    if not any(isinstance(finder, _WithoutTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutTensorFlow())


class _WithoutTensorFlow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds TensorFlow and cannot load it.

    `None` in `sys.modules` would hide it too, but there are libraries (einops) that
    take a name in there for a module.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ("tensorflow", "tensorflow_text"):
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def exec_module(self, module):
        name = module.__name__
        raise ModuleNotFoundError(
            f"`{WITHOUT}` is 1, so this process has no {name}: it must be 0 for "
            "`tf.data`, training recipes, exports and TensorBoard.",
            name=name,
        )


def _configured():
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        return json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
