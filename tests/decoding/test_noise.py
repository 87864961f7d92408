"""The noise is bit-equal everywhere and looks random from every side."""

import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import gumbel, seeds_of, uniform
from tests.decoding import reference

EXTREMES = np.array(
    [0, 1, -1, 2, -2, 7, 2**31 - 1, -(2**31), -(2**31) + 1, 123456789], "int32"
)


def noise(seeds, stage=0, step=0, stream=0, num_positions=1000):
    seeds = np.atleast_1d(seeds).astype("int32")
    return ops.convert_to_numpy(uniform(seeds, stage, step, stream, num_positions))


def chi_square(counts):
    """How many standard deviations above what chance gives; near 0 if uniform."""
    counts = np.asarray(counts, "float64").ravel()
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / (
        2 * freedom
    ) ** 0.5


def assert_independent(a, b, bins=32):
    """Neither the correlation nor the joint distribution gives anything away."""
    a, b = a.ravel().astype("float64"), b.ravel().astype("float64")
    correlation = np.corrcoef(a, b)[0, 1]
    assert abs(correlation) < 5 / len(a) ** 0.5
    joint = np.histogram2d(a, b, bins, range=((0, 1), (0, 1)))[0]
    assert abs(chi_square(joint)) < 5


@pytest.mark.parametrize("stage, step, stream", [(0, 0, 0), (1, 11, 1), (3, 1000, 7)])
def test_equals_the_hash_in_python_integers(stage, step, stream, parity):
    result = noise(EXTREMES, stage, step, stream, 50)
    expected = reference.uniform(EXTREMES, stage, step, stream, 50)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.astype("float64"), expected)
    parity(f"uniform_{stage}_{step}_{stream}", result)


def test_known_hash_values():
    # "triple32" of the published code, for 0, 1 and 2^32 - 1.
    def triple32(x):
        x = np.uint32(x)
        with np.errstate(over="ignore"):
            x = (x ^ (x >> np.uint32(17))) * np.uint32(0xED5AD4BB)
            x = (x ^ (x >> np.uint32(11))) * np.uint32(0xAC4C1B51)
            x = (x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB)
        return int(x ^ (x >> np.uint32(14)))

    for number in (0, 1, 2**32 - 1, 0xDEADBEEF):
        assert reference.mix(number) == triple32(number)


def test_bits_are_equal_on_every_backend(parity):
    result = noise(np.arange(-50, 50), 1, 5, 1, 1024)
    parity("uniform_many", result.view("int32"))
    drawn = gumbel(np.arange(4, dtype="int32"), 0, 3, 1, 256)
    parity("gumbel", ops.convert_to_numpy(drawn), atol=1e-5)


def test_step_may_be_a_tensor():
    tensor = uniform(EXTREMES, 1, ops.convert_to_tensor(5, "int32"), 1, 9)
    expected = noise(EXTREMES, 1, 5, 1, 9)
    np.testing.assert_array_equal(ops.convert_to_numpy(tensor), expected)


def test_uniform_moments_and_bins():
    values = noise(np.arange(1000), num_positions=1000).astype("float64").ravel()
    assert abs(values.mean() - 1 / 2) < 5 * (1 / 12 / values.size) ** 0.5
    assert abs(values.var() - 1 / 12) < 5 * (1 / 180 / values.size) ** 0.5
    for bins in (10, 256, 4096):
        assert abs(chi_square(np.histogram(values, bins, range=(0, 1))[0])) < 5
    # The low bits too, which bins do not see.
    bits = np.round(values * 2**23 - 0.5).astype("int64")
    assert abs(chi_square(np.bincount(bits % 256, minlength=256))) < 5


def test_values_lie_strictly_inside_and_gumbel_is_finite(monkeypatch):
    values = noise(np.arange(1000), num_positions=2000)
    assert 0 < values.min() < 1e-5 and 1 - 1e-5 < values.max() < 1
    # The smallest and the largest number that 23 bits can give.
    from keras_muse.decoding import noise as module

    for bits, edge in ((0, 2.0**-24), (-1, 1 - 2.0**-24)):
        monkeypatch.setattr(
            module, "_fold", lambda state, number, bits=bits: state * 0 + bits
        )
        drawn = ops.convert_to_numpy(uniform(np.zeros(1, "int32"), 0, 0, 0, 1))
        assert drawn.ravel()[0] == np.float32(edge) and 0 < drawn.ravel()[0] < 1
        drawn = ops.convert_to_numpy(gumbel(np.zeros(1, "int32"), 0, 0, 0, 1))
        assert np.isfinite(drawn).all() and abs(drawn.ravel()[0]) < 17


def test_gumbel_distribution():
    values = ops.convert_to_numpy(gumbel(np.arange(300, dtype="int32"), 0, 0, 1, 1000))
    values = values.astype("float64")
    assert abs(values.mean() - np.euler_gamma) < 0.012
    assert abs(values.var() - np.pi**2 / 6) < 0.03
    quantiles = np.exp(-np.exp(-values)).ravel()
    assert abs(chi_square(np.histogram(quantiles, 100, range=(0, 1))[0])) < 5


def test_neighbours_are_independent():
    seeds = np.arange(1000)
    base = noise(seeds)
    for name, other in {
        "position": (base[:, :-1], base[:, 1:]),
        "far position": (base[:, :-256], base[:, 256:]),
        "seed": (base[:-1], base[1:]),
        "opposite seed": (noise(seeds + 1), noise(-seeds - 1)),
        "seed and position": (base[:-1, 1:], base[1:, :-1]),
        "step": (base, noise(seeds, step=1)),
        "stream": (base, noise(seeds, stream=1)),
        "stage": (base, noise(seeds, stage=1)),
        "seed against step": (noise(seeds, step=1), noise(seeds + 1)),
        "step against stream": (noise(seeds, step=1), noise(seeds, stream=1)),
        "stage against step": (noise(seeds, stage=1), noise(seeds, step=1)),
        "stage against stream": (noise(seeds, stage=1), noise(seeds, stream=1)),
    }.items():
        try:
            assert_independent(*other)
        except AssertionError as error:
            raise AssertionError(f"{name} shows in the noise") from error


def test_steps_of_one_token_are_uniform():
    # What one picture sees: 12 steps of 64 tokens, over many pictures.
    values = np.concatenate(
        [noise(np.arange(2000), step=step, num_positions=16) for step in range(12)], 1
    )
    means = values.astype("float64").mean(0)
    assert np.abs(means - 0.5).max() < 5 * (1 / 12 / 2000) ** 0.5


def test_avalanche():
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, 4096).astype("int32")

    def bits(**counters):
        values = noise(counters.pop("seeds", seeds), num_positions=1, **counters)
        return np.round(values.astype("float64").ravel() * 2**23 - 0.5).astype("int64")

    def shares(a, b):
        return np.array([((a ^ b) >> bit & 1).mean() for bit in range(23)])

    flips = [
        shares(bits(), bits(seeds=(seeds.view("uint32") ^ (1 << bit)).view("int32")))
        for bit in np.arange(32, dtype="uint32")
    ]
    flips += [shares(bits(step=3), bits(step=3 ^ 1 << bit)) for bit in range(6)]
    # 38 x 23 shares of 4096 coins each: 5 standard deviations.
    assert np.abs(np.array(flips) - 0.5).max() < 5 * 0.5 / 4096**0.5


def test_all_counters_matter():
    base = dict(stage=1, step=2, stream=3)
    seen = {noise(5, **base, num_positions=4).tobytes()}
    for name in base:
        for change in (1, 2, 5):
            counters = {**base, name: base[name] + change}
            seen.add(noise(5, **counters, num_positions=4).tobytes())
    for order in ((2, 1, 3), (3, 2, 1), (1, 3, 2)):
        seen.add(noise(5, *order, num_positions=4).tobytes())
    assert len(seen) == 13


def test_a_row_depends_on_its_own_seed_alone():
    batch = noise(EXTREMES, 1, 2, 0, 64)
    for row, seed in enumerate(EXTREMES):
        np.testing.assert_array_equal(batch[row], noise(seed, 1, 2, 0, 64)[0])
    # A longer picture starts with the same noise.
    np.testing.assert_array_equal(batch[:, :7], noise(EXTREMES, 1, 2, 0, 7))
    assert len({row.tobytes() for row in batch}) == len(EXTREMES)


def other_seeds(seeds, number):
    seeds = ops.convert_to_tensor(np.asarray(seeds, "int32"))
    return ops.convert_to_numpy(seeds_of(seeds, number))


@pytest.mark.parametrize("number", [0, 1, 2, 77, -1, 2**31 - 1, -(2**31)])
def test_other_seeds_are_one_more_counter(number, parity):
    result = other_seeds(EXTREMES, number)
    expected = [reference.fold(int(seed) % 2**32, number % 2**32) for seed in EXTREMES]
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result.view("uint32"), expected)
    tensor = ops.convert_to_tensor(number, "int32")
    np.testing.assert_array_equal(other_seeds(EXTREMES, tensor), result)
    parity(f"seeds_of_{number}", result)


def test_other_seeds_are_distinct():
    # Neighbouring seeds and windows: none of them twice, none a seed again.
    seeds = np.concatenate([EXTREMES, np.arange(100, 200)]).astype("int32")
    seen = set(seeds.tolist())
    for number in range(100):
        others = other_seeds(seeds, number).tolist()
        assert len(set(others)) == len(seeds) and not seen & set(others)
        seen |= set(others)
    # A row depends on its own seed alone.
    assert other_seeds(seeds[5:6], 99)[0] == others[5]


def test_noise_of_other_seeds_is_independent():
    seeds = np.arange(1000)
    base, first = noise(seeds), noise(other_seeds(seeds, 1))
    assert_independent(base, first)
    assert_independent(first, noise(other_seeds(seeds, 2)))
    assert_independent(first[:-1], first[1:])
    # The counter that was folded in is no stage.
    assert_independent(first, noise(seeds, stage=1))
