"""The mask rate has its second moment right, and the masks are exact."""

import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import mask_rate, random_mask, uniform

# Midpoints: sums over them are integrals, without the noise of a draw.
U = ((np.arange(100_000) + 0.5) / 100_000).astype("float32")


def rates(noise=U):
    return ops.convert_to_numpy(mask_rate(ops.convert_to_tensor(noise)))


def masks(rate, noise):
    result = random_mask(
        ops.convert_to_tensor(rate, "float32"), ops.convert_to_tensor(noise, "float32")
    )
    return ops.convert_to_numpy(result)


def test_mask_rate_has_the_moments_of_the_paper():
    m = rates().astype("float64")
    # The misreading (2 / pi) arccos(u) has the same mean, and nothing else.
    assert m.mean() == pytest.approx(2 / np.pi, abs=1e-4)
    assert (m**2).mean() == pytest.approx(0.5, abs=1e-4)
    assert np.median(m) == pytest.approx(0.5**0.5, abs=1e-4)
    assert (m > 0.9).mean() == pytest.approx(0.287, abs=5e-4)
    assert (m < 0.1).mean() == pytest.approx(0.064, abs=5e-4)


def test_mask_rate_stays_in_its_interval():
    edges = np.array([0, 0.5, np.nextafter(np.float32(1), np.float32(0))], "float32")
    m = rates(edges)
    assert m.dtype == np.float32
    assert m[0] == 1 and 0 < m[2] < 1e-6
    assert m[1] == pytest.approx(0.5**0.5, abs=1e-6)
    assert np.all(np.diff(rates()) <= 0)


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 64, 256, 1024])
def test_counts_are_exact(num_tokens):
    rng = np.random.default_rng(num_tokens)
    rate = np.concatenate([[0, 1e-6, 0.5 / num_tokens, 0.999999, 1], rng.random(40)])
    rate = rate.astype("float32")
    mask = masks(rate, rng.random((len(rate), num_tokens)))
    assert mask.shape == (len(rate), num_tokens) and mask.dtype == bool
    expected = np.maximum(1, np.round(rate * np.float32(num_tokens)))
    np.testing.assert_array_equal(mask.sum(1), expected)


def test_the_lowest_noise_is_masked():
    noise = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    mask = masks([0.5, 0.75], noise)
    np.testing.assert_array_equal(
        mask, [[False, True, False, True], [True, False, True, True]]
    )


def test_equal_noise_does_not_change_the_count():
    np.testing.assert_array_equal(masks([0.25, 0.5], np.zeros((2, 16))).sum(1), [4, 8])


def test_positions_are_uniform():
    seeds = np.arange(20_000, dtype="int32")
    mask = masks(np.full(20_000, 0.25), uniform(seeds, 0, 0, 0, 16))
    assert np.all(mask.sum(1) == 4)
    share = mask.mean(0)
    assert np.abs(share - 0.25).max() < 5 * (0.25 * 0.75 / 20_000) ** 0.5
    # Every pair of positions is as likely as every other.
    pairs = (mask.T.astype("float64") @ mask)[np.triu_indices(16, 1)] / 20_000
    expected = 4 * 3 / (16 * 15)
    deviation = (expected * (1 - expected) / 20_000) ** 0.5
    assert np.abs(pairs - expected).max() < 5 * deviation


def test_a_row_is_masked_on_its_own():
    rng = np.random.default_rng(0)
    rate, noise = rng.random(9), rng.random((9, 32))
    batch = masks(rate, noise)
    for row in range(9):
        single = masks(rate[row : row + 1], noise[row : row + 1])[0]
        np.testing.assert_array_equal(batch[row], single)
    order = rng.permutation(9)
    np.testing.assert_array_equal(masks(rate[order], noise[order]), batch[order])
