"""Orders: the slow visit of cells, and how far apart lies what is revealed together."""

import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import (
    Sampler,
    halton_ranks,
    halton_turns,
    random_turns,
    uniform,
)
from tests.decoding import reference

ROWS, GRID = 50, (8, 8)


def noise(step=0):
    seeds = ops.arange(ROWS, dtype="int32")
    return uniform(seeds, 0, step, 3, GRID[0] * GRID[1])


def masks(share):
    return np.random.default_rng(0).random((ROWS, GRID[0] * GRID[1])) < share


def numpy(array):
    return ops.convert_to_numpy(array)


@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (5, 7), (16, 3)], ids=str)
def test_halton_visits_every_cell_as_the_slow_one_does(grid):
    ranks = halton_ranks(*grid)
    assert ranks.dtype == np.int32
    np.testing.assert_array_equal(ranks, reference.halton_ranks(*grid))


def test_halton_of_a_large_grid_is_a_permutation():
    ranks = halton_ranks(128, 128)
    np.testing.assert_array_equal(np.sort(ranks), np.arange(128 * 128))


def test_halton_rows_are_permutations_of_their_own(parity):
    turns = numpy(halton_turns(noise(), GRID))
    for row in turns:
        np.testing.assert_array_equal(np.sort(-row), np.arange(64))
    assert len({row.tobytes() for row in turns}) > 30
    # Every token comes early in some rows and late in others.
    assert turns.max(0).min() > -16 and turns.min(0).max() < -48
    parity("halton_turns", turns)


def distances(turns):
    """Of tokens that are revealed one after another, in rows or columns."""
    y, x = np.divmod(np.argsort(-turns, axis=1), GRID[1])
    return np.maximum(np.abs(np.diff(y, axis=1)), np.abs(np.diff(x, axis=1)))


def test_what_halton_reveals_together_lies_apart():
    assert (distances(numpy(halton_turns(noise(), GRID))) <= 1).mean() < 0.05
    assert (distances(numpy(noise())) <= 1).mean() > 0.1


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("spacing", [1, 2])
def test_spaced_turns_are_those_of_the_slow_loop(share, spacing, parity):
    masked = masks(share)
    turns = numpy(random_turns(noise(), ops.convert_to_tensor(masked), spacing, GRID))
    sampler = Sampler(order="random", spacing=spacing)
    first = 0
    for row in range(ROWS):
        positions = np.flatnonzero(masked[row])
        values = [float(value) for value in numpy(noise())[row]]
        expected = reference.turns(sampler, values, positions, GRID)
        for position in positions:
            assert turns[row, position] == pytest.approx(expected[position], abs=1e-6)
        # Those above 1 come first, and lie apart.
        peaks = [i for i in positions if turns[row, i] > 1]
        for i in peaks:
            for j in peaks:
                apart = max(abs(i // 8 - j // 8), abs(i % 8 - j % 8))
                assert i == j or apart > spacing
        first += len(peaks)
    assert first / ROWS > (6 if spacing == 1 else 3)
    parity(f"spaced_turns_{share}_{spacing}", np.where(masked, turns, 0))


def test_without_spacing_it_is_the_noise():
    given = noise()
    assert random_turns(given, None) is given
