"""What the recipe refuses, and what its second stage learns from."""

import numpy as np
import pytest

from keras_muse import presets
from keras_muse.data import shapes
from keras_muse.recipes import muse_shapes


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"seed": -1, "initial_preset": "muse_shapes"}], ids=str
)
def test_seeds_are_for_trainings_that_go_on(settings, tmp_path):
    with pytest.raises(ValueError, match="`seed` must be .* received seed="):
        muse_shapes.train(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_the_second_stage_learns_from_the_tokens_that_the_base_knows():
    vqgan = presets.load("muse_shapes").backbone.stages[0].image_tokenizer
    batches = muse_shapes.two_resolutions(vqgan, seed=3, batch_size=4, start=8)
    batch = next(iter(batches.as_numpy_iterator()))
    large, captions = shapes.examples("train", 8, 4, 3, scale=2)
    small, same = shapes.examples("train", 8, 4, 3)
    assert [c.decode() for c in batch["captions"]] == captions == same
    np.testing.assert_array_equal(batch["images"], large)
    np.testing.assert_array_equal(batch["low_res_ids"], vqgan.encode(small))
