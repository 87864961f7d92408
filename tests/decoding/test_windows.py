"""Windows over a canvas: all of it, nothing outside, and enough known in each."""

import numpy as np
import pytest

from keras_muse.decoding import grown_windows

RNG = np.random.default_rng(0)


def random_case(largest=9, room=14):
    """A canvas, a window and a known rectangle at least as large as the window."""
    window = RNG.integers(1, largest, 2)
    length = window + RNG.integers(0, room, 2) * RNG.integers(0, 2, 2)
    begin = RNG.integers(0, room, 2) * RNG.integers(0, 2, 2)
    canvas = begin + length + RNG.integers(0, room, 2) * RNG.integers(0, 2, 2)
    return tuple(map(tuple, (canvas.tolist(), window.tolist(), [*begin, *length])))


CASES = [random_case() for _ in range(300)]


def walk(canvas, window, known):
    """Each window with what is known of it before, a (rows, columns) bool array."""
    is_known = np.zeros(canvas, bool)
    top, left, rows, columns = known
    is_known[top : top + rows, left : left + columns] = True
    for top, left in grown_windows(canvas, window, known):
        # A negative index would mean the other side of the array.
        assert 0 <= top <= canvas[0] - window[0]
        assert 0 <= left <= canvas[1] - window[1]
        part = is_known[top : top + window[0], left : left + window[1]]
        yield (top, left), part.copy()
        part[...] = True
    assert is_known.all()


def test_windows_cover_the_canvas_and_none_is_idle():
    for case in CASES:
        places = [place for place, part in walk(*case) if not part.all()]
        assert places == grown_windows(*case)
        assert len(set(places)) == len(places)


def test_each_window_shows_half_or_more_that_is_known():
    seen = {}
    for canvas, window, known in CASES:
        # A window moves on by whole tokens: half its side, rounded down, but at least
        # one, so one whose side is a single token sees nothing of what was before it.
        share = [1 - max(side // 2, 1) / side for side in window]
        for (top, left), part in walk(canvas, window, known):
            moved = [
                not start <= place <= start + length - side
                for place, side, start, length in zip(
                    (top, left), window, known, known[2:]
                )
            ]
            assert any(moved)
            if all(moved):
                # At a corner, all is known but a piece that is new in both ways.
                bound = 1 - (1 - share[0]) * (1 - share[1])
            else:
                bound = share[moved.index(True)]
            assert part.mean() >= bound - 1e-9, (canvas, window, known, top, left)
            if min(window) > 1:
                assert part.mean() >= 0.5
            key = (min(window) > 1, sum(moved))
            seen[key] = min(seen.get(key, 1), part.mean())
    # All of these come up, and none of the bounds could be larger.
    assert seen == {(True, 1): 0.5, (True, 2): 0.75, (False, 1): 0, (False, 2): 0}


def test_windows_overlap_by_whole_sides():
    # Not only in number: one side of each window, or the one before, is known wholly.
    for canvas, window, known in CASES:
        if min(window) < 2:
            continue
        rows, columns = (-(-side // 2) for side in window)
        for _, part in walk(canvas, window, known):
            assert (
                part[:rows].all()
                or part[-rows:].all()
                or part[:, :columns].all()
                or part[:, -columns:].all()
            )


def test_nearest_first():
    for canvas, window, known in CASES:
        moves = []
        for place in grown_windows(canvas, window, known):
            # How many moves away from what is known, along each axis.
            away = [
                max(start - at, at - (start + length - side), 0)
                for at, side, start, length in zip(place, window, known, known[2:])
            ]
            moves.append(sum(-(-a // max(s // 2, 1)) for a, s in zip(away, window)))
        assert moves == sorted(moves)


def test_nothing_to_do_where_all_is_known():
    for canvas, window, _ in CASES:
        assert grown_windows(canvas, window, (0, 0, *canvas)) == []


@pytest.mark.parametrize(
    "case, expected",
    [
        # One side, in half windows; the last step is shorter.
        (((4, 11), (4, 4), (0, 0, 4, 4)), [(0, 2), (0, 4), (0, 6), (0, 7)]),
        (((7, 4), (4, 4), (3, 0, 4, 4)), [(1, 0), (0, 0)]),
        (((4, 8), (4, 4), (0, 2, 4, 4)), [(0, 0), (0, 4)]),
        # A corner comes after its sides.
        (((6, 6), (4, 4), (2, 2, 4, 4)), [(0, 2), (2, 0), (0, 0)]),
        # An odd side moves on by less than its half.
        (((4, 5), (3, 3), (0, 0, 4, 3)), [(0, 1), (1, 1), (0, 2), (1, 2)]),
        # What is known is wider than the window.
        (((5, 9), (4, 4), (1, 0, 4, 9)), [(0, 0), (0, 2), (0, 4), (0, 5)]),
    ],
    ids=str,
)
def test_windows_written_out(case, expected):
    assert grown_windows(*case) == expected


def test_lists_and_arrays_are_as_good():
    case = [8, 10], np.array([4, 4]), [2, 3, 4, 4]
    assert grown_windows(*case) == grown_windows((8, 10), (4, 4), (2, 3, 4, 4))
