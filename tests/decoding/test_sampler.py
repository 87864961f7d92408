"""The decoding loop against a slow one, and what must hold whatever the model says."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import Sampler, decode
from keras_muse.models.compilation import compile_inference
from tests.decoding import reference
from tests.decoding.table import (
    GRID,
    MASK,
    SEEDS,
    WITHOUT_WEIGHTS,
    N,
    V,
    judge,
    judge_in_numpy,
    predict,
    predict_in_numpy,
)


def masked_ids(num_rows=8, holes=(16, 16, 12, 8, 5, 2, 1, 0)):
    """(B, N): rows with different holes at random places."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, V, (num_rows, N)).astype("int32")
    for row in range(num_rows):
        ids[row, rng.permutation(N)[: holes[row]]] = MASK
    return ids


COMPILED = {}


def run(
    sampler,
    ids=None,
    seeds=SEEDS,
    model=predict,
    start=0,
    stop=None,
    fillable=None,
    num_steps=None,
    guidance_scale=None,
    stage=0,
    critic=judge,
):
    """`decode` as it is used: compiled once, with all numbers as tensors."""
    ids = masked_ids() if ids is None else ids
    num_steps = sampler.num_steps if num_steps is None else num_steps
    scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
    settings = sampler.replace(num_steps=1, guidance_scale=1.0)
    # TensorFlow would give up the rank of what is now a number and now a row.
    key = settings, model, stage, np.ndim(num_steps), critic
    if key not in COMPILED:

        def function(ids, seeds, start, stop, num_steps, fillable, scale):
            return decode(
                model,
                ids,
                seeds,
                settings,
                MASK,
                start=start,
                stop=stop,
                fillable=fillable,
                num_steps=num_steps,
                guidance_scale=scale,
                stage=stage,
                grid=GRID,
                critic=critic,
            )

        COMPILED[key] = compile_inference(WITHOUT_WEIGHTS, function)
    numbers = (
        start,
        np.max(num_steps) if stop is None else stop,
        num_steps,
    )
    result = COMPILED[key](
        *(ops.convert_to_tensor(x, "int32") for x in (ids, seeds, *numbers)),
        ops.convert_to_tensor(ids == MASK if fillable is None else fillable),
        ops.convert_to_tensor(np.broadcast_to(scale, len(ids)).astype("float32")),
    )
    result = ops.convert_to_numpy(result)
    assert result.dtype == np.int32 and result.shape == ids.shape
    return result


SETTINGS = {
    "defaults": {},
    "one_step": {"num_steps": 1},
    "as_many_steps_as_tokens": {"num_steps": N},
    "guided": {"num_steps": 6, "guidance_scale": 4.0},
    "constant": {
        "num_steps": 5, "guidance_scale": 2.0, "guidance_schedule": "constant"
    },
    "argmax": {"num_steps": 7, "temperature": 0.0, "choice_temperature": 0.0},
    "cold": {"num_steps": 7, "temperature": 0.5, "choice_temperature": 1.0},
    "filtered": {"num_steps": 8, "top_k": 5, "top_p": 0.8, "temperature": 1.3},
    "cutoff": {"num_steps": 5, "epsilon_cutoff": 0.1, "temperature": 1.2, "top_p": 0.9},
    "linear": {"num_steps": 4, "mask_schedule": "linear"},
    "square": {"num_steps": 4, "mask_schedule": "square", "top_k": 3},
    "cubic": {"num_steps": 9, "mask_schedule": "cubic", "top_p": 0.6},
    "random": {"num_steps": 5, "order": "random", "guidance_scale": 2.0},
    "halton": {"num_steps": 6, "order": "halton", "temperature": 0.7},
    "spaced": {"num_steps": 5, "order": "random", "spacing": 1},
    "systematic": {"num_steps": 5, "order": "halton", "draw": "systematic"},
    "systematic_random": {
        "num_steps": 3, "order": "random", "draw": "systematic", "top_k": 6,
        "temperature": 0.6, "mask_schedule": "linear"
    },
    "systematic_spaced": {
        "num_steps": 4, "order": "random", "spacing": 2, "draw": "systematic"
    },
    "systematic_argmax": {
        "num_steps": 4, "order": "random", "draw": "systematic", "temperature": 0.0
    },
    "interval": {
        "num_steps": 10, "guidance_scale": 3.0, "guidance_interval": (0.3, 0.7)
    },
    "interval_constant": {
        "num_steps": 5, "guidance_scale": 3.0, "guidance_schedule": "constant",
        "guidance_interval": (0.5, 1.0)
    },
    "remasked": {"num_steps": 8, "remask_rate": 0.4},
    "remasked_random": {
        "num_steps": 7, "remask_rate": 0.25, "order": "random", "draw": "systematic"
    },
    "remasked_halton": {"num_steps": 6, "remask_rate": 0.9, "order": "halton"},
    "critic": {"num_steps": 8, "order": "critic", "guidance_scale": 2.0},
    "critic_cold": {
        "num_steps": 6, "order": "critic", "choice_temperature": 0.0, "top_k": 5,
        "mask_schedule": "linear"
    },
    "critic_once": {"num_steps": 1, "order": "critic"},
    "critic_long": {"num_steps": 3 * N, "order": "critic", "temperature": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_the_slow_loop(name, parity):
    sampler = Sampler(**SETTINGS[name])
    result = run(sampler)
    expected = reference.decode(
        predict_in_numpy,
        masked_ids(),
        SEEDS,
        sampler,
        MASK,
        grid=GRID,
        critic=judge_in_numpy,
    )
    np.testing.assert_array_equal(result, expected)
    parity(f"decode_{name}", result)


def test_arguments_replace_the_settings_of_the_sampler():
    scales = np.linspace(0.5, 6, 8).astype("float32")
    sampler = Sampler(num_steps=6)
    expected = reference.decode(
        predict_in_numpy, masked_ids(), SEEDS, sampler, MASK, scales, stage=2
    )
    result = run(Sampler(num_steps=3), num_steps=6, guidance_scale=scales, stage=2)
    np.testing.assert_array_equal(result, expected)
    assert np.any(result != run(sampler, guidance_scale=scales, stage=1))


@pytest.mark.parametrize("name", ["one_step", "guided", "filtered"])
def test_without_compilation_and_with_defaults(name):
    sampler = Sampler(**SETTINGS[name])
    ids = ops.convert_to_tensor(masked_ids())
    result = decode(predict, ids, ops.convert_to_tensor(SEEDS), sampler, MASK)
    assert keras.backend.standardize_dtype(result.dtype) == "int32"
    np.testing.assert_array_equal(ops.convert_to_numpy(result), run(sampler))


def spied(sampler, ids, seeds=SEEDS, **kwargs):
    """All ids after each step, one step at a time."""
    fillable = ids == MASK
    trace = [ids]
    for step in range(sampler.num_steps):
        trace.append(
            run(
                sampler,
                trace[-1],
                seeds,
                start=step,
                stop=step + 1,
                fillable=fillable,
                **kwargs,
            )
        )
    return np.array(trace)


def test_one_step_at_a_time_equals_the_whole_run():
    sampler = Sampler(num_steps=6, guidance_scale=3.0)
    ids = masked_ids()
    trace = spied(sampler, ids)
    np.testing.assert_array_equal(trace[-1], run(sampler))
    # Two halves, too.
    half = run(sampler, ids, stop=2)
    np.testing.assert_array_equal(half, trace[2])
    whole = run(sampler, half, start=2, fillable=ids == MASK)
    np.testing.assert_array_equal(whole, trace[-1])


def test_going_on_needs_what_was_masked_at_the_start():
    ids, seeds = (ops.convert_to_tensor(x, "int32") for x in (masked_ids(), SEEDS))
    with pytest.raises(ValueError, match="`fillable` must be given.*start=2"):
        decode(predict, ids, seeds, Sampler(num_steps=4), MASK, start=2)


@pytest.mark.parametrize(
    "schedule, order", [("cosine", "confidence"), ("linear", "halton")]
)
def test_known_tokens_never_change_and_counts_follow_each_hole(schedule, order):
    sampler = Sampler(
        num_steps=7, mask_schedule=schedule, choice_temperature=50.0, order=order
    )
    trace = spied(sampler, masked_ids())
    masked = trace == MASK
    for before, after in zip(trace, trace[1:]):
        known = before != MASK
        np.testing.assert_array_equal(after[known], before[known])
    for row, hole in enumerate(masked[0].sum(1)):
        unknown = hole
        for step in range(7):
            unknown = reference.num_masked_after(step, 7, hole, unknown, schedule)
            assert masked[step + 1, row].sum() == unknown
    assert not masked[-1].any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_remasking_keeps_to_the_schedule_and_to_what_was_asked_for(rate):
    sampler = Sampler(num_steps=8, remask_rate=rate, order="random")
    fillable = masked_ids() == MASK
    trace = spied(sampler, masked_ids())
    masked = trace == MASK
    again = 0
    for before, after in zip(trace, trace[1:]):
        np.testing.assert_array_equal(after[~fillable], before[~fillable])
        back = (before != MASK) & (after == MASK)
        filled = (fillable & (before != MASK)).sum(1)
        left = (after == MASK).sum(1)
        wanted = np.minimum(np.floor(np.float32(rate) * filled + 1e-3), left)
        np.testing.assert_array_equal(back.sum(1), wanted)
        again += back.sum()
    assert again > 0
    for row, hole in enumerate(fillable.sum(1)):
        unknown = hole
        for step in range(8):
            unknown = reference.num_masked_after(step, 8, hole, unknown)
            assert masked[step + 1, row].sum() == unknown
    assert not masked[-1].any()


def test_the_critic_decides_and_asked_for_tokens_alone_change():
    sampler = Sampler(num_steps=8, order="critic", choice_temperature=0.0)
    fillable = masked_ids() == MASK
    trace = spied(sampler, masked_ids())
    again = 0
    for step, (before, after) in enumerate(zip(trace, trace[1:])):
        np.testing.assert_array_equal(after[~fillable], before[~fillable])
        # What is not masked stays as it was.
        stays = (before != MASK) & (after != MASK)
        np.testing.assert_array_equal(after[stays], before[stays])
        again += np.sum((before != MASK) & (after == MASK))
        for row, hole in enumerate(fillable.sum(1)):
            left = reference.num_masked_after(step, 8, hole, hole)
            assert np.sum(after[row] == MASK) == left
    # Tokens that were kept are doubted later, and the last step keeps all.
    assert again > 0 and not (trace[-1] == MASK).any()


def test_the_least_trusted_are_masked_whenever_they_were_drawn():
    def doubtful(ids):
        # The farther right, the more it trusts.
        place = ops.arange(N, dtype="float32")
        return ops.cast(ids, "float32") * 0.0 + 3.0 * place[None, :]

    sampler = Sampler(num_steps=2, order="critic", choice_temperature=0.0)
    fillable = np.ones((2, N), bool)
    ids = np.full((2, N), 3, "int32")
    ids[:, -1] = MASK
    after = run(sampler, ids, SEEDS[:2], stop=1, fillable=fillable, critic=doubtful)
    remain = reference.num_masked_after(0, 2, N, N)
    np.testing.assert_array_equal(after == MASK, np.tile(np.arange(N) < remain, (2, 1)))
    np.testing.assert_array_equal(after[:, remain:-1], 3)


def test_the_critic_sees_filled_tokens_and_is_not_asked_at_the_last_step():
    seen = []

    def spy(ids):
        seen.append(ops.convert_to_numpy(ids))
        return judge(ids)

    ids = masked_ids()
    sampler = Sampler(num_steps=4, order="critic")
    fillable = ops.convert_to_tensor(ids == MASK)
    ids, seeds = (ops.convert_to_tensor(x, "int32") for x in (ids, SEEDS))
    if keras.config.backend() == "torch":
        # The others trace the loop, which calls the critic once for all steps.
        decode(predict, ids, seeds, sampler, MASK, critic=spy)
        assert len(seen) == 3
        assert all(filled.max() < MASK for filled in seen)
    seen.clear()
    last = {"start": 3, "stop": 4, "fillable": fillable}
    result = decode(predict, ids, seeds, sampler, MASK, critic=judge, **last)

    def nan(ids):
        return ops.full(ids.shape, float("nan"))

    other = decode(predict, ids, seeds, sampler, MASK, critic=nan, **last)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (result, other)))


def test_an_image_without_masked_tokens_comes_back():
    ids = np.random.default_rng(1).integers(0, V, (8, N)).astype("int32")
    for num_steps in (1, 4):
        np.testing.assert_array_equal(run(Sampler(num_steps=num_steps), ids), ids)


def test_all_tokens_are_filled_and_inside_the_codebook():
    ids = np.full((8, N), MASK, "int32")
    for num_steps in (1, 2, 5, N, 3 * N):
        result = run(Sampler(num_steps=num_steps), ids)
        assert result.min() >= 0 and result.max() < V


def test_equal_confidences_do_not_change_the_count():
    def flat(image_ids, guidance):
        return ops.zeros((*image_ids.shape, V))

    sampler = Sampler(num_steps=4, choice_temperature=0.0)
    ids = np.full((2, N), MASK, "int32")
    fillable = np.ones((2, N), bool)
    left, unknown = ids, N
    for step in range(4):
        left = run(
            sampler,
            left,
            SEEDS[:2],
            flat,
            step,
            step + 1,
            fillable,
        )
        unknown = reference.num_masked_after(step, 4, N, unknown)
        np.testing.assert_array_equal((left == MASK).sum(1), unknown)


def test_the_most_confident_are_kept():
    confidence = np.random.default_rng(2).permutation(N).astype("float32")

    def model(image_ids, guidance):
        logits = np.zeros((*image_ids.shape, V), "float32")
        logits[..., 4] = 5 + confidence
        return ops.convert_to_tensor(logits)

    sampler = Sampler(num_steps=2, choice_temperature=0.0, temperature=0.0)
    ids = np.full((2, N), MASK, "int32")
    after = run(sampler, ids, SEEDS[:2], model, stop=1)
    remain = reference.num_masked_after(0, 2, N, N)
    expected = np.where(np.argsort(np.argsort(confidence)) < remain, MASK, 4)
    np.testing.assert_array_equal(after, np.tile(expected, (2, 1)))


def test_confidence_is_the_log_probability_and_not_the_logit():
    # The left half has higher logits, the right half higher probabilities.
    def model(image_ids, guidance):
        logits = np.zeros((*image_ids.shape, V), "float32")
        logits[:, : N // 2] = 100.0
        logits[:, N // 2 :, 3] = 9.0
        return ops.convert_to_tensor(logits)

    sampler = Sampler(num_steps=2, choice_temperature=0.0, mask_schedule="linear")
    ids = np.full((1, N), MASK, "int32")
    after = run(sampler, ids, SEEDS[:1], model, stop=1)[0]
    np.testing.assert_array_equal(after == MASK, np.arange(N) < N // 2)


def test_noise_on_the_confidence_fades_to_nothing():
    seen = {0: set(), 4: set()}

    def model(image_ids, guidance):
        logits = np.zeros((*image_ids.shape, V), "float32")
        logits[..., 4] = 3 + np.linspace(0, 2, N)
        return ops.convert_to_tensor(logits)

    sampler = Sampler(num_steps=2, temperature=0.0, choice_temperature=4.5)
    for temperature in seen:
        settings = dataclasses.replace(sampler, choice_temperature=float(temperature))
        ids = np.full((8, N), MASK, "int32")
        after = run(settings, ids, SEEDS, model, stop=1)
        seen[temperature] = {tuple(row == MASK) for row in after}
    assert len(seen[0]) == 1 and len(seen[4]) == 8


@pytest.mark.parametrize(
    "settings",
    [{}, {"order": "halton", "draw": "systematic"}, {"order": "critic"}],
    ids=str,
)
def test_eight_rows_equal_eight_singles_in_any_order(settings):
    sampler = Sampler(num_steps=5, guidance_scale=2.0, **settings)
    ids = masked_ids()
    batch = run(sampler)
    for row in range(8):
        single = run(sampler, ids[row : row + 1], SEEDS[row : row + 1])
        np.testing.assert_array_equal(single[0], batch[row])
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_array_equal(run(sampler, ids[order], SEEDS[order]), batch[order])


# A number of steps for each of the holes 16, 16, 12, 8, 5, 2, 1 and 0.
NUM_STEPS = np.array([6, 2, 9, 1, 5, 4, 3, 0], "int32")
ORDERS = ("guided", "spaced", "halton", "systematic_random", "interval")


@pytest.mark.parametrize("name", [*ORDERS, "remasked", "critic"])
def test_each_row_with_its_own_number_of_steps(name, parity):
    sampler = Sampler(**SETTINGS[name])
    result = run(sampler, num_steps=NUM_STEPS)
    expected = reference.decode(
        predict_in_numpy,
        masked_ids(),
        SEEDS,
        sampler,
        MASK,
        grid=GRID,
        num_steps=NUM_STEPS,
        critic=judge_in_numpy,
    )
    np.testing.assert_array_equal(result, expected)
    # Whatever number its batch mates have,
    order = np.random.default_rng(4).permutation(8)
    ids, seeds = masked_ids()[order], SEEDS[order]
    mixed = run(sampler, ids, seeds, num_steps=NUM_STEPS[order])
    np.testing.assert_array_equal(mixed, result[order])
    # even if all have the same.
    for row in range(7):
        same = run(sampler, num_steps=int(NUM_STEPS[row]))
        np.testing.assert_array_equal(same[row], result[row])
    if name == "guided":
        for row in range(8):
            rows = slice(row, row + 1)
            alone = run(
                sampler, masked_ids()[rows], SEEDS[rows], num_steps=NUM_STEPS[rows]
            )
            np.testing.assert_array_equal(alone[0], result[row])
    parity(f"decode_own_steps_{name}", result)


@pytest.mark.parametrize("name", ORDERS)
def test_counts_follow_the_steps_of_each_row_and_then_it_waits(name):
    sampler = Sampler(**SETTINGS[name])
    trace = [masked_ids()]
    fillable = trace[0] == MASK
    num_start = fillable.sum(1)
    # Two more than the longest row needs.
    for step in range(NUM_STEPS.max() + 2):
        trace.append(
            run(
                sampler,
                trace[-1],
                start=step,
                stop=step + 1,
                fillable=fillable,
                num_steps=NUM_STEPS,
            )
        )
    masked = np.array(trace) == MASK
    for before, after in zip(trace, trace[1:]):
        known = before != MASK
        np.testing.assert_array_equal(after[known], before[known])
    for row, unknown in enumerate(num_start):
        for step in range(len(trace) - 1):
            unknown = reference.num_masked_after(
                step, NUM_STEPS[row], num_start[row], unknown, sampler.mask_schedule
            )
            assert masked[step + 1, row].sum() == unknown
        assert not masked[NUM_STEPS[row], row].any()
    np.testing.assert_array_equal(trace[-1], run(sampler, num_steps=NUM_STEPS))


def test_it_stops_after_the_longest_row():
    num_steps = np.minimum(NUM_STEPS, 3)
    ids, seeds, steps = (
        ops.convert_to_tensor(x, "int32") for x in (masked_ids(), SEEDS, num_steps)
    )
    sampler = Sampler(**SETTINGS["guided"])
    result = decode(predict, ids, seeds, sampler, MASK, num_steps=steps)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(result), run(sampler, num_steps=num_steps)
    )
    # Arrays are as good, and nothing happens where no row has a step.
    known = np.zeros((8, N), "int32")
    result = decode(predict, known, SEEDS, sampler, MASK, num_steps=0 * num_steps)
    np.testing.assert_array_equal(ops.convert_to_numpy(result), known)


def test_seed_and_stage_change_the_picture():
    ids = np.full((8, N), MASK, "int32")
    sampler = Sampler(num_steps=4)
    base = run(sampler, ids)
    np.testing.assert_array_equal(base, run(sampler, ids))
    assert len({row.tobytes() for row in base}) == 8
    for other in (run(sampler, ids, stage=1), run(sampler, ids, SEEDS + 1)):
        assert np.all((other != base).any(1))


def test_predict_gets_the_guidance_of_the_step():
    # A model that answers with the guidance it was given, in tenths.
    def model(image_ids, guidance):
        assert tuple(guidance.shape) == (8,) and tuple(image_ids.shape) == (8, N)
        tokens = ops.cast(ops.round(guidance * 10), "int32")
        logits = 100.0 * ops.one_hot(tokens % V, V)
        return ops.broadcast_to(logits[:, None], (8, N, V))

    sampler = Sampler(num_steps=5, temperature=0.0)
    scales = np.array([1, 1.4, 1.8, 0.6, 0.2, 1, 1.4, 1.8], "float32")
    ids = np.full((8, N), MASK, "int32")
    left = ids
    for step in range(5):
        before = left
        left = run(
            sampler,
            before,
            model=model,
            start=step,
            stop=step + 1,
            fillable=np.ones((8, N), bool),
            guidance_scale=scales,
        )
        for row in range(8):
            new = left[row][(before[row] == MASK) & (left[row] != MASK)]
            guidance = 1 + (scales[row] - 1) * step / 4
            assert len(new) and np.all(new == round(10 * guidance) % V)


NUMBERS = (
    "guidance_scale",
    "temperature",
    "choice_temperature",
    "epsilon_cutoff",
    "remask_rate",
)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("num_steps", value) for value in (0, -1, 2.0, "4", None, True, np.nan)),
        *(("top_k", value) for value in (0, -1, 2.0, "4", True, np.nan)),
        *(("spacing", value) for value in (-1, 2.0, "4", None, True, np.nan)),
        *(("refresh_every", value) for value in (0, 2.0, None, True)),
        *(
            (name, value)
            for name in NUMBERS
            for value in (-0.1, np.nan, np.inf, "1", None, True, [1.0])
        ),
        *(("epsilon_cutoff", value) for value in (1.0, 7)),
        *(("remask_rate", value) for value in (1.0, 7)),
        *(
            ("guidance_interval", value)
            for value in ((0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1), (0, np.nan))
        ),
        *(
            ("guidance_interval", value)
            for value in (None, 0.5, "01", (0,), (0, 0.5, 1), (0, "1"), (False, True))
        ),
        *(("top_p", value) for value in (0.0, -0.1, 1.1, np.nan, "1", True, [0.5])),
        *(
            ("guidance_schedule", value)
            for value in ("", "cosine", None, 1, ["linear"])
        ),
        *(("mask_schedule", value) for value in ("", "arccos", None, 1, ["cosine"])),
        *(("order", value) for value in ("", "raster", None, 1, ["random"])),
        *(("draw", value) for value in ("", "gumbel", None, 1, ["independent"])),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* received {name}="):
        Sampler(**{name: value})
    if value is not None:
        with pytest.raises(ValueError, match=f"`{name}` must"):
            Sampler().replace(**{name: value})


def test_what_is_masked_again_cannot_be_kept():
    with pytest.raises(ValueError, match="`refresh_every` must be 1.*=2.*=0.1"):
        Sampler(refresh_every=2, remask_rate=0.1)


def test_what_depends_on_the_draw_cannot_come_before_it():
    for order in ("confidence", "critic"):
        with pytest.raises(ValueError, match=f"`draw` must be 'indep.*=.{order}'"):
            Sampler(draw="systematic", order=order)
    for order in ("confidence", "halton", "critic"):
        with pytest.raises(ValueError, match=f"`spacing` must be 0.*=2.*'{order}'"):
            Sampler(order=order, spacing=2)


def test_what_does_not_go_with_a_critic():
    with pytest.raises(ValueError, match="`remask_rate` must be 0.*=0.1, order='crit"):
        Sampler(order="critic", remask_rate=0.1)
    with pytest.raises(ValueError, match="`critic` must be a function .* None"):
        decode(predict, masked_ids(), SEEDS, Sampler(order="critic"), MASK)


@pytest.mark.parametrize(
    "settings", [{"order": "halton"}, {"order": "random", "spacing": 1}], ids=str
)
@pytest.mark.parametrize("grid", [None, (4, 5)], ids=str)
def test_some_orders_need_the_grid(settings, grid):
    ids, seeds = (ops.convert_to_tensor(x, "int32") for x in (masked_ids(), SEEDS))
    with pytest.raises(ValueError, match=f"`grid` must be.*{re.escape(str(grid))}"):
        decode(predict, ids, seeds, Sampler(**settings), MASK, grid=grid)


def test_settings_at_their_limits():
    Sampler(1, 0.0, "constant", 0.0, 1, 1.0, 0, "linear", "random", 0, "systematic", 0)
    Sampler(num_steps=1000, guidance_scale=3, top_p=1, top_k=None)


def test_sampler_round_trips():
    sampler = Sampler(
        7,
        3.5,
        "constant",
        0.9,
        40,
        0.95,
        2.0,
        "square",
        "random",
        3,
        "systematic",
        0.01,
        (0, 0.75),
        0.2,
    )
    assert Sampler.from_config(sampler.get_config()) == sampler
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(sampler)))
    assert keras.saving.deserialize_keras_object(config) == sampler
    assert config["registered_name"] == "keras_muse>Sampler"
    # Of a preset that is older than some settings.
    assert Sampler.from_config({"num_steps": 3}).guidance_interval == (0.0, 1.0)


def test_sampler_is_frozen_and_replaceable():
    sampler = Sampler(num_steps=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.num_steps = 8
    assert sampler.replace(num_steps=None, top_k=3) == Sampler(num_steps=7, top_k=3)
    assert sampler == Sampler(num_steps=7) and hash(sampler) == hash(Sampler(7))
    with pytest.raises(TypeError):
        sampler.replace(steps=3)
