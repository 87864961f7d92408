"""Records of pictures: bytes on disk -> a picture of one size and a caption."""

import collections
import dataclasses
import hashlib
import io
import json

from PIL import Image

from keras_muse.data import files
from keras_muse.data.bad_records import BadRecord
from keras_muse.models.frames import Frame
from keras_muse.models.pictures import as_pictures

__all__ = ["CROPS", "PictureRecords"]

CROPS = ("centre", "random", "letterbox")


class PictureRecords:
    """Pictures of one size with captions, in any order.

    Made by `read_folder`, `read_coco` and `read_tars`. Nothing but names is held in
    memory. Transparency is laid over white, EXIF orientation is applied, of an
    animation the first frame is taken. Resizing is antialiased: block means where sides
    shrink by a whole number, Lanczos' filter otherwise; small pictures are enlarged.

    Args:
        entries: list of `readers.Entry`.
        source: str. Where they come from, for messages.
        image_size: int, or (H, W). Of the pictures that are returned.
        crop: `"centre"` cuts the middle to the aspect ratio of `image_size`,
            `"random"` cuts anywhere, `"letterbox"` shows the whole picture and
            continues its edges. Defaults to `"centre"`.
        flip: bool. Whether to mirror every other picture, at random. Captions say
            "left" and "right", so it defaults to `False`.
        captions: bool. Whether to read captions; without, a picture needs none.
            Defaults to `True`.

    Raises:
        ValueError: if `image_size` or `crop` is none of these.
    """

    def __init__(
        self, entries, source, image_size, crop="centre", flip=False, captions=True
    ):
        sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
            raise ValueError(
                "`image_size` must be an int or (height, width), 1 or more: received "
                f"{image_size!r}."
            )
        if crop not in CROPS:
            raise ValueError(
                f"`crop` must be one of {', '.join(map(repr, CROPS))}: received "
                f"{crop!r}."
            )
        self.entries = list(entries)
        if len({entry.key for entry in self.entries}) < len(self.entries):
            counts = collections.Counter(entry.key for entry in self.entries)
            (key, count), *_ = counts.most_common(1)
            raise ValueError(
                f"Records must have names of their own: {key!r} of {source!r} is that "
                f"of {count}."
            )
        self.source = source
        self.image_size = sides
        self.crop = crop
        self.flip = flip
        self.captions = captions

    @property
    def signature(self):
        """{name: (shape, dtype)} of what `load` returns; the dtype of text is str."""
        signature = {"images": ((*self.image_size, 3), "uint8")}
        return {**signature, "captions": ((), str)} if self.captions else signature

    def __len__(self):
        """Number of records."""
        return len(self.entries)

    def key(self, index):
        """The name of a record."""
        return self.entries[index].key

    def load(self, index, random):
        """A record as it is trained on.

        Args:
            index: int.
            random: `numpy.random.Generator`, which chooses the crop, the side and one
                of several captions.

        Returns:
            dict of `"images"` (H, W, 3) uint8 and, unless left out, `"captions"`, str.

        Raises:
            BadRecord: if it has no caption, or its picture cannot be read.
        """
        captions = self.load_captions(index) if self.captions else None
        record = {"images": self.load_picture(index, random)}
        if captions:
            record["captions"] = captions[int(random.integers(len(captions)))]
        return record

    def load_picture(self, index, random):
        """(H, W, 3) uint8."""
        key, location, _ = self.entries[index]
        if location is None:
            raise BadRecord(key, "has no picture")
        try:
            # A disk that fails is no bad record: the run stops, and goes on later.
            data = _read(location)
        except FileNotFoundError as error:
            raise BadRecord(key, f"cannot be read as a picture, {error}") from error
        try:
            (picture,), _ = as_pictures(Image.open(io.BytesIO(data)))
        except MemoryError:
            raise
        except Exception as error:
            # Broken files make PIL raise many types.
            cause = error.__cause__ or error
            reason = f"cannot be read as a picture, {type(cause).__name__}: {cause}"
            raise BadRecord(key, reason) from error
        fit = "letterbox" if self.crop == "letterbox" else "crop"
        frame = Frame.of(picture.shape[:2], self.image_size, fit)
        if self.crop == "random":
            frame = _moved(frame, random)
        picture = frame.fit(picture)
        return picture[:, ::-1] if self.flip and random.random() < 0.5 else picture

    def without_captions(self):
        """`PictureRecords` of the same pictures, whose captions are not looked at."""
        settings = (self.source, self.image_size, self.crop, self.flip)
        return PictureRecords(self.entries, *settings, captions=False)

    def split(self, fraction):
        """Two readers, of the others and of a share of the records.

        Which records are in the share depends on their names alone, so it stays the
        same when pictures are added.

        Args:
            fraction: float in (0, 1).

        Returns:
            (`PictureRecords`, `PictureRecords`), the second the share, without random
            crops and flips.

        Raises:
            ValueError: if `fraction` is out of range, or one of them would be empty.
        """
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"`fraction` must lie in (0, 1): received {fraction}.")
        parts = [], []
        for entry in self.entries:
            number = hashlib.sha256(entry.key.encode()).digest()[:8]
            inside = int.from_bytes(number, "big") < fraction * 2**64
            parts[inside].append(entry)
        if not all(parts):
            raise ValueError(
                f"`fraction` of {fraction} of {len(self)} records leaves "
                f"{len(parts[0])} and {len(parts[1])}: there must be some in both."
            )
        crop = "centre" if self.crop == "random" else self.crop
        settings = (self.source, self.image_size)
        return (
            PictureRecords(parts[0], *settings, self.crop, self.flip, self.captions),
            PictureRecords(parts[1], *settings, crop, False, self.captions),
        )

    def all_captions(self):
        """The captions of all records that have any: a list of str."""
        found = []
        for index in range(len(self)):
            try:
                found += self.load_captions(index)
            except BadRecord:
                # Named and counted where it is trained on.
                continue
        return found

    def load_captions(self, index):
        """List of str, at least one, none of them empty."""
        entry = self.entries[index]
        captions = entry.captions
        if hasattr(captions, "path"):
            try:
                captions = _captions(captions)
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                reason = f"has no caption, {type(error).__name__}: {error}"
                raise BadRecord(entry.key, reason) from error
        captions = [caption.strip() for caption in captions]
        captions = [caption for caption in captions if caption]
        if not captions:
            raise BadRecord(entry.key, "has no caption, or an empty one")
        return captions


def _read(location):
    return files.read(location.path, location.offset, location.size)


def _captions(location):
    """The captions of a text or JSON file."""
    text = _read(location).decode("utf-8-sig")
    if location.caption_key is None:
        return text.splitlines()
    value = json.loads(text)[location.caption_key]
    values = value if isinstance(value, list) else [value]
    return ["" if value is None else str(value) for value in values]


def _moved(frame, random):
    """The frame with its source anywhere in the picture."""
    height, width = frame.source[2:]
    top, left = (
        int(random.integers(whole - part + 1))
        for whole, part in zip(frame.size, (height, width))
    )
    return dataclasses.replace(frame, source=(top, left, height, width))
