"""Every layout gives the same pictures and captions; what is broken is named."""

import gzip
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from keras_muse import data
from tests.data.conftest import CAPTIONS, encoded, picture


def generator():
    return np.random.default_rng(0)


def loaded(records):
    return [records.load(i, generator()) for i in range(len(records))]


@pytest.fixture(params=["txt", "jsonl", "csv", "coco", "tars"])
def records(request):
    """(records, whether pictures come from JPEG) of each layout."""
    if request.param == "coco":
        source, folder = request.getfixturevalue("coco")
        return data.read_pictures(source, images=folder, image_size=32), True
    if request.param == "tars":
        folder = request.getfixturevalue("tars")
        return data.read_pictures(f"{folder}/*.tar", image_size=32), True
    folder = request.getfixturevalue(f"{request.param}_folder")
    return data.read_pictures(folder, image_size=32), False


def test_all_layouts_have_the_same_records(records):
    records, is_jpeg = records
    assert len(records) == 7
    assert records.signature == {
        "images": ((32, 32, 3), "uint8"),
        "captions": ((), str),
    }
    found = loaded(records)
    assert {record["captions"] for record in found} <= {*CAPTIONS, "another"}
    by_caption = {record["captions"]: record["images"] for record in found}
    for number in (0, 1, 3, 4):
        # A square of 40 x 40 from the middle, and then Lanczos.
        square = Image.fromarray(picture(number)[:, 4:44])
        expected = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS))
        image = by_caption[CAPTIONS[number]]
        assert image.dtype == np.uint8
        difference = np.abs(image.astype(int) - expected)
        assert difference.max() == 0 if not is_jpeg else difference.mean() < 3


def test_records_go_to_other_processes(records):
    records, _ = records
    again = pickle.loads(pickle.dumps(records))
    assert np.array_equal(
        again.load(2, generator())["images"], records.load(2, generator())["images"]
    )


def test_keys(txt_folder, tars, coco):
    records = data.read_folder(txt_folder, image_size=8)
    assert records.key(0) == "0.png" and records.key(6) == "below/3.png"
    records = data.read_tars(tars / "*.tar", image_size=8)
    assert records.key(4) == "00001.tar/000010004"
    records = data.read_coco(*coco, image_size=8)
    assert records.key(1) == "000000000001.jpg"


def test_several_captions(coco, txt_folder, jsonl_folder):
    records = data.read_coco(*coco, image_size=8)
    assert records.load_captions(2) == [CAPTIONS[2], "another"]
    random = generator()
    drawn = [records.load(2, random)["captions"] for _ in range(100)]
    assert 30 < drawn.count("another") < 70
    (txt_folder / "0.txt").write_text("one\n\n  two \n")
    records = data.read_folder(txt_folder, image_size=8)
    assert records.load_captions(0) == ["one", "two"]
    row = {"file_name": "0.png", "words": ["x", "y"]}
    (jsonl_folder / "metadata.jsonl").write_text(json.dumps(row))
    records = data.read_folder(jsonl_folder, "words", image_size=8)
    assert records.load_captions(0) == ["x", "y"]


def test_crops_and_flips(txt_folder):
    def first(**settings):
        records = data.read_folder(txt_folder, image_size=(40, 40), **settings)
        random = generator()
        return [records.load_picture(0, random) for _ in range(30)]

    whole = picture(0)
    for image in first():
        np.testing.assert_array_equal(image, whole[:, 4:44])
    places = set()
    for image in first(crop="random"):
        (place,) = (
            left
            for left in range(9)
            if np.array_equal(image, whole[:, left : left + 40])
        )
        places.add(place)
    assert len(places) >= 7
    mirrored = [np.array_equal(i, whole[:, 43:3:-1]) for i in first(flip=True)]
    straight = [np.array_equal(i, whole[:, 4:44]) for i in first(flip=True)]
    assert 5 < sum(mirrored) < 25 and sum(mirrored) + sum(straight) == 30
    # 40 x 33 pixels in the middle, their edges continued.
    (image, *_) = first(crop="letterbox")
    assert np.array_equal(image[0], image[2]) and not np.array_equal(image[3], image[6])


def test_pictures_alone(txt_folder):
    (txt_folder / "0.txt").unlink()
    records = data.read_folder(txt_folder, image_size=8, captions=False)
    assert records.signature == {"images": ((8, 8, 3), "uint8")}
    assert set(records.load(0, generator())) == {"images"}


# --- What is broken -----------------------------------------------------------------


def reason(records, index=0):
    with pytest.raises(data.BadRecord) as error:
        records.load(index, generator())
    return str(error.value)


def test_a_missing_and_an_empty_caption(txt_folder, jsonl_folder, tars, coco):
    (txt_folder / "0.txt").unlink()
    (txt_folder / "1.txt").write_text(" \n\n")
    records = data.read_folder(txt_folder, image_size=8)
    assert reason(records).startswith("0.png: has no caption, FileNotFoundError")
    assert reason(records, 1) == "1.png: has no caption, or an empty one"
    lines = (jsonl_folder / "metadata.jsonl").read_text().splitlines()
    lines[1] = json.dumps({"file_name": "1.png", "text": None})
    (jsonl_folder / "metadata.jsonl").write_text("\n".join(lines[1:]))
    records = data.read_folder(jsonl_folder, image_size=8)
    assert reason(records, 0) == "0.png: has no caption, or an empty one"
    assert reason(records, 1) == "1.png: has no caption, or an empty one"
    records = data.read_tars(tars / "00001.tar", caption_key="alt", image_size=8)
    assert "has no caption, KeyError: 'alt'" in reason(records)
    source, folder = coco
    table = json.loads(source.read_text())
    del table["annotations"][0]
    source.write_text(json.dumps(table))
    assert "has no caption" in reason(data.read_coco(source, folder, image_size=8))


def test_broken_pictures(txt_folder):
    (txt_folder / "0.png").write_bytes(encoded(0)[:-200])
    (txt_folder / "1.jpg").write_bytes(encoded(1, "JPEG")[:-200])
    (txt_folder / "2.png").write_text("no picture")
    (txt_folder / "1.png").unlink()
    records = data.read_folder(txt_folder, image_size=8)
    assert reason(records).startswith("0.png: cannot be read as a picture, ")
    assert "truncated" in reason(records, 1)
    assert "cannot identify image file" in reason(records, 2)


def test_a_row_without_its_picture(jsonl_folder):
    (jsonl_folder / "2.png").unlink()
    records = data.read_folder(jsonl_folder, image_size=8)
    assert len(records) == 7
    assert reason(records, 2).startswith("2.png: cannot be read as a picture, ")


@pytest.mark.parametrize(
    "blocks, message",
    [(2, "it ends within '000000000.jpg'; none"), (-1, "its end mark is missing; all")],
)
def test_a_truncated_tar(tars, blocks, message):
    path = tars / "00000.tar"
    # The last file ends with the last block that is not empty.
    whole = path.read_bytes().rstrip(b"\0")
    blocks = blocks if blocks > 0 else -(-len(whole) // 512)
    path.write_bytes(path.read_bytes()[: 512 * blocks])
    with pytest.raises(ValueError) as error:
        data.read_tars(tars / "*.tar", image_size=8)
    assert "00000.tar' is no whole tar, " + message in str(error.value)
    assert "Copy it again or leave it out" in str(error.value)


def test_a_tar_that_is_damaged_within(tars):
    path = tars / "00000.tar"
    whole = path.read_bytes()
    # A header in the middle; `tarfile` alone would end there without a word.
    place = whole.index(b"000000002.jpg")
    path.write_bytes(whole[:place] + b"\1" + whole[place + 1 :])
    with pytest.raises(ValueError, match="no whole tar, .* up to '000000001.json'"):
        data.read_tars(path, image_size=8)
    # Two in one, and one that is compressed.
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="what follows is damaged, or another tar"):
        data.read_tars(path, image_size=8)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="is no whole tar"):
        data.read_tars(path, image_size=8)


def test_a_record_of_a_tar_without_a_picture(tars):
    with tarfile.open(tars / "00000.tar", "a") as tar:
        info = tarfile.TarInfo("000000009.txt")
        tar.addfile(info)
    records = data.read_tars(tars / "00000.tar", image_size=8)
    assert reason(records, 4) == "00000.tar/000000009: has no caption, or an empty one"
    records = data.read_tars(tars / "00000.tar", image_size=8, captions=False)
    assert reason(records, 4) == "00000.tar/000000009: has no picture"


def test_names_of_their_own(tars, coco):
    (tars / "a").mkdir()
    (tars / "b").mkdir()
    for folder in ("a", "b"):
        shutil.copy(tars / "00001.tar", tars / folder)
    records = data.read_tars(tars / "*" / "*.tar", image_size=8)
    assert records.key(0) == "a/00001.tar/000010004"
    assert records.key(3) == "b/00001.tar/000010004"
    source, folder = coco
    table = json.loads(source.read_text())
    table["images"].append(table["images"][0])
    source.write_text(json.dumps(table))
    with pytest.raises(ValueError, match="'000000000000.jpg' of .* is that of 2"):
        data.read_coco(source, folder, image_size=8)


def test_names_that_are_no_patterns(txt_folder):
    renamed = txt_folder.rename(txt_folder.with_name("photos [2024]"))
    assert len(data.read_folder(renamed, image_size=8)) == 7


def test_odd_metadata(jsonl_folder):
    path = jsonl_folder / "metadata.jsonl"
    rows = [
        {"file_name": "0.png", "text": "one\u2028line"},
        {"file_name": "0.png", "text": "another"},
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    records = data.read_folder(jsonl_folder, image_size=8)
    assert records.load_captions(0) == ["one\u2028line", "another"]
    path.write_bytes("größer".encode("latin-1"))
    with pytest.raises(ValueError, match="metadata.jsonl' must be UTF-8"):
        data.read_folder(jsonl_folder, image_size=8)


def test_a_disk_that_fails_is_no_bad_record(txt_folder, monkeypatch):
    records = data.read_folder(txt_folder, image_size=8)

    def read(*where):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(data.files, "read", read)
    with pytest.raises(OSError, match="Input/output error"):
        records.load_picture(0, generator())


def test_split(txt_folder):
    records = data.read_folder(txt_folder, image_size=8, crop="random", flip=True)
    train, share = records.split(0.4)
    keys = [{part.key(i) for i in range(len(part))} for part in (train, share)]
    assert keys[0] | keys[1] == {records.key(i) for i in range(7)}
    assert not keys[0] & keys[1]
    assert (share.crop, share.flip) == ("centre", False) and train.flip
    # The same ones when there are more.
    (txt_folder / "0.png").rename(txt_folder / "new.png")
    _, later = data.read_folder(txt_folder, image_size=8).split(0.4)
    later = {later.key(i) for i in range(len(later))}
    assert later - {"new.png"} == keys[1] - {"0.png"}
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"`fraction` must lie in \(0, 1\)"):
            records.split(fraction)
    with pytest.raises(ValueError, match="there must be some in both"):
        records.split(1e-9)


def test_no_tar(tars):
    (tars / "00001.tar").write_text("no tar" * 300)
    with pytest.raises(ValueError, match="00001.tar' is no whole tar"):
        data.read_tars(tars / "*.tar", image_size=8)


def test_metadata_that_cannot_be_read(jsonl_folder, csv_folder):
    with pytest.raises(ValueError, match="Line 1 of .*metadata.jsonl.*`caption`"):
        data.read_folder(jsonl_folder, "caption", image_size=8)
    with open(jsonl_folder / "metadata.jsonl", "a") as file:
        file.write("{no JSON\n")
    with pytest.raises(ValueError, match="Line 9 of .*'{no JSON'"):
        data.read_folder(jsonl_folder, image_size=8)
    with pytest.raises(ValueError, match="Line 2 of .*metadata.csv"):
        data.read_folder(csv_folder, "caption", image_size=8)


def test_wrong_sources(tmp_path, coco, txt_folder):
    with pytest.raises(FileNotFoundError, match="there is no '.*nowhere'"):
        data.read_folder(tmp_path / "nowhere", image_size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`folder` must hold pictures"):
        data.read_folder(tmp_path / "empty", image_size=8)
    with pytest.raises(FileNotFoundError, match="nothing is '.*none.tar'"):
        data.read_tars(tmp_path / "none.tar", image_size=8)
    source, folder = coco
    with pytest.raises(ValueError, match="`images` must be given with COCO"):
        data.read_pictures(source, image_size=8)
    with pytest.raises(ValueError, match="`images` must be given with COCO"):
        data.read_pictures(folder, images=folder, image_size=8)
    with pytest.raises(ValueError, match="`caption_key` must be left out"):
        data.read_pictures(source, images=folder, caption_key="x", image_size=8)
    source.write_text("[]")
    with pytest.raises(ValueError, match="`annotations` must be COCO captions"):
        data.read_coco(source, folder, image_size=8)
    source.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match="has no picture in `images`"):
        data.read_coco(source, folder, image_size=8)
    for size in (0, (8,), "8", (8, 8.0)):
        with pytest.raises(ValueError, match="`image_size` must be an int or"):
            data.read_folder(txt_folder, image_size=size)
    with pytest.raises(ValueError, match="`crop` must be one of 'centre'.*'middle'"):
        data.read_folder(txt_folder, image_size=8, crop="middle")
