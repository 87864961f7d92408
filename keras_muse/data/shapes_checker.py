"""Does a picture of the shapes world show what its caption says?

The picture is cut into its 8 x 8 cells, and every cell must be explained: as empty, as
a small object, or as a quarter of a large object whose other quarters are there too. A
cell that nothing explains within a tolerance is unknown, and a picture with an unknown
cell agrees with no caption.
"""

import collections
import dataclasses
import functools

import numpy as np

from keras_muse.data import shapes
from keras_muse.data.shapes_captions import Request, parse_caption

__all__ = [
    "Object",
    "Picture",
    "Request",
    "agreement",
    "parse_caption",
    "parse_image",
    "parse_images",
]

GRID = CELL = shapes.GRID
# Root mean square error, in levels of 255, up to which a template explains a cell. A
# picture blurred by (0.15, 0.7, 0.15) in both directions with noise of 8 levels stays
# below; half an object in place of a whole one does not, if an object that stands out
# little (purple on gray, say) is allowed no more than `FAINT` of its contrast.
TOLERANCE = 24.0
FAINT = 0.28
# What an object must lower the squared error of a cell by to be seen at all. It makes
# one large square the better explanation of four cells than four small squares.
OBJECT_COST = 20.0


# --- Pictures -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Object:
    """One object of a picture.

    Attributes:
        shape: str, a key of `shapes.SHAPES`.
        color: str, a key of `shapes.COLORS`.
        size: str, a key of `shapes.SIZES`.
        cell: (row, column) of its upper left cell.
    """

    shape: str
    color: str
    size: str
    cell: tuple

    @property
    def centre(self):
        """(y, x) in half cells."""
        side = shapes.SIZES[self.size]
        return tuple(2 * place + side for place in self.cell)


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """What the checker sees in a picture.

    Attributes:
        objects: tuple of `Object`.
        background: str, a key of `shapes.BACKGROUNDS`.
        unknown: tuple of (row, column), the cells that nothing explains.
    """

    objects: tuple
    background: str
    unknown: tuple


KINDS = tuple((shape, color) for shape in shapes.SHAPES for color in shapes.COLORS)


@functools.cache
def templates(background):
    """What a cell may look like: (1 + 5 * kinds, CELL * CELL * 3) float32.

    First the empty cell, then the small objects, then the quarters of the large ones:
    all upper left, all upper right, all lower left, all lower right.
    """
    small = [shapes.sprite(*kind, "small", background) for kind in KINDS]
    large = [shapes.sprite(*kind, "large", background) for kind in KINDS]
    cells = [np.full((CELL, CELL, 3), shapes.BACKGROUNDS[background]), *small]
    for y, x in ((0, 0), (0, CELL), (CELL, 0), (CELL, CELL)):
        cells += [image[y : y + CELL, x : x + CELL] for image in large]
    return np.stack(cells).reshape(len(cells), -1).astype("float32")


def limits(background, tolerance):
    """(1 + kinds,) largest squared error of an empty cell and of each object's."""
    back = np.array(shapes.BACKGROUNDS[background])
    colors = np.array([shapes.COLORS[color] for _, color in KINDS])
    contrast = ((colors - back) ** 2).mean(-1)
    limit = np.minimum(tolerance**2, FAINT**2 * contrast)
    return np.concatenate([[tolerance**2], limit])


def refuse_others(images):
    shape, side = images.shape, GRID * CELL
    if (
        len(shape) != 4
        or shape[1] != shape[2]
        or shape[1] < side
        or shape[1] % side
        or shape[3] != 3
    ):
        raise ValueError(
            "`images` must be (B, 64, 64, 3), or a multiple of 64 pixels wide and "
            f"high. Received shape: {shape}"
        )
    if images.dtype != "uint8" and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            "`images` must be uint8, or floats in [0, 1]. Received dtype: "
            f"{images.dtype}"
        )


def cut(images):
    """Pictures of any scale in their cells: (B, 64, CELL * CELL * 3) float32."""
    # Large pictures are judged at 64 pixels: a mean over the pixels of a sprite at
    # scale 2 is the sprite at scale 1.
    scale = images.shape[1] // (GRID * CELL)
    pixels = images.astype("float32") * (1.0 if images.dtype == "uint8" else 255.0)
    pixels = pixels.reshape(-1, GRID, CELL, scale, GRID, CELL, scale, 3).mean((3, 6))
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), GRID * GRID, -1)


def squared_errors(cells, patterns):
    """(B, 64, P) mean squared error of every cell against every pattern."""
    # Centred first: the expanded square would lose its digits to cancellation.
    centre = patterns[0]
    cells, patterns = cells - centre, patterns - centre
    product = cells.reshape(-1, cells.shape[-1]) @ patterns.T
    error = product.reshape(*cells.shape[:2], -1) * -2.0
    error += (cells**2).sum(-1)[..., None]
    error += (patterns**2).sum(-1)
    return np.maximum(error, 0.0) / cells.shape[-1]


def see(cells, background, tolerance):
    """`Picture` of each of the (B, 64, CELL * CELL * 3) cells on one background."""
    batch, kinds = len(cells), len(KINDS)
    error = squared_errors(cells, templates(background))
    error = error.reshape(batch, GRID, GRID, -1)
    quarters = error[..., 1 + kinds :].reshape(batch, GRID, GRID, 4, kinds)
    # What is alone in its cell: nothing, at no cost, or a small object.
    alone = error[..., : 1 + kinds].copy()
    alone[..., 1:] += OBJECT_COST
    small, small_cost = alone.argmin(-1), alone.min(-1)
    blocks = (
        quarters[:, :-1, :-1, 0]
        + quarters[:, :-1, 1:, 1]
        + quarters[:, 1:, :-1, 2]
        + quarters[:, 1:, 1:, 3]
    ) + OBJECT_COST
    large = blocks.argmin(-1)
    gain = (
        small_cost[:, :-1, :-1]
        + small_cost[:, :-1, 1:]
        + small_cost[:, 1:, :-1]
        + small_cost[:, 1:, 1:]
    ) - blocks.min(-1)
    # Large objects where they explain most, the best first, none on another.
    chosen = np.zeros_like(gain, "bool")
    rows = np.arange(batch)
    while True:
        best = gain.reshape(batch, -1).argmax(-1)
        y, x = np.divmod(best, GRID - 1)
        found = rows[gain[rows, y, x] > 0]
        if not len(found):
            break
        chosen[found, y[found], x[found]] = True
        for b in found:
            top, left = max(y[b] - 1, 0), max(x[b] - 1, 0)
            gain[b, top : y[b] + 2, left : x[b] + 2] = -np.inf

    limit = limits(background, tolerance)
    left = np.take_along_axis(error, small[..., None], -1)[..., 0] / limit[small]
    for b, r, c in np.argwhere(chosen):
        small[b, r : r + 2, c : c + 2] = 0
        kind = large[b, r, c]
        for corner, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            part = quarters[b, r + i, c + j, corner, kind]
            left[b, r + i, c + j] = part / limit[1 + kind]
    objects = [[] for _ in range(batch)]
    for b, r, c in np.argwhere(chosen).tolist():
        objects[b].append(Object(*KINDS[large[b, r, c]], "large", (r, c)))
    for b, r, c in np.argwhere(small).tolist():
        objects[b].append(Object(*KINDS[small[b, r, c] - 1], "small", (r, c)))
    unknown = [[] for _ in range(batch)]
    for b, r, c in np.argwhere(left > 1).tolist():
        unknown[b].append((r, c))
    return [
        Picture(tuple(seen), background, tuple(strange))
        for seen, strange in zip(objects, unknown)
    ]


def parse_images(images, tolerance=TOLERANCE, batch_size=64):
    """Reads pictures.

    Args:
        images: (B, H, W, 3) uint8, or floats in [0, 1], H = W = 64 or a multiple.
        tolerance: float. Root mean square error of a cell, in levels of 255, from
            which it is unknown; less for colours close to the background. Defaults
            to 24.
        batch_size: int. Pictures at a time, which bounds the memory. Defaults to 64.

    Returns:
        list of B `Picture`.

    Raises:
        ValueError: If `images` has another shape or dtype.
    """
    images = np.asarray(images)
    refuse_others(images)
    names = tuple(shapes.BACKGROUNDS)
    flat = np.array([shapes.BACKGROUNDS[name] for name in names], "float32")
    pictures = [None] * len(images)
    for start in range(0, len(images), batch_size):
        part = cut(images[start : start + batch_size])
        # The background is what is nearest to most cells: objects leave most of them
        # empty, and a vote of cells is deaf to how much the others differ.
        pixels = part.reshape(len(part), GRID * GRID, CELL * CELL, 3).mean(2)
        distance = ((pixels[:, :, None] - flat) ** 2).mean(-1)
        votes = np.eye(len(names))[distance.argmin(-1)].sum(1).argmax(-1)
        for index, name in enumerate(names):
            (where,) = np.nonzero(votes == index)
            if len(where):
                for row, seen in zip(where, see(part[where], name, tolerance)):
                    pictures[start + row] = seen
    return pictures


def parse_image(image, tolerance=TOLERANCE):
    """Reads one picture.

    Args:
        image: (H, W, 3) uint8, or floats in [0, 1], H = W = 64 or a multiple.
        tolerance: float. See `parse_images`. Defaults to 24.

    Returns:
        `Picture`.
    """
    return parse_images(np.asarray(image)[None], tolerance)[0]


# --- Agreement ----------------------------------------------------------------------


def relation_holds(relation, first, second):
    """Whether every centre of `first` is left of (...) every centre of `second`."""
    if not first or not second:
        return False
    axis = 1 if relation in ("left of", "right of") else 0
    if relation in ("right of", "below"):
        first, second = second, first
    return max(o.centre[axis] for o in first) < min(o.centre[axis] for o in second)


def sizes_hold(groups, seen):
    """Whether the set `seen` of size classes is one that the groups allow."""
    allowed = [{group.size} if group.size else set(shapes.SIZES) for group in groups]
    must = {group.size for group in groups if group.size}
    return must <= seen <= set().union(*allowed) and 0 < len(seen) <= len(groups)


def compare(picture, request):
    """The scores of one picture, by name."""
    groups, objects = request.groups, picture.objects
    members = collections.defaultdict(list)
    for item in objects:
        members[item.shape, item.color].append(item)
    # Two groups never share both shape and colour, so these two tell them apart.
    owned = [members[group.shape, group.color] for group in groups]
    total = sum(group.count for group in groups)
    scores = {
        "background": request.background in (None, picture.background),
        "count": len(objects) == total,
        "colors": {o.color for o in objects} == {g.color for g in groups},
        "shapes": {o.shape for o in objects} == {g.shape for g in groups},
        "sizes": sizes_hold(groups, {o.size for o in objects}),
        "relation": len(groups) == 1 or relation_holds(request.relation, *owned),
        "whole": not picture.unknown,
    }
    bound = all(
        len(items) == group.count
        and len({item.size for item in items}) == 1
        and group.size in (None, items[0].size)
        for group, items in zip(groups, owned)
    )
    return {
        "exact": all(scores.values()) and bound,
        **scores,
        "num_groups": len(groups),
        "counts": total,
    }


def agreement(images, captions, tolerance=TOLERANCE):
    """Checks pictures against their captions.

    A picture agrees exactly when it has the objects that the caption asks for (shape,
    colour and, if named, size class; one class for all of a group), no others, no cell
    that nothing explains, the relation for every pair of centres and, if named, the
    background. The other scores are each one condition of that and do not look at the
    rest: colours, shapes and sizes compare the sets of what appears, whatever the
    number, so that they are right for the right attributes even when bound wrongly.

    Args:
        images: (B, H, W, 3) uint8, or floats in [0, 1], H = W = 64 or a multiple.
        captions: B of str or bytes, of the world's grammar.
        tolerance: float. See `parse_images`. Defaults to 24.

    Returns:
        dict of (B,) arrays. Booleans: "exact", "background", "count" (the number of
        objects), "colors", "shapes", "sizes", "relation" (True with one group) and
        "whole" (no unknown cell). Integers to tabulate by: "num_groups" and "counts",
        the number of objects asked for.

    Raises:
        ValueError: If a caption is not of the grammar, if `images` has another shape
            or dtype, or if there are not as many captions as images.
    """
    requests = [parse_caption(caption) for caption in captions]
    pictures = parse_images(images, tolerance)
    if len(requests) != len(pictures):
        raise ValueError(
            "`captions` must have one caption per image. Received: "
            f"{len(pictures)} images and {len(requests)} captions"
        )
    rows = [compare(*pair) for pair in zip(pictures, requests)]
    names = compare(Picture((), "white", ()), parse_caption("a red circle"))
    return {
        name: np.array([row[name] for row in rows], type(value))
        for name, value in names.items()
    }
