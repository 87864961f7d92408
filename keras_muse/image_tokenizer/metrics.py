"""Metrics of an image tokenizer: how close its images are, how it uses its codes."""

import math

import keras
from keras import ops

from keras_muse.layers import register

__all__ = ["PSNR", "CodebookPerplexity", "CodebookUsage"]


@register
class PSNR(keras.metrics.Mean):
    """Mean peak signal-to-noise ratio of images in [0, 1], in decibels.

    `y_pred` is clipped to [0, 1] first. Equal images count as 100 dB.

    Call arguments of `update_state`:
        y_true: (B, H, W, 3) float in [0, 1].
        y_pred: (B, H, W, 3) float.
        sample_weight: (B,) float. Defaults to ones.
    """

    def __init__(self, name="psnr", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = ops.cast(y_true, "float32")
        y_pred = ops.clip(ops.cast(y_pred, "float32"), 0.0, 1.0)
        error = ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3))
        decibels = -10.0 / math.log(10.0) * ops.log(ops.maximum(error, 1e-10))
        return super().update_state(decibels, sample_weight)


class _Histogram(keras.metrics.Metric):
    """Counts how often each id of a codebook was seen since the last reset."""

    def __init__(self, codebook_size, name, **kwargs):
        super().__init__(name=name, **kwargs)
        self.codebook_size = codebook_size
        self.counts = self.add_variable(
            shape=(codebook_size,), initializer="zeros", name="counts"
        )

    def update_state(self, ids, y_pred=None, sample_weight=None):
        del y_pred, sample_weight
        ids = ops.reshape(ops.cast(ids, "int32"), (-1,))
        ones = ops.ones_like(ids, dtype="float32")
        self.counts.assign_add(ops.segment_sum(ones, ids, self.codebook_size))

    def get_config(self):
        return {**super().get_config(), "codebook_size": self.codebook_size}


@register
class CodebookUsage(_Histogram):
    """Share of the codebook that was seen since the last reset, in [0, 1].

    Args:
        codebook_size: int. Number of codes V.
        name: str. Defaults to `"codebook_usage"`.
        **kwargs: `dtype` of a Keras metric.

    Call arguments of `update_state`:
        ids: (...) int in `[0, codebook_size)`.
    """

    def __init__(self, codebook_size, name="codebook_usage", **kwargs):
        super().__init__(codebook_size, name, **kwargs)

    def result(self):
        return ops.mean(ops.cast(self.counts > 0, "float32"))


@register
class CodebookPerplexity(_Histogram):
    """Exponential of the entropy of the ids seen since the last reset, in [1, V].

    It is the size of a codebook that is used evenly and as much. 0 before any update.

    Args:
        codebook_size: int. Number of codes V.
        name: str. Defaults to `"codebook_perplexity"`.
        **kwargs: `dtype` of a Keras metric.

    Call arguments of `update_state`:
        ids: (...) int in `[0, codebook_size)`.
    """

    def __init__(self, codebook_size, name="codebook_perplexity", **kwargs):
        super().__init__(codebook_size, name, **kwargs)

    def result(self):
        total = ops.sum(self.counts)
        p = self.counts / ops.maximum(total, 1.0)
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-10)))
        return ops.where(total > 0, ops.exp(entropy), 0.0)
