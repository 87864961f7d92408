"""Initial weights that are not drawn."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.models import MuseTextToImage
from keras_muse.presets.placeholders import weights_from_a_file
from tests.tools import tiny_muse


def test_what_was_not_loaded_is_drawn():
    add_weight = keras.layers.Layer.add_weight
    keras.utils.set_random_seed(3)
    with weights_from_a_file():
        loaded, other = keras.layers.Dense(5), keras.layers.Embedding(7, 5)
        loaded.build((None, 4))
        other.build()
        loaded.set_weights([np.full((4, 5), 2.0), np.full(5, 3.0)])
    assert keras.layers.Layer.add_weight is add_weight
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.kernel), 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.bias), 3)
    table = ops.convert_to_numpy(other.embeddings)
    assert np.all(np.abs(table) <= 0.05) and len(np.unique(table)) == 35


def test_it_ends_with_an_error_as_well():
    add_weight = keras.layers.Layer.add_weight
    with pytest.raises(RuntimeError), weights_from_a_file():
        raise RuntimeError
    assert keras.layers.Layer.add_weight is add_weight


def test_a_preset_is_loaded_and_nothing_drawn(monkeypatch, tmp_path):
    muse = tiny_muse()
    muse.save_to_preset(str(tmp_path / "preset"))

    def draw(*args, **kwargs):
        raise AssertionError("drawn")

    for name in ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", draw)
    again = MuseTextToImage.from_preset(str(tmp_path / "preset"))
    for before, after in zip(muse.backbone.weights, again.backbone.weights):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(before), ops.convert_to_numpy(after)
        )
