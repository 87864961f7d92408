"""A picture changed by a prompt: resampled, contrasted, or a part made anew."""

import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import Resampler, Sampler, contradiction, resample
from keras_muse.models import MuseEdit
from keras_muse.models.stages import guided_prediction
from tests.tools import tiny_muse

SIDE = 32
PROMPTS = ["a red circle", "a blue square", "on white"]
PICTURES = np.random.default_rng(4).integers(0, 256, (3, SIDE, SIDE, 3), "uint8")
INPUTS = {"images": PICTURES, "prompts": PROMPTS}
RESAMPLER = Resampler(num_steps=6, guidance_scale=3.0, mask_rate=0.2, top_k=5)


@pytest.fixture(scope="module")
def edit():
    muse = tiny_muse(
        2, samplers=[Sampler(num_steps=8, guidance_scale=2.0), Sampler(num_steps=4)]
    )
    return MuseEdit(muse.backbone, muse.preprocessor, muse.samplers, RESAMPLER)


def watched(edit, **settings):
    seen = []
    images = edit.generate(
        INPUTS, seed=3, callback=lambda *step: seen.append(step), **settings
    )
    return images, seen


def memory_of(edit):
    text = edit._encode_prompts(PROMPTS, None, True)
    return edit._project_memory(0, text, True, None)


def test_resampling_is_that_of_the_paper(edit):
    defaults = Resampler()
    assert (defaults.num_steps, defaults.mask_rate) == (100, 0.08)
    assert (defaults.guidance_scale, defaults.top_k) == (4.0, 3)
    _, seen = watched(edit)
    base = [ids for stage, _, ids in seen if stage == 0]
    assert len(base) == 6
    ids = edit.encode_images(PICTURES)[0]
    transformer = edit.backbone.transformers[0]
    predict = guided_prediction(transformer, memory_of(edit), True)
    for step, expected in enumerate(base):
        changed = np.sum(expected != ids, axis=1)
        assert np.all(changed <= 3)  # a fifth of 16 tokens
        ids = ops.convert_to_numpy(
            resample(predict, ids, np.arange(3, 6), RESAMPLER, 32, step, step + 1)
        )
        np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("every, stops", [(1, range(6)), (4, (3, 5)), (9, (5,))])
def test_the_callback_comes_every_few_steps(edit, every, stops):
    expected = edit.generate(INPUTS, seed=3)
    images, seen = watched(edit, callback_every=every)
    assert [step for stage, step, _ in seen if stage == 0] == list(stops)
    np.testing.assert_array_equal(images, expected)
    shown = edit.decode_images(seen[0][2], stage=0)
    assert shown.shape == (3, SIDE, SIDE, 3)


def changed_cells(before, after):
    changed = (before != after).reshape(-1, 4, 4)
    return changed.repeat(2, 1).repeat(2, 2).reshape(-1, 64)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "contrast"}, {"strength": 0.5}], ids=str
)
def test_later_stages_keep_what_did_not_change(edit, settings):
    tokens = edit.encode_images(PICTURES)
    _, seen = watched(edit, **settings)
    last = {stage: ids for stage, _, ids in seen}
    changed = changed_cells(tokens[0], last[0])
    assert changed.any() and not changed.all()
    np.testing.assert_array_equal(last[1][~changed], tokens[1][~changed])
    _, anew = watched(edit, keep_unchanged=False, **settings)
    first = next(ids for stage, _, ids in anew if stage == 1)
    # All 64 were masked: the first of 4 steps reveals 5.
    assert np.all(np.sum(first != 32, axis=1) == 5)
    assert np.any(anew[-1][2][~changed] != tokens[1][~changed])


def test_contrast_makes_anew_what_the_prompt_contradicts(edit):
    ids = edit.encode_images(PICTURES)[0]
    transformer = edit.backbone.transformers[0]
    predict = guided_prediction(transformer, memory_of(edit), True)
    score = contradiction(predict, ids, np.arange(3, 6), 32)
    score = ops.convert_to_numpy(score)
    threshold = float(np.quantile(score, 0.6))
    _, seen = watched(edit, method="contrast", threshold=max(threshold, 0.0))
    hole = score > max(threshold, 0.0)
    assert hole.any() and not hole.all(axis=1).any()
    base = [tokens for stage, _, tokens in seen if stage == 0]
    for tokens in base:
        np.testing.assert_array_equal(tokens[~hole], ids[~hole])
    # Nothing is contradicted as much as this.
    images, seen = watched(edit, method="contrast", threshold=1e6)
    assert seen == []
    plain = edit.decode_images(edit.encode_images(PICTURES)[1])
    np.testing.assert_array_equal(images, plain)


@pytest.mark.parametrize("strength, count", [(0.0, 0), (0.25, 4), (1.0, 16)])
def test_strength_is_the_share_made_anew(edit, strength, count):
    ids = edit.encode_images(PICTURES)[0]
    _, seen = watched(edit, strength=strength, num_steps=16)
    base = [tokens for stage, _, tokens in seen if stage == 0]
    assert len(base) == count
    if count:
        assert np.all(np.sum(base[0] == 32, axis=1) == count - 1)
        assert np.all(np.sum(base[-1] != ids, axis=1) <= count)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "contrast"}, {"strength": 0.5}], ids=str
)
def test_a_row_depends_on_itself_alone(edit, settings):
    together = edit.generate(INPUTS, seed=[5, 9, -1], **settings)
    for row in (0, 2):
        inputs = {"images": PICTURES[row], "prompts": PROMPTS[row]}
        alone = edit.generate(inputs, seed=[5, 9, -1][row], **settings)
        np.testing.assert_array_equal(alone, together[row])


@pytest.mark.parametrize(
    "name, settings",
    [("resample", {}), ("contrast", {"method": "contrast"})],
)
def test_the_same_on_every_backend(edit, parity, name, settings):
    _, seen = watched(edit, **settings)
    for stage, ids in {stage: ids for stage, _, ids in seen}.items():
        parity(f"edit_{name}_{stage}", ids)


def test_one_value_is_for_the_first_stage(edit):
    steps = [stage for stage, _, _ in watched(edit, num_steps=2)[1]]
    assert steps.count(0) == 2 and steps.count(1) <= 4
    one = edit.generate(INPUTS, seed=3, num_steps=2, guidance_scale=1.0)
    both = edit.generate(
        INPUTS,
        seed=3,
        num_steps=(2, 4),
        guidance_scale=(1.0, edit.samplers[1].guidance_scale),
    )
    np.testing.assert_array_equal(one, both)


def test_variations(edit):
    made = edit.variations(PICTURES, PROMPTS, strength=0.5, count=2, seed=4)
    assert made.shape == (3, 2, SIDE, SIDE, 3)
    assert np.any(made[:, 0] != made[:, 1])
    one = edit.variations(PICTURES[1], PROMPTS[1], strength=0.5, count=2, seed=6)
    assert one.shape == (2, SIDE, SIDE, 3)
    np.testing.assert_array_equal(one, made[1])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"method": "paint"}, ValueError, "`method` must be one of 'resample', 'co"),
        ({"method": "contrast", "strength": 0.5}, ValueError, "must be left out"),
        ({"strength": 0.5, "mask_rate": 0.1}, ValueError, "`mask_rate` belongs to"),
        ({"threshold": 1.0}, ValueError, "`threshold` belongs to"),
        ({"method": "contrast", "threshold": -1.0}, ValueError, "`threshold` must"),
        ({"mask_rate": 0.0}, ValueError, r"`mask_rate` must lie in \(0, 1\]"),
        ({"strength": 2.0}, ValueError, r"`strength` must lie in \[0, 1\]"),
        ({"callback_every": 0}, ValueError, "`callback_every` must be at least 1"),
        ({"num_steps": 0}, ValueError, "`num_steps` must be an int of at least 1"),
        ({"num_steps": (2, 65)}, ValueError, r"`num_steps` must lie in \[1, 64\]"),
        ({"strength": 0.5, "num_steps": 17}, ValueError, r"lie in \[1, 16\]"),
        ({"inputs": {"images": PICTURES}}, ValueError, "received the keys"),
    ],
)
def test_bad_arguments_stop_before_anything_is_made(edit, arguments, error, message):
    calls = []
    arguments = {"inputs": INPUTS, **arguments}
    with pytest.raises(error, match=message):
        edit.generate(**arguments, callback=lambda *step: calls.append(step))
    assert not calls


def test_a_preset_has_its_resampler(edit, tmp_path):
    edit.save_to_preset(str(tmp_path))
    for kind in (MuseEdit, keras_hub.models.ImageToImage):
        loaded = kind.from_preset(str(tmp_path))
        assert isinstance(loaded, MuseEdit)
        assert loaded.resampler == RESAMPLER
        assert loaded.samplers == edit.samplers
    np.testing.assert_array_equal(
        loaded.generate(INPUTS, seed=1), edit.generate(INPUTS, seed=1)
    )
    assert edit.backbone.resampler == Resampler()
