"""Features of pictures, which the distances between two sets of pictures compare.

A feature extractor is any object with

- `name`: str, what a result says of it;
- `fingerprint`: str, the SHA-256 of whatever decides the features;
- a call that takes pictures, (B, H, W, 3) uint8 of one size, and returns (B, D) float.

Numbers of two extractors are never comparable: results carry both strings.
"""

import hashlib
import json
import numbers

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_muse.models.compilation import compile_inference

__all__ = [
    "KerasFeatures",
    "check_pictures",
    "fingerprint_of",
    "keras_inception",
    "resize",
    "untrained_features",
]

# Said wherever the number is: it is a Frechet distance, and not the FID of papers.
NOT_FID = "not comparable with published FID"


class KerasFeatures:
    """The features of any Keras model.

    Args:
        model: `keras.Model` from (B, H, W, 3) float to (B, D), or to (B, h, w, D),
            whose mean over the picture is taken.
        name: str.
        size: optional int, or (H, W). Pictures are scaled to it by `resize`, the way of
            clean-fid. Defaults to the size of the model's input, and where that is not
            fixed to the pictures as they are.
        scale: float, or one a channel. The model sees `scale * pixel + offset`, where
            pixels are 0 to 255. Defaults to 1 / 255, which makes [0, 1].
        offset: float, or one a channel. Defaults to 0.

    Raises:
        ValueError: if `size`, `scale` or `offset` is none of these.

    Example:
    ```python
    model = keras.models.load_model("my_features.keras", compile=False)
    extractor = keras_muse.evaluation.KerasFeatures(model, "my features", size=224)
    distance = keras_muse.evaluation.FrechetDistance(extractor)
    ```
    """

    def __init__(self, model, name, size=None, scale=1 / 255, offset=0.0):
        if size is None and None not in model.input_shape[1:3]:
            size = model.input_shape[1:3]
        self.model = model
        self.name = name
        self.size = None if size is None else _as_size(size)
        self.scale = _per_channel("scale", scale)
        self.offset = _per_channel("offset", offset)
        settings = {
            "kind": "keras",
            "model": _architecture(model),
            "size": self.size,
            # Pictures of that size are not touched, so it is part of the size.
            "resize": None if self.size is None else "PIL bicubic, antialiased, float",
            "scale": self.scale,
            "offset": self.offset,
        }
        self.fingerprint = fingerprint_of(settings, model.weights)
        self._features = compile_inference(model, self._compute)

    def __call__(self, images):
        """(B, D) float32 array of pictures, (B, H, W, 3) uint8."""
        images = check_pictures(images)
        if self.size is not None:
            images = resize(images, self.size)
        pixels = images.astype("float32") * np.float32(self.scale)
        pixels = pixels + np.float32(self.offset)
        features = self._features(ops.convert_to_tensor(pixels))
        return np.asarray(ops.convert_to_numpy(features), "float32")

    def _compute(self, pixels):
        features = ops.cast(self.model(pixels, training=False), "float32")
        if len(features.shape) == 4:
            features = ops.mean(features, axis=(1, 2))
        if len(features.shape) != 2:
            raise ValueError(
                "`model` must return (B, D) or (B, h, w, D): received "
                f"{tuple(features.shape)}."
            )
        return features


def keras_inception(weights):
    """The features of `keras.applications.InceptionV3`, (B, 2048).

    It is another network than the one of the FID, with other weights and another
    resizing, so its numbers are good for comparing models among themselves, and not
    comparable with published FID; see `fid_inception`.

    Args:
        weights: str or path of a weights file without the top, or `"imagenet"`, which
            Keras downloads.

    Returns:
        `KerasFeatures`.

    Raises:
        ValueError: if there is no such file, or it has other weights.
    """
    model = keras.applications.InceptionV3(
        include_top=False,
        weights=str(weights),
        input_shape=(299, 299, 3),
        pooling="avg",
    )
    name = f"keras-inception-v3 ({NOT_FID})"
    return KerasFeatures(model, name, 299, scale=1 / 127.5, offset=-1.0)


def untrained_features():
    """The features of a small network that was never trained, (B, 128).

    Three convolutions of stride 2, then mean and deviation over the picture of 64
    channels: it sees edges, textures and colours. Its weights come from NumPy, so it is
    the same network on every backend, and it needs no file. Pictures have at least
    15 x 15 pixels, and are not resized.

    Returns:
        `KerasFeatures`.
    """
    images = keras.Input((None, None, 3), dtype="float32")
    maps, layers = images, []
    for filters in (32, 64, 64):
        layer = keras.layers.Conv2D(
            filters,
            3,
            2,
            activation="relu",
            data_format="channels_last",
            dtype="float32",
        )
        maps = layer(maps)
        layers.append(layer)
    features = ops.concatenate([ops.mean(maps, (1, 2)), ops.std(maps, (1, 2))], axis=-1)
    model = keras.Model(images, features)
    for index, layer in enumerate(layers):
        random = np.random.Generator(np.random.Philox(key=[0, index]))
        shape = layer.kernel.shape
        deviation = np.sqrt(2.0 / np.prod(shape[:-1]))
        kernel = random.standard_normal(tuple(shape)) * deviation
        layer.kernel.assign(kernel.astype("float32"))
    return KerasFeatures(model, f"untrained network ({NOT_FID})")


def resize(images, size):
    """Pictures of another size, as clean-fid makes them (arXiv 2104.11222).

    PIL's bicubic filter, which is antialiased, on each channel as floats: nothing is
    rounded or clipped. Pictures of that size stay as they are.

    Args:
        images: (B, H, W, 3) uint8.
        size: (H, W).

    Returns:
        (B, H, W, 3) float32 in about [0, 255].
    """
    images = images.astype("float32")
    if images.shape[1:3] == tuple(size):
        return images
    resized = np.empty((len(images), *size, 3), "float32")
    for image, out in zip(images, resized):
        for channel in range(3):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            out[..., channel] = plane.resize(size[::-1], Image.Resampling.BICUBIC)
    return resized


def check_pictures(images):
    """Pictures as an array.

    Raises:
        ValueError: if they are not (B, H, W, 3) uint8.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            "`images` must be (B, H, W, 3) uint8: received "
            f"{images.shape} {images.dtype}."
        )
    return images


def fingerprint_of(settings, arrays=()):
    """SHA-256 of settings and numbers.

    Args:
        settings: dict that JSON can hold.
        arrays: arrays or weights; they count as float32.

    Returns:
        str, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        array = np.asarray(ops.convert_to_numpy(array), "<f4")
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _as_size(size):
    sides = (size, size) if isinstance(size, numbers.Real) else tuple(size)
    whole = all(isinstance(side, numbers.Integral) and side >= 1 for side in sides)
    if len(sides) != 2 or not whole:
        raise ValueError(
            f"`size` must be an int or (H, W), at least 1: received {size!r}."
        )
    return tuple(int(side) for side in sides)


def _per_channel(name, value):
    """A list of three floats."""
    values = np.atleast_1d(np.asarray(value, "float64"))
    if values.shape not in ((1,), (3,)) or not np.all(np.isfinite(values)):
        raise ValueError(
            f"`{name}` must be a finite float, or one for each of 3 channels: received "
            f"{value!r}."
        )
    return np.broadcast_to(values, 3).tolist()


def _architecture(model):
    """What a model computes, as text without the names that Keras counts up."""
    text = json.dumps(
        keras.saving.serialize_keras_object(model), sort_keys=True, default=str
    )
    for index, name in enumerate(_names(model)):
        text = text.replace(json.dumps(name), json.dumps(f"#{index}"))
    return text


def _names(model):
    """Of the model and all that is in it, in order, each once."""
    names = [model.name]
    for part in getattr(model, "operations", model.layers):
        inside = _names(part) if isinstance(part, keras.Model) else [part.name]
        names += inside
    return list(dict.fromkeys(names))
