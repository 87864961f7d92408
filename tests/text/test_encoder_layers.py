"""The position bias against the paper's rule, the layer against plain numpy."""

import math

import keras
import numpy as np
import pytest

from keras_muse.text.encoder_layers import RelativePositionBias, T5EncoderLayer
from tests.tools import set_weights


def bucket(offset, num_buckets, max_distance):
    """The bucket of key position minus query position, in exact arithmetic."""
    half = num_buckets // 2
    exact = half // 2
    distance = abs(offset)
    if distance >= exact:
        growth = math.log(distance / exact) / math.log(max_distance / exact)
        # Rounding away the last digits keeps exact powers exact.
        distance = min(exact + int(round(growth * (half - exact), 9)), half - 1)
    return distance + (half if offset > 0 else 0)


@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20), (4, 3)])
def test_buckets(num_buckets, max_distance):
    layer = RelativePositionBias(3, num_buckets, max_distance)
    length = max_distance + 20
    layer.build((None, None))
    table = np.arange(num_buckets * 3, dtype="float32").reshape(num_buckets, 3)
    layer.table.embeddings.assign(table)
    bias = keras.ops.convert_to_numpy(layer(np.zeros((2, length), "int32")))
    assert bias.shape == (1, 3, length, length)
    for query in range(0, length, 7):
        for key in range(length):
            expected = table[bucket(key - query, num_buckets, max_distance)]
            np.testing.assert_array_equal(bias[0, :, query, key], expected)


def test_every_bucket_is_used():
    layer = RelativePositionBias(1, 32, 128)
    assert set(layer.bucket_of_distance) == set(range(16))
    assert np.all(np.diff(layer.bucket_of_distance) >= 0)


def test_layer_configs_round_trip():
    bias = RelativePositionBias(3, 8, 20, keras.initializers.RandomNormal(stddev=0.3))
    assert RelativePositionBias.from_config(bias.get_config()).get_config() == (
        bias.get_config()
    )
    layer = T5EncoderLayer(8, 12, 2, 4, 0.1, "relu", False, 1e-5)
    assert T5EncoderLayer.from_config(layer.get_config()).get_config() == (
        layer.get_config()
    )


def test_layer_equals_numpy():
    rng = np.random.default_rng(0)
    layer = T5EncoderLayer(8, 12, num_heads=2, key_value_dim=3)
    x = rng.normal(size=(2, 5, 8)).astype("float32")
    bias = rng.normal(size=(1, 2, 5, 5)).astype("float32")
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "int32")
    layer(x, bias, mask)
    set_weights(layer, scale=0.5)
    value = {
        weight.path.split("/", 1)[1]: keras.ops.convert_to_numpy(weight)
        for weight in layer.weights
    }

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    normed = norm(x, value["attention_norm/scale"])
    attended = np.zeros((2, 5, 6))
    for row in range(2):
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            query, key, content = (
                (normed[row] @ value[f"{name}/kernel"])[:, part]
                for name in ("query", "key", "value")
            )
            real = mask[row] == 1
            weights = np.exp(query @ key[real].T + bias[0, head][:, real])
            weights /= weights.sum(-1, keepdims=True)
            attended[row, :, part] = weights @ content[real]
    expected = x + attended @ value["attention_output/kernel"]
    normed = norm(expected, value["feedforward_norm/scale"])
    inner = gelu(normed @ value["feedforward_input/kernel"])
    inner = inner * (normed @ value["feedforward_gate/kernel"])
    expected = expected + inner @ value["feedforward_output/kernel"]
    result = keras.ops.convert_to_numpy(layer(x, bias, mask))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
def test_the_softmax_is_float32_under_every_policy(dtype, monkeypatch):
    layer = T5EncoderLayer(4, 4, 1, 4, dtype=dtype)
    inputs = np.ones((1, 6, 4)), np.zeros((1, 1, 6, 6)), np.ones((1, 6), "int32")
    layer(*inputs)
    seen = []
    softmax = keras.ops.softmax

    def spy(logits, *args):
        seen.append(keras.backend.standardize_dtype(logits.dtype))
        return softmax(logits, *args)

    monkeypatch.setattr(keras.ops, "softmax", spy)
    layer(*inputs)
    assert seen == ["float32"]
