"""What the tests of readers share: pictures and captions in every layout."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

CAPTIONS = [
    "a red circle",
    "a blue square",
    "a green circle on white",
    "a red square on black",
    "a circle",
    "a café",
    "a blue circle on red",
]


def picture(number, size=(40, 48)):
    """(H, W, 3) uint8, smooth, so that JPEG keeps most of it."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), "uint8"))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))


def encoded(number, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def txt_folder(tmp_path):
    """Seven PNGs, each with a caption beside it, one of them in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number, caption in enumerate(CAPTIONS):
        place = folder / "below" if number == 3 else folder
        (place / f"{number}.png").write_bytes(encoded(number))
        (place / f"{number}.txt").write_text(caption + "\n")
    return folder


@pytest.fixture
def jsonl_folder(tmp_path):
    folder = tmp_path / "imagefolder"
    folder.mkdir()
    rows = []
    for number, caption in enumerate(CAPTIONS):
        (folder / f"{number}.png").write_bytes(encoded(number))
        rows.append({"file_name": f"{number}.png", "text": caption, "other": [1]})
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "metadata.jsonl").write_text(lines + "\n\n")
    return folder


@pytest.fixture
def csv_folder(tmp_path):
    folder = tmp_path / "csv"
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for number, caption in enumerate(CAPTIONS):
            (folder / f"{number}.png").write_bytes(encoded(number))
            writer.writerow([f"{number}.png", caption])
    return folder


@pytest.fixture
def coco(tmp_path):
    """(annotation file, folder); picture 2 has two captions."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    images, annotations = [], []
    for number, caption in enumerate(CAPTIONS):
        name = f"{number:012d}.jpg"
        (folder / name).write_bytes(encoded(number, "JPEG"))
        images.append({"id": 100 + number, "file_name": name})
        annotations.append({"id": number, "image_id": 100 + number, "caption": caption})
    annotations.append({"id": 99, "image_id": 102, "caption": "another"})
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path, folder


@pytest.fixture
def tars(tmp_path):
    """Two tars of img2dataset, the second with captions in JSON alone."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(4 * shard, min(4 * shard + 4, len(CAPTIONS))):
                key = f"{shard:05d}{number:04d}"
                caption = CAPTIONS[number]
                parts = {"jpg": encoded(number, "JPEG")}
                if shard == 0:
                    parts["txt"] = caption.encode()
                parts["json"] = json.dumps({"caption": caption, "key": key}).encode()
                for kind, data in parts.items():
                    info = tarfile.TarInfo(f"{key}.{kind}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder
