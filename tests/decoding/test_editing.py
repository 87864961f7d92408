"""Which tokens start masked: grown, softened, cut into cells, and a part of them."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import (
    cells_of,
    feathered,
    grow,
    random_part,
    refine_cells,
    uniform,
)
from tests.decoding import reference

SIZES = [(1, 1), (1, 6), (5, 4), (8, 11)]


def masks(size, shares=(0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0)):
    """(B, H, W) bool: nothing, all, and dots and holes between."""
    rng = np.random.default_rng(size[0])
    rows = [rng.random(size) < share for share in shares]
    # One corner, and all but one.
    corner = np.zeros(size, bool)
    corner[-1, 0] = True
    return np.array([*rows, corner, ~corner])


def numpy(function, array, *arguments):
    return ops.convert_to_numpy(function(ops.convert_to_tensor(array), *arguments))


@pytest.mark.parametrize("pixels", [1, 2, 5, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_grow_equals_the_slow_loop(size, pixels, parity):
    given = masks(size)
    result = numpy(grow, given, pixels)
    assert result.dtype == bool and result.shape == given.shape
    expected = [reference.grow(mask, pixels) for mask in given]
    np.testing.assert_array_equal(result, expected)
    parity(f"grow_{size}_{pixels}", result)


def test_grow_by_nothing_and_bit_by_bit():
    given = masks((8, 11))
    np.testing.assert_array_equal(numpy(grow, given, 0), given)
    twice = numpy(grow, numpy(grow, given, 1), 2)
    np.testing.assert_array_equal(twice, numpy(grow, given, 3))


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_feathered_rises_with_the_distance_to_the_edge(size, pixels, parity):
    given = masks(size)
    result = numpy(feathered, given, pixels)
    assert result.dtype == np.float32 and result.shape == given.shape
    # The border of the picture counts nothing here: only what lies inside is asked.
    distance = np.array([reference.edge_distance(mask) for mask in given])
    expected = np.minimum(distance / (pixels + 1), 1)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_array_equal(result[~given], 0)
    np.testing.assert_array_equal(result[distance > pixels], 1)
    assert result[given].min() > 0 and result.max() <= 1
    parity(f"feathered_{size}_{pixels}", result, atol=1e-6)


def test_feathered_by_nothing_is_the_mask():
    given = masks((8, 11))
    np.testing.assert_array_equal(numpy(feathered, given, 0), given)


@pytest.mark.parametrize(
    "size, grid",
    [((8, 8), (8, 8)), ((8, 8), (2, 4)), ((12, 5), (3, 1)), ((6, 9), (1, 3))],
)
def test_cells_are_touched_by_any_pixel(size, grid):
    given = masks(size)
    result = numpy(cells_of, given, grid)
    assert result.dtype == bool and result.shape == (len(given), grid[0] * grid[1])
    height, width = size[0] // grid[0], size[1] // grid[1]
    for row, mask in enumerate(given):
        for cell in range(grid[0] * grid[1]):
            y, x = cell // grid[1] * height, cell % grid[1] * width
            assert result[row, cell] == mask[y : y + height, x : x + width].any()


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (16, 8)], ids=str)
def test_cells_of_a_grid_that_does_not_fit(grid):
    message = f"`grid` must divide the 8 x 8 pixels of the masks: received {grid}."
    with pytest.raises(ValueError, match=re.escape(message)):
        cells_of(ops.ones((1, 8, 8), "bool"), list(grid))


@pytest.mark.parametrize("finer", [(2, 3), (4, 3), (2, 12), (6, 9)], ids=str)
def test_refined_cells_lie_on_the_coarser_ones(finer):
    cells = np.random.default_rng(0).random((20, 6)) < 0.5
    result = numpy(refine_cells, cells, (2, 3), finer)
    assert result.dtype == bool and result.shape == (20, finer[0] * finer[1])
    for position in range(finer[0] * finer[1]):
        y, x = position // finer[1], position % finer[1]
        coarse = y * 2 // finer[0] * 3 + x * 3 // finer[1]
        np.testing.assert_array_equal(result[:, position], cells[:, coarse])
    # And back.
    np.testing.assert_array_equal(
        numpy(cells_of, result.reshape(20, *finer), (2, 3)), cells
    )


@pytest.mark.parametrize("finer", [(3, 3), (2, 4), (1, 3)], ids=str)
def test_a_finer_grid_that_cuts_cells(finer):
    message = f"`finer_grid` must be a multiple of (2, 3): received {finer}."
    with pytest.raises(ValueError, match=re.escape(message)):
        refine_cells(ops.ones((1, 6), "bool"), [2, 3], list(finer))


ROWS, N = 40, 37


def noise():
    return uniform(ops.arange(ROWS, dtype="int32"), 0, -1, 6, N)


def cells():
    """(B, N) bool: nothing, all, and every share between."""
    rng = np.random.default_rng(1)
    return rng.random((ROWS, N)) < np.linspace(0, 1, ROWS)[:, None]


def part(given, share, noise):
    share = share if isinstance(share, float) else ops.convert_to_tensor(share)
    result = numpy(random_part, given, share, ops.convert_to_tensor(noise))
    assert result.dtype == bool and not (result & ~given).any()
    return result


def test_random_part_has_the_lowest_noise_and_exact_counts(parity):
    given, order = cells(), ops.convert_to_numpy(noise())
    for share in (0.0, 0.01, 0.3, 0.5, 0.77, 1.0):
        result = part(given, share, order)
        counts = np.round(given.sum(1).astype("float32") * np.float32(share))
        if share:
            counts = np.maximum(counts, given.any(1))
        np.testing.assert_array_equal(result.sum(1), counts)
        for row in range(ROWS):
            inside = order[row][result[row]]
            outside = order[row][given[row] & ~result[row]]
            assert inside.max(initial=0) < outside.min(initial=1)
        parity(f"random_part_{share}", result)


def test_random_part_of_nothing_and_of_all():
    given = cells()
    np.testing.assert_array_equal(part(given, 0.0, noise()), np.zeros_like(given))
    np.testing.assert_array_equal(part(given, 1.0, noise()), given)
    # Numbers are masks, too.
    numbers = numpy(random_part, given.astype("int32"), 1.0, noise())
    np.testing.assert_array_equal(numbers, given)


def test_random_part_takes_a_share_of_each_row():
    given, order = cells(), ops.convert_to_numpy(noise())
    shares = np.random.default_rng(2).random(ROWS).astype("float32")
    batch = part(given, shares, order)
    counts = np.round(given.sum(1).astype("float32") * shares)
    counts = np.maximum(counts, given.any(1))
    np.testing.assert_array_equal(batch.sum(1), counts)
    # A row depends on itself alone.
    for row in range(0, ROWS, 7):
        rows = slice(row, row + 1)
        single = part(given[rows], shares[rows], order[rows])
        np.testing.assert_array_equal(single[0], batch[row])
    turn = np.random.default_rng(3).permutation(ROWS)
    np.testing.assert_array_equal(
        part(given[turn], shares[turn], order[turn]), batch[turn]
    )


def test_a_smaller_part_lies_in_a_larger_one():
    given = cells()
    parts = [part(given, share, noise()) for share in np.linspace(0, 1, 9).tolist()]
    for smaller, larger in zip(parts, parts[1:]):
        assert not (smaller & ~larger).any()


def test_every_token_is_as_likely_in_a_part():
    rows = 2000
    given = np.tile(np.arange(12) % 3 > 0, (rows, 1))
    order = uniform(ops.arange(rows, dtype="int32"), 0, -1, 6, 12)
    share = part(given, 0.25, order).mean(0)
    # Five standard errors of 2 tokens of 8.
    error = 5 * (0.25 * 0.75 / rows) ** 0.5
    np.testing.assert_allclose(share, given[0] * 0.25, atol=error)


def test_equal_noise_does_not_change_the_count():
    given = cells()
    result = part(given, 0.5, np.full((ROWS, N), 0.25, "float32"))
    counts = np.maximum(np.round(given.sum(1) * 0.5), given.any(1))
    np.testing.assert_array_equal(result.sum(1), counts)


def test_dtypes():
    given = ops.convert_to_tensor(masks((4, 6)))
    for result in (
        grow(given, 1),
        cells_of(given, (2, 3)),
        random_part(cells_of(given, (2, 3)), 0.5, noise()[:9, :6]),
    ):
        assert keras.backend.standardize_dtype(result.dtype) == "bool"
