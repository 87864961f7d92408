"""The shapes world: procedural scenes, their captions and their pictures.

Every caption can be checked against its picture (`keras_muse.data.shapes_checker`),
so attribute binding, counting and spatial relations become numbers. Nothing is
stored: scene `index` of `seed` is a pure function of the two, however it is reached.

Beside this file: `shapes_world` (the names of things), `shapes_captions` (the
language), `shapes_places` (where objects lie); what a user needs of them is here too.
"""

import functools
import random

import numpy as np

from keras_muse.data.shapes_captions import (
    all_captions,
    canonical_caption,
    caption,
    caption_is_held_out,
    caption_key,
    key_is_held_out,
    words,
)
from keras_muse.data.shapes_places import place_groups
from keras_muse.data.shapes_world import (
    BACKGROUNDS,
    COLORS,
    GRID,
    HELD_OUT_PAIRS,
    MAX_COUNT,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    pick,
)

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
    "SPLITS",
    "Group",
    "Scene",
    "all_captions",
    "caption",
    "caption_is_held_out",
    "caption_key",
    "captioned_scenes",
    "dataset",
    "endless",
    "examples",
    "render",
    "scenes",
    "sprite",
    "words",
]

SPLITS = ("train", "held_out_captions", "held_out_pairs", "all")
SHAPE_NAMES, COLOR_NAMES, SIZE_NAMES, RELATION_NAMES, BACKGROUND_NAMES = (
    tuple(table) for table in (SHAPES, COLORS, SIZES, RELATIONS, BACKGROUNDS)
)
SUPERSAMPLING = 32


# --- Scenes -------------------------------------------------------------------------


def in_split(split, groups, relation):
    if split == "all":
        return True
    unseen = any((group.color, group.shape) in HELD_OUT_PAIRS for group in groups)
    if split == "held_out_pairs":
        return unseen
    held_out = key_is_held_out(canonical_caption(groups, relation))
    return not unseen and held_out == (split == "held_out_captions")


def sample_group(rng):
    size = pick(rng, SIZE_NAMES)
    count = 1 + int(rng.random() * MAX_COUNT[size])
    return Group(count, size, pick(rng, SHAPE_NAMES), pick(rng, COLOR_NAMES))


def sample(rng, split, two_groups):
    """Draws what is shown first and where second, so that room skews no count."""
    while True:
        groups = [sample_group(rng)]
        relation = None
        if rng.random() < two_groups:
            relation = pick(rng, RELATION_NAMES)
            groups.append(sample_group(rng))
            first, second = groups
            if (first.shape, first.color) == (second.shape, second.color):
                continue
        if not in_split(split, groups, relation):
            continue
        placed = place_groups(rng, groups, relation)
        if placed is not None:
            return Scene(placed, relation, pick(rng, BACKGROUND_NAMES))


def captioned_scenes(split, start, count, seed, two_groups=0.5):
    """Scenes with one caption each.

    Args:
        split: str. "train" (no held-out pair, no held-out caption),
            "held_out_captions" (a held-out caption and no held-out pair),
            "held_out_pairs" (at least one held-out pair), "all".
        start: int. Index of the first scene.
        count: int. Number of scenes.
        seed: int, 0 or more.
        two_groups: float in [0, 1]. Share of the scenes with two groups. Defaults to
            0.5.

    Returns:
        Iterator of (`Scene`, str).

    Raises:
        ValueError: If `split`, `start`, `seed` or `two_groups` is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: {split!r}")
    if not 0.0 <= two_groups <= 1.0:
        raise ValueError(f"`two_groups` must be in [0, 1]. Received: {two_groups!r}")
    for name, value in (("start", start), ("seed", seed)):
        if not 0 <= value < 2**63:
            raise ValueError(f"`{name}` must be in [0, 2**63). Received: {value!r}")

    def generate():
        for index in range(int(start), int(start) + count):
            rng = random.Random((int(seed) << 64) | index)
            scene = sample(rng, split, two_groups)
            yield scene, caption(scene, rng)

    return generate()


def scenes(split, start, count, seed, two_groups=0.5):
    """The scenes of `captioned_scenes`, as a list.

    Args:
        split: str. See `captioned_scenes`.
        start: int. Index of the first scene.
        count: int. Number of scenes.
        seed: int, 0 or more.
        two_groups: float in [0, 1]. Defaults to 0.5.

    Returns:
        list of `Scene`.
    """
    return [pair[0] for pair in captioned_scenes(split, start, count, seed, two_groups)]


# --- Pictures -----------------------------------------------------------------------


@functools.cache
def alpha(shape, pixels):
    """(pixels, pixels) float, the part of each pixel that the shape covers."""
    fine = (np.arange(pixels * SUPERSAMPLING) + 0.5) / (pixels * SUPERSAMPLING)
    x, y = np.abs(fine[None, :] - 0.5), fine[:, None]
    inside = {
        "circle": x**2 + (y - 0.5) ** 2 <= 0.25,
        "square": (x <= 0.5) & (y <= 1.0),
        "triangle": x <= y / 2,
        "cross": (x <= 0.17) | (np.abs(y - 0.5) <= 0.17),
    }[shape]
    inside = inside.reshape(pixels, SUPERSAMPLING, pixels, SUPERSAMPLING)
    return inside.mean(axis=(1, 3))


@functools.cache
def sprite(shape, color, size, background, scale=1):
    """One object with the background around it.

    Args:
        shape: str, a key of `SHAPES`.
        color: str, a key of `COLORS`.
        size: str, a key of `SIZES`.
        background: str, a key of `BACKGROUNDS`.
        scale: int. Defaults to 1.

    Returns:
        (p, p, 3) uint8, read-only, p = 8 * scale if small and 16 * scale if large.
    """
    cover = alpha(shape, GRID * scale * SIZES[size])[..., None]
    front, back = np.array(COLORS[color]), np.array(BACKGROUNDS[background])
    image = np.rint(cover * front + (1 - cover) * back).astype("uint8")
    image.flags.writeable = False
    return image


def picture_shape(scale):
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"`scale` must be an int, 1 or more. Received: {scale!r}")
    return (GRID * GRID * scale, GRID * GRID * scale, 3)


@functools.cache
def canvas(background, scale):
    return np.full(picture_shape(scale), BACKGROUNDS[background], "uint8")


def render(scene, scale=1, out=None):
    """The picture of a scene.

    Args:
        scene: `Scene`.
        scale: int. 1 gives 64 x 64 pixels, 2 gives 128 x 128. Defaults to 1.
        out: (64 * scale, 64 * scale, 3) uint8 to draw on. Defaults to a new array.

    Returns:
        (64 * scale, 64 * scale, 3) uint8.
    """
    if out is None:
        out = np.empty(picture_shape(scale), "uint8")
    out[...] = canvas(scene.background, scale)
    cell = GRID * scale
    for group in scene.groups:
        image = sprite(group.shape, group.color, group.size, scene.background, scale)
        side = image.shape[0]
        for row, column in group.cells:
            y, x = row * cell, column * cell
            out[y : y + side, x : x + side] = image
    return out


def examples(split, start, count, seed, scale=1, two_groups=0.5):
    """Pictures and captions.

    Args:
        split: str. See `captioned_scenes`.
        start: int. Index of the first scene.
        count: int. Number of scenes.
        seed: int, 0 or more.
        scale: int. 1 for 64 x 64 pixels, 2 for 128 x 128. Defaults to 1.
        two_groups: float in [0, 1]. Defaults to 0.5.

    Returns:
        Tuple of images (count, 64 * scale, 64 * scale, 3) uint8 and a list of `count`
        captions.
    """
    images = np.empty((count, *picture_shape(scale)), "uint8")
    captions = []
    pairs = captioned_scenes(split, start, count, seed, two_groups)
    for image, (scene, text) in zip(images, pairs):
        render(scene, scale, image)
        captions.append(text)
    return images, captions


def dataset(split, seed, scale=1, batch_size=32, start=0, two_groups=0.5):
    """Endless batches of fresh scenes for `fit`.

    Batch `i` holds the scenes `start + i * batch_size` and following, so a training
    resumes with `start` set to the number of pictures that it has seen.

    Args:
        split: str. See `captioned_scenes`.
        seed: int, 0 or more.
        scale: int. 1 for 64 x 64 pixels, 2 for 128 x 128. Defaults to 1.
        batch_size: int. Defaults to 32.
        start: int. Index of the first scene. Defaults to 0.
        two_groups: float in [0, 1]. Defaults to 0.5.

    Returns:
        `tf.data.Dataset` of `{"images": (batch_size, 64 * scale, 64 * scale, 3) uint8,
        "captions": (batch_size,) string}`.
    """
    captioned_scenes(split, start, 0, seed, two_groups)  # refuse bad arguments here

    def batch(first):
        images, captions = examples(split, first, batch_size, seed, scale, two_groups)
        return {"images": images, "captions": captions}

    return endless(batch, batch_size, start)


def endless(batch, batch_size, start=0):
    """A dataset without end of what a function makes.

    Args:
        batch: function from the index of the first row, an int, to a dict of arrays of
            `batch_size` rows, the same function of the index at every time.
        batch_size: int.
        start: int. Index of the first row. Defaults to 0.

    Returns:
        `tf.data.Dataset` of `batch(start)`, `batch(start + batch_size)`, ...
    """
    import tensorflow as tf

    def batches():
        first = start
        while True:
            yield batch(first)
            first += batch_size

    signature = {
        name: tf.TensorSpec(value.shape, value.dtype)
        for name, value in (
            (name, tf.convert_to_tensor(value)) for name, value in batch(start).items()
        )
    }
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return data.prefetch(8)
