"""Precision and recall."""

import numpy as np
import pytest

from keras_muse.evaluation import PrecisionRecall, precision_recall
from tests.evaluation.extractors import MeanPixels
from tests.evaluation.given import features
from tests.tools import on_one_backend

pytestmark = on_one_backend


def of_rows(real, generated, batch=7, **settings):
    metric = PrecisionRecall(MeanPixels(), **settings)
    for rows, is_real in ((real, True), (generated, False)):
        for start in range(0, len(rows), batch):
            metric.update_features(rows[start : start + batch], is_real)
    return metric


@pytest.mark.parametrize("k, precision, recall", [(1, 0.515, 0.845), (3, 0.88, 1.0)])
def test_it_is_that_of_torch_fidelity(k, precision, recall):
    # `golden.py`: torch-fidelity 0.4.0.
    real, generated = features(200, 6), features(200, 6, phase=0.4, scale=1.3)
    assert precision_recall(real, generated, k) == (precision, recall)
    assert precision_recall(real, generated, k, chunk_size=33) == (precision, recall)
    # The other way around, each is the other.
    assert precision_recall(generated, real, k) == (recall, precision)
    result = of_rows(real, generated, k=k).result()
    assert (result["precision"], result["recall"]) == (precision, recall)


def test_quality_without_variety_and_equal_sets():
    real = features(50, 4)
    assert precision_recall(real, real) == (1.0, 1.0)
    # Of one picture over and over, no ball has room for another.
    assert precision_recall(real, np.repeat(real[:1], 50, axis=0)) == (1.0, 0.02)
    assert precision_recall(real, real + 100.0) == (0.0, 0.0)


def test_a_sample_is_kept_of_longer_streams():
    real = np.arange(300.0)[:, None] + np.zeros((300, 3))
    samples = []
    for batch in (1, 7, 300):
        metric = of_rows(real, real[:20], batch, max_pictures=40)
        samples.append(metric.state()["real"])
        assert samples[-1].shape == (40, 3)
        result = metric.result()
        assert (result["real"], result["real_sampled"]) == (300, 40)
        assert (result["generated"], result["generated_sampled"]) == (20, 20)
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])
    assert len(np.unique(samples[0][:, 0])) == 40
    other = of_rows(real, real, max_pictures=40, seed=1).state()
    assert np.any(other["real"] != samples[0])
    assert np.any(other["real"] != other["generated"])


def test_every_picture_has_the_same_chance():
    rows = np.arange(30.0)[:, None]
    counts = np.zeros(30)
    for seed in range(300):
        kept = of_rows(rows, rows, 30, max_pictures=6, seed=seed).state()["real"]
        counts[kept[:, 0].astype(int)] += 1
    # 60 on average with a deviation of 7; all within four of them.
    assert np.all(np.abs(counts - 60) < 28)


def test_a_state_goes_on():
    real, generated = features(60, 4), features(50, 4, phase=0.3)
    first = PrecisionRecall(MeanPixels(), max_pictures=30)
    first.load_state(first.state())  # of nothing
    first.update_features(real[:33], real=True)
    second = PrecisionRecall(MeanPixels(), max_pictures=30)
    second.load_state(first.state())
    second.update_features(real[33:], real=True)
    second.update_features(generated, real=False)
    assert second.result() == of_rows(real, generated, max_pictures=30).result()


def test_errors():
    with pytest.raises(ValueError, match="`k` must be at least 1: received 0"):
        PrecisionRecall(MeanPixels(), k=0)
    with pytest.raises(ValueError, match="must be more than `k` of 3: received 3"):
        PrecisionRecall(MeanPixels(), max_pictures=3)
    with pytest.raises(ValueError, match="`seed` must be 0 or more: received -1"):
        PrecisionRecall(MeanPixels(), seed=-1)
    with pytest.raises(ValueError, match="`generated` must have more than k = 3 rows"):
        precision_recall(features(5, 2), features(3, 2))
    metric = of_rows(features(5, 2), features(2, 2))
    with pytest.raises(ValueError, match="k = 3 generated pictures: received 2"):
        metric.result()
