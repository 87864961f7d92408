"""Features and pictures that a formula gives, the same everywhere and for ever."""

import numpy as np

__all__ = ["features", "pictures"]


def features(count, width, phase=0.0, scale=1.0):
    """(count, width) float64: sines of frequencies that have no common period."""
    places = np.arange(1, count + 1)[:, None]
    frequencies = np.sqrt(np.arange(width) + 2.0)
    return scale * np.sin(places * frequencies + phase) + 0.3 * np.cos(places + phase)


def pictures(count, height=32, width=40, phase=0.0):
    """(count, height, width, 3) uint8: waves."""
    index, y, x, channel = np.meshgrid(
        np.arange(count),
        np.arange(height),
        np.arange(width),
        np.arange(3),
        indexing="ij",
    )
    waves = np.sin(0.31 * x + 0.17 * y * (index + 1) + channel + phase)
    waves = waves + 0.5 * np.cos(0.9 * x * y / height + phase)
    return np.uint8(np.round(127.5 + 80.0 * waves))
