"""Editing as the choice of the tokens that start masked."""

from keras import ops

__all__ = [
    "cells_of",
    "feathered",
    "grow",
    "random_part",
    "refine_cells",
]


def grow(masks, pixels):
    """Masks that reach farther on every side.

    Args:
        masks: (B, H, W) bool.
        pixels: int, at least 0.

    Returns:
        (B, H, W) bool. True where `masks` is, up to `pixels` rows and columns away.
    """
    if not pixels:
        return masks
    near = ops.cast(masks, "float32")[..., None]
    # The largest of a square is that of its rows, then of its columns.
    for window in ((2 * pixels + 1, 1), (1, 2 * pixels + 1)):
        near = ops.max_pool(
            near, window, strides=1, padding="same", data_format="channels_last"
        )
    return near[..., 0] > 0.5


def feathered(masks, pixels):
    """Masks with soft edges, to lay an edited picture over the one it came from.

    The edge of a mask is soft inwards only: what is not masked stays as it was. The
    edge of the picture is none.

    Args:
        masks: (B, H, W) bool.
        pixels: int, at least 0. Width of the edge.

    Returns:
        (B, H, W) float32 in [0, 1]: 0 where `masks` is false, 1 where nothing within
        `pixels` rows and columns is, evenly rising in between.
    """
    outside = ops.logical_not(masks)
    share = ops.cast(masks, "float32")
    total = share
    for _ in range(pixels):
        outside = grow(outside, 1)
        total = total + 1.0 - ops.cast(outside, "float32")
    return total / (pixels + 1.0)


def cells_of(masks, grid):
    """The tokens that a mask touches.

    Args:
        masks: (B, H, W) bool.
        grid: (rows, columns) of the tokens; they divide H and W.

    Returns:
        (B, N) bool, row by row. True where any pixel of the token's cell is.

    Raises:
        ValueError: if the grid does not divide the mask.
    """
    height, width = masks.shape[1:]
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(
            f"`grid` must divide the {height} x {width} pixels of the masks: received "
            f"{tuple(grid)}."
        )
    cells = (-1, rows, height // rows, columns, width // columns)
    touched = ops.any(ops.reshape(masks, cells), axis=(2, 4))
    return ops.reshape(touched, (-1, rows * columns))


def refine_cells(cells, grid, finer_grid):
    """Tokens of a finer grid that lie on given tokens of a coarser one.

    Args:
        cells: (B, N) bool.
        grid: (rows, columns) of these N tokens.
        finer_grid: (rows, columns), multiples of those of `grid`.

    Returns:
        (B, M) bool.

    Raises:
        ValueError: if the finer grid is not made of whole parts of the coarser one.
    """
    (rows, columns), (finer_rows, finer_columns) = grid, finer_grid
    if finer_rows % rows or finer_columns % columns:
        raise ValueError(
            f"`finer_grid` must be a multiple of {tuple(grid)}: received "
            f"{tuple(finer_grid)}."
        )
    cells = ops.reshape(cells, (-1, rows, columns))
    cells = ops.repeat(cells, finer_rows // rows, axis=1)
    cells = ops.repeat(cells, finer_columns // columns, axis=2)
    return ops.reshape(cells, (-1, finer_rows * finer_columns))


def random_part(cells, share, noise):
    """A random part of the given tokens.

    Args:
        cells: (B, N) bool.
        share: float in [0, 1], or (B,) float32.
        noise: (B, N) float32, distinct within a row; orders the tokens.

    Returns:
        (B, N) bool, true at `share` times as many tokens as `cells` of each row, to the
        nearest whole number, but at least one if there are any and `share` is above 0.
    """
    cells = ops.cast(cells, "bool")
    counts = ops.sum(ops.cast(cells, "float32"), axis=1)
    share = ops.cast(share, "float32")
    least = ops.where(share > 0.0, ops.minimum(counts, 1.0), 0.0)
    counts = ops.maximum(ops.round(counts * share), least)
    score = ops.where(cells, noise, 2.0)
    ranks = ops.argsort(ops.argsort(score, axis=1), axis=1)
    return ops.cast(ranks, "float32") < counts[:, None]
