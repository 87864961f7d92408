"""Weights in half the bytes."""

import h5py
import numpy as np
import pytest
from keras import ops

from keras_muse import presets
from tests.tools import tiny_muse


@pytest.fixture(scope="module")
def muse():
    return tiny_muse()


def logits(muse):
    rows = muse.preprocessor.generate_preprocess(["a red circle"])
    ids = ops.convert_to_tensor(np.full((1, 16), 32, "int32"))
    outputs = muse.backbone({**rows, "image_ids_0": ids})
    return ops.convert_to_numpy(outputs["logits_0"])


def numbers(path):
    """The arrays of a weights file by name."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays


def test_half_the_bytes_and_nearly_the_same_numbers(muse, tmp_path):
    muse.save_to_preset(str(tmp_path))
    path = tmp_path / "model.weights.h5"
    before = numbers(path)
    presets.store_as_float16(tmp_path)
    after = numbers(path)
    assert set(after) == set(before)
    floats = [name for name, x in before.items() if x.dtype == np.float32]
    assert {after[name].dtype for name in floats} == {np.dtype("float16")}
    for name in set(before) - set(floats):
        np.testing.assert_array_equal(after[name], before[name])
    sizes = [sum(x.nbytes for x in arrays.values()) for arrays in (before, after)]
    assert sizes[1] < 0.51 * sizes[0]

    presets.verify(tmp_path)
    loaded = presets.load(tmp_path)
    weights = loaded.backbone.get_weights()
    assert {w.dtype for w in weights if w.dtype.kind == "f"} == {np.dtype("float32")}
    for ours, theirs in zip(muse.backbone.get_weights(), weights):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(logits(loaded), logits(muse), atol=0.05)


def test_twice_is_once(muse, tmp_path):
    muse.save_to_preset(str(tmp_path))
    presets.store_as_float16(tmp_path)
    before = numbers(tmp_path / "model.weights.h5")
    presets.store_as_float16(tmp_path)
    after = numbers(tmp_path / "model.weights.h5")
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_a_weight_too_large(muse, tmp_path):
    backbone = tiny_muse().backbone
    gamma = backbone.transformers[0].head_norm.gamma
    gamma.assign(np.full(gamma.shape, 1e5, "float32"))
    backbone.save_to_preset(str(tmp_path))
    before = (tmp_path / "model.weights.h5").read_bytes()
    with pytest.raises(ValueError, match="values too large for float16"):
        presets.store_as_float16(tmp_path)
    # What was there stays whole, and nothing is left beside it.
    assert (tmp_path / "model.weights.h5").read_bytes() == before
    presets.verify(tmp_path)
    assert not list(tmp_path.glob("*.float16"))
