"""How well an image tokenizer gives back what it was shown."""

import keras
import numpy as np
from keras import ops

from keras_muse.evaluation.distances import FrechetDistance
from keras_muse.image_tokenizer import CodebookPerplexity, CodebookUsage
from keras_muse.models.compilation import compile_inference

__all__ = [
    "ReconstructionQuality",
    "evaluate_tokenizer",
    "make_reconstruct",
    "psnr",
    "ssim",
    "to_uint8",
]

WINDOW, SIGMA = 11, 1.5


class ReconstructionQuality:
    """PSNR, SSIM, the Frechet distance to the originals, and the use of the codebook.

    Memory does not grow with the number of pictures.

    Args:
        codebook_size: int. Number of codes V.
        extractor: optional feature extractor. Without one there is no Frechet distance;
            on the features of `FIDInception` it is the rFID of papers.
    """

    def __init__(self, codebook_size, extractor=None):
        self.usage = CodebookUsage(codebook_size)
        self.perplexity = CodebookPerplexity(codebook_size)
        self.distance = None if extractor is None else FrechetDistance(extractor)
        self.count, self.sums = 0, np.zeros(2)

    def update(self, images, reconstructions, tokens, features=None):
        """Takes pictures before and after.

        Args:
            images: (B, H, W, 3) uint8.
            reconstructions: (B, H, W, 3) float in [0, 1].
            tokens: (B, N) int in `[0, codebook_size)`.
            features: optional (B, D) float, of the images, if they are known.
        """
        self.usage.update_state(ops.convert_to_tensor(tokens))
        self.perplexity.update_state(ops.convert_to_tensor(tokens))
        self.count += len(images)
        self.sums[0] += psnr(reconstructions, images).sum()
        self.sums[1] += ssim(reconstructions, images).sum()
        if self.distance is not None:
            if features is None:
                features = self.distance.extractor(images)
            self.distance.update_features(features, real=True)
            self.distance.update(to_uint8(reconstructions), real=False)

    def result(self):
        """Dict of the numbers, and of what they are made of."""
        if not self.count:
            raise ValueError("There must be at least one picture: received none.")
        result = {
            "psnr": float(self.sums[0] / self.count),
            "ssim": float(self.sums[1] / self.count),
            "codebook_usage": float(self.usage.result()),
            "codebook_perplexity": float(self.perplexity.result()),
            "pictures": self.count,
        }
        if self.distance is not None:
            # The same pictures, so their numbers need not be said twice.
            of_distance = self.distance.result()
            del of_distance["real"], of_distance["generated"]
            result.update(of_distance)
        return result

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        state = {
            "count": np.array(self.count),
            "sums": self.sums,
            "codes": np.asarray(ops.convert_to_numpy(self.usage.counts)),
        }
        if self.distance is not None:
            state.update(self.distance.state())
        return state

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self.count, self.sums = int(state["count"]), state["sums"].copy()
        self.usage.counts.assign(state["codes"])
        self.perplexity.counts.assign(state["codes"])
        if self.distance is not None:
            self.distance.load_state(state)


def evaluate_tokenizer(vqgan, batches, extractor=None, verbose=0):
    """Measures an image tokenizer on a stream of pictures.

    Args:
        vqgan: `keras_muse.image_tokenizer.VQGAN`.
        batches: iterable of (B, H, W, 3) uint8, sides that the downsampling factor
            divides, at least 11 pixels each.
        extractor: optional feature extractor, see `ReconstructionQuality`.
        verbose: int. 1 shows a progress bar. Defaults to 0.

    Returns:
        dict of `ReconstructionQuality.result`.

    Raises:
        ValueError: if there is no picture, or a size is wrong.

    Example:
    ```python
    records = keras_muse.data.read_folder("pictures", image_size=256, captions=False)
    batches = (
        batch["images"].numpy()
        for batch in keras_muse.data.tf_batches(records, 32, shuffle=False, repeat=1)
    )
    print(keras_muse.evaluation.evaluate_tokenizer(vqgan, batches))
    ```
    """
    reconstruct = make_reconstruct(vqgan)
    quality = ReconstructionQuality(vqgan.codebook_size, extractor)
    bar = keras.utils.Progbar(None, unit_name="batch", verbose=verbose)
    for images in batches:
        tokens, reconstructions = reconstruct(images)
        quality.update(images, reconstructions, tokens)
        bar.add(1)
    return quality.result()


def make_reconstruct(vqgan):
    """A compiled way through the tokens of an image tokenizer.

    Args:
        vqgan: `keras_muse.image_tokenizer.VQGAN`.

    Returns:
        function from (B, H, W, 3) uint8 to tokens (B, N) int32 and reconstructions
        (B, H, W, 3) float32 in [0, 1], both arrays.
    """

    def compute(images):
        tokens = vqgan.encode(images)
        factor = vqgan.downsampling_factor
        grid = (images.shape[1] // factor, images.shape[2] // factor)
        return tokens, vqgan.decode(tokens, grid)

    compiled = compile_inference(vqgan, compute)

    def reconstruct(images):
        tokens, pixels = compiled(ops.convert_to_tensor(images))
        tokens = np.asarray(ops.convert_to_numpy(tokens), "int32")
        return tokens, np.asarray(ops.convert_to_numpy(pixels), "float32")

    return reconstruct


def psnr(images, originals):
    """Peak signal-to-noise ratio of each picture, in decibels.

    Args:
        images: (B, H, W, 3), uint8, or float in [0, 1].
        originals: (B, H, W, 3), likewise.

    Returns:
        (B,) float64. Equal pictures count as 100 dB.
    """
    images, originals = _unit(images), _unit(originals)
    error = np.mean((images - originals) ** 2, axis=(1, 2, 3))
    return -10.0 * np.log10(np.maximum(error, 1e-10))


def ssim(images, originals):
    """Structural similarity of each picture (Wang et al. 2004).

    Means, variances and covariance in a Gaussian window of 11 x 11 pixels and deviation
    1.5, wherever it lies inside the picture; K1 = 0.01, K2 = 0.03; the mean over places
    and channels. torchmetrics continues pictures beyond their edges by reflection and
    counts that, too, so its number is a little another one.

    Args:
        images: (B, H, W, 3), uint8, or float in [0, 1]; H and W at least 11.
        originals: (B, H, W, 3), likewise.

    Returns:
        (B,) float64, at most 1, which equal pictures have.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    first, second = _unit(images), _unit(originals)
    if min(first.shape[1:3]) < WINDOW:
        raise ValueError(
            f"`images` must have at least {WINDOW} x {WINDOW} pixels: received "
            f"{first.shape[1]} x {first.shape[2]}."
        )
    means = _blur(first), _blur(second)
    variances = [_blur(x * x) - mean**2 for x, mean in zip((first, second), means)]
    covariance = _blur(first * second) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2.0 * means[0] * means[1] + c1) * (2.0 * covariance + c2)
    squares = means[0] ** 2 + means[1] ** 2
    return np.mean(
        numerator / ((squares + c1) * (variances[0] + variances[1] + c2)),
        axis=(1, 2, 3),
    )


def to_uint8(images):
    """uint8 pictures of floats in [0, 1], rounded."""
    return np.uint8(np.round(np.clip(images, 0.0, 1.0) * 255.0))


def _unit(images):
    images = np.asarray(images)
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    return images.astype("float64") / scale


def _blur(images):
    """Weighted means of the windows inside: (B, H - 10, W - 10, 3)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        length = images.shape[axis] - WINDOW + 1
        index = [slice(None)] * 4
        total = 0.0
        for start, weight in enumerate(weights):
            index[axis] = slice(start, start + length)
            total = total + weight * images[tuple(index)]
        images = total
    return images
