"""A fixed codebook: rounding a few bounded dimensions (arXiv 2309.15505)."""

import math

import numpy as np
from keras import ops

from keras_muse.image_tokenizer.quantizers import Quantizer, straight_through
from keras_muse.layers import register

__all__ = ["FiniteScalarQuantizer"]


@register
class FiniteScalarQuantizer(Quantizer):
    """Rounds each dimension of an embedding to one of a few levels.

    Dimension i is bounded by a tanh to `levels[i]` integers, which are scaled to about
    [-1, 1]. The codebook is the grid of all combinations: it has no weights, needs no
    further loss and cannot collapse (arXiv 2309.15505, section 3.1).

    Args:
        levels: sequence of int, each at least 2. Levels of each dimension; the paper
            recommends (8, 6, 5) for about 2^8 codes, (8, 5, 5, 5) for 2^10, (7, 5, 5,
            5, 5) for 2^12 and (8, 8, 8, 5, 5, 5) for 2^16. Defaults to (8, 5, 5, 5).
        **kwargs: `name`, `trainable` of a Keras layer.

    Raises:
        ValueError: `levels` is empty, or holds a number below 2.
    """

    def __init__(self, levels=(8, 5, 5, 5), **kwargs):
        super().__init__(**kwargs)
        levels = tuple(int(level) for level in levels)
        if not levels or min(levels) < 2:
            raise ValueError(
                f"`levels` must be integers of at least 2, got {list(levels)}."
            )
        self.levels = levels
        sizes = np.array(levels)
        self._levels = sizes.astype("int32")
        self._strides = np.cumprod([1, *levels[:-1]]).astype("int32")
        self._half_width = (sizes // 2).astype("float32")
        # Slightly more than half the range, so that the outermost levels are reached
        # without an infinite tanh argument.
        self._reach = ((sizes - 1) * (1 + 1e-3) / 2).astype("float32")
        self._offset = np.where(sizes % 2 == 0, 0.5, 0.0).astype("float32")
        self._shift = np.arctanh(self._offset / self._reach).astype("float32")

    @property
    def codebook_size(self):
        return math.prod(self.levels)

    @property
    def embedding_dim(self):
        return len(self.levels)

    def build(self, input_shape):
        self.check_width(input_shape)
        self.built = True

    def encode(self, embeddings):
        integers = ops.round(self._bound(ops.cast(embeddings, "float32")))
        digits = ops.cast(ops.add(integers, self._half_width), "int32")
        return ops.cast(ops.sum(ops.multiply(digits, self._strides), axis=-1), "int32")

    def decode(self, ids):
        ids = ops.cast(ids, "int32")[..., None]
        digits = ops.mod(ops.floor_divide(ids, self._strides), self._levels)
        return ops.divide(ops.cast(digits, "float32"), self._half_width) - 1.0

    def call(self, embeddings, training=False):
        bounded = self._bound(embeddings)
        codes = straight_through(bounded, ops.round(bounded))
        return ops.divide(codes, self._half_width), self.encode(embeddings)

    def _bound(self, embeddings):
        """Embeddings squashed to the range of their levels, (..., D)."""
        bounded = ops.multiply(ops.tanh(ops.add(embeddings, self._shift)), self._reach)
        return ops.subtract(bounded, self._offset)

    def get_config(self):
        return {**super().get_config(), "levels": list(self.levels)}
