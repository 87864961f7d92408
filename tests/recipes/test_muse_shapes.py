"""What the recipe refuses."""

import pytest

from keras_muse.recipes import muse_shapes


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"seed": -1, "initial_preset": "muse_shapes"}], ids=str
)
def test_seeds_are_for_trainings_that_go_on(settings, tmp_path):
    with pytest.raises(ValueError, match="`seed` must be .* received seed="):
        muse_shapes.train(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
