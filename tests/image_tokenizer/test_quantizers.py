import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import Quantizer
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
