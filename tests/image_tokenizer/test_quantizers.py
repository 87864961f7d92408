import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import (
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    Quantizer,
    VectorQuantizer,
)
from keras_muse.image_tokenizer.quantizers import rotate, straight_through
from tests.image_tokenizer.probes import gradient

tensor = ops.convert_to_tensor


@pytest.fixture
def pair():
    return vectors(0), vectors(1)


def vectors(seed):
    return np.random.default_rng(seed).normal(size=(5, 3)).astype("float32")


def test_both_estimators_return_the_codes(pair):
    embeddings, codes = pair
    for estimate in (straight_through, rotate):
        output = estimate(tensor(embeddings), tensor(codes))
        np.testing.assert_allclose(ops.convert_to_numpy(output), codes, atol=1e-5)


def test_straight_through_hands_the_gradient_on(pair):
    embeddings, codes = pair
    upstream = vectors(2)
    actual = gradient(
        lambda x: ops.multiply(straight_through(x, tensor(codes)), upstream), embeddings
    )
    np.testing.assert_allclose(actual, upstream, atol=1e-6)


def test_rotation_hands_on_the_rotated_gradient(pair):
    embeddings, codes = pair
    upstream = vectors(2)
    actual = gradient(
        lambda x: ops.multiply(rotate(x, tensor(codes)), upstream), embeddings
    )
    for row in range(5):
        e, q = embeddings[row].astype("float64"), codes[row].astype("float64")
        # Rodrigues' rotation in the plane of both, an independent construction.
        a, b = e / np.linalg.norm(e), q / np.linalg.norm(q)
        cosine = a @ b
        skew = np.outer(b, a) - np.outer(a, b)
        rotation = np.eye(3) + skew + skew @ skew / (1 + cosine)
        np.testing.assert_allclose(rotation @ a, b, atol=1e-9)
        jacobian = rotation * np.linalg.norm(q) / np.linalg.norm(e)
        np.testing.assert_allclose(actual[row], jacobian.T @ upstream[row], atol=1e-4)


def test_rotation_is_finite_for_zero_and_opposite_vectors():
    embeddings = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], "float32")
    codes = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], "float32")
    actual = gradient(lambda x: rotate(x, tensor(codes)), embeddings)
    assert np.isfinite(actual).all()


def test_a_quantizer_is_float32_whatever_it_is_told():
    assert Quantizer(dtype="bfloat16").dtype_policy.name == "float32"
    policy = keras.DTypePolicy("mixed_bfloat16")
    assert Quantizer(dtype=policy).compute_dtype == "float32"


def every_quantizer():
    """One of each kind, of width 4."""
    return [
        VectorQuantizer(16, 4, entropy_weight=0.1),
        VectorQuantizer(16, 4, update="loss", l2_normalize=True),
        FiniteScalarQuantizer((3, 3, 2, 2)),
        LookupFreeQuantizer(16),
    ]


@pytest.mark.parametrize("quantizer", every_quantizer(), ids=lambda q: q.name)
class TestContract:
    """What all of them promise."""

    def test_ids_and_codes_say_the_same(self, quantizer):
        z = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
        codes, ids = quantizer(z)
        assert keras.backend.standardize_dtype(codes.dtype) == "float32"
        assert tuple(codes.shape) == z.shape and tuple(ids.shape) == z.shape[:-1]
        assert keras.backend.standardize_dtype(ids.dtype) == "int32"
        ids = ops.convert_to_numpy(ids)
        assert 0 <= ids.min() and ids.max() < quantizer.codebook_size
        np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.encode(z)), ids)
        np.testing.assert_allclose(
            ops.convert_to_numpy(quantizer.decode(ids)),
            ops.convert_to_numpy(codes),
            atol=1e-5,
        )

    def test_penalties_are_one_number_for_each_embedding(self, quantizer):
        z = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
        codes, ids = quantizer(z)
        terms = quantizer.penalties(ops.convert_to_tensor(z), codes, ids)
        assert tuple(terms) == tuple(quantizer.penalty_names)
        for values in terms.values():
            assert tuple(values.shape) == (2, 3)
            assert np.isfinite(ops.convert_to_numpy(values)).all()

    def test_the_decoder_reaches_the_encoder(self, quantizer):
        z = np.random.default_rng(0).normal(size=(6, 4))
        slope = gradient(lambda x: quantizer(x)[0] * tensor(vectors(2)[0, 0]), z)
        assert np.isfinite(slope).all() and (np.abs(slope).max(axis=0) > 0).all()

    def test_it_comes_back_from_its_config(self, quantizer):
        copy = keras.layers.deserialize(keras.layers.serialize(quantizer))
        assert type(copy) is type(quantizer)
        assert copy.get_config() == quantizer.get_config()
        assert copy.codebook_size == quantizer.codebook_size
        assert copy.embedding_dim == quantizer.embedding_dim == 4

    def test_it_refuses_another_width(self, quantizer):
        with pytest.raises(ValueError, match="width 4.*3"):
            quantizer.check_width((None, 3))
