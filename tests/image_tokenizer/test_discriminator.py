import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import PatchDiscriminator, StyleDiscriminator
from keras_muse.image_tokenizer.discriminator import BlurPool, MinibatchDeviation
from tests.image_tokenizer.probes import images
from tests.tools import compiled, set_weights


def test_patches_of_any_size(parity):
    discriminator = PatchDiscriminator(8, num_layers=2, groups=4)
    set_weights(discriminator)
    for size, grid in ((16, (4, 4)), ((8, 24), (2, 6))):
        logits = compiled(discriminator)(images(2, size))
        assert tuple(logits.shape) == (2, *grid, 1)
    parity("patch_logits", ops.convert_to_numpy(logits), atol=1e-3)


@pytest.mark.parametrize("size", [16, (8, 24)])
def test_one_verdict_an_image(size, parity):
    discriminator = StyleDiscriminator(size, 4, minibatch_groups=2)
    set_weights(discriminator)
    logits = ops.convert_to_numpy(compiled(discriminator)(images(4, size)))
    assert logits.shape == (4, 1)
    parity(f"style_logits_{size}", logits, atol=1e-3)


def test_verdicts_of_patches_do_not_depend_on_the_batch():
    discriminator = PatchDiscriminator(8, num_layers=2, groups=4)
    set_weights(discriminator)
    judge = compiled(discriminator)
    x = images(4, 16)
    np.testing.assert_allclose(
        ops.convert_to_numpy(judge(x))[:1],
        ops.convert_to_numpy(judge(x[:1])),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "discriminator",
    [
        PatchDiscriminator(8, num_layers=1, groups=4),
        StyleDiscriminator(8, 4, max_channels=6, minibatch_groups=2),
    ],
)
def test_config_round_trip(discriminator):
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(discriminator)
    )
    assert copy.get_config() == discriminator.get_config()
    copy.set_weights(discriminator.get_weights())
    x = images(2, 8)
    np.testing.assert_allclose(
        ops.convert_to_numpy(compiled(copy)(x)),
        ops.convert_to_numpy(compiled(discriminator)(x)),
        atol=1e-6,
    )


def test_blur_pool_keeps_constants_and_removes_stripes():
    x = np.ones((1, 8, 8, 2), "float32")
    x[:, :, 1::2] = -1.0
    blurred = ops.convert_to_numpy(BlurPool()(x))
    assert blurred.shape == (1, 4, 4, 2)
    np.testing.assert_allclose(blurred[:, 1:-1, 1:-1], 0.0, atol=1e-6)
    constant = ops.convert_to_numpy(BlurPool()(np.ones((1, 8, 8, 2), "float32")))
    np.testing.assert_allclose(constant[:, 1:-1, 1:-1], 1.0, atol=1e-6)


def test_minibatch_deviation_is_that_of_its_group():
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype("float32")
    output = ops.convert_to_numpy(MinibatchDeviation(2)(x))
    np.testing.assert_array_equal(output[..., :3], x)
    for image in range(4):
        group = x[[image % 2, image % 2 + 2]]
        expected = group.std(0).mean()
        np.testing.assert_allclose(output[image, ..., 3], expected, atol=1e-3)


@pytest.mark.parametrize("size", [4, (18, 16), 0])
def test_bad_image_sizes_are_named(size):
    with pytest.raises(ValueError, match="`image_size`"):
        StyleDiscriminator(size)
