"""The names of the built-in presets and what is known of them."""

import re

import pytest

from keras_muse import presets
from keras_muse.models import MuseBackbone, MuseTextToImage


def test_names():
    names = presets.names()
    assert names[0] == "muse_shapes"
    assert len(set(names)) == len(names) == 8


def test_describe():
    entry = presets.describe("muse_shapes")
    assert set(entry) == {"description", "image_size", "license", "path"}
    assert entry["path"].endswith("muse_shapes")
    assert len(entry["image_size"]) == 2
    entry = presets.describe("muse_632m")
    assert set(entry) == {"description", "license", "class", "published", "chosen"}


def test_an_unknown_name():
    known = re.escape(str(presets.names()))
    with pytest.raises(ValueError, match=rf"one of {known}.*'muse_shape'"):
        presets.describe("muse_shape")


@pytest.mark.parametrize("kind", [MuseBackbone, MuseTextToImage])
def test_classes_list_them(kind):
    assert set(kind.presets) == set(presets.names())
    assert kind.presets["muse_shapes"] == presets.describe("muse_shapes")
