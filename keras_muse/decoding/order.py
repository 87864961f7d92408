"""In which order tokens are revealed, where confidence does not tell."""

import functools

import numpy as np
from keras import ops

__all__ = ["ORDERS", "halton_ranks", "token_ranks"]

ORDERS = ("confidence", "random", "halton")


def token_ranks(order, noise, grid=None):
    """When each token is revealed, the same for all steps of a decoding.

    Args:
        order: `"random"`, or `"halton"`: tokens that are revealed together lie far
            apart (Halton-MaskGIT, arXiv 2503.17076), with a start of its own for each
            row.
        noise: (B, N) float32, uniform in (0, 1), distinct within a row.
        grid: (rows, columns) of the tokens, for `"halton"`.

    Returns:
        (B, N) int32: a permutation of 0 .. N-1 in each row, first 0.

    Raises:
        ValueError: if `"halton"` gets no grid, or one that does not have N tokens.
    """
    num_tokens = noise.shape[1]
    if order == "random":
        return ops.cast(ops.argsort(ops.argsort(noise, axis=1), axis=1), "int32")
    if grid is None or grid[0] * grid[1] != num_tokens:
        raise ValueError(
            f"`grid` must be the (rows, columns) of the {num_tokens} tokens for the "
            f"order 'halton': received {grid}."
        )
    rows, columns = grid
    # The whole order moved over the edges, so that no token is always the first.
    down = ops.cast(noise[:, :1] * rows, "int32")
    right = ops.cast(noise[:, -1:] * columns, "int32")
    cells = ops.arange(num_tokens, dtype="int32")
    y, x = cells // columns, cells % columns
    cells = (y + down) % rows * columns + (x + right) % columns
    return ops.take(ops.convert_to_tensor(halton_ranks(rows, columns)), cells)


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
