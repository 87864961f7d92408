"""Readers: pictures and captions as they lie on disk -> records."""

import collections
import csv
import io
import json
import os
import pathlib
import tarfile
import typing

from keras_muse.data import files
from keras_muse.data.picture_records import PictureRecords

__all__ = ["read_coco", "read_folder", "read_pictures", "read_tars"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
METADATA = ("metadata.jsonl", "metadata.csv")


class Location(typing.NamedTuple):
    """Where bytes lie: a file, or a part of one.

    Attributes:
        path: str.
        offset: int.
        size: int; -1 for all that follows.
        caption_key: `None` for plain text, or the key of a JSON object that has it.
    """

    path: str
    offset: int = 0
    size: int = -1
    caption_key: str | None = None


class Entry(typing.NamedTuple):
    """A record before anything of it is read.

    Attributes:
        key: str, its name.
        picture: `Location`, or `None` where there is none.
        captions: tuple of str, or the `Location` of them.
    """

    key: str
    picture: Location
    captions: typing.Any = ()


def read_pictures(source, images=None, caption_key=None, **settings):
    """Reads pictures and captions with the reader that fits.

    Args:
        source: str or path: `"*.tar"` for `read_tars`, `"*.json"` for `read_coco`, else
            a folder for `read_folder`.
        images: str or path. With COCO captions alone, the folder of the pictures.
        caption_key: optional str, with a folder or tars. Defaults to the reader's.
        **settings: see `PictureRecords`.

    Returns:
        `PictureRecords`.

    Raises:
        FileNotFoundError, ValueError: as the readers, and if an argument is given that
            the reader has not, or missing.
    """
    name = str(source)
    if (images is not None) != name.endswith(".json"):
        raise ValueError(
            "`images` must be given with COCO captions, a JSON file, and with nothing "
            f"else: received source={name!r}, images={images!r}."
        )
    if caption_key is not None:
        if images is not None:
            raise ValueError(
                f"`caption_key` must be left out with COCO captions: received "
                f"{caption_key!r}."
            )
        settings["caption_key"] = caption_key
    if images is not None:
        return read_coco(name, images, **settings)
    return (read_tars if name.endswith(".tar") else read_folder)(name, **settings)


def read_folder(folder, caption_key="text", **settings):
    """Reads a folder of pictures with captions.

    Captions come from `metadata.jsonl` or `metadata.csv`, the layout of Hugging Face
    `imagefolder`: a row has `file_name`, relative to the folder, and the caption under
    `caption_key`. Without such a file they come from the `.txt` beside each picture,
    of the same stem; every line that is not empty is a caption.

    A picture without a caption is a bad record, and so is a row without its picture.

    Args:
        folder: str or path. Folders in it are read as well.
        caption_key: str. Column of the caption, a string or a list of strings.
            Defaults to `"text"`.
        **settings: see `PictureRecords`.

    Returns:
        `PictureRecords`, sorted by name.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no picture in it, or the metadata cannot be read; the
            message names file and line.

    Example:
    ```python
    records = keras_muse.data.read_folder("pictures", image_size=128)
    dataset = keras_muse.data.tf_batches(records, batch_size=32)
    ```
    """
    folder = str(folder).rstrip("/")
    _check_exists("folder", folder)
    names = [
        name
        for name in files.files_below(folder)
        if pathlib.PurePath(name).suffix.lower() in PICTURES
    ]
    if not names:
        raise ValueError(
            f"`folder` must hold pictures ({', '.join(PICTURES)}): received {folder!r}."
        )
    captions = None
    for name in METADATA:
        if files.exists(f"{folder}/{name}"):
            captions = _metadata(f"{folder}/{name}", caption_key)
            break
    if captions is None:
        entries = [
            Entry(
                name,
                Location(f"{folder}/{name}"),
                Location(f"{folder}/{os.path.splitext(name)[0]}.txt"),
            )
            for name in names
        ]
    else:
        entries = [
            Entry(name, Location(f"{folder}/{name}"), captions.get(name, ()))
            for name in sorted({*names, *captions})
        ]
    return PictureRecords(entries, source=folder, **settings)


def read_coco(annotations, folder, **settings):
    """Reads pictures with the captions of a COCO annotation file.

    Args:
        annotations: str or path of a JSON file such as `captions_train2017.json`:
            `images` with `id` and `file_name`, `annotations` with `image_id` and
            `caption`.
        folder: str or path that holds the files.
        **settings: see `PictureRecords`.

    Returns:
        `PictureRecords`, one for each picture, with all its captions.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the file is not one of COCO captions, or has no picture.
    """
    _check_exists("annotations", annotations)
    _check_exists("folder", folder)
    try:
        table = json.loads(files.read(annotations))
        captions = collections.defaultdict(list)
        for row in table["annotations"]:
            captions[row["image_id"]].append(str(row["caption"]))
        images = [(str(row["file_name"]), row["id"]) for row in table["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "`annotations` must be COCO captions, a JSON object with `images` and "
            f"`annotations`: received {str(annotations)!r}, which failed with "
            f"{type(error).__name__}: {error}."
        ) from error
    if not images:
        raise ValueError(f"{str(annotations)!r} has no picture in `images`.")
    entries = [
        Entry(name, Location(f"{folder}/{name}"), tuple(captions[number]))
        for name, number in images
    ]
    return PictureRecords(entries, source=str(annotations), **settings)


def read_tars(pattern, caption_key="caption", **settings):
    """Reads tars of img2dataset or WebDataset.

    The files of a record share their name up to its first dot: a picture, and a `.txt`
    with the caption or a `.json` with it under `caption_key`; the `.txt` is taken if
    there are both. Only the headers are read at first, so records can be read in any
    order.

    Args:
        pattern: str or path, a glob pattern such as `"cc3m/*.tar"`.
        caption_key: str. Defaults to `"caption"`, as img2dataset writes it.
        **settings: see `PictureRecords`.

    Returns:
        `PictureRecords`, in the order of the tars. Their keys are `NAME.tar/KEY`.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if a tar is truncated or is none, naming it and the last file that
            is whole; or if there is no picture in them.
    """
    paths = files.matching(pattern)
    if not paths:
        raise FileNotFoundError(
            f"`pattern` must match tars: nothing is {str(pattern)!r}."
        )
    # Two sets may have tars of the same names.
    common = os.path.dirname(os.path.commonprefix([f"{path}" for path in paths]))
    entries = [
        entry
        for path in paths
        for entry in _tar_entries(path, os.path.relpath(path, common), caption_key)
    ]
    if not entries:
        raise ValueError(f"There is no picture in the tars of {str(pattern)!r}.")
    return PictureRecords(entries, source=str(pattern), **settings)


def _tar_entries(path, name, caption_key):
    members = collections.defaultdict(dict)
    for member in _tar_members(path):
        folder, _, file_name = member.name.rpartition("/")
        stem, _, kind = file_name.partition(".")
        part = Location(path, member.offset_data, member.size)
        members[f"{folder}/{stem}".lstrip("/")]["." + kind.lower()] = part
    for key, parts in members.items():
        picture = next((parts[kind] for kind in PICTURES if kind in parts), None)
        captions = parts.get(".txt")
        if captions is None and ".json" in parts:
            captions = parts[".json"]._replace(caption_key=caption_key)
        yield Entry(f"{name}/{key}", picture, captions or ())


def _tar_members(path):
    """The files in a tar, after a look at its end."""
    members, total = [], files.size(path)
    try:
        with files.open_file(path) as file:
            # Without the colon it would unpack what is compressed, and offsets be none.
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    # `tarfile` takes the end of a file for the end of the archive.
                    if member.offset_data + member.size > total:
                        raise EOFError(f"it ends within {member.name!r}")
                    members.append(member)
                end = tar.offset
            # It stops without a word at a damaged header, and at the zeros of a
            # download whose place on the disk was taken first.
            file.seek(end)
            if total - end < tarfile.BLOCKSIZE:
                raise EOFError("its end mark is missing")
            while rest := file.read(2**20):
                if rest.strip(b"\0"):
                    raise EOFError("what follows is damaged, or another tar")
    except (tarfile.TarError, EOFError) as error:
        whole = f"all up to {members[-1].name!r}" if members else "none of its files"
        raise ValueError(
            f"{str(path)!r} is no whole tar, {error}; {whole} can be read. Copy it "
            "again or leave it out."
        ) from error
    return [member for member in members if member.isfile()]


def _metadata(path, caption_key):
    """{file name: list of captions} of a `metadata.jsonl` or `.csv`."""
    try:
        text = files.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} must be UTF-8: {error}.") from error
    if path.endswith(".csv"):
        rows = enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2)
    else:
        # Not `splitlines`, which ends lines where JSON does not.
        lines = enumerate(text.split("\n"), start=1)
        rows = ((number, line) for number, line in lines if line.strip())
    captions = collections.defaultdict(list)
    for number, row in rows:
        try:
            row = json.loads(row) if isinstance(row, str) else row
            name, value = os.path.normpath(row["file_name"]), row[caption_key]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path!r} must have `file_name` and "
                f"`{caption_key}` (see `caption_key`): received {row!r}."
            ) from error
        values = value if isinstance(value, list) else [value]
        captions[name] += ("" if value is None else str(value) for value in values)
    return captions


def _check_exists(name, path):
    if not files.exists(path):
        raise FileNotFoundError(f"`{name}` must exist: there is no {str(path)!r}.")
