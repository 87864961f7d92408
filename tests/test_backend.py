"""Which backend, and processes without TensorFlow."""

import json
import os
import subprocess
import sys

import keras
import pytest

from keras_muse import backend

ALONE = """
import hashlib, json, sys
import keras_muse
muse = keras_muse.presets.load("muse_shapes")
picture = muse.generate("a red circle on black", num_steps=1, seed=1)
try:
    import tensorflow
    error = ""
except ImportError as stop:
    error = str(stop)
found = [hashlib.sha256(picture).hexdigest(), error, "tensorflow" in sys.modules]
print(json.dumps(found))
"""


@pytest.fixture
def without(monkeypatch):
    """Sets the variable; what may be imported stays as it was."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return lambda value: monkeypatch.setenv("KERAS_MUSE_WITHOUT_TENSORFLOW", value)


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="needs TensorFlow")
def test_pictures_without_tensorflow_are_the_same():
    found = []
    for value in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", ALONE],
            env={**os.environ, "KERAS_MUSE_WITHOUT_TENSORFLOW": value},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.splitlines()[-1]))
    (picture, *rest), (alone, error, imported) = found
    assert picture == alone
    assert rest == ["", True]
    assert "`KERAS_MUSE_WITHOUT_TENSORFLOW` is 1" in error and not imported


@pytest.mark.parametrize("value", ["yes", ""])
def test_only_0_and_1_are_taken(without, value):
    without(value)
    with pytest.raises(ValueError, match="must be 0 or 1. Received: "):
        backend.leave_out_tensorflow()


def test_tensorflow_cannot_be_left_out_of_itself(without, monkeypatch):
    without("1")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(ValueError, match="must be 0 where `KERAS_BACKEND`"):
        backend.leave_out_tensorflow()


def test_it_is_left_out_once_and_only_if_asked(without, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    before = list(sys.meta_path)
    backend.leave_out_tensorflow()
    without("0")
    backend.leave_out_tensorflow()
    assert sys.meta_path == before
    without("1")
    backend.leave_out_tensorflow()
    backend.leave_out_tensorflow()
    assert sys.meta_path[1:] == before
