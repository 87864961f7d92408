"""Where a preset is, and what is said of one that is not whole."""

import json
import pathlib
import re
import shutil

import keras_hub
import numpy as np
import pytest

from keras_muse import presets
from keras_muse.models import (
    MuseBackbone,
    MuseMaskedImageModel,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from tests.tools import tiny_muse


@pytest.fixture(scope="module")
def muse():
    return tiny_muse()


@pytest.fixture(scope="module")
def saved(muse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "preset"
    muse.save_to_preset(str(folder))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "preset"))


def test_load_is_ready_to_generate(muse, saved):
    loaded = presets.load(saved)
    assert isinstance(loaded, MuseTextToImage)
    for inputs in ("a red circle", ["", "a blue square"]):
        settings = {"num_steps": 2, "guidance_scale": 2.0, "seed": 3}
        np.testing.assert_array_equal(
            loaded.generate(inputs, **settings), muse.generate(inputs, **settings)
        )


def test_every_file_has_a_checksum(saved):
    checksums = json.loads((saved / "checksums.json").read_text())
    files = {
        file.relative_to(saved).as_posix()
        for file in saved.rglob("*")
        if file.is_file() and file.name != "checksums.json"
    }
    assert set(checksums) == files
    assert "model.weights.h5" in files
    presets.verify(saved)


def test_a_backbone_saved_alone_is_checked_too(muse, tmp_path):
    muse.backbone.save_to_preset(str(tmp_path))
    assert "model.weights.h5" in json.loads((tmp_path / "checksums.json").read_text())
    muse.preprocessor.save_to_preset(str(tmp_path))
    presets.verify(tmp_path)
    loaded = MuseTextToImagePreprocessor.from_preset(str(tmp_path))
    assert loaded.sequence_length == 8
    # Without a task in it, the task is made of backbone and preprocessor.
    assert MuseTextToImage.from_preset(str(tmp_path)).preprocessor is not None


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "task.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks its file `.*{name}`"):
        MuseTextToImage.from_preset(str(folder))


def test_a_truncated_file(folder):
    path = folder / "model.weights.h5"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    message = f"model.weights.h5` is truncated or changed: it has {size - 100} bytes"
    for kind in (MuseTextToImage, MuseBackbone, MuseMaskedImageModel):
        with pytest.raises(ValueError, match=message):
            kind.from_preset(str(folder))


def test_a_changed_file(folder):
    path = folder / "model.weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.weights.h5` is damaged: its SHA-256"):
        presets.load(folder)


def test_a_broken_list_of_checksums(folder):
    (folder / "checksums.json").write_text("{")
    with pytest.raises(ValueError, match="checksums.json` is not the JSON"):
        presets.verify(folder)


def test_people_may_edit_the_card_and_add_files(folder):
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    presets.verify(folder)


def test_a_preset_without_checksums_loads(folder):
    (folder / "checksums.json").unlink()
    assert isinstance(presets.load(folder), MuseTextToImage)


def test_an_unknown_preset(tmp_path):
    known = re.escape(str(presets.names()))
    message = f"`preset` must be one of {known}, a local folder, or a handle"
    for name in ("muse_shape", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=message):
            presets.load(name)
    with pytest.raises(ValueError, match="There is no preset folder `.*nowhere`"):
        presets.verify(tmp_path / "nowhere")


@pytest.mark.parametrize("scheme", ["hf://user/muse", "kaggle://user/muse/keras/base"])
@pytest.mark.parametrize(
    "kind, parent",
    [
        (MuseBackbone, keras_hub.models.Backbone),
        (MuseTextToImage, keras_hub.models.Task),
        (MuseTextToImagePreprocessor, keras_hub.models.Preprocessor),
    ],
)
def test_handles_pass_through_untouched(monkeypatch, kind, parent, scheme):
    seen = []

    def from_preset(cls, preset, *args, **kwargs):
        seen.append((cls, preset, args, kwargs))
        return "loaded"

    monkeypatch.setattr(parent, "from_preset", classmethod(from_preset))
    assert kind.from_preset(scheme, dtype="bfloat16") == "loaded"
    assert seen == [(kind, scheme, (), {"dtype": "bfloat16"})]


def test_a_name_stands_for_its_folder(monkeypatch, saved):
    entry = {**presets.loading.PRESETS["muse_shapes"], "folder": saved}
    monkeypatch.setitem(presets.loading.PRESETS, "muse_shapes", entry)
    assert presets.loading.resolve("muse_shapes") == str(saved)
    assert isinstance(presets.load(), MuseTextToImage)
