"""Each layer against plain numpy, alone and under half precision."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.transformer.layers import (
    MLP,
    Attention,
    MemoryProjection,
    PositionEmbedding2D,
    TransformerBlock,
)
from tests.tools import set_weights
from tests.transformer import reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 8)).astype("float32")
MEMORY = RNG.normal(size=(2, 5, 3)).astype("float32")
MASK = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
BIAS = np.where(MASK, 0, -1e9).astype("float32")[:, None, None, :]


def numbers(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def values_of(**layers):
    """Weights of layers that were built on their own, under the given names."""
    return {
        f"{name}/{path}": value
        for name, layer in layers.items()
        for path, value in reference.values_of(layer, f"{layer.name}/").items()
    }


def test_positions_are_a_row_plus_a_column():
    layer = PositionEmbedding2D((2, 3), 8)
    layer(X)
    set_weights(layer)
    rows, columns = (ops.convert_to_numpy(x) for x in (layer.rows, layer.columns))
    result = numbers(layer(np.zeros_like(X)))
    for token in range(6):
        expected = rows[token // 3, 0] + columns[0, token % 3]
        np.testing.assert_allclose(result[:, token], np.tile(expected, (2, 1)))
    np.testing.assert_allclose(numbers(layer(X)), X + result, atol=1e-6)


@pytest.mark.parametrize("use_qk_norm", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_numpy(use_qk_norm, masked, parity):
    project = MemoryProjection(8, 2, use_qk_norm)
    attention = Attention(8, 2, use_qk_norm)
    attention(X, *project(MEMORY))
    set_weights(project, 1, scale=0.5)
    set_weights(attention, 2, scale=0.5)
    keys, values = project(MEMORY)
    assert tuple(keys.shape) == tuple(values.shape) == (2, 5, 2, 4)
    result = numbers(attention(X, keys, values, BIAS if masked else None))
    weights = values_of(query=attention, memory=project)
    for row in range(2):
        expected = reference.attend(
            weights,
            "query",
            "memory",
            X[row],
            MEMORY[row],
            2,
            MASK[row] if masked else None,
        )
        np.testing.assert_allclose(result[row], expected, atol=1e-5)
    parity(f"attention_{use_qk_norm}_{masked}", result, atol=1e-5)


def test_masked_memory_changes_nothing_at_all():
    project, attention = MemoryProjection(8, 2), Attention(8, 2)
    other = np.where(MASK[..., None], MEMORY, 1000.0).astype("float32")
    results = [
        numbers(attention(X, *project(memory), BIAS)) for memory in (MEMORY, other)
    ]
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("use_gate", [False, True])
def test_mlp_equals_numpy(use_gate):
    layer = MLP(8, 12, use_gate)
    layer(X)
    set_weights(layer, scale=0.5)
    expected = reference.mlp(values_of(mlp=layer), "mlp", X.astype("float64"))
    np.testing.assert_allclose(numbers(layer(X)), expected, atol=1e-5)


@pytest.mark.parametrize("use_cross_attention", [False, True])
@pytest.mark.parametrize("use_qk_norm, use_gated_mlp", [(False, False), (True, True)])
def test_block_equals_numpy(use_cross_attention, use_qk_norm, use_gated_mlp):
    layer = TransformerBlock(8, 2, 12, use_cross_attention, use_qk_norm, use_gated_mlp)
    project = MemoryProjection(8, 2, use_qk_norm)
    memory = (*project(MEMORY), BIAS) if use_cross_attention else ()
    layer(X, *memory)
    set_weights(layer, 1, scale=0.5)
    set_weights(project, 2, scale=0.5)
    memory = (*project(MEMORY), BIAS) if use_cross_attention else ()
    result = numbers(layer(X, *memory))
    weights = values_of(block=layer, memory=project)
    for row in range(2):
        expected = reference.block(
            weights,
            "block",
            "memory",
            X[row],
            MEMORY[row] if use_cross_attention else None,
            2,
            MASK[row],
        )
        np.testing.assert_allclose(result[row], expected, atol=2e-5)


def test_dropout_is_on_only_in_training():
    layer = TransformerBlock(8, 2, 12, use_cross_attention=False, dropout=0.5)
    calm = numbers(layer(X, training=False))
    np.testing.assert_array_equal(numbers(layer(X)), calm)
    noisy = numbers(layer(X, training=True))
    assert np.abs(noisy - calm).max() > 1e-4
    # All of a branch dropped leaves the residual stream.
    silent = TransformerBlock(8, 2, 12, use_cross_attention=False, dropout=1.0)
    np.testing.assert_allclose(numbers(silent(X, training=True)), X)


def test_lengths_may_be_unknown_when_the_graph_is_made():
    tokens = keras.Input((None, 8))
    memory = keras.Input((None, 3))
    keys, values = MemoryProjection(8, 2, True)(memory)
    assert tuple(keys.shape) == tuple(values.shape) == (None, None, 2, 4)
    outputs = TransformerBlock(8, 2, 12)(tokens, keys, values)
    assert tuple(outputs.shape) == (None, None, 8)
    model = keras.Model([tokens, memory], outputs)
    assert model([X, MEMORY]).shape == (2, 6, 8)
    assert model([X[:, :4], MEMORY[:, :1]]).shape == (2, 4, 8)


@pytest.mark.parametrize(
    "layer",
    [
        PositionEmbedding2D((2, 3), 8),
        MemoryProjection(8, 2, True),
        Attention(8, 2, True, 0.3),
        MLP(8, 12, True, 0.3),
        TransformerBlock(8, 2, 12, False, True, True, 0.2, 0.3, dtype="mixed_bfloat16"),
    ],
)
def test_configs_round_trip(layer):
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()
    assert config["registered_name"].startswith("keras_muse>")


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_close_and_its_softmax_float32(dtype, monkeypatch):
    layers = {}
    for policy in ("float32", dtype):
        project = MemoryProjection(8, 2, True, dtype=policy)
        attention = Attention(8, 2, True, dtype=policy)
        attention(X, *project(MEMORY), BIAS)
        set_weights(project, 1, scale=0.5)
        set_weights(attention, 2, scale=0.5)
        layers[policy] = project, attention
    seen = []
    softmax = ops.softmax

    def spy(logits, *args, **kwargs):
        seen.append(keras.backend.standardize_dtype(logits.dtype))
        return softmax(logits, *args, **kwargs)

    monkeypatch.setattr(ops, "softmax", spy)
    results = []
    for project, attention in layers.values():
        outputs = attention(X, *project(MEMORY), BIAS)
        results.append(numbers(outputs))
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.removeprefix(
        "mixed_"
    )
    assert seen == ["float32", "float32"]
    np.testing.assert_allclose(results[1], results[0], atol=0.05)


def test_kernels_start_small_and_residual_branches_smaller():
    layer = TransformerBlock(256, 4, 512, output_scale=0.25)
    layer.build((None, None, 256))
    for weight in layer.weights:
        value = ops.convert_to_numpy(weight)
        name = weight.path.split("/", 1)[1]
        if name.endswith("gamma"):
            assert np.all(value == 1)
        elif name.endswith("bias"):
            assert np.all(value == 0)
        else:
            branch_end = name.endswith(("output/kernel", "down/kernel"))
            # Keras draws a normal of the given width and cuts it at two widths.
            width = 0.88 * 0.02 * (0.25 if branch_end else 1.0)
            assert value.std() == pytest.approx(width, rel=0.03), name
