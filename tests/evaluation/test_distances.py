"""The Frechet distance, and how streams of pictures come to it."""

import numpy as np
import pytest

from keras_muse.evaluation import FrechetDistance, frechet_distance
from keras_muse.evaluation.distances import Moments
from tests.evaluation.extractors import MeanPixels
from tests.evaluation.given import features, pictures
from tests.tools import on_one_backend

pytestmark = on_one_backend


def of_rows(real, generated, *cuts):
    """The result on features that come in batches, cut at `cuts`."""
    distance = FrechetDistance(MeanPixels())
    for rows, is_real in ((real, True), (generated, False)):
        for batch in np.split(rows, cuts):
            distance.update_features(batch, is_real)
    return distance.result()


def test_it_is_that_of_the_packages():
    # `golden.py`: clean-fid 0.1.35, torch-fidelity 0.4.0, torchmetrics 1.9.0.
    result = of_rows(features(300, 24), features(260, 24, phase=0.4, scale=1.1))
    assert result["frechet_distance"] == pytest.approx(0.22160495713642803, rel=1e-9)
    assert (result["real"], result["generated"], result["features"]) == (300, 260, 24)
    assert not result["rank_deficient"]


def test_fewer_pictures_than_features():
    # `golden.py`; torchmetrics differs from the other two in the ninth digit.
    result = of_rows(features(20, 24), features(30, 24, phase=0.4, scale=1.1))
    assert result["frechet_distance"] == pytest.approx(4.885254358521877, rel=1e-7)
    assert result["rank_deficient"]


def test_distances_that_can_be_computed_by_hand():
    rows = features(100, 6)
    mean, covariance = rows.mean(0), np.cov(rows, rowvar=False)
    assert frechet_distance(mean, covariance, mean, covariance) < 1e-12
    # Of a shift, its square; of two diagonals, that of their deviations.
    shift = np.arange(6.0)
    moved = frechet_distance(mean, covariance, mean + shift, covariance)
    assert moved == pytest.approx(np.sum(shift**2), rel=1e-12)
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 0.25, 2.0])
    zero = np.zeros(3)
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(zero, np.diag(a), zero, np.diag(b)) == pytest.approx(
        expected, rel=1e-12
    )
    # Scaled features have the square of the scale.
    other = features(100, 6, phase=1.0)
    once = of_rows(rows, other)["frechet_distance"]
    assert of_rows(7 * rows, 7 * other)["frechet_distance"] == pytest.approx(49 * once)


def test_any_cut_into_batches_gives_the_same():
    real, generated = features(60, 5), features(60, 5, phase=0.3)
    whole = of_rows(real, generated)["frechet_distance"]
    for cuts in ((1,), (10, 20, 59), range(1, 60), (30, 30)):
        cut = of_rows(real, generated, *cuts)["frechet_distance"]
        assert cut == pytest.approx(whole, rel=1e-10)


def test_a_large_mean_costs_no_digits():
    rows = features(500, 3)
    moments = Moments()
    for batch in np.split(rows + 1e6, 50):
        moments.update(batch)
    np.testing.assert_allclose(
        moments.covariance(), np.cov(rows, rowvar=False), rtol=1e-8
    )


def test_pictures_go_through_the_extractor():
    extractor, distance = MeanPixels(), FrechetDistance(MeanPixels())
    real, generated = pictures(6), pictures(6, phase=0.5)
    distance.update(real, real=True)
    distance.update(generated, real=False)
    result = distance.result()
    assert result == of_rows(extractor(real), extractor(generated))
    assert result["extractor"] == "mean pixels" and result["fingerprint"] == "0" * 64


def test_true_statistics_can_be_kept(tmp_path):
    real, generated = features(40, 5), features(30, 5, phase=0.3)
    path = tmp_path / "real.npz"
    distance = FrechetDistance(MeanPixels())
    with pytest.raises(ValueError, match="true pictures to save: received none"):
        distance.save_real(path)
    distance.update_features(real, real=True)
    distance.save_real(path)
    again = FrechetDistance(MeanPixels())
    again.load_real(path)
    again.update_features(generated, real=False)
    assert again.result() == of_rows(real, generated)
    other = FrechetDistance(MeanPixels())
    other.extractor.fingerprint = "1" * 64
    with pytest.raises(ValueError, match="received .*real.npz' of 'mean pixels', 000"):
        other.load_real(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="must be a file of `save_real`"):
        again.load_real(path)
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(ValueError, match="other contents"):
        again.load_real(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        again.load_real(tmp_path / "nowhere.npz")


def test_a_state_goes_on():
    real, generated = features(40, 5), features(30, 5, phase=0.3)
    first = FrechetDistance(MeanPixels())
    first.load_state(first.state())  # of nothing
    first.update_features(real[:20], real=True)
    second = FrechetDistance(MeanPixels())
    second.load_state(first.state())
    second.update_features(real[20:], real=True)
    second.update_features(generated[:20], real=False)
    second.update_features(generated[20:], real=False)
    assert second.result() == of_rows(real, generated, 20)


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.zeros(4), r"must be \(B, D\): received \(4,\)"),
        (np.full((2, 3), np.nan), "must be finite"),
        (np.zeros((2, 4)), r"must be \(B, 3\), as before: received \(2, 4\)"),
    ],
)
def test_wrong_features(rows, message):
    distance = FrechetDistance(MeanPixels())
    distance.update_features(np.ones((2, 3)), real=True)
    with pytest.raises(ValueError, match=message):
        distance.update_features(rows, real=True)


def test_too_few_pictures():
    distance = FrechetDistance(MeanPixels())
    distance.update_features(features(4, 3), real=True)
    distance.update_features(features(1, 3), real=False)
    with pytest.raises(ValueError, match="at least 2 generated pictures: received 1"):
        distance.result()
