import keras
import numpy as np
import pytest

from keras_muse.image_tokenizer import PSNR, CodebookPerplexity, CodebookUsage
from tests.image_tokenizer.probes import images


def test_psnr_equals_its_formula():
    x, y = images(5, 8, seed=1), images(5, 8, seed=2)
    error = ((x - y) ** 2).mean((1, 2, 3))
    metric = PSNR()
    metric.update_state(x[:2], y[:2])
    metric.update_state(x[2:], y[2:])
    assert float(metric.result()) == pytest.approx(
        (-10 * np.log10(error)).mean(), rel=1e-5
    )


def test_psnr_clips_and_is_finite():
    x = np.ones((1, 4, 4, 3), "float32")
    metric = PSNR()
    metric.update_state(x, x * 1.5)
    assert float(metric.result()) == pytest.approx(100.0)


def test_usage_is_the_share_seen_since_reset():
    metric = CodebookUsage(8)
    metric.update_state(np.array([[1, 1], [2, 3]], "int32"))
    metric.update_state(np.array([[3], [7]], "int32"))
    assert float(metric.result()) == pytest.approx(4 / 8)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_perplexity_equals_its_formula():
    metric = CodebookPerplexity(8)
    assert float(metric.result()) == 0.0
    ids = np.array([0, 0, 0, 1, 1, 5], "int32")
    metric.update_state(ids[:2])
    metric.update_state(ids[2:])
    p = np.array([3, 2, 1]) / 6
    assert float(metric.result()) == pytest.approx(
        np.exp(-(p * np.log(p)).sum()), rel=1e-5
    )
    metric.reset_state()
    metric.update_state(np.arange(8, dtype="int32"))
    assert float(metric.result()) == pytest.approx(8.0, rel=1e-5)


@pytest.mark.parametrize("metric", [CodebookUsage(8), CodebookPerplexity(8), PSNR()])
def test_config_round_trip(metric):
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert copy.get_config() == metric.get_config()
