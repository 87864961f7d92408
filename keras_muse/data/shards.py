"""Shards of precomputed tokens: how a record is written, and read in any order."""

import contextlib
import struct
import zlib

import numpy as np

from keras_muse.data import files

__all__ = ["FORMATS", "open_shard", "pack_record", "unpack_record", "write_shard"]

FORMATS = ("tfrecord", "array_record")


def pack_record(record):
    """A record as bytes: a `tf.train.Example` in a fixed order, with a checksum.

    Args:
        record: dict of str to a list of str or of arrays.

    Returns:
        bytes, the same for the same record at every time. Arrays are raw little-endian
        bytes; `crc32` is that of all values one behind the other, keys sorted.
    """
    import tensorflow as tf

    features, checksum = {}, 0
    for key in sorted(record):
        values = [_as_bytes(value) for value in record[key]]
        for value in values:
            checksum = zlib.crc32(value, checksum)
        features[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    features["crc32"] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=[checksum])
    )
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _as_bytes(value):
    if isinstance(value, str):
        return value.encode()
    return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()


def unpack_record(data):
    """{key: list of bytes} of what `pack_record` made.

    Raises:
        ValueError: if it is damaged.
    """
    import tensorflow as tf

    try:
        feature = tf.train.Example.FromString(data).features.feature
        record = {
            key: list(feature[key].bytes_list.value)
            for key in sorted(feature)
            if key != "crc32"
        }
        (expected,) = feature["crc32"].int64_list.value
    except Exception as error:
        raise ValueError(f"it is no record of tokens: {error}") from error
    checksum = 0
    for value in (value for values in record.values() for value in values):
        checksum = zlib.crc32(value, checksum)
    if checksum != expected:
        raise ValueError("its checksum is not the one it was written with")
    return record


def write_shard(path, records, file_format):
    """Writes packed records beside and renames, so that a shard is whole or not there.

    Args:
        path: str.
        records: list of bytes.
        file_format: one of `FORMATS`.

    Raises:
        OSError: if it cannot be written.
    """
    with files.replace(path) as beside, _WRITERS[file_format](beside) as writer:
        for record in records:
            writer.write(record)


def open_shard(path, file_format):
    """The packed records of a shard: what has a length and takes an index.

    Raises:
        ValueError: if a TFRecord file ends within a record, naming it.
    """
    return _TFRecords(path) if file_format == "tfrecord" else _ArrayRecords(path)


class _TFRecords:
    """Random access to a TFRecord file, whose records tell how long they are."""

    def __init__(self, path):
        self.path = path
        spans = []
        total, offset = files.size(path), 0
        with files.open_file(path) as file:
            while offset < total:
                file.seek(offset)
                head = file.read(12)
                length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else total
                spans.append((offset + 12, length))
                offset += 12 + length + 4
        if offset != total:
            raise ValueError(
                f"{str(path)!r} is truncated: it ends within its record "
                f"{len(spans) - 1}."
            )
        self.spans = np.array(spans, "int64").reshape(-1, 2)

    def __len__(self):
        """Number of records."""
        return len(self.spans)

    def __getitem__(self, index):
        """The bytes of a record."""
        # Opened each time: of a large set, not all files can be open at once.
        offset, length = self.spans[index].tolist()
        return files.read(self.path, offset, length)


class _ArrayRecords:
    """Random access to an ArrayRecord file."""

    def __init__(self, path):
        ArrayRecordReader = _array_record().ArrayRecordReader
        self._reader = ArrayRecordReader(str(path))
        self._count = self._reader.num_records()

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._reader.read([index])[0]


def _array_record():
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ImportError("ArrayRecord needs keras-muse[data].") from error
    return array_record_module


@contextlib.contextmanager
def _array_record_writer(path):
    # One record a group: any record is read without its neighbours.
    writer = _array_record().ArrayRecordWriter(path, "group_size:1")
    try:
        yield writer
        writer.close()
    except RuntimeError as error:
        # What it makes of a full disk.
        raise OSError(str(error)) from error


def _tfrecord_writer(path):
    import tensorflow as tf

    return tf.io.TFRecordWriter(path)


_WRITERS = {"tfrecord": _tfrecord_writer, "array_record": _array_record_writer}
