"""Where a picture of any size lies in what a model sees."""

import dataclasses

import numpy as np
from PIL import Image

__all__ = ["FITS", "Frame"]

FITS = ("letterbox", "crop")


@dataclasses.dataclass(frozen=True)
class Frame:
    """A box of the picture, scaled onto a box of what the model sees.

    Boxes are `(top, left, height, width)` in whole pixels, each side at least 1. Use
    `Frame.of` to make one.

    Args:
        size: (H, W) of the picture.
        shape: (h, w) of what the model sees.
        source: the box of the picture that the model sees.
        target: the box of the model's frame where that is shown.
    """

    size: tuple
    shape: tuple
    source: tuple
    target: tuple

    @classmethod
    def of(cls, size, shape, fit):
        """The frame of a picture.

        Args:
            size: (H, W) of the picture, each at least 1.
            shape: (h, w) of what the model sees, each at least 1.
            fit: `"letterbox"` shows the whole picture, scaled to lie in the centre of
                the frame, where its edge pixels continue to the border; `"crop"` shows
                the centre of the picture, cut out to cover the frame. Both keep the
                aspect ratio up to rounding to whole pixels.

        Raises:
            ValueError: for any other `fit`.
        """
        if fit not in FITS:
            raise ValueError(
                f"`fit` must be one of {', '.join(map(repr, FITS))}: received {fit!r}."
            )
        size, shape = _ints(size), _ints(shape)
        source, target = (0, 0, *size), (0, 0, *shape)
        if fit == "letterbox":
            target = _inscribed(size, shape)
        else:
            source = _inscribed(shape, size)
        return cls(size, shape, source, target)

    def fit(self, picture):
        """What the model sees of a picture.

        Equal sizes keep all pixels as they are. Where both sides shrink by a whole
        number, a pixel is the mean of its block; else PIL's Lanczos filter scales.

        Args:
            picture: (H, W, 3) uint8 array.

        Returns:
            (h, w, 3) uint8 array, a copy.

        Raises:
            ValueError: if the picture has another size.
        """
        _check("picture", picture, (*self.size, 3))
        seen = _resized(picture[_slices(self.source)], self.target[2:])
        return np.pad(seen, [*self._bars(), (0, 0)], mode="edge")

    def fit_mask(self, mask):
        """What the model sees of a mask.

        A pixel of the model is masked if any masked pixel of the picture lies in it, in
        whole or in part. That is found by counting, so no thin line is lost. The bars
        of a letterbox are never masked.

        Args:
            mask: (H, W) bool array.

        Returns:
            (h, w) bool array, a copy.

        Raises:
            ValueError: if the mask has another size.
        """
        _check("mask", mask, self.size)
        height, width = self.target[2:]
        rows = _any_below(mask[_slices(self.source)], height)
        return np.pad(_any_below(rows.T, width).T, self._bars())

    def restore(self, result, picture):
        """What the model made, at the place and in the size of the picture.

        Equal sizes keep all pixels of the result as they are.

        Args:
            result: (h, w, 3) uint8 array.
            picture: (H, W, 3) uint8 array. Gives the pixels that the model did not see.

        Returns:
            (H, W, 3) uint8 array, a copy.

        Raises:
            ValueError: if one of them has another size.
        """
        _check("result", result, (*self.shape, 3))
        _check("picture", picture, (*self.size, 3))
        restored = picture.copy()
        restored[_slices(self.source)] = _resized(
            result[_slices(self.target)], self.source[2:]
        )
        return restored

    def covers(self, mask):
        """Whether the model sees every masked pixel; only a crop may hide some.

        Args:
            mask: (H, W) bool array.

        Raises:
            ValueError: if the mask has another size.
        """
        _check("mask", mask, self.size)
        seen = np.count_nonzero(mask[_slices(self.source)])
        return bool(seen == np.count_nonzero(mask))

    def _bars(self):
        """Pixels around the target: ((above, below), (left, right))."""
        return [
            (start, whole - start - length)
            for start, length, whole in zip(self.target, self.target[2:], self.shape)
        ]


def _ints(pair):
    height, width = pair
    return int(height), int(width)


def _inscribed(ratio, size):
    """The largest box of the ratio of (a, b), in the centre of an (H, W) one."""
    (a, b), (height, width) = ratio, size
    # Half up, in integers: no float decides about a pixel.
    if a * width >= b * height:
        box = height, max((2 * b * height + a) // (2 * a), 1)
    else:
        box = max((2 * a * width + b) // (2 * b), 1), width
    return (height - box[0]) // 2, (width - box[1]) // 2, *box


def _slices(box):
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


def _resized(picture, size):
    (height, width), (new_height, new_width) = picture.shape[:2], size
    if (height, width) == (new_height, new_width):
        return picture.copy()
    if height % new_height == 0 and width % new_width == 0:
        blocks = picture.reshape(
            new_height, height // new_height, new_width, width // new_width, 3
        )
        # Not PIL: its `reduce` is off by several levels for large blocks, and its box
        # filter rounds twice.
        sums = blocks.sum(axis=(1, 3), dtype="int64")
        count = height // new_height * (width // new_width)
        return ((2 * sums + count) // (2 * count)).astype("uint8")
    image = Image.fromarray(np.ascontiguousarray(picture))
    scaled = image.resize((new_width, new_height), Image.Resampling.LANCZOS)
    return np.array(scaled)


def _any_below(mask, length):
    """(n, m) bool as (length, m): whether anything is true in the span of each row."""
    edges = np.arange(length + 1) * len(mask)
    starts, stops = edges[:-1] // length, -(-edges[1:] // length)
    counts = np.cumsum(mask, axis=0, dtype="int64")
    counts = np.concatenate([np.zeros_like(counts[:1]), counts])
    return counts[stops] > counts[starts]


def _check(name, array, shape):
    if array.shape != tuple(shape):
        raise ValueError(
            f"`{name}` must have the shape {tuple(shape)}: received {array.shape}."
        )
