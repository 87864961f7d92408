"""The shared layers: what stock Keras does, without what is wrong with it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.layers import (
    Dense,
    Embedding,
    arguments,
    refuse_unknown,
    register,
    set_trainable,
)
from tests.tools import set_weights

RNG = np.random.default_rng(0)


def numbers(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def test_embedding_looks_up():
    layer = Embedding(7, 3)
    ids = np.array([[0, 6, 6], [2, 0, 1]], "int32")
    layer(ids)
    set_weights(layer)
    table = ops.convert_to_numpy(layer.embeddings)
    np.testing.assert_array_equal(numbers(layer(ids)), table[ids])
    np.testing.assert_array_equal(numbers(layer(ids.astype("int64"))), table[ids])
    np.testing.assert_array_equal(numbers(layer(ids[0, 0])), table[0])
    assert layer.compute_output_shape((None, 5)) == (None, 5, 3)
    assert layer(keras.Input((None,), dtype="int32")).shape == (None, None, 3)


def summed(targets, outputs):
    return ops.sum(outputs, axis=(1, 2))


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.0),
    "clipped": lambda: keras.optimizers.SGD(0.1, clipnorm=1.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_of_repeated_ids_are_summed(name, parity):
    # As separate rows, 100 hits of one id would move it by 1.0 with Adam.
    layer = Embedding(5, 4, embeddings_initializer="zeros")
    model = keras.Sequential([layer])
    model.compile(OPTIMIZERS[name](), loss=summed)
    model.train_on_batch(np.full((1, 100), 3, "int32"), np.zeros((1, 100, 4)))
    table = ops.convert_to_numpy(layer.embeddings)
    # The clipped gradient has length 1, in four equal parts.
    moved = 0.05 if name == "clipped" else 0.1
    expected = np.outer([0, 0, 0, -moved, 0], np.ones(4))
    np.testing.assert_allclose(table, expected, atol=1e-5)
    parity(f"embedding_{name}", table, atol=1e-6)


def test_embedding_of_a_mixture_of_ids_moves_each_as_far(parity):
    ids = np.array([[3] * 50 + [1] * 2 + [0]], "int32")
    layer = Embedding(5, 2, embeddings_initializer="ones")
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.Adam(0.1), loss=summed)
    model.train_on_batch(ids, np.zeros((1, 53, 2)))
    table = ops.convert_to_numpy(layer.embeddings)
    np.testing.assert_allclose(table[:, 0], [0.9, 0.9, 1, 0.9, 1], atol=1e-5)
    parity("embedding_mixture", table, atol=1e-6)


def test_embedding_policy_and_start():
    layer = Embedding(50, 40, dtype="mixed_bfloat16")
    outputs = layer(np.zeros((2, 3), "int32"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(layer.embeddings.dtype) == "float32"
    table = ops.convert_to_numpy(layer.embeddings)
    assert table.std() == pytest.approx(0.88 * 0.02, rel=0.1)
    assert np.abs(table).max() <= 0.0401


@pytest.mark.parametrize("initializer", ["truncated_0.02", "uniform", None])
def test_embedding_round_trips(initializer):
    kwargs = {} if initializer is None else {"embeddings_initializer": initializer}
    layer = Embedding(5, 3, **kwargs, name="table")
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is Embedding and copy.get_config() == layer.get_config()
    assert config["registered_name"] == "keras_muse>Embedding"


def dense_pair(shape, **kwargs):
    """Ours and the stock layer with the same weights, and an input."""
    x = RNG.normal(size=shape).astype("float32")
    pair = (
        Dense(6, name="ours", **kwargs),
        keras.layers.Dense(6, name="stock", **kwargs),
    )
    for layer in pair:
        layer.build(shape)
        set_weights(layer, scale=0.5)
    return *pair, x


SHAPES = [(3, 4), (2, 3, 4), (2, 3, 5, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"use_bias": False, "activation": "gelu"}, {"dtype": "mixed_bfloat16"}],
)
def test_dense_equals_the_stock_layer(shape, kwargs):
    ours, stock, x = dense_pair(shape, **kwargs)
    result, expected = ours(x), stock(x)
    assert tuple(result.shape) == (*shape[:-1], 6) and result.dtype == expected.dtype
    tolerance = 0.05 if kwargs.get("dtype") else 1e-6
    np.testing.assert_allclose(numbers(result), numbers(expected), atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_with_unknown_sizes(shape):
    ours, stock, x = dense_pair(shape)
    inputs = keras.Input((*(None for _ in shape[1:-1]), 4))
    outputs = ours(inputs)
    assert tuple(outputs.shape) == (*(None for _ in shape[:-1]), 6)
    model = keras.Model(inputs, outputs)
    np.testing.assert_allclose(numbers(model(x)), numbers(stock(x)), atol=1e-6)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), numbers(stock(x)), atol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_quantizes_to_int8(shape):
    ours, stock, x = dense_pair(shape)
    exact = numbers(stock(x))
    ours.quantize("int8")
    stock.quantize("int8")
    np.testing.assert_allclose(numbers(ours(x)), numbers(stock(x)), atol=1e-5)
    np.testing.assert_allclose(numbers(ours(x)), exact, atol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_learns_by_lora(shape):
    ours, stock, x = dense_pair(shape)
    before = numbers(ours(x))
    for layer in (ours, stock):
        layer.enable_lora(2)
        assert len(layer.trainable_weights) == 3
    np.testing.assert_allclose(numbers(ours(x)), before, atol=1e-6)
    for layer in (ours, stock):
        layer.lora_kernel_a.assign(np.linspace(-1, 1, 8).reshape(4, 2))
        layer.lora_kernel_b.assign(np.linspace(-1, 1, 12).reshape(2, 6))
    np.testing.assert_allclose(numbers(ours(x)), numbers(stock(x)), atol=1e-5)
    assert np.abs(numbers(ours(x)) - before).max() > 0.1


def test_dense_gradient_equals_that_of_the_stock_layer():
    ours, stock, x = dense_pair((2, 3, 4))
    for layer in (ours, stock):
        model = keras.Sequential([layer])
        model.compile(keras.optimizers.SGD(1.0), loss="mse")
        model.train_on_batch(x, np.ones((2, 3, 6), "float32"))
    for one, other in zip(ours.weights, stock.weights):
        np.testing.assert_allclose(numbers(one), numbers(other), atol=1e-6)


def test_dense_round_trips():
    layer = Dense(6, activation="gelu", use_bias=False, name="head")
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is Dense and copy.get_config() == layer.get_config()


def test_arguments_are_those_of_the_constructor():
    @register
    class Thing(keras.layers.Layer):
        def __init__(self, width, depth=2, *, name=None, **kwargs):
            config = arguments(locals())
            super().__init__(name=name, **kwargs)
            self.own = config

    assert Thing(3).own == {"width": 3, "depth": 2, "name": None}
    assert Thing(3, depth=5, dtype="float16").own["depth"] == 5
    assert keras.saving.get_registered_name(Thing) == "keras_muse>Thing"


def test_unknown_arguments_are_refused():
    refuse_unknown({"name": "a", "trainable": True, "compile": False}, "compile")
    with pytest.raises(TypeError, match="no argument 'codebok_size', 'x'"):
        refuse_unknown({"x": 1, "codebok_size": 8})


def test_set_trainable_reaches_parts_that_disagree():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    outer = keras.Sequential([keras.Input((2,)), inner])
    outer.trainable = False
    inner.trainable = True
    set_trainable(outer, False)
    assert not inner.trainable and not inner.trainable_variables
    set_trainable(outer, True)
    assert len(outer.trainable_variables) == 2
