"""Pictures made smaller."""

import numpy as np
import pytest
from keras import ops

from keras_muse.data import shapes
from keras_muse.image_tokenizer import downscale


def test_sizes_that_divide_are_means():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 12, 6, 3)).astype("uint8")
    small = ops.convert_to_numpy(downscale(images, 4, 3))
    expected = images.reshape(2, 4, 3, 3, 2, 3).mean((2, 4)) / 255.0
    np.testing.assert_allclose(small, expected, atol=1e-6)


def test_the_same_size_is_the_same_picture():
    images = np.random.default_rng(1).random((1, 5, 4, 3)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(downscale(images, 5, 4)), images)


def test_other_sizes_keep_the_mean_and_the_range(parity):
    images, _ = shapes.examples("all", 0, 2, seed=3)
    small = ops.convert_to_numpy(downscale(images, 48, 40))
    assert small.shape == (2, 48, 40, 3)
    assert small.min() >= 0.0 and small.max() <= 1.0
    np.testing.assert_allclose(small.mean(), images.mean() / 255.0, atol=3e-3)
    parity("downscale", small, atol=2e-3)


def test_a_scene_at_twice_the_size_becomes_the_scene():
    small, _ = shapes.examples("all", 0, 8, seed=4)
    large, _ = shapes.examples("all", 0, 8, seed=4, scale=2)
    halved = 255.0 * ops.convert_to_numpy(downscale(large, 64, 64))
    assert np.abs(halved - small).max() <= 1.5  # both were rounded


def test_images_are_not_made_larger():
    with pytest.raises(ValueError, match="at least 16 x 16 pixels: received 8 x 32"):
        downscale(np.zeros((1, 8, 32, 3), "uint8"), 16, 16)
