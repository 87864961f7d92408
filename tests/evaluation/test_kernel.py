"""The kernel distance."""

import numpy as np
import pytest

from keras_muse.evaluation import KernelDistance, kernel_distance
from tests.evaluation.extractors import MeanPixels
from tests.evaluation.given import features
from tests.tools import on_one_backend

pytestmark = on_one_backend


def slow(first, second):
    """Pair by pair, as in section 4 of the paper."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1.0) ** 3

    def within(rows):
        values = [
            kernel(x, y)
            for i, x in enumerate(rows)
            for j, y in enumerate(rows)
            if i != j
        ]
        return sum(values) / len(values)

    across = [kernel(x, y) for x in first for y in second]
    return within(first) + within(second) - 2.0 * sum(across) / len(across)


def of_rows(real, generated, batch=7, **settings):
    """The result of both sides in turns."""
    distance = KernelDistance(MeanPixels(), **settings)
    for start in range(0, max(len(real), len(generated)), batch):
        distance.update_features(real[start : start + batch], real=True)
        distance.update_features(generated[start : start + batch], real=False)
    return distance.result()


def test_it_is_that_of_the_packages():
    # `golden.py`: clean-fid 0.1.35, torch-fidelity 0.4.0, torchmetrics 1.9.0.
    real, generated = features(260, 24), features(260, 24, phase=0.4, scale=1.1)
    expected = pytest.approx(-0.020711544012588, rel=1e-9)
    assert kernel_distance(real, generated) == expected
    # All as one block, because it is full or because it is the only one.
    for size in (260, 1000):
        result = of_rows(real, generated, block_size=size)
        assert result["kernel_distance"] == expected
        assert (result["blocks"], result["deviation"]) == (1, None)
        assert result["real"] == result["generated"] == 260


def test_it_is_the_slow_one_and_takes_sides_of_two_sizes():
    first, second = features(5, 3), features(7, 3, phase=0.7)
    expected = pytest.approx(slow(first, second), rel=1e-12)
    assert kernel_distance(first, second) == expected
    assert kernel_distance(second, first) == expected


def test_blocks_are_cut_in_order_whatever_the_batches():
    real, generated = features(47, 4), features(52, 4, phase=0.3)
    values = [
        kernel_distance(real[start : start + 10], generated[start : start + 10])
        for start in range(0, 40, 10)
    ]
    for batch in (1, 7, 10, 25):
        result = of_rows(real, generated, batch, block_size=10)
        assert result["kernel_distance"] == pytest.approx(np.mean(values), rel=1e-12)
        assert result["deviation"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        assert (result["blocks"], result["real"]) == (4, 40)


def test_it_is_unbiased():
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, 4000, 3))
    result = of_rows(*rows, batch=100, block_size=20)
    # Within four deviations of its mean; the biased estimate is off by dozens.
    error = result["deviation"] / np.sqrt(result["blocks"])
    assert abs(result["kernel_distance"]) < 4 * error


def test_memory_does_not_grow():
    distance = KernelDistance(MeanPixels(), block_size=5, max_waiting=2)
    for _ in range(20):
        for real in (True, False):
            distance.update_features(features(4, 3), real)
            assert sum(map(np.size, distance.state().values())) < 2 * 3 * 5 * 3 + 20
    distance = KernelDistance(MeanPixels(), block_size=5, max_waiting=2)
    distance.update_features(features(14, 3), real=True)
    with pytest.raises(ValueError, match="15 true pictures wait for generated ones"):
        distance.update_features(features(1, 3), real=True)


def test_a_state_goes_on():
    real, generated = features(47, 4), features(52, 4, phase=0.3)
    first = KernelDistance(MeanPixels(), block_size=10)
    first.load_state(first.state())  # of nothing
    first.update_features(real[:23], real=True)
    first.update_features(generated[:18], real=False)
    second = KernelDistance(MeanPixels(), block_size=10)
    second.load_state(first.state())
    second.update_features(real[23:], real=True)
    second.update_features(generated[18:], real=False)
    assert second.result() == of_rows(real, generated, block_size=10)


def test_errors():
    with pytest.raises(ValueError, match="`block_size` must be at least 2: received 1"):
        KernelDistance(MeanPixels(), block_size=1)
    with pytest.raises(ValueError, match="`max_waiting` must be at least 1: received"):
        KernelDistance(MeanPixels(), max_waiting=0)
    distance = KernelDistance(MeanPixels())
    distance.update_features(features(3, 3), real=True)
    with pytest.raises(ValueError, match="2 generated pictures: received 3 and 0"):
        distance.result()
