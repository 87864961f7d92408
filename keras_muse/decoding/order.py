"""In which order tokens are revealed, where confidence does not tell."""

import functools

import numpy as np
from keras import ops

__all__ = ["ORDERS", "halton_ranks", "halton_turns", "random_turns"]

ORDERS = ("confidence", "random", "halton", "critic")


def random_turns(noise, masked, spacing=0, grid=None):
    """Whose turn it is in one step, at random, neighbours not together.

    Args:
        noise: (B, N) float32, uniform in (0, 1), distinct within a row.
        masked: (B, N) bool. The tokens that can be revealed.
        spacing: int. With one above 0, first come those with the largest noise of all
            masked ones up to `spacing` rows and columns away, which lie farther than
            that from each other; then the rest. Defaults to 0.
        grid: (rows, columns) of the tokens; needed with a `spacing`.

    Returns:
        (B, N) float32. Where `masked` is true, the larger it is the sooner; elsewhere
        it means nothing.

    Raises:
        ValueError: if `grid` is needed and does not have N tokens.
    """
    if not spacing:
        return noise
    rows, columns = check_grid(grid, noise.shape[1], "a `spacing`")
    heights = ops.reshape(ops.where(masked, noise, -1.0), (-1, rows, columns, 1))
    around = ops.max_pool(
        heights,
        2 * spacing + 1,
        strides=1,
        padding="same",
        data_format="channels_last",
    )
    is_peak = ops.reshape(heights >= around, ops.shape(noise))
    return noise + ops.cast(is_peak, "float32")


def halton_turns(noise, grid):
    """Whose turn it is in all steps: first where the Halton sequence comes first.

    What it visits one after another lies far apart (Halton-MaskGIT, arXiv 2503.17076).

    Args:
        noise: (B, N) float32, uniform in (0, 1). Moves the sequence of each row over
            the edges, so that no token is always the first.
        grid: (rows, columns) of the tokens.

    Returns:
        (B, N) float32, whole numbers, the larger the sooner.

    Raises:
        ValueError: if `grid` does not have N tokens.
    """
    num_tokens = noise.shape[1]
    rows, columns = check_grid(grid, num_tokens, "the order 'halton'")
    down = ops.cast(noise[:, :1] * rows, "int32")
    right = ops.cast(noise[:, -1:] * columns, "int32")
    cells = ops.arange(num_tokens, dtype="int32")
    y, x = cells // columns, cells % columns
    cells = (y + down) % rows * columns + (x + right) % columns
    ranks = ops.take(ops.convert_to_tensor(halton_ranks(rows, columns)), cells)
    return -ops.cast(ranks, "float32")


def check_grid(grid, num_tokens, wanted_for):
    if grid is None or grid[0] * grid[1] != num_tokens:
        raise ValueError(
            f"`grid` must be the (rows, columns) of the {num_tokens} tokens for "
            f"{wanted_for}: received {grid}."
        )
    return grid


@functools.lru_cache
def halton_ranks(rows, columns):
    """When the Halton sequence of bases 2 and 3 first comes to each cell of a grid.

    Args:
        rows: int.
        columns: int.

    Returns:
        (rows * columns,) int32 numpy array, a permutation.
    """
    count = 4 * rows * columns
    while True:
        index = np.arange(1, count + 1)
        y = (radical_inverse(index, 2) * rows).astype("int64")
        x = (radical_inverse(index, 3) * columns).astype("int64")
        cells, first = np.unique(y * columns + x, return_index=True)
        if len(cells) == rows * columns:
            return np.argsort(np.argsort(first)).astype("int32")
        count *= 2


def radical_inverse(index, base):
    """The digits of ints in a base, mirrored at the point: floats in [0, 1)."""
    value, share = np.zeros(len(index)), 1.0
    while index.any():
        share /= base
        value += index % base * share
        index = index // base
    return value
