"""PSNR, SSIM, and the measures of an image tokenizer."""

import numpy as np
import pytest

from keras_muse.evaluation import (
    FrechetDistance,
    ReconstructionQuality,
    evaluate_tokenizer,
    psnr,
    ssim,
)
from keras_muse.evaluation.reconstruction import make_reconstruct, to_uint8
from tests.evaluation.extractors import MeanPixels
from tests.evaluation.given import pictures
from tests.tools import on_one_backend, tiny_backbone


@pytest.fixture(scope="module")
def vqgan():
    return tiny_backbone().stages[0].image_tokenizer


@on_one_backend
def test_they_are_those_of_torchmetrics():
    # `golden.py`: torchmetrics 1.9.0, which has its logarithm in float32.
    images, originals = pictures(3), pictures(3, phase=0.05)
    np.testing.assert_allclose(
        psnr(images, originals),
        [38.00858298619874, 38.53343366100389, 37.96656263382332],
        rtol=1e-6,
    )
    expected = [0.9978460631179645, 0.9980167545421087, 0.9982745232793757]
    np.testing.assert_allclose(ssim(images, originals), expected, rtol=1e-10)
    np.testing.assert_allclose(ssim(originals, images), expected, rtol=1e-10)
    # Floats in [0, 1] are the same pictures.
    np.testing.assert_allclose(ssim(images / 255.0, originals), expected, rtol=1e-10)


@on_one_backend
def test_ssim_is_the_slow_one():
    first, second = pictures(1, 13, 12)[0] / 255.0, pictures(1, 13, 12, 1.0)[0] / 255.0
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(3):
        for x in range(2):
            for channel in range(3):
                a = first[y : y + 11, x : x + 11, channel]
                b = second[y : y + 11, x : x + 11, channel]
                ma, mb = np.sum(window * a), np.sum(window * b)
                va, vb = np.sum(window * (a - ma) ** 2), np.sum(window * (b - mb) ** 2)
                cab = np.sum(window * (a - ma) * (b - mb))
                one = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
                values.append(one * (2 * cab + 9e-4) / (va + vb + 9e-4))
    assert ssim(first[None], second[None])[0] == pytest.approx(np.mean(values))


@on_one_backend
def test_equal_pictures_and_small_ones():
    images = pictures(2)
    np.testing.assert_array_equal(psnr(images, images), [100.0, 100.0])
    np.testing.assert_allclose(ssim(images, images), [1.0, 1.0], rtol=1e-14)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels: received 10 x 40"):
        ssim(images[:, :10], images[:, :10])


def test_floats_are_rounded_to_bytes():
    values = np.array([-0.1, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.2])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 1, 255, 255])


def test_a_tokenizer(vqgan):
    images = pictures(6, 32, 48)
    batches = np.split(images, 3)
    result = evaluate_tokenizer(vqgan, iter(batches), MeanPixels())
    reconstruct = make_reconstruct(vqgan)
    tokens, decoded = map(np.concatenate, zip(*map(reconstruct, batches)))
    assert tokens.shape == (6, 24) and decoded.shape == images.shape
    assert result["psnr"] == pytest.approx(psnr(decoded, images).mean(), rel=1e-5)
    assert result["ssim"] == pytest.approx(ssim(decoded, images).mean(), rel=1e-5)
    p = np.bincount(tokens.ravel(), minlength=32) / tokens.size
    assert result["codebook_usage"] == pytest.approx(np.mean(p > 0))
    p = p[p > 0]
    assert result["codebook_perplexity"] == pytest.approx(
        np.exp(-np.sum(p * np.log(p))), rel=1e-5
    )
    assert result["pictures"] == 6
    distance = FrechetDistance(MeanPixels())
    distance.update(images, real=True)
    distance.update(to_uint8(decoded), real=False)
    assert result["frechet_distance"] == pytest.approx(
        distance.result()["frechet_distance"], rel=1e-6
    )
    assert result["extractor"] == "mean pixels"


@on_one_backend
def test_a_state_goes_on(vqgan):
    images = pictures(4, 32, 32)
    tokens, decoded = make_reconstruct(vqgan)(images)

    def quality(*parts, state=None):
        found = ReconstructionQuality(32, MeanPixels())
        if state is not None:
            found.load_state(state)
        for part in parts:
            found.update(images[part], decoded[part], tokens[part])
        return found

    first, second = slice(0, 2), slice(2, 4)
    half = quality(first)
    whole = quality(second, state=half.state()).result()
    assert whole == quality(first, second).result()
    # Without an extractor there is no distance.
    plain = ReconstructionQuality(32)
    with pytest.raises(ValueError, match="at least one picture: received none"):
        plain.result()
    plain.update(images, decoded, tokens)
    assert "frechet_distance" not in plain.result()


@on_one_backend
def test_features_that_are_known_are_not_computed_again(vqgan):
    images, extractor = pictures(2, 32, 32), MeanPixels()
    tokens, decoded = make_reconstruct(vqgan)(images)
    features = extractor(images)
    quality = ReconstructionQuality(32, extractor)
    quality.update(images, decoded, tokens, features)
    assert extractor.calls == 2
    np.testing.assert_allclose(quality.distance.real.mean, features.mean(0))
