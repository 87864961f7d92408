"""What a person may pass as pictures and masks, turned into plain arrays."""

import os
import reprlib

import keras
import numpy as np
from PIL import Image, ImageOps

__all__ = ["as_masks", "as_output", "as_pictures"]

FLOATS = ("float16", "float32", "float64")


def as_pictures(images):
    """The pictures that were passed to an editing task.

    Args:
        images: one picture, a list or tuple of pictures, or a batch (B, H, W, 3). A
            picture is an (H, W, 3) array or tensor of any backend, uint8 or float in
            [0, 1]; the path of a file; or a `PIL.Image.Image` of any mode. Of files and
            PIL images, transparency is laid over white and EXIF orientation is applied;
            of an animated file, the first frame is taken. The caller's objects are
            never changed.

    Returns:
        (pictures, is_single): a list of (H, W, 3) uint8 arrays, copies whose sizes may
        differ; and whether one single picture was passed.

    Raises:
        TypeError: for objects and dtypes that are none of these.
        ValueError: if there is no picture, a shape is wrong or has a side of 0, floats
            are not finite or outside [0, 1], or a file cannot be read.
        FileNotFoundError: if there is no such file.
    """
    items, is_single = _items("images", images, channels=3)
    return [_as_bytes(name, item) for name, item in items], is_single


def as_masks(masks, pictures):
    """The mask of every picture.

    True, white, is repainted and False, black, is kept, as in
    `keras_hub.models.Inpaint`.

    Args:
        masks: one mask, which serves all pictures, or a list, tuple or batch with one
            for each. A mask is an (H, W) or (H, W, 1) array or tensor of any backend,
            bool, uint8 (white from 128) or float in [0, 1] (white from 0.5); the path
            of a file; or a `PIL.Image.Image`. An array with three axes is one mask if
            the last one is 1, and a batch (B, H, W) if not. Files and PIL images are
            turned to grey as PIL's mode "L" does; their transparency is laid over
            black, so what is transparent is kept.
        pictures: list of (H, W, 3) arrays, as `as_pictures` returns them.

    Returns:
        list of (H, W) bool arrays, one for each picture.

    Raises:
        TypeError: for objects and dtypes that are none of these.
        ValueError: as `as_pictures`; if there is not one mask for each picture; if a
            mask has not the size of its picture; or if uint8 masks hold 0 and 1, which
            would both be black.
        FileNotFoundError: if there is no such file.
    """
    items, is_single = _items("masks", masks, channels=1)
    if not is_single and len(items) != len(pictures):
        raise ValueError(
            f"`masks` must be one mask or one for each of the {len(pictures)} images: "
            f"received {len(items)}. A mask has one channel, its shape is (H, W) or "
            "(H, W, 1)."
        )
    found = [_as_bools(name, item) for name, item in items]
    names = [name for name, _ in items]
    if is_single:
        names = names * len(pictures)
        found = found + [found[0].copy() for _ in pictures[1:]]
    shared = is_single and len(pictures) > 1
    for i, (name, mask, picture) in enumerate(zip(names, found, pictures)):
        if mask.shape != picture.shape[:2]:
            (height, width), received = picture.shape[:2], mask.shape
            image = f"`images[{i}]`" if shared else "its image"
            raise ValueError(
                f"`{name}` must have the size of {image}, {height} x {width} (height x "
                f"width): received {received[0]} x {received[1]}."
            )
    return found


def as_output(pictures, is_single):
    """What a person gets back for the pictures of `as_pictures`.

    Args:
        pictures: list of (H, W, 3) uint8 arrays.
        is_single: bool. Whether one single picture was passed.

    Returns:
        The one array if `is_single`; else a (B, H, W, 3) array, or the list if the
        sizes differ.
    """
    if is_single:
        return pictures[0]
    if len({picture.shape for picture in pictures}) == 1:
        return np.stack(pictures)
    return list(pictures)


def _items(name, value, channels):
    """The (name, (H, W, channels) array) of each item, and whether it is one alone."""
    is_single = False
    if isinstance(value, (list, tuple)):
        arrays = [
            _as_array(f"{name}[{i}]", item, channels) for i, item in enumerate(value)
        ]
    else:
        arrays = _as_array(name, value, channels)
        of_masks = channels == 1 and arrays.ndim == 3 and arrays.shape[-1] != 1
        is_single = not (arrays.ndim > 3 or of_masks)
        arrays = [arrays] if is_single else list(arrays)
    if not arrays:
        raise ValueError(f"`{name}` must hold at least one {name[:-1]}: received none.")
    names = [name] if is_single else [f"{name}[{i}]" for i in range(len(arrays))]
    return [(n, _shaped(n, a, channels)) for n, a in zip(names, arrays)], is_single


def _shaped(name, array, channels):
    shape = array.shape
    if channels == 1 and array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] != channels:
        right = "(H, W, 3)" if channels == 3 else "(H, W) or (H, W, 1)"
        raise ValueError(f"`{name}` must have the shape {right}: received {shape}.")
    if 0 in shape:
        raise ValueError(f"`{name}` must have at least one pixel: received {shape}.")
    return array


def _as_array(name, value, channels):
    """A path, PIL image, array or tensor as an array of an accepted dtype."""
    if isinstance(value, (str, os.PathLike)):
        return _read(name, value, channels)
    if isinstance(value, Image.Image):
        return _from_image(name, value, repr(value), channels)
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(
            f"`{name}` must be an array, a tensor, a path, a PIL image or a list of "
            f"them: received {reprlib.repr(value)} of type {type(value).__name__}."
        )
    accepted = ("uint8", *FLOATS) if channels == 3 else ("bool", "uint8", *FLOATS)
    array = _as_numpy(value)
    dtype = value.dtype if array is None else array.dtype
    if array is None or array.dtype.name not in accepted:
        raise TypeError(
            f"`{name}` must have one of the dtypes {', '.join(accepted)}: received "
            f"{dtype} in an object of type {type(value).__name__}. uint8 runs from 0 "
            "to 255, floats from 0 to 1."
        )
    return array


def _as_numpy(value):
    """An array or tensor as an array; `None` if it has no values or no such dtype."""
    if isinstance(value, keras.KerasTensor):
        return None
    try:
        if isinstance(value, keras.Variable):
            value = value.value
        # `keras.ops` knows the tensors of its own backend only.
        if hasattr(value, "detach"):
            value = value.detach().cpu()
        if hasattr(value, "numpy"):
            value = value.numpy()
        if not isinstance(value, np.ndarray):
            value = keras.ops.convert_to_numpy(value)
    except Exception:
        # Symbolic tensors and dtypes unknown to numpy: each backend raises its own.
        return None
    return value


def _read(name, path, channels):
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"`{name}` must be the path of a picture file: there is no {path!r}."
        )
    # Opening a pipe would wait for ever.
    if not os.path.isfile(path):
        raise ValueError(
            f"`{name}` must be the path of a picture file: {path!r} is not a file."
        )
    try:
        image = Image.open(path)
    except Exception as error:
        raise _unreadable(name, repr(path), error) from error
    with image:
        return _from_image(name, image, repr(path), channels)


def _from_image(name, image, source, channels):
    """A PIL image as a uint8 array (H, W, channels)."""
    # PIL hands EPS, which is a program and need not end, to Ghostscript.
    if image.format == "EPS":
        raise _unreadable(name, source, "EPS is not supported")
    try:
        image = _as_rgb(ImageOps.exif_transpose(image), over_white=channels == 3)
    except Exception as error:
        # Broken files make PIL raise many types, also when a lazy image is loaded.
        raise _unreadable(name, source, error) from error
    array = np.asarray(image if channels == 3 else image.convert("L"))
    return array if channels == 3 else array[..., None]


def _unreadable(name, source, reason):
    return ValueError(
        f"`{name}` must be a picture that PIL can read: received {source}, which "
        f"failed with: {reason}."
    )


def _as_rgb(image, over_white):
    if 0 in image.size:
        raise ValueError(f"it has no pixels, its size is {image.size}")
    # PIL would clip the values of these modes, most of them to white.
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    elif image.mode == "F":
        image = Image.fromarray(_as_bytes("image", np.asarray(image)))
    elif image.mode == "I" and not _within(np.asarray(image), 255):
        raise ValueError("integers of mode 'I' must lie in [0, 255]")
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white" if over_white else "black")
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _as_bytes(name, array):
    """uint8, or floats in [0, 1], as a uint8 copy."""
    if array.dtype == "uint8":
        return np.array(array, order="C")
    _check_floats(name, array)
    # float16 could not tell all halves apart.
    wide = array.astype("float64" if array.dtype == "float64" else "float32")
    return np.ascontiguousarray(np.rint(wide * 255).astype("uint8"))


def _as_bools(name, array):
    """An accepted (H, W, 1) array as an (H, W) bool copy."""
    array = array[..., 0]
    if array.dtype == "bool":
        return np.array(array, order="C")
    if array.dtype != "uint8":
        _check_floats(name, array)
        return np.ascontiguousarray(array >= 0.5)
    if array.max() == 1:
        raise ValueError(
            f"`{name}` must have white at 255 if it is uint8: received no value above "
            "1. Masks of 0 and 1 may be bool or float."
        )
    return np.ascontiguousarray(array >= 128)


def _check_floats(name, array):
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite: received NaN or infinite values.")
    if not _within(array, 1):
        raise ValueError(
            f"`{name}` must lie in [0, 1] if it is float: received values from "
            f"{array.min()} to {array.max()}. `(x + 1) / 2` maps from [-1, 1], "
            "`x / 255` from [0, 255]."
        )


def _within(array, limit):
    return array.min() >= 0 and array.max() <= limit
