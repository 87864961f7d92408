"""A small Muse and its export, once for all tests."""

import shutil

import numpy as np
import pytest

from keras_muse.decoding import Sampler
from tests.serving import loader
from tests.tools import tiny_muse

# One stage guided, as in the embedded preset; few steps.
SAMPLERS = [
    Sampler(num_steps=4, guidance_scale=1.5, order="random", spacing=1),
    Sampler(num_steps=2, guidance_scale=1.0),
]


@pytest.fixture(scope="session")
def muse():
    return tiny_muse(2, samplers=SAMPLERS)


@pytest.fixture(scope="session")
def exported(muse, tmp_path_factory):
    """The folder of version 1, made by TensorFlow whatever the backend."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    return muse.export(base / "1", max_batch=6)


@pytest.fixture(scope="session")
def signatures(exported):
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    model = tf.saved_model.load(str(exported))

    def named(name):
        # A signature does not keep the weights of its model.
        function = model.signatures[name]
        function.model = model
        return function

    return {name: named(name) for name in model.signatures}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The C++ loader."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    return loader.build(tmp_path_factory.mktemp("loader"))


@pytest.fixture(scope="session")
def pictures(muse):
    """Four pictures of the size of the model, and masks of a part of them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    masks = np.zeros((4, 32, 32), bool)
    masks[0, 8:20, 4:16] = True
    masks[1, :, 16:] = True
    masks[2, 5, 5] = True
    return images, masks
