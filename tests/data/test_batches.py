"""Batches of tf.data and of grain: the same records, resumable, sharded, counted."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_muse import data
from tests.data.conftest import CAPTIONS
from tests.tools import tiny_backbone, tiny_preprocessor


@pytest.fixture
def records(txt_folder):
    return data.read_folder(txt_folder, image_size=8)


@pytest.fixture(params=[data.tf_batches, data.grain_batches], ids=["tf", "grain"])
def batches(request):
    """A list of the first batches, of one of the engines."""

    def read(records, batch_size, count=None, **settings):
        found = []
        dataset = request.param(records, batch_size, **settings)
        for batch in itertools.islice(iter(dataset), count):
            batch = {key: np.asarray(value) for key, value in batch.items()}
            texts = batch["captions"].tolist()
            batch["captions"] = [
                text.decode() if isinstance(text, bytes) else text for text in texts
            ]
            found.append(batch)
        return found

    return read


def captions(found):
    return [caption for batch in found for caption in batch["captions"]]


def test_the_engines_agree(records):
    first = next(iter(data.tf_batches(records, 5, seed=4)))
    second = next(iter(data.grain_batches(records, 5, seed=4)))
    np.testing.assert_array_equal(first["images"], second["images"])
    assert [text.decode() for text in first["captions"].numpy()] == list(
        second["captions"]
    )


def test_the_end_of_an_iterator_is_not_waited_for(records):
    # With a thread that tunes it is, for up to a minute; what is added keeps it off.
    dataset = data.tf_batches(records, 2, repeat=False).repeat()
    for added in (dataset, dataset.map(dict, tf.data.AUTOTUNE).prefetch(2)):
        assert added.options().autotune.enabled is False


def test_epochs(records, batches):
    found = captions(batches(records, 4, 7, seed=2))
    assert len(found) == 28
    epochs = [found[7 * i : 7 * i + 7] for i in range(4)]
    assert all(sorted(epoch) == sorted(CAPTIONS) for epoch in epochs)
    assert epochs[0] != epochs[1]
    # One epoch without an order of its own; its last batch is smaller.
    found = batches(records, 4, shuffle=False, repeat=False)
    assert [len(batch["captions"]) for batch in found] == [4, 3]
    assert captions(found) == [CAPTIONS[i] for i in (0, 1, 2, 4, 5, 6, 3)]


def test_a_stream_goes_on(records, batches):
    whole = batches(records, 4, 6, seed=2)
    rest = batches(records, 4, 3, seed=2, start=12)
    for left, right in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(left["images"], right["images"])
        assert left["captions"] == right["captions"]


def test_shards_are_the_rows_of_one_batch(records, batches):
    whole = batches(records, 6, 4)
    parts = [batches(records, 2, 4, shard=(index, 3)) for index in range(3)]
    for number, batch in enumerate(whole):
        rows = [row for part in parts for row in part[number]["captions"]]
        assert rows == batch["captions"]
    # In one epoch each record is read by one of them.
    parts = [batches(records, 2, repeat=False, shard=(i, 3)) for i in range(3)]
    assert sorted(captions(sum(parts, []))) == sorted(CAPTIONS)


def test_bad_records_are_left_out_and_listed(txt_folder, records, batches, tmp_path):
    (txt_folder / "1.txt").unlink()
    (txt_folder / "4.png").write_text("no picture")
    bad_file = tmp_path / "bad.jsonl"
    settings = {"seed": 5, "bad_file": bad_file, "max_bad_fraction": 0.3}
    whole = batches(records, 4, 6, **settings)
    good = sorted(set(CAPTIONS) - {CAPTIONS[1], CAPTIONS[4]})
    found = captions(whole)
    assert sorted(found[:5]) == sorted(found[5:10]) == sorted(found[10:15]) == good
    assert len(bad_file.read_text().splitlines()) == 2
    # It goes on at the same place though two records are not there.
    for start in (4, 8, 12):
        rest = captions(batches(records, 4, 3, start=start, **settings))
        assert rest == found[start : start + 12]
    # Also in two processes.
    settings["shard"] = (1, 2)
    whole = captions(batches(records, 2, 6, **settings))
    assert captions(batches(records, 2, 3, start=6, **settings)) == whole[6:]


def test_too_many_bad_records(txt_folder, records, batches, tmp_path):
    for number in (0, 1, 2):
        (txt_folder / f"{number}.txt").unlink()
    # TensorFlow has an error of its own around it.
    with pytest.raises(Exception, match="3 of 7 records cannot be used"):
        batches(records, 2, 5, bad_file=tmp_path / "bad.jsonl", max_bad_fraction=0.3)


def test_without_a_list_a_bad_record_is_an_error(txt_folder, records, batches):
    (txt_folder / "0.txt").unlink()
    with pytest.raises(Exception, match="0.png: has no caption"):
        batches(records, 2, 5)


def test_wrong_arguments(records):
    for settings, message in (
        ({"batch_size": 0}, "`batch_size` must be at least 1: received 0"),
        ({"start": -1}, "`start` must be 0 or more: received -1"),
        ({"shard": (2, 2)}, r"`shard` must be .*received \(2, 2\)"),
        ({"seed": -1}, "`seed` must be 0 or more"),
    ):
        for engine in (data.tf_batches, data.grain_batches):
            with pytest.raises(ValueError, match=message):
                engine(records, **{"batch_size": 2, **settings})


@pytest.mark.parametrize("engine", [data.tf_batches, data.grain_batches])
def test_a_stage_learns_from_them(txt_folder, engine):
    from keras_muse.models import MuseMaskedImageModel

    records = data.read_folder(txt_folder, image_size=32)
    trainer = MuseMaskedImageModel(tiny_backbone(), tiny_preprocessor())
    trainer.compile("adam")
    dataset = engine(records, 4, num_threads=1)
    history = trainer.fit(
        dataset, epochs=2, steps_per_epoch=2, shuffle=False, verbose=0
    ).history
    assert len(history["loss"]) == 2 and np.isfinite(history["loss"]).all()
    assert int(trainer.steps) == 4
