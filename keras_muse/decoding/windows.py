"""Where a model looks, one window after another, on a canvas larger than itself."""

import numpy as np

__all__ = ["grown_windows"]


def grown_windows(canvas, window, known):
    """Windows that fill a canvas, from what is known outwards.

    Each moves on by half its side at most, so that half of what it shows, or more, is
    there already.

    Args:
        canvas: (rows, columns) of the whole grid.
        window: (rows, columns) that the model sees, at least 2 each.
        known: (top, left, rows, columns) of the part of the canvas that is known; at
            least as large as the window.

    Returns:
        list of (top, left), nearest first; with what is known they cover the canvas.
        Empty if all is known.
    """
    rows, columns = (
        _places(canvas[axis], window[axis], known[axis], known[axis + 2])
        for axis in (0, 1)
    )
    candidates = sorted(
        ((top, left) for top in rows for left in columns),
        key=lambda place: (
            rows[place[0]] + columns[place[1]],
            max(rows[place[0]], columns[place[1]]),
            place,
        ),
    )
    covered = np.zeros(canvas, "bool")
    top, left, height, width = known
    covered[top : top + height, left : left + width] = True
    windows = []
    for top, left in candidates:
        part = covered[top : top + window[0], left : left + window[1]]
        if not part.all():
            part[...] = True
            windows.append((top, left))
    return windows


def _places(canvas, window, known, length):
    """Along one axis: where windows begin, and how many steps from what is known."""
    step = max(window // 2, 1)
    last = known + length - window
    places = dict.fromkeys([*range(known, last, step), last], 0)
    for begin, end, direction in ((known, 0, -1), (last, canvas - window, 1)):
        place, count = begin, 0
        while place != end:
            count += 1
            # The last step may be shorter.
            place += direction * min(step, abs(end - place))
            places[place] = count
    return places
