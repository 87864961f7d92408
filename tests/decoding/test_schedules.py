"""Reveal counts to the token, and the ends of the guidance ramp."""

import math

import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import guidance_at, num_masked_after, num_steps_for
from keras_muse.decoding.schedules import GUIDANCE_SCHEDULES, MASK_SCHEDULES
from tests.decoding import reference

SIZES = np.array([1, 2, 3, 10, 64, 256, 1024, 4096], "int32")


def revealed(num_start, num_steps, schedule="cosine"):
    """(T, B): what each step reveals, by running the recursion."""
    num_start = np.atleast_1d(num_start).astype("int32")
    unknown, counts = num_start, []
    for step in range(num_steps):
        remain = ops.convert_to_numpy(
            num_masked_after(
                ops.convert_to_tensor(step, "int32"),
                ops.convert_to_tensor(num_steps, "int32"),
                ops.convert_to_tensor(num_start),
                ops.convert_to_tensor(unknown),
                schedule,
            )
        )
        assert remain.dtype == np.int32
        counts.append(unknown - remain)
        unknown = remain
    return np.array(counts)


def test_reveal_counts_of_maskgit():
    assert revealed(256, 24)[:, 0].tolist() == [
        *(1, 2, 2, 4, 5, 6, 7, 8, 9, 9, 11, 11),
        *(13, 13, 13, 14, 15, 16, 15, 16, 17, 16, 17, 16),
    ]
    assert revealed(4096, 8)[:, 0].tolist() == [79, 233, 379, 509, 621, 708, 768, 799]


@pytest.mark.parametrize("schedule", sorted(MASK_SCHEDULES))
def test_counts_equal_exact_arithmetic(schedule, parity):
    num_cases = num_close = 0
    everything = []
    for num_steps in range(1, 65):
        # The unknown count does not bind here: the schedule itself is compared.
        steps = range(num_steps) if num_steps < 20 else range(0, num_steps, 3)
        for step in steps:
            result = ops.convert_to_numpy(
                num_masked_after(step, num_steps, SIZES, SIZES + 1, schedule)
            )
            everything.append(result)
            for size, count in zip(SIZES.tolist(), result.tolist()):
                num_cases += 1
                expected = reference.num_masked_after(
                    step, num_steps, size, size + 1, schedule
                )
                if count == expected:
                    continue
                share = reference.SHARES[schedule]((step + 1) / num_steps)
                edge = size * share + 1e-3
                assert abs(edge - round(edge)) < 3e-4 and abs(count - expected) == 1
                num_close += 1
    assert num_close <= num_cases / 1000
    parity(f"num_masked_after_{schedule}", np.array(everything))


@pytest.mark.parametrize("schedule", sorted(MASK_SCHEDULES))
@pytest.mark.parametrize("num_steps", [1, 2, 3, 12, 64])
def test_every_step_reveals_and_the_last_reveals_all(num_steps, schedule):
    counts = revealed(SIZES, num_steps, schedule)
    unknown = SIZES - np.cumsum(counts, 0) + counts
    assert np.all(counts[unknown > 1] >= 1)
    np.testing.assert_array_equal(counts.sum(0), SIZES)
    # The last step, the best guided one, is never left without a token.
    assert np.all(counts[-1] >= 1)


def test_known_rows_stay_known():
    for step in range(8):
        remain = num_masked_after(step, 8, np.array([0, 64]), np.array([0, 40]))
        assert ops.convert_to_numpy(remain)[0] == 0


def test_a_row_follows_its_own_hole():
    together = revealed(SIZES, 12)
    for column, size in enumerate(SIZES):
        np.testing.assert_array_equal(together[:, column], revealed(size, 12)[:, 0])
    # A hole of 64 in a picture of any size is filled like a picture of 64.
    assert together[:, 4].max() < 12


def test_fewer_tokens_than_steps():
    assert revealed(3, 8)[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 1]
    assert revealed(1, 8)[:, 0].tolist() == [0] * 7 + [1]
    assert revealed(0, 8)[:, 0].tolist() == [0] * 8


def ramp(num_steps, scale, schedule="linear", interval=(0, 1)):
    return np.array(
        [
            ops.convert_to_numpy(
                guidance_at(
                    ops.convert_to_tensor(step, "int32"),
                    ops.convert_to_tensor(num_steps, "int32"),
                    ops.convert_to_tensor(scale, "float32"),
                    schedule,
                    interval,
                )
            )
            for step in range(num_steps)
        ]
    )


def test_linear_guidance_runs_from_one_to_the_scale():
    result = ramp(9, [3.0, 1.0, 0.0, 11.0])
    assert result.shape == (9, 4) and result.dtype == np.float32
    np.testing.assert_array_equal(result[0], 1)
    np.testing.assert_array_equal(result[-1], [3, 1, 0, 11])
    # Guidance 1 is 1 to the last bit: it must be the conditional pass.
    np.testing.assert_array_equal(result[:, 1], 1)
    np.testing.assert_allclose(result[:, 0], np.linspace(1, 3, 9), rtol=1e-6)
    assert result[4, 3] == pytest.approx(6)


@pytest.mark.parametrize("schedule", sorted(GUIDANCE_SCHEDULES))
def test_guidance_equals_exact_arithmetic(schedule, parity):
    for num_steps in (1, 2, 3, 12, 24):
        result = ramp(num_steps, [1.0, 2.5, 10.0], schedule)
        expected = [
            [
                reference.guidance_at(step, num_steps, s, schedule)
                for s in (1.0, 2.5, 10.0)
            ]
            for step in range(num_steps)
        ]
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        parity(f"guidance_{schedule}_{num_steps}", result, atol=1e-6)


@pytest.mark.parametrize(
    "interval, guided",
    [((0, 0.5), range(5)), ((0.3, 0.7), range(3, 7)), ((0.5, 1), range(5, 10))],
)
@pytest.mark.parametrize("schedule", sorted(GUIDANCE_SCHEDULES))
def test_outside_of_the_interval_guidance_is_one(interval, guided, schedule):
    result = ramp(10, [0.0, 4.0], schedule, interval)
    expected = ramp(10, [0.0, 4.0], schedule)
    outside = [step for step in range(10) if step not in guided]
    expected[outside] = 1
    np.testing.assert_array_equal(result, expected)


def test_two_intervals_that_meet_share_no_step():
    # Whole products, in float32 a little less or more.
    for num_steps in (3, 7, 10, 24, 50, 100):
        steps = ops.arange(num_steps, dtype="int32")
        for percent in range(1, 100):
            share = percent / 100
            on = [
                ops.convert_to_numpy(
                    guidance_at(steps, num_steps, 3.0, "constant", half)
                )
                > 1
                for half in ((0, share), (share, 1))
            ]
            np.testing.assert_array_equal(on[0], ~on[1])
            assert on[0].sum() == -(-num_steps * percent // 100)


def test_constant_guidance_and_the_single_step():
    np.testing.assert_array_equal(ramp(5, 4.0, "constant"), np.full(5, 4.0))
    np.testing.assert_array_equal(ramp(1, [4.0, 0.0]), [[4.0, 0.0]])
    np.testing.assert_array_equal(ramp(1, 4.0, "constant"), [4.0])


def test_shares_fall_from_one_to_zero():
    done = np.linspace(0, 1, 11).astype("float32")
    for name, share in MASK_SCHEDULES.items():
        values = ops.convert_to_numpy(share(ops.convert_to_tensor(done)))
        assert values[0] == 1 and abs(values[-1]) < 1e-6, name
        assert np.all(np.diff(values) < 0), name
        assert values[5] == pytest.approx(reference.SHARES[name](0.5), abs=1e-6)
    assert math.isclose(reference.SHARES["cosine"](0.5), 0.5**0.5)


def test_a_row_has_its_own_number_of_steps():
    num_steps = np.array([1, 2, 5, 12, 64, 3, 1, 7], "int32")
    scale = np.linspace(0, 10, 8).astype("float32")
    unknown = SIZES
    for step in range(70):
        numbers = [ops.convert_to_tensor(step, "int32")]
        numbers.append(ops.convert_to_tensor(num_steps))
        remain = num_masked_after(
            *numbers, ops.convert_to_tensor(SIZES), ops.convert_to_tensor(unknown)
        )
        remain = ops.convert_to_numpy(remain)
        guidance = guidance_at(*numbers, ops.convert_to_tensor(scale))
        guidance = ops.convert_to_numpy(guidance)
        assert guidance.dtype == np.float32 and remain.dtype == np.int32
        for row, last in enumerate(num_steps.tolist()):
            expected = reference.num_masked_after(
                step, last, int(SIZES[row]), int(unknown[row])
            )
            assert remain[row] == expected
            if step < last:
                expected = reference.guidance_at(step, last, scale[row], "linear")
                assert guidance[row] == pytest.approx(expected, rel=1e-6)
        unknown = remain
    assert not unknown.any()


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 64, 100, 4096])
def test_steps_of_a_hole_are_its_share_of_all(num_tokens):
    holes = np.arange(num_tokens + 1)
    for num_steps in {1, 2, 7, 12, 24, num_tokens}:
        if num_steps > num_tokens:
            continue
        steps = num_steps_for(holes, num_tokens, num_steps)
        assert steps.dtype == np.int32 and steps.shape == holes.shape
        assert steps[0] == 0 and steps[-1] == num_steps
        assert np.all(np.diff(steps) >= 0)
        # As careful as a whole picture, and not a step more than that takes.
        assert np.all(holes * num_steps <= steps.astype("int64") * num_tokens)
        fewer = steps[1:].astype("int64") - 1
        assert np.all(holes[1:] * num_steps > fewer * num_tokens)
        # Every step has a token to reveal.
        assert np.all(steps[1:] >= 1) and np.all(steps <= holes)


def test_steps_of_holes_written_out():
    holes = np.array([0, 1, 16, 17, 32, 63, 64], "int32")
    assert num_steps_for(holes, 64, 12).tolist() == [0, 1, 3, 4, 6, 12, 12]
    # Lists are as good, and large numbers do not wrap around.
    assert num_steps_for([2**20 - 1, 2**20], 2**20, 2**20).tolist() == [
        2**20 - 1,
        2**20,
    ]
