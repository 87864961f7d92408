"""Pictures as the image tokenizers take them."""

import keras
from keras import ops

__all__ = ["downscale", "unit_images"]


def unit_images(images):
    """Images in [0, 1] from `uint8` images in [0, 255] or float images in [0, 1].

    Args:
        images: (B, H, W, 3), uint8 or float.

    Returns:
        (B, H, W, 3) float32.
    """
    images = ops.convert_to_tensor(images)
    scale = 255.0 if keras.backend.standardize_dtype(images.dtype) == "uint8" else 1.0
    return ops.cast(images, "float32") / scale


def downscale(images, height, width):
    """Smaller images: the mean of what each pixel covers where sizes divide.

    Other sizes are reached by antialiased bilinear interpolation, whose filter is
    wider: it would blur what a mean keeps sharp.

    Args:
        images: (B, H, W, 3), uint8 in [0, 255] or float in [0, 1].
        height: int, at most H.
        width: int, at most W.

    Returns:
        (B, height, width, 3) float32 in [0, 1].

    Raises:
        ValueError: The images are smaller than what is asked for.
    """
    images = unit_images(images)
    rows, columns = images.shape[1:3]
    if rows < height or columns < width:
        raise ValueError(
            f"`images` must be at least {height} x {width} pixels: received "
            f"{rows} x {columns}."
        )
    if (rows, columns) == (height, width):
        return images
    if rows % height == 0 and columns % width == 0:
        factors = (rows // height, columns // width)
        return ops.average_pool(
            images, factors, strides=factors, data_format="channels_last"
        )
    resized = ops.image.resize(
        images,
        (height, width),
        interpolation="bilinear",
        antialias=True,
        data_format="channels_last",
    )
    return ops.clip(resized, 0.0, 1.0)
