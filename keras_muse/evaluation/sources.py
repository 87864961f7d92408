"""True pictures and captions to evaluate on, one after another."""

import hashlib

import numpy as np

from keras_muse.data import BadRecord, shapes
from keras_muse.data.order import Order

__all__ = ["RecordSource", "ShapesSource", "load_rows"]


class RecordSource:
    """A random choice of records, with one of the captions of each.

    Which records, in which order and with which caption depends on the seed and their
    number alone.

    Args:
        records: `keras_muse.data.PictureRecords` with captions, without random crops.
        count: optional int. How many. Defaults to all.
        seed: int, 0 or more. Defaults to 0.

    Raises:
        ValueError: if there are fewer records than `count`, or they have no captions,
            random crops or flips.
    """

    def __init__(self, records, count=None, seed=0):
        count = len(records) if count is None else count
        if not 1 <= count <= len(records):
            raise ValueError(
                f"`count` must lie in [1, {len(records)}], the number of records of "
                f"{records.source!r}: received {count}."
            )
        if not records.captions or records.crop == "random" or records.flip:
            raise ValueError(
                "`records` must have captions, and neither random crops nor flips: "
                f"received captions={records.captions}, crop={records.crop!r}, "
                f"flip={records.flip}."
            )
        self.records, self.seed = records, seed
        self.indices = Order(len(records), seed).permutation(0)[:count]
        self.image_size = tuple(records.image_size)

    def __len__(self):
        """How many there are."""
        return len(self.indices)

    def load(self, row):
        """(picture (H, W, 3) uint8, caption) of a row.

        Raises:
            BadRecord: if it cannot be used.
        """
        index = int(self.indices[row])
        random = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        record = self.records.load(index, random)
        return record["images"], record["captions"]

    def settings(self):
        """Dict of what was chosen from what."""
        keys = hashlib.sha256()
        for index in self.indices:
            keys.update(self.records.key(int(index)).encode() + b"\0")
        return {
            "source": self.records.source,
            "records": len(self.records),
            "count": len(self),
            "seed": self.seed,
            "crop": self.records.crop,
            "image_size": list(self.image_size),
            "keys": keys.hexdigest(),
        }


class ShapesSource:
    """Scenes of the shapes world, with their captions.

    Args:
        count: int, at least 1. How many. Defaults to 1000.
        seed: int, 0 or more. Defaults to 0.
        image_size: int, or (H, W). 64 x 64 or a multiple. Defaults to 64.
        split: str. See `keras_muse.data.shapes.captioned_scenes`. Defaults to
            `"held_out_captions"`, which no recipe trains on.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, count=1000, seed=0, image_size=64, split="held_out_captions"):
        sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        if sides[0] != sides[1] or sides[0] % 64 or sides[0] < 64:
            raise ValueError(
                "`image_size` must be 64 x 64 or a multiple, as the shapes world is: "
                f"received {sides[0]} x {sides[1]}."
            )
        if count < 1:
            raise ValueError(f"`count` must be at least 1: received {count}.")
        shapes.captioned_scenes(split, 0, 0, seed)  # refuse bad arguments here
        self.count, self.seed, self.split = count, seed, split
        self.image_size = sides

    def __len__(self):
        """How many there are."""
        return self.count

    def load(self, row):
        """(picture (H, W, 3) uint8, caption) of a row."""
        scale = self.image_size[0] // 64
        images, captions = shapes.examples(self.split, row, 1, self.seed, scale)
        return images[0], captions[0]

    def settings(self):
        """Dict of what was chosen from what."""
        return {
            "source": f"shapes world, {self.split}",
            "count": self.count,
            "seed": self.seed,
            "image_size": list(self.image_size),
        }


def load_rows(source, start, stop, bad):
    """The rows of a batch that can be used.

    Args:
        source: what has `load(row)` and a length.
        start: int. The first row.
        stop: int. The row behind the last.
        bad: `keras_muse.data.BadRecords`, which gets those that cannot be used.

    Returns:
        (rows, images, captions): a list of int, (B, H, W, 3) uint8, a list of str.

    Raises:
        TooManyBadRecords: if they are too many.
    """
    rows, images, captions = [], [], []
    for row in range(start, stop):
        try:
            image, caption = source.load(row)
        except BadRecord as error:
            bad.add(error)
            continue
        rows.append(row)
        images.append(image)
        captions.append(caption)
    height, width = source.image_size
    stack = np.stack(images) if images else np.zeros((0, height, width, 3), "uint8")
    return rows, stack, captions
