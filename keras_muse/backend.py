"""Which backend Keras gets when nobody chose one."""

import importlib.util
import json
import os
import pathlib
import sys

__all__ = ["choose_backend"]

# The first that is installed; TensorFlow always is.
ORDER = ("jax", "tensorflow", "torch")


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


def _configured():
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        return json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
