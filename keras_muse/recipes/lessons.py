"""The first pictures a text encoder learns from: crowded, and all is said.

A model of the shapes world soon knows which words go with which tokens, and then may
stay for good with a bag of words, in which "a red circle left of a blue square" is "a
blue circle right of a red square": that words belong together shows in few tokens,
and which group lies where in none, unless order and relation are understood at once.
So these scenes hold many large objects, nothing goes unsaid, background weighs
little, and what is named first mostly lies left or above: the order of the words
then tells something before the relations are understood.
"""

import random

import numpy as np

from keras_muse.data import shapes
from keras_muse.data.shapes_places import place_groups

__all__ = ["dataset", "lesson"]

LARGE = 0.75  # share of large objects
IN_ORDER = 0.8  # share of "left of" and "above"
BACKGROUND_WEIGHT = 0.02


def lesson(seed, index):
    """A scene and its caption, none of them held out.

    Args:
        seed: int, 0 or more.
        index: int, 0 or more.

    Returns:
        `Scene` and str.
    """
    rng = random.Random((int(seed) << 64) | int(index))
    while True:
        groups = [sample_group(rng) for _ in range(2)]
        in_order = rng.random() < IN_ORDER
        options = ("left of", "above") if in_order else ("right of", "below")
        relation = shapes.pick(rng, options)
        first, second = groups
        if (first.shape, first.color) == (second.shape, second.color):
            continue
        if not shapes.in_split("train", groups, relation):
            continue
        placed = place_groups(rng, groups, relation)
        if placed is None:
            continue
        background = shapes.pick(rng, tuple(shapes.BACKGROUNDS))
        scene = shapes.Scene(placed, relation, background)
        return scene, shapes.caption(scene, rng, unsaid=0.0)


def sample_group(rng):
    size = "large" if rng.random() < LARGE else "small"
    count = shapes.MAX_COUNT[size] - int(rng.random() * 2)
    shape = shapes.pick(rng, tuple(shapes.SHAPES))
    return shapes.Group(count, size, shape, shapes.pick(rng, tuple(shapes.COLORS)))


def token_weights(scene):
    """(64,) float32: 1 where an object is, `BACKGROUND_WEIGHT` elsewhere."""
    weights = np.full((shapes.GRID, shapes.GRID), BACKGROUND_WEIGHT, "float32")
    for group in scene.groups:
        side = shapes.SIZES[group.size]
        for row, column in group.cells:
            weights[row : row + side, column : column + side] = 1.0
    return weights.reshape(-1)


def dataset(seed, batch_size=32, start=0):
    """Endless batches of lessons for `fit`.

    Args:
        seed: int, 0 or more.
        batch_size: int. Defaults to 32.
        start: int. Index of the first lesson. Defaults to 0.

    Returns:
        `tf.data.Dataset` of dicts: `"images"` (B, 64, 64, 3) uint8, `"captions"` (B,)
        string, `"token_weights"` (B, 64) float32.
    """

    def batch(first):
        pairs = [lesson(seed, first + row) for row in range(batch_size)]
        return {
            "images": np.stack([shapes.render(scene) for scene, _ in pairs]),
            "captions": [text for _, text in pairs],
            "token_weights": np.stack([token_weights(scene) for scene, _ in pairs]),
        }

    return shapes.endless(batch, batch_size, start)
