"""Orders: permutations, the slow visit of cells, and how far neighbours lie apart."""

import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import halton_ranks, token_ranks, uniform
from tests.decoding import reference


@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (5, 7), (16, 3)], ids=str)
def test_halton_visits_every_cell_as_the_slow_one_does(grid):
    ranks = halton_ranks(*grid)
    assert ranks.dtype == np.int32
    np.testing.assert_array_equal(ranks, reference.halton_ranks(*grid))


def test_halton_of_a_large_grid_is_a_permutation():
    ranks = halton_ranks(128, 128)
    np.testing.assert_array_equal(np.sort(ranks), np.arange(128 * 128))


def noise(count, num_tokens):
    seeds = ops.arange(count, dtype="int32")
    return uniform(seeds, 0, 0, 3, num_tokens)


@pytest.mark.parametrize("order", ["random", "halton"])
def test_rows_are_permutations_of_their_own(order, parity):
    ranks = ops.convert_to_numpy(token_ranks(order, noise(50, 64), (8, 8)))
    assert ranks.dtype == np.int32
    for row in ranks:
        np.testing.assert_array_equal(np.sort(row), np.arange(64))
    assert len({row.tobytes() for row in ranks}) > 30
    # Every token comes early in some rows and late in others.
    assert ranks.min(0).max() < 16 and ranks.max(0).min() > 48
    parity(f"ranks_{order}", ranks)


def test_what_halton_reveals_together_lies_apart():
    def distances(order):
        ranks = ops.convert_to_numpy(token_ranks(order, noise(50, 64), (8, 8)))
        y, x = np.divmod(np.argsort(ranks, axis=1), 8)
        y, x = np.abs(np.diff(y, axis=1)), np.abs(np.diff(x, axis=1))
        return np.maximum(y, x)

    assert (distances("halton") <= 1).mean() < 0.05 < 0.1
    assert (distances("random") <= 1).mean() > 0.1
