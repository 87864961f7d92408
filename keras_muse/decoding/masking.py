"""Which tokens are masked: the mask rate of training and its random positions."""

import math

from keras import ops

__all__ = ["mask_rate", "random_mask"]


def mask_rate(noise):
    """The share of tokens that training masks.

    Muse, section 2.6: the rate r has the density (2 / pi) (1 - r^2)^(-1/2), which is
    that of cos(pi u / 2): E r = 2 / pi = .6366 and E r^2 = .5.

    Args:
        noise: (...) float32, uniform in [0, 1).

    Returns:
        (...) float32 in (0, 1].
    """
    return ops.cos(0.5 * math.pi * noise)


def random_mask(rate, noise):
    """Masks an exact share of random positions, a row at a time.

    Args:
        rate: (B,) float32 in [0, 1].
        noise: (B, N) float32, distinct within a row; orders the positions.

    Returns:
        (B, N) bool, true at `max(1, round(rate * N))` positions of each row.
    """
    num_tokens = noise.shape[1]
    counts = ops.maximum(ops.round(rate * num_tokens), 1.0)
    ranks = ops.argsort(ops.argsort(noise, axis=1), axis=1)
    return ops.cast(ranks, "float32") < counts[:, None]
