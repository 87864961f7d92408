"""Tokens drawn anew, step after step, against a slow loop; and exactly how many."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import Resampler, resample
from keras_muse.models.compilation import compile_inference
from tests.decoding import reference
from tests.decoding.table import (
    MASK,
    SEEDS,
    WITHOUT_WEIGHTS,
    N,
    V,
    predict,
    predict_in_numpy,
)

COMPILED = {}
# No token of these is the last of the codebook, the marker of some models below.
IDS = np.random.default_rng(7).integers(0, V - 1, (8, N)).astype("int32")
RATES = np.array([0.01, 0.03, 0.08, 0.1, 0.21, 0.5, 0.97, 1.0], "float32")


def run(
    resampler,
    ids=IDS,
    seeds=SEEDS,
    model=predict,
    start=0,
    stop=None,
    guidance_scale=None,
    mask_rate=None,
    stage=0,
):
    """`resample` as it is used: compiled once, with all numbers as tensors."""
    settings = resampler.replace(num_steps=1, guidance_scale=1.0, mask_rate=1.0)
    key = settings, model, stage
    if key not in COMPILED:

        def function(ids, seeds, start, stop, scale, rate):
            return resample(
                model, ids, seeds, settings, MASK, start, stop, scale, rate, stage
            )

        COMPILED[key] = compile_inference(WITHOUT_WEIGHTS, function)
    scale = resampler.guidance_scale if guidance_scale is None else guidance_scale
    rate = resampler.mask_rate if mask_rate is None else mask_rate
    stop = resampler.num_steps if stop is None else stop
    result = COMPILED[key](
        *(ops.convert_to_tensor(x, "int32") for x in (ids, seeds, start, stop)),
        *(
            ops.convert_to_tensor(np.broadcast_to(x, len(ids)).astype("float32"))
            for x in (scale, rate)
        ),
    )
    result = ops.convert_to_numpy(result)
    assert result.dtype == np.int32 and result.shape == ids.shape
    return result


SETTINGS = {
    "defaults": {"num_steps": 20},
    "all_tokens": {"num_steps": 3, "mask_rate": 1.0, "guidance_scale": 1.5},
    "one_token_a_step": {
        "num_steps": 9, "mask_rate": 0.01, "temperature": 0.6, "top_k": None
    },
    "argmax": {"num_steps": 5, "mask_rate": 0.5, "temperature": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_the_slow_loop(name, parity):
    resampler = Resampler(**SETTINGS[name])
    result = run(resampler)
    expected = reference.resample(
        predict_in_numpy, IDS, SEEDS, resampler, MASK, range(resampler.num_steps)
    )
    np.testing.assert_array_equal(result, expected)
    assert result.min() >= 0 and result.max() < V
    parity(f"resample_{name}", result)


def test_arguments_replace_the_settings_of_the_resampler():
    scales = np.linspace(0.5, 6, 8).astype("float32")
    resampler = Resampler(num_steps=8, guidance_scale=0.0, mask_rate=0.7)
    numbers = {"guidance_scale": scales, "mask_rate": RATES, "stage": 1}
    expected = reference.resample(
        predict_in_numpy, IDS, SEEDS, resampler, MASK, range(2, 5), **numbers
    )
    result = run(resampler, start=2, stop=5, **numbers)
    np.testing.assert_array_equal(result, expected)


def test_without_compilation_and_with_defaults():
    resampler = Resampler(num_steps=2, mask_rate=0.3)
    ids, seeds = ops.convert_to_tensor(IDS), ops.convert_to_tensor(SEEDS)
    result = resample(predict, ids, seeds, resampler, MASK)
    assert keras.backend.standardize_dtype(result.dtype) == "int32"
    np.testing.assert_array_equal(ops.convert_to_numpy(result), run(resampler))
    with_numpy = resample(predict, IDS, SEEDS, resampler, MASK, stop=2)
    np.testing.assert_array_equal(ops.convert_to_numpy(with_numpy), run(resampler))


def marking(image_ids, guidance):
    """A model that wants the marker where a token is masked, and 0 elsewhere."""
    marker = ops.where(image_ids == MASK, V - 1, 0)
    return 100.0 * ops.one_hot(marker, V)


def test_a_step_draws_an_exact_share_anew_and_nothing_else():
    # 16 tokens at these rates; 0.5 and 1.6 tokens are rounded, but one it is at least.
    counts = [1, 1, 1, 2, 3, 8, 16, 16]
    assert counts == np.maximum(np.round(RATES * N), 1).tolist()
    seen = set()
    for step in range(12):
        result = run(
            Resampler(), model=marking, start=step, stop=step + 1, mask_rate=RATES
        )
        drawn = result == V - 1
        np.testing.assert_array_equal(drawn.sum(1), counts)
        np.testing.assert_array_equal(result[~drawn], IDS[~drawn])
        seen.add(drawn.tobytes())
    # Others in each step.
    assert len(seen) == 12


def test_every_token_is_drawn_as_often_as_any_other():
    steps = 100
    count = np.zeros(N)
    for step in range(steps):
        result = run(
            Resampler(), model=marking, start=step, stop=step + 1, mask_rate=0.25
        )
        count += (result == V - 1).sum(0)
    # Four standard errors.
    error = 4 * (0.25 * 0.75 * 8 * steps) ** 0.5
    np.testing.assert_allclose(count, 8 * steps / 4, atol=error)


def test_in_pieces_as_in_one_go():
    resampler = Resampler(num_steps=7, mask_rate=0.3)
    whole, ids = run(resampler), IDS
    for start, stop in ((0, 1), (1, 4), (4, 4), (4, 7)):
        ids = run(resampler, ids, start=start, stop=stop)
    np.testing.assert_array_equal(ids, whole)
    # More steps begin with those of fewer.
    longer = resampler.replace(num_steps=9)
    np.testing.assert_array_equal(run(longer, stop=7), whole)
    assert np.any(run(longer) != whole)


def test_eight_rows_equal_eight_singles_in_any_order():
    resampler = Resampler(num_steps=5)
    scales = np.linspace(0, 7, 8).astype("float32")
    batch = run(resampler, guidance_scale=scales, mask_rate=RATES)
    for row in range(8):
        rows = slice(row, row + 1)
        single = run(
            resampler,
            IDS[rows],
            SEEDS[rows],
            guidance_scale=scales[rows],
            mask_rate=RATES[rows],
        )
        np.testing.assert_array_equal(single[0], batch[row])
    order = np.random.default_rng(0).permutation(8)
    mixed = run(
        resampler,
        IDS[order],
        SEEDS[order],
        guidance_scale=scales[order],
        mask_rate=RATES[order],
    )
    np.testing.assert_array_equal(mixed, batch[order])


def test_seed_and_stage_change_the_picture():
    resampler = Resampler(num_steps=6, mask_rate=0.5)
    ids = np.tile(IDS[:1], (8, 1))
    base = run(resampler, ids)
    np.testing.assert_array_equal(base, run(resampler, ids))
    assert len({row.tobytes() for row in base}) == 8
    for other in (run(resampler, ids, stage=1), run(resampler, ids, SEEDS + 1)):
        assert np.all((other != base).any(1))


def test_predict_gets_the_same_guidance_in_all_steps():
    # A model that answers with the guidance it was given, in tenths.
    def model(image_ids, guidance):
        assert tuple(guidance.shape) == (8,) and tuple(image_ids.shape) == (8, N)
        tokens = ops.cast(ops.round(guidance * 10), "int32")
        return ops.repeat(100.0 * ops.one_hot(tokens, V)[:, None], N, axis=1)

    # The tokens before are none that the model answers with.
    ids = np.zeros((8, N), "int32")
    scales = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9], "float32")
    for step in (0, 1, 50, 99):
        result = run(
            Resampler(),
            ids,
            model=model,
            start=step,
            stop=step + 1,
            guidance_scale=scales,
            mask_rate=0.5,
        )
        for row in range(8):
            drawn = result[row][result[row] != 0]
            assert len(drawn) == 8 and np.all(drawn == round(10 * scales[row]))


NUMBERS = ("guidance_scale", "temperature", "mask_rate")


@pytest.mark.parametrize(
    "name, value",
    [
        *(("num_steps", value) for value in (0, -1, 2.0, "4", None, True, np.nan)),
        *(("top_k", value) for value in (0, -1, 2.0, "4", True, np.nan)),
        *(
            (name, value)
            for name in NUMBERS
            for value in (-0.1, np.nan, np.inf, "1", None, True, [1.0])
        ),
        *(("mask_rate", value) for value in (0, 0.0, 1.001, 8)),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* received {name}="):
        Resampler(**{name: value})
    if value is not None:
        with pytest.raises(ValueError, match=f"`{name}` must"):
            Resampler().replace(**{name: value})


def test_defaults_are_those_of_the_paper():
    assert dataclasses.asdict(Resampler()) == {
        "num_steps": 100,
        "mask_rate": 0.08,
        "guidance_scale": 4.0,
        "temperature": 1.0,
        "top_k": 3,
    }


def test_settings_at_their_limits():
    Resampler(1, 1, 0, 0, 1)
    Resampler(num_steps=1000, mask_rate=1e-9, top_k=None)


def test_resampler_round_trips():
    resampler = Resampler(7, 0.25, 3.5, 0.9, None)
    assert Resampler.from_config(resampler.get_config()) == resampler
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(resampler)))
    assert keras.saving.deserialize_keras_object(config) == resampler
    assert config["registered_name"] == "keras_muse>Resampler"


def test_resampler_is_frozen_and_replaceable():
    resampler = Resampler(num_steps=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        resampler.num_steps = 8
    replaced = resampler.replace(num_steps=None, top_k=5)
    assert replaced == Resampler(num_steps=7, top_k=5)
    assert resampler == Resampler(7) and hash(resampler) == hash(Resampler(7))
    with pytest.raises(TypeError):
        resampler.replace(steps=3)
