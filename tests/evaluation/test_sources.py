"""What an evaluation holds pictures against."""

import numpy as np
import pytest
from PIL import Image

from keras_muse import data
from keras_muse.evaluation import RecordSource, ShapesSource
from keras_muse.evaluation.sources import load_rows
from tests.evaluation.given import pictures
from tests.tools import on_one_backend

pytestmark = on_one_backend


@pytest.fixture
def folder(tmp_path):
    for number, image in enumerate(pictures(6, 20, 20)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        captions = [f"caption {number} {i}" for i in range(4)]
        (tmp_path / f"{number}.txt").write_text("\n".join(captions))
    return tmp_path


def read(folder, **settings):
    return data.read_folder(folder, image_size=16, **settings)


def test_records_are_chosen_by_the_seed(folder):
    source = RecordSource(read(folder), count=4, seed=3)
    assert len(source) == 4 and source.image_size == (16, 16)
    rows = [source.load(row) for row in range(4)]
    assert all(image.shape == (16, 16, 3) for image, _ in rows)
    # One caption of each, and no record twice.
    assert len({caption.split()[1] for _, caption in rows}) == 4
    again = RecordSource(read(folder), count=4, seed=3)
    assert [again.load(row)[1] for row in (3, 2, 1, 0)] == [c for _, c in rows[::-1]]
    captions = {RecordSource(read(folder), seed=seed).load(0)[1] for seed in range(20)}
    assert len(captions) > 8
    # All of them, if not told otherwise.
    assert sorted(RecordSource(read(folder)).indices) == list(range(6))
    settings = source.settings()
    assert (settings["count"], settings["records"]) == (4, 6)
    assert settings["keys"] == again.settings()["keys"]
    assert settings["keys"] != RecordSource(read(folder), 4, 4).settings()["keys"]


def test_records_that_cannot_be_compared(folder):
    for count in (0, 7):
        with pytest.raises(ValueError, match=r"lie in \[1, 6\].*received " f"{count}"):
            RecordSource(read(folder), count)
    for settings in ({"captions": False}, {"crop": "random"}, {"flip": True}):
        with pytest.raises(ValueError, match="neither random crops nor flips"):
            RecordSource(read(folder, **settings))


def test_bad_records_are_left_out(folder):
    (folder / "2.txt").write_text("")
    source = RecordSource(read(folder))
    bad = data.BadRecords(folder / "bad.jsonl", 6, 0.2)
    rows, images, captions = load_rows(source, 0, 6, bad)
    assert len(rows) == len(captions) == 5 and images.shape == (5, 16, 16, 3)
    assert list(bad.reasons) == ["2.png"]
    assert rows == [row for row in range(6) if source.indices[row] != 2]
    only = int(np.flatnonzero(source.indices == 2)[0])
    assert load_rows(source, only, only + 1, bad)[1].shape == (0, 16, 16, 3)


def test_scenes():
    source = ShapesSource(count=5, seed=2, image_size=128)
    images, captions = data.shapes.examples("held_out_captions", 0, 5, 2, scale=2)
    for row in range(5):
        image, caption = source.load(row)
        np.testing.assert_array_equal(image, images[row])
        assert caption == captions[row]
    assert source.settings()["image_size"] == [128, 128]
    for size in (32, 100, (64, 128)):
        with pytest.raises(ValueError, match="64 x 64 or a multiple"):
            ShapesSource(image_size=size)
    with pytest.raises(ValueError, match="`count` must be at least 1: received 0"):
        ShapesSource(count=0)
    with pytest.raises(ValueError, match="`split`"):
        ShapesSource(split="all of them")
