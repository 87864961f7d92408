import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer.blocks import (
    Downsample,
    GroupNormalization,
    ResidualBlock,
    Upsample,
)
from tests.tools import set_weights


def inputs(shape=(2, 6, 12, 8)):
    return np.random.default_rng(0).normal(size=shape).astype("float32") * 3 + 5


def test_group_normalization_equals_keras():
    ours, theirs = (
        GroupNormalization(4),
        keras.layers.GroupNormalization(4, epsilon=1e-6),
    )
    x = inputs()
    ours.build(x.shape)
    theirs.build(x.shape)
    set_weights(ours)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)), ops.convert_to_numpy(theirs(x)), atol=1e-4
    )


def test_group_normalization_of_a_constant_is_finite():
    x = np.full((1, 4, 4, 8), 1000.1, "float32")
    assert np.abs(ops.convert_to_numpy(GroupNormalization(2)(x))).max() < 1.0


def test_statistics_are_float32_in_half_precision():
    x = inputs() * 100
    half = GroupNormalization(4, dtype="bfloat16")(x)
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    full = ops.convert_to_numpy(GroupNormalization(4)(x))
    half = ops.convert_to_numpy(ops.cast(half, "float32"))
    np.testing.assert_allclose(half, full, atol=0.1)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (ResidualBlock(8, 4), (2, 6, 12, 8)),
        (ResidualBlock(4, 2), (2, 6, 12, 4)),
        (Downsample(2, 4), (2, 3, 6, 4)),
        (Downsample(3, 4), (2, 2, 4, 4)),
        (Downsample(6, 4), (2, 1, 2, 4)),
        (Downsample(2, 4, "average"), (2, 3, 6, 8)),
        (Upsample(2, 4), (2, 12, 24, 4)),
        (Upsample(3, 8), (2, 18, 36, 8)),
        (Upsample(3, 4, "depth_to_space"), (2, 18, 36, 4)),
    ],
)
def test_shapes_and_configs(layer, shape, parity):
    x = inputs()
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    copy.build(x.shape)
    set_weights(copy)
    output = copy(x)
    assert tuple(output.shape) == shape
    symbolic = copy(keras.KerasTensor((None, None, None, 8)))
    assert symbolic.shape == (None, None, None, shape[-1])
    assert copy(keras.KerasTensor(x.shape)).shape == shape
    name = f"block_{type(layer).__name__}_{'_'.join(map(str, shape))}"
    parity(name, ops.convert_to_numpy(output), atol=1e-3)


def test_an_average_is_an_average():
    x = inputs()
    expected = x.reshape(2, 3, 2, 6, 2, 8).mean((2, 4))
    actual = ops.convert_to_numpy(Downsample(2, 8, "average")(x))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "depth_to_space"])
def test_upsampling_puts_pixels_where_they_belong(mode):
    x = inputs((1, 2, 3, 4))
    layer = Upsample(2, 4, mode)
    layer.build(x.shape)
    kernel = np.zeros(layer.conv.kernel.shape, "float32")
    for channel in range(kernel.shape[-1]):
        kernel[1, 1, channel % 4, channel] = 1.0
    layer.conv.kernel.assign(kernel)
    expected = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-6)


def test_a_residual_block_with_zero_kernels_is_its_shortcut():
    x = inputs()
    block = ResidualBlock(8, 4)
    block.build(x.shape)
    block.conv_2.kernel.assign(np.zeros(block.conv_2.kernel.shape))
    np.testing.assert_allclose(ops.convert_to_numpy(block(x)), x, atol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="groups=3.*8 channels"):
        ResidualBlock(8, 3).build((None, None, None, 8))
    with pytest.raises(ValueError, match="`downsampling`.*max"):
        Downsample(2, 8, "max")
    with pytest.raises(ValueError, match="`upsampling`.*bilinear"):
        Upsample(2, 8, "bilinear")
