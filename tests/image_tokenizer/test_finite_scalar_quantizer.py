import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import FiniteScalarQuantizer
from tests.image_tokenizer.probes import gradient

LEVELS = [(8, 5, 5, 5), (2, 3), (7,)]


@pytest.mark.parametrize("levels", LEVELS)
def test_ids_and_codes_are_a_bijection(levels):
    quantizer = FiniteScalarQuantizer(levels)
    assert quantizer.codebook_size == np.prod(levels)
    assert quantizer.embedding_dim == len(levels)
    ids = np.arange(quantizer.codebook_size, dtype="int32")
    codes = ops.convert_to_numpy(quantizer.decode(ids))
    assert codes.shape == (len(ids), len(levels))
    assert len(np.unique(codes, axis=0)) == len(ids)
    assert codes.min() >= -1.0 and codes.max() <= 1.0


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_is_reached_and_equals_its_id(levels):
    quantizer = FiniteScalarQuantizer(levels)
    ids = np.arange(quantizer.codebook_size, dtype="int32")
    codes = ops.convert_to_numpy(quantizer.decode(ids))
    sizes = np.array(levels)
    reach = (sizes - 1) * 1.001 / 2
    offset = np.where(sizes % 2, 0.0, 0.5)
    bounded = codes * (sizes // 2) + offset
    z = np.arctanh(bounded / reach) - np.arctanh(offset / reach)
    actual_codes, actual_ids = quantizer(z.astype("float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(actual_ids), ids)
    np.testing.assert_allclose(ops.convert_to_numpy(actual_codes), codes, atol=1e-5)


def test_codes_equal_a_slow_reference(parity):
    levels = (4, 3)
    z = np.random.default_rng(0).normal(size=(50, 2)) * 2
    expected = np.zeros((50, 2))
    for row in range(50):
        for column, level in enumerate(levels):
            reach = (level - 1) * 1.001 / 2
            offset = 0.0 if level % 2 else 0.5
            bounded = np.tanh(z[row, column] + np.arctanh(offset / reach)) * reach
            expected[row, column] = round(bounded - offset) / (level // 2)
    codes, ids = FiniteScalarQuantizer(levels)(z.astype("float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(codes), expected, atol=1e-5)
    parity("finite_scalar_ids", ops.convert_to_numpy(ids))


def test_the_gradient_is_that_of_the_bound():
    quantizer = FiniteScalarQuantizer((5, 5))
    z = np.random.default_rng(0).normal(size=(6, 2))
    reach = 4 * 1.001 / 2
    expected = (1 - np.tanh(z) ** 2) * reach / 2
    actual = gradient(lambda x: quantizer(x)[0], z)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_config_round_trip():
    quantizer = FiniteScalarQuantizer((3, 4))
    copy = keras.layers.deserialize(keras.layers.serialize(quantizer))
    assert copy.get_config() == quantizer.get_config()
    assert quantizer.weights == []
    assert quantizer.penalty_names == ()


@pytest.mark.parametrize("levels", [(), (8, 1)])
def test_bad_levels_are_named(levels):
    with pytest.raises(ValueError, match="`levels`"):
        FiniteScalarQuantizer(levels)
