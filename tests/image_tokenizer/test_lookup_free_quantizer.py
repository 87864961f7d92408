import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import LookupFreeQuantizer, lookup_free_quantizer
from tests.image_tokenizer.probes import gradient


def embeddings(bits, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 4, bits)).astype("float32")


def all_codes(bits):
    """Code of each id, the first dimension being the lowest bit."""
    return np.array(
        [
            [1.0 if number // 2**bit % 2 else -1.0 for bit in range(bits)]
            for number in range(2**bits)
        ]
    )


def choices(z, temperature):
    """Softmax over all codes of minus their squared distances, (..., 2^D)."""
    z = z.astype("float64")
    distances = ((z[..., None, :] - all_codes(z.shape[-1])) ** 2).sum(-1)
    p = np.exp(-distances / temperature)
    return p / p.sum(-1, keepdims=True)


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def penalties(quantizer, z):
    codes, ids = quantizer(z)
    return quantizer.penalties(ops.convert_to_tensor(z), codes, ids)


def test_ids_are_the_bits(parity):
    z = embeddings(3)
    codes, ids = LookupFreeQuantizer(8)(z)
    codes, ids = ops.convert_to_numpy(codes), ops.convert_to_numpy(ids)
    np.testing.assert_allclose(codes, np.where(z > 0, 1, -1), atol=1e-6)
    np.testing.assert_allclose(codes, all_codes(3)[ids], atol=1e-6)
    assert len(set(ids.ravel())) > 3
    parity("lookup_free_ids", ids)


def test_zero_is_a_code_that_an_id_stands_for():
    quantizer = LookupFreeQuantizer(4)
    codes, ids = quantizer(np.array([[0.0, -0.0], [0.0, 1.0]], "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(codes), [[-1, -1], [-1, 1]])
    np.testing.assert_array_equal(ops.convert_to_numpy(ids), [0, 2])


def test_the_largest_codebook_fits_into_int32():
    quantizer = LookupFreeQuantizer(2**31)
    ids = np.array([0, 1, 2**30, 2**31 - 1], "int32")
    codes = ops.convert_to_numpy(quantizer.decode(ids))
    assert (codes[-1] == 1).all() and codes[2].argmax() == 30
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.encode(codes)), ids)


@pytest.mark.parametrize("bits", [1, 5])
def test_penalties_equal_their_formulas(bits):
    quantizer = LookupFreeQuantizer(
        2**bits,
        commitment_weight=0.5,
        entropy_weight=2.0,
        entropy_temperature=0.7,
        diversity=1.5,
    )
    z = embeddings(bits)
    terms = penalties(quantizer, z)
    assert tuple(terms) == quantizer.penalty_names == ("commitment", "entropy")
    np.testing.assert_allclose(
        ops.convert_to_numpy(terms["commitment"]),
        0.5 * ((z - np.where(z > 0, 1, -1)) ** 2).mean(-1),
        atol=1e-5,
    )
    p = choices(z, 0.7)
    mean = p.reshape(-1, 2**bits).mean(0)
    np.testing.assert_allclose(
        ops.convert_to_numpy(terms["entropy"]),
        2.0 * (entropy(p) - 1.5 * entropy(mean)),
        atol=1e-4,
    )


def test_the_gradient_of_the_entropy_is_that_of_its_formula():
    z, quantizer = embeddings(5), LookupFreeQuantizer(32, entropy_weight=1.0)
    actual = gradient(lambda x: penalties(quantizer, x)["entropy"], z)

    def total(z):
        p = choices(z, 1.0)
        return (entropy(p) - entropy(p.reshape(-1, 32).mean(0))).sum()

    step = 1e-4
    for place in ((0, 0, 0), (1, 2, 1), (1, 3, 2)):
        up, down = z.astype("float64"), z.astype("float64")
        up[place] += step
        down[place] -= step
        slope = (total(up) - total(down)) / (2 * step)
        assert actual[place] == pytest.approx(slope, abs=2e-3)


def test_many_bits_are_exact_and_small():
    # A table of all codes for each of them would have 10^9 numbers.
    z = np.random.default_rng(0).normal(size=(4096, 18)).astype("float32")
    quantizer = LookupFreeQuantizer(2**18, entropy_weight=1.0, entropy_temperature=8.0)
    value = ops.convert_to_numpy(penalties(quantizer, z)["entropy"])
    p = 1.0 / (1.0 + np.exp(-4.0 * z.astype("float64") / 8.0))
    each = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(-1)
    # Near that of even bits, which the mean over this many is.
    np.testing.assert_allclose(value.mean(), each.mean() - 18 * np.log(2), atol=0.2)
    np.testing.assert_allclose(value - value.mean(), each - each.mean(), atol=1e-3)


def test_far_embeddings_are_certain_and_finite():
    quantizer = LookupFreeQuantizer(32, entropy_temperature=0.01, commitment_weight=0)
    z = np.full((2, 4, 5), 1e4, "float32")
    z[1] = -1e4
    slope = gradient(lambda x: penalties(quantizer, x)["entropy"], z)
    np.testing.assert_array_equal(slope, np.zeros_like(z))
    # Two codes, half of the positions each.
    value = ops.convert_to_numpy(penalties(quantizer, z)["entropy"])
    np.testing.assert_allclose(value, -0.1 * np.log(2), atol=1e-6)


def test_the_mean_choice_is_that_of_all_replicas(monkeypatch):
    z = embeddings(5)
    quantizer = LookupFreeQuantizer(32, entropy_weight=1.0, commitment_weight=0)
    whole = ops.convert_to_numpy(penalties(quantizer, z)["entropy"])
    halves = [choices(part, 1.0).reshape(-1, 32).mean(0) for part in z]

    def mean(value):
        # In the order of the table, first half of the bits by second.
        own = ops.convert_to_numpy(value)
        ids = np.arange(4)[:, None] + 4 * np.arange(8)
        np.testing.assert_allclose(own, halves[0][ids], atol=1e-5)
        return ops.convert_to_tensor(np.mean(halves, axis=0)[ids].astype("float32"))

    monkeypatch.setattr(lookup_free_quantizer, "mean", mean)
    own = ops.convert_to_numpy(penalties(quantizer, z[:1])["entropy"])
    np.testing.assert_allclose(own, whole[:1], atol=1e-4)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"codebook_size": 1000}, "`codebook_size`.*power of two.*1000"),
        ({"codebook_size": 1}, "`codebook_size`.*1"),
        ({"codebook_size": 2**32}, "`codebook_size`.*4294967296"),
        ({"codebook_size": 4, "entropy_temperature": 0.0}, "`entropy_temperature`.*0"),
        ({"codebook_size": 4, "entropy_weight": -1.0}, "`entropy_weight`.*-1"),
        ({"codebook_size": 4, "diversity": -2.0}, "`diversity`.*-2"),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        LookupFreeQuantizer(**kwargs)


def test_no_weights_and_no_terms_that_are_off():
    quantizer = LookupFreeQuantizer(16, commitment_weight=0.0, entropy_weight=0.0)
    assert penalties(quantizer, embeddings(4)) == {}
    assert quantizer.penalty_names == () and quantizer.weights == []
    assert keras.layers.deserialize(keras.layers.serialize(quantizer)).get_config() == (
        quantizer.get_config()
    )
