"""The things of the shapes world and their names; what it pins down.

Lengths are in cells: the canvas is 8 x 8 cells of 8 pixels (16 at `scale=2`), a small
object fills one cell and a large one 2 x 2.
"""

import dataclasses

__all__ = [
    "BACKGROUNDS",
    "COLORS",
    "GRID",
    "HELD_OUT_PAIRS",
    "MAX_COUNT",
    "NUMBERS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Group",
    "Scene",
    "pick",
]

GRID = 8  # cells a side, and pixels of a cell at scale 1
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
}
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "orange": (245, 135, 30),
    "cyan": (50, 200, 215),
    "pink": (245, 140, 190),
}
SHAPES = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
}
# Size word: side of an object in cells, and the largest number of them in a group.
SIZES = {"small": 1, "large": 2}
MAX_COUNT = {"small": 4, "large": 3}
# The first synonym of each is the one that `shapes.caption_key` keeps.
NUMBERS = {1: ("a", "one"), 2: ("two",), 3: ("three",), 4: ("four",)}
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
HELD_OUT_PAIRS = {("purple", "triangle"), ("cyan", "square"), ("orange", "cross")}


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Equal objects.

    Attributes:
        count: int, 1 to 4 (1 to 3 if large).
        size: str, a key of `SIZES`.
        shape: str, a key of `SHAPES`.
        color: str, a key of `COLORS`.
        cells: tuple of `count` (row, column), the upper left cell of each object.
    """

    count: int
    size: str
    shape: str
    color: str
    cells: tuple = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        groups: tuple of one or two `Group`.
        relation: str, a key of `RELATIONS`, of the first group to the second; None
            with one group.
        background: str, a key of `BACKGROUNDS`.
    """

    groups: tuple
    relation: str | None
    background: str


def pick(rng, options):
    """One of `options`, each as likely, by `rng.random()`."""
    # `random()` is the one method whose stream Python promises never to change.
    return options[int(rng.random() * len(options))]
