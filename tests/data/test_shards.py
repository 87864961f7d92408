"""What is in a shard, and what happens when it is damaged."""

import resource

import numpy as np
import pytest

from keras_muse.data import shards

RECORD = {
    "key": ["a.png"],
    "image_ids_0": [np.arange(6, dtype="uint16")],
    "captions": ["a red circle", "größer"],
    "text_embeddings": [np.ones((3, 2), "float16"), np.zeros((0, 2), "float16")],
}


@pytest.fixture(params=shards.FORMATS)
def file_format(request):
    return request.param


def test_a_record_there_and_back():
    data = shards.pack_record(RECORD)
    assert data == shards.pack_record(dict(reversed(RECORD.items())))
    record = shards.unpack_record(data)
    assert record["captions"] == [b"a red circle", "größer".encode()]
    assert np.frombuffer(record["image_ids_0"][0], "<u2").tolist() == [0, 1, 2, 3, 4, 5]
    assert [len(value) for value in record["text_embeddings"]] == [12, 0]
    # Big-endian arrays are stored alike.
    swapped = {**RECORD, "image_ids_0": [np.arange(6, dtype=">u2")]}
    assert shards.pack_record(swapped) == data


def test_damage_is_found():
    data = shards.pack_record(RECORD)
    place = data.index(b"red")
    with pytest.raises(ValueError, match="its checksum is not the one"):
        shards.unpack_record(data[:place] + b"bad" + data[place + 3 :])
    for broken in (data[:-5], b"\xff" + data[1:], b""):
        with pytest.raises(ValueError, match="no record of tokens|checksum"):
            shards.unpack_record(broken)


def test_any_record_of_a_shard(tmp_path, file_format):
    path = str(tmp_path / "shard")
    rows = [shards.pack_record({"key": [str(n) * n]}) for n in range(20)]
    shards.write_shard(path, rows, file_format)
    first = open(path, "rb").read()
    shard = shards.open_shard(path, file_format)
    assert len(shard) == 20
    assert [shard[n] for n in (19, 0, 7, 7)] == [rows[n] for n in (19, 0, 7, 7)]
    # Equal records make equal files.
    shards.write_shard(path, rows, file_format)
    assert open(path, "rb").read() == first
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_tensorflow_reads_a_tfrecord(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "shard.tfrecord")
    rows = [shards.pack_record({"key": [str(n)]}) for n in range(3)]
    shards.write_shard(path, rows, "tfrecord")
    assert [row.numpy() for row in tf.data.TFRecordDataset(path)] == rows


def test_an_empty_shard(tmp_path, file_format):
    path = str(tmp_path / "shard")
    shards.write_shard(path, [], file_format)
    assert len(shards.open_shard(path, file_format)) == 0


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_tfrecord(tmp_path, cut):
    path = tmp_path / "shard"
    shards.write_shard(path, [b"x" * 50] * 3, "tfrecord")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="shard' is truncated: it ends within its rec"):
        shards.open_shard(path, "tfrecord")


def test_a_disk_that_is_full(tmp_path, file_format):
    # No file of this process may become longer than 20,000 bytes meanwhile.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [bytes(np.random.default_rng(n).bytes(5000)) for n in range(100)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write '.*shard'"):
            shards.write_shard(tmp_path / "shard", rows, file_format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(tmp_path, monkeypatch, file_format):
    path = tmp_path / "shard"
    shards.write_shard(path, [b"old"], file_format)
    before = path.read_bytes()

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, record):
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(shards._WRITERS, file_format, lambda path: Full())
    with pytest.raises(OSError, match="cannot write .*No space left on device"):
        shards.write_shard(path, [b"new"], file_format)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]
