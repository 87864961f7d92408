"""What the tests of the image tokenizer share."""

import keras
import numpy as np
from keras import ops

from keras_muse.image_tokenizer import VQGAN, VectorQuantizer
from tests.tools import set_weights

__all__ = ["gradient", "images", "set_tokenizer_weights", "tiny_vqgan"]


class _Probe(keras.Model):
    def __init__(self, function, x):
        super().__init__()
        self.function = function
        self.x = self.add_weight(shape=x.shape, initializer="zeros", name="x")
        self.x.assign(x)

    def call(self, inputs):
        return inputs

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        x = ops.convert_to_tensor(self.x)
        # The second term is a gradient of 0 where the function has none.
        return ops.sum(self.function(x)) + 0.0 * ops.sum(x)


def gradient(function, x):
    """Gradient of `sum(function(x))` by one step of SGD, on any backend."""
    probe = _Probe(function, np.asarray(x, "float32"))
    probe.compile(optimizer=keras.optimizers.SGD(1.0), run_eagerly=True)
    before = ops.convert_to_numpy(probe.x)
    probe.train_on_batch(np.zeros((1, 1), "float32"))
    return before - ops.convert_to_numpy(probe.x)


def images(count=4, size=8, seed=0):
    """Random images in [0, 1], smooth enough to be learnt."""
    height, width = np.broadcast_to(size, (2,))
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(count, -(-height // 4), -(-width // 4), 3))
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
    return fine[:, :height, :width].astype("float32")


def tiny_vqgan(quantizer=None, **kwargs):
    """A VQGAN with downsampling factor 4, unless told otherwise.

    It is the least that has a level and a residual block, because XLA compiles for
    long.
    """
    config = {
        "base_channels": 8,
        "channel_multipliers": (1, 2),
        "strides": (4,),
        "num_residual_blocks": (0, 1),
        "groups": 4,
        **kwargs,
    }
    return VQGAN(quantizer or VectorQuantizer(16, 4, revival_threshold=0.0), **config)


def set_tokenizer_weights(vqgan, seed=0, scale=0.2):
    """`tests.tools.set_weights`, and a usage that a trained codebook could have."""
    set_weights(vqgan, seed, scale)
    codebook = np.random.default_rng(seed).normal(size=vqgan.quantizer.codebook.shape)
    vqgan.quantizer.codebook.assign(codebook.astype("float32"))
    if vqgan.quantizer.update == "ema":
        vqgan.quantizer.usage.assign(np.ones(vqgan.codebook_size, "float32"))
