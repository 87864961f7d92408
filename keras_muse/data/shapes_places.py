"""Where the objects of a scene lie: no two touch, and the relation holds."""

import dataclasses
import functools

from keras_muse.data.shapes_world import GRID, SIZES, pick

__all__ = ["place_groups"]

# Sets of cells are integers of 64 bits: whether an object fits is one `&`.


def block(row, column, height, width):
    """The cells of a rectangle, cut at the edge of the canvas."""
    return sum(
        1 << (r * GRID + c)
        for r in range(max(row, 0), min(row + height, GRID))
        for c in range(max(column, 0), min(column + width, GRID))
    )


def all_places(side):
    """(row, column, cells it covers, the same with a margin of one cell) of each."""
    span = range(GRID - side + 1)
    return tuple(
        (r, c, block(r, c, side, side), block(r - 1, c - 1, side + 2, side + 2))
        for r in span
        for c in span
    )


@functools.cache
def places(size, axis, low, high):
    """Places whose centre, in half cells along `axis`, lies in [low, high)."""
    side = SIZES[size]
    return [place for place in all_places(side) if low <= 2 * place[axis] + side < high]


def put(rng, candidates, count, taken):
    """Cells of `count` objects off `taken` and off each other, or None."""
    cells = []
    for _ in range(count):
        candidates = [place for place in candidates if not place[2] & taken]
        if not candidates:
            return None, taken
        row, column, _, margin = pick(rng, candidates)
        cells.append((row, column))
        taken |= margin
    return tuple(cells), taken


def place_groups(rng, groups, relation):
    """Finds room for groups.

    Two groups are first given a line that parts them; then objects are put one by one
    where there is still room, and all is begun again when there is none.

    Args:
        rng: see `shapes_world.pick`.
        groups: one or two `Group`; their `cells` are not looked at.
        relation: str, a key of `shapes_world.RELATIONS`; None with one group.

    Returns:
        tuple of the groups with their cells, or None when many tries found no room.
    """
    end = 2 * GRID + 1
    for _ in range(2000):
        if relation is None:
            regions = [(0, 0, end)]
        else:
            axis = 1 if relation in ("left of", "right of") else 0
            # The line between the groups leaves each side room for one object.
            before, after = (SIZES[group.size] for group in groups)
            if relation in ("right of", "below"):
                before, after = after, before
            line = pick(rng, range(before + 1, end - after))
            regions = [(axis, 0, line), (axis, line, end)]
            if relation in ("right of", "below"):
                regions.reverse()
        taken, placed = 0, []
        for group, region in zip(groups, regions):
            cells, taken = put(rng, places(group.size, *region), group.count, taken)
            if cells is None:
                break
            placed.append(dataclasses.replace(group, cells=cells))
        else:
            return tuple(placed)
    return None
