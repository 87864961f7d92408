"""Tokens by inverse CDF against sorting and searching in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import (
    filter_logits,
    log_probability,
    sample_scored,
    sample_tokens,
    uniform,
)
from tests.decoding import reference
from tests.tools import compiled

CODEBOOKS = [1, 2, 3, 10, 37, 64, 512, 1000]
NEAR_ZERO, NEAR_ONE = 2.0**-24, 1 - 2.0**-24


def random_logits(shape, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32") * scale


def sample(logits, noise, draw=compiled(sample_tokens)):
    tokens = ops.convert_to_numpy(
        draw(ops.convert_to_tensor(logits), ops.convert_to_tensor(noise))
    )
    assert tokens.dtype == np.int32 and tokens.shape == noise.shape
    return tokens


def filtered(logits, *args, **kwargs):
    result = ops.convert_to_numpy(filter_logits(logits, *args, **kwargs))
    assert result.dtype == np.float32
    return result


def kept(logits, *args, **kwargs):
    return filtered(logits, *args, **kwargs) > -1e8


def probabilities(logits):
    weights = np.exp(np.asarray(logits, "float64"))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("codebook_size", CODEBOOKS)
def test_tokens_equal_a_search_in_float64(codebook_size, parity):
    logits = random_logits((4, 100, codebook_size), codebook_size)
    noise = ops.convert_to_numpy(uniform(np.arange(4, dtype="int32"), 0, 0, 0, 100))
    tokens = sample(logits, noise)
    assert tokens.min() >= 0 and tokens.max() < codebook_size
    sums = np.cumsum(probabilities(logits), -1)
    num_different = 0
    for index in np.ndindex(4, 100):
        token, target = tokens[index], float(noise[index])
        if token != np.searchsorted(sums[index], target, side="right"):
            num_different += 1
            edges = np.concatenate([[0], sums[index]])[token : token + 2]
            assert np.abs(edges - target).min() < 1e-6
    assert num_different <= 1
    parity(f"sample_{codebook_size}", tokens)


@pytest.mark.parametrize("codebook_size", [2, 10, 37])
def test_tokens_follow_their_distribution(codebook_size):
    logits = random_logits(codebook_size, codebook_size, scale=1.0)
    seeds = np.arange(20, dtype="int32")
    noise = ops.convert_to_numpy(uniform(seeds, 0, 0, 0, 5000))
    tokens = sample(np.broadcast_to(logits, (20, 5000, codebook_size)), noise)
    counts = np.bincount(tokens.ravel(), minlength=codebook_size)
    expected = probabilities(logits) * 100_000
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = codebook_size - 1
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_each_cell_of_noise_gives_its_token():
    logits = np.log(np.array([1, 2, 3, 0.5, 1.5, 2], "float32") / 10)
    noise = np.array([0.05, 0.15, 0.25, 0.35, 0.55, 0.62, 0.64, 0.75, 0.85], "float32")
    tokens = sample(np.tile(logits, (1, 9, 1)), noise[None])
    np.testing.assert_array_equal(tokens[0], [0, 1, 1, 2, 2, 3, 3, 4, 5])


def holes(codebook_size, seed=0):
    """(1, N, V) logits of which most are left out, and N noises on every edge."""
    rng = np.random.default_rng(seed)
    rows, noises = [], []
    for _ in range(12):
        logits = rng.normal(size=codebook_size).astype("float32")
        keep = rng.random(codebook_size) < 0.3
        keep[rng.integers(codebook_size)] = True
        logits = np.where(keep, logits, np.float32(-1e9))
        edges = np.cumsum(probabilities(logits)).astype("float32")
        edges = rng.choice(np.unique(edges), 8)
        noise = np.concatenate(
            [edges, np.nextafter(edges, 0), np.nextafter(edges, 2, dtype="float32")]
        )
        noise = np.clip([*noise, NEAR_ZERO, NEAR_ONE], NEAR_ZERO, NEAR_ONE)
        rows += [logits] * len(noise)
        noises += noise.tolist()
    return np.array(rows)[None], np.array(noises, "float32")[None]


@pytest.mark.parametrize("codebook_size", CODEBOOKS)
def test_no_token_of_probability_zero(codebook_size):
    logits, noise = holes(codebook_size)
    tokens = sample(logits, noise)
    assert np.take_along_axis(logits, tokens[..., None], -1).min() > -1e8


def test_no_token_of_probability_zero_where_sums_are_made_in_a_tree(monkeypatch):
    # Accelerators add in a tree: a sum may then grow, or shrink, at a weight of 0.
    def scan(x):
        if x.shape[-1] < 2:
            return x
        length = x.shape[-1]
        inner = scan(x[..., 0 : length - 1 : 2] + x[..., 1::2])
        result = np.empty_like(x)
        result[..., 0] = x[..., 0]
        result[..., 1::2] = inner
        result[..., 2::2] = inner[..., : (length - 1) // 2] + x[..., 2::2]
        return result

    weights = np.abs(random_logits((50, 91)))
    np.testing.assert_allclose(scan(weights), np.cumsum(weights, -1), rtol=1e-5)
    monkeypatch.setattr(
        ops,
        "cumsum",
        lambda x, axis: ops.convert_to_tensor(scan(ops.convert_to_numpy(x))),
    )
    for seed in range(20):
        logits, noise = holes(1000, seed)
        tokens = sample(logits, noise, sample_tokens)
        assert np.take_along_axis(logits, tokens[..., None], -1).min() > -1e8


def test_a_single_token_is_drawn_whatever_the_noise():
    noise = np.tile(np.array([NEAR_ZERO, 0.3, NEAR_ONE], "float32"), (3, 1))
    for codebook_size in (1, 2, 37, 1000):
        expected = np.array([[0], [codebook_size // 2], [codebook_size - 1]])
        logits = np.full((3, 3, codebook_size), -1e9, "float32")
        np.put_along_axis(logits, np.tile(expected, (1, 3))[..., None], 3.0, -1)
        np.testing.assert_array_equal(sample(logits, noise), np.tile(expected, (1, 3)))


def test_large_logits_do_not_overflow():
    logits = np.array([[[500.0, 501.0, -500.0], [-900.0, -901.0, -2000.0]]], "float32")
    np.testing.assert_array_equal(
        sample(logits, np.full((1, 2), 0.5, "float32")), [[1, 0]]
    )


def test_defaults_only_shift():
    logits = random_logits((2, 3, 50))
    result = filtered(logits)
    np.testing.assert_array_equal(result.max(-1), 0)
    shifted = logits - logits.max(-1, keepdims=True)
    np.testing.assert_allclose(result, shifted, atol=1e-6)


def test_temperature_scales():
    logits = random_logits((2, 3, 50))
    expected = (logits - logits.max(-1, keepdims=True)) / 0.7
    np.testing.assert_allclose(filtered(logits, 0.7), expected, rtol=1e-5)
    tensor = ops.convert_to_tensor(0.7, "float32")
    np.testing.assert_allclose(filtered(logits, tensor), expected, rtol=1e-5)


@pytest.mark.parametrize("codebook_size", [2, 37, 1000])
def test_temperature_zero_is_argmax(codebook_size):
    logits = random_logits((4, 50, codebook_size))
    # Even where the best two are neighbouring numbers.
    best = logits.argmax(-1)
    second = (best + 1) % codebook_size
    runner_up = np.nextafter(logits.max(-1), np.float32(-np.inf))
    np.put_along_axis(logits, second[..., None], runner_up[..., None], -1)
    for options in ({}, {"top_k": 3, "top_p": 0.9}):
        left = filtered(logits, 0.0, **options)
        for noise in (NEAR_ZERO, 0.5, NEAR_ONE):
            tokens = sample(left, np.full((4, 50), noise, "float32"))
            np.testing.assert_array_equal(tokens, best)


@pytest.mark.parametrize(
    "codebook_size, top_k", [(10, 1), (37, 5), (1000, 50), (10, 9)]
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_top_k_keeps_the_k_largest(codebook_size, top_k, scale):
    logits = random_logits((3, 20, codebook_size), scale=scale)
    result = kept(logits, top_k=top_k)
    np.testing.assert_array_equal(result.sum(-1), top_k)
    order = np.argsort(np.argsort(-logits, -1), -1)
    np.testing.assert_array_equal(result, order < top_k)
    # What is kept is what it was.
    shifted = logits - logits.max(-1, keepdims=True)
    np.testing.assert_allclose(filtered(logits, top_k=top_k)[result], shifted[result])


def test_top_k_of_the_whole_codebook_keeps_it():
    logits = random_logits((2, 3, 10))
    for top_k in (10, 11, 1000):
        np.testing.assert_array_equal(filtered(logits, top_k=top_k), filtered(logits))


def test_top_k_beyond_the_depth_of_the_search_changes_no_probability():
    logits = np.array([[[0.0, -1.0, -100.0, -101.0, -3000.0]]], "float32")
    result = filtered(logits, top_k=3)
    assert np.all(result[..., :3] > -1e8)
    weights = np.exp(result[..., 3:].astype("float64"))
    assert weights.max() < 1e-26


def test_equal_logits_are_kept_together():
    logits = np.zeros((1, 1, 16), "float32")
    assert kept(logits, top_k=3).all()
    assert kept(logits, top_p=0.2).all()


@pytest.mark.parametrize("codebook_size", [2, 10, 37, 1000])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_minimal_set(codebook_size, top_p):
    logits = random_logits((3, 20, codebook_size))
    result = kept(logits, top_p=top_p)
    for index in np.ndindex(3, 20):
        weights = probabilities(logits[index])
        inside, outside = weights[result[index]], weights[~result[index]]
        assert inside.sum() >= top_p - 1e-5
        assert inside.sum() - inside.min() < top_p + 1e-5
        assert inside.min() > outside.max(initial=0)


@pytest.mark.parametrize("cutoff", [0.0, 1e-3, 0.05, 0.3, 0.999])
def test_the_epsilon_cutoff_leaves_out_the_unlikely(cutoff):
    logits = random_logits((3, 50, 37))
    wanted = probabilities(logits) >= cutoff
    wanted |= logits == logits.max(-1, keepdims=True)
    result = kept(logits, epsilon_cutoff=cutoff)
    # Where a probability is the cutoff to the last digits, both are right.
    clear = np.abs(probabilities(logits) - cutoff) > 1e-6
    np.testing.assert_array_equal(result[clear], wanted[clear])
    assert np.all(result.any(-1))
    # Among those that stay, nothing changes.
    rest = np.where(result, logits.astype("float64"), -np.inf)
    np.testing.assert_allclose(
        probabilities(filtered(logits, epsilon_cutoff=cutoff)),
        probabilities(rest),
        atol=1e-6,
    )


def test_top_p_of_one_keeps_everything():
    logits = random_logits((1, 2, 100))
    np.testing.assert_array_equal(filtered(logits, top_p=1.0), filtered(logits))
    # The nearest below it, which float32 sums may never reach.
    almost = float(np.nextafter(np.float32(1), np.float32(0)))
    weights = np.where(kept(logits, top_p=almost), probabilities(logits), 0)
    assert weights.sum(-1).min() > 1 - 1e-5


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(1.0, 20, 0.9), (0.5, 20, 0.9), (2.0, 5, 0.5), (0.3, None, 0.7), (1.7, 8, None)],
)
def test_filters_combine_in_order(temperature, top_k, top_p, parity):
    logits = random_logits((2, 30, 100), seed=3)
    result = filtered(logits, temperature, top_k, top_p)
    for index in np.ndindex(2, 30):
        expected = reference.filter_logits(logits[index], temperature, top_k, top_p)
        np.testing.assert_allclose(probabilities(result[index]), expected, atol=1e-5)
    parity(f"filter_{temperature}_{top_k}_{top_p}", result, atol=1e-4)


def test_filters_treat_each_token_on_its_own():
    logits = random_logits((3, 5, 40)) * np.arange(1, 16).reshape(3, 5, 1)
    logits = logits.astype("float32")
    together = filtered(logits, 0.8, 10, 0.9)
    for index in ((0, 0), (1, 3), (2, 4)):
        alone = filtered(logits[index][None, None], 0.8, 10, 0.9)[0, 0]
        np.testing.assert_allclose(together[index], alone, rtol=1e-6)


def test_log_probability(parity):
    logits = random_logits((2, 9, 37), scale=20.0)
    tokens = np.random.default_rng(0).integers(0, 37, (2, 9)).astype("int32")
    result = log_probability(
        ops.convert_to_tensor(logits), ops.convert_to_tensor(tokens)
    )
    result = ops.convert_to_numpy(result)
    expected = [
        [reference.log_softmax(logits[i, j])[tokens[i, j]] for j in range(9)]
        for i in range(2)
    ]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    parity("log_probability", result, atol=1e-4)


@pytest.mark.parametrize("codebook_size", [1, 37, 1000])
def test_a_score_is_the_log_probability(codebook_size):
    logits, noise = holes(codebook_size)
    # Far above 0 and from each other, where a sum of weights could lose the drawn one.
    logits = np.where(logits > -1e8, 100.0 + 8.0 * logits, logits)
    logits = ops.convert_to_tensor(logits)
    tokens, scores = compiled(sample_scored)(logits, ops.convert_to_tensor(noise))
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    expected = log_probability(logits, tokens)
    scores, expected = map(ops.convert_to_numpy, (scores, expected))
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_read_in_float32(dtype):
    logits = ops.cast(random_logits((1, 4, 300)), dtype)
    tokens = ops.argmax(logits, -1)
    exact = ops.convert_to_numpy(ops.cast(logits, "float32"))
    np.testing.assert_array_equal(
        filtered(logits, 0.5, 20, 0.9), filtered(exact, 0.5, 20, 0.9)
    )
    result = log_probability(logits, tokens)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_array_equal(
        ops.convert_to_numpy(result),
        ops.convert_to_numpy(log_probability(ops.convert_to_tensor(exact), tokens)),
    )
