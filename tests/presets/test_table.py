"""The names of the built-in presets and what is known of them."""

import pytest

from keras_muse import presets
from keras_muse.models import MuseBackbone, MuseTextToImage


def test_names():
    assert presets.names() == sorted(presets.names())
    assert "muse_shapes" in presets.names()


def test_describe():
    for name in presets.names():
        entry = presets.describe(name)
        assert set(entry) == {"description", "image_size", "license", "path"}
        assert entry["path"].endswith(name)
        assert len(entry["image_size"]) == 2


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"one of \['muse_shapes'\].*'muse_shape'"):
        presets.describe("muse_shape")


@pytest.mark.parametrize("kind", [MuseBackbone, MuseTextToImage])
def test_classes_list_them(kind):
    assert set(kind.presets) == set(presets.names())
    assert kind.presets["muse_shapes"] == presets.describe("muse_shapes")
