"""The preset in the package: it is whole, small, and does what it says."""

import pathlib

import numpy as np
import pytest

from keras_muse import presets
from keras_muse.data import shapes, shapes_checker

CAPTION = "three small red circles on a black background"


@pytest.fixture(scope="module")
def muse():
    return presets.load("muse_shapes")


@pytest.fixture(scope="module")
def held_out():
    return shapes.examples("held_out_captions", 0, 32, 11)[1]


def test_one_picture(muse):
    image = muse.generate(CAPTION, seed=1)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert presets.describe("muse_shapes")["image_size"] == (64, 64)


def test_its_files():
    folder = pathlib.Path(presets.describe("muse_shapes")["path"])
    assert (folder / "checksums.json").is_file()
    presets.verify(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size <= 20 * 2**20


def test_the_same_tokens_on_every_backend(muse, held_out, parity):
    seeds = np.arange(16, dtype="int32")
    (tokens,) = muse.generate_tokens(held_out[:16], None, seeds)
    parity("muse_shapes_tokens", tokens)


@pytest.mark.slow
def test_pictures_are_what_was_asked_for(muse, held_out):
    images = muse.generate(held_out, seed=0)
    agreement = shapes_checker.agreement(images, held_out)
    # Two thirds of what the model card says of held-out captions.
    assert np.mean(agreement["exact"]) >= 0.25
    assert np.mean(agreement["colors"]) >= 0.9
    assert np.mean(agreement["background"]) >= 0.95
