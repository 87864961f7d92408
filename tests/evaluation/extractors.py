"""A feature extractor that needs no model."""

__all__ = ["MeanPixels"]


class MeanPixels:
    """Means over blocks of a picture: (B, 4 * 4 * 3)."""

    name = "mean pixels"
    fingerprint = "0" * 64

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        count, height, width, _ = images.shape
        shape = (count, 4, height // 4, 4, width // 4, 3)
        return images.reshape(shape).mean((2, 4)).reshape(count, -1)
