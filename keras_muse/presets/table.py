"""The names of the built-in presets."""

import pathlib

from keras_muse.presets.architectures import ARCHITECTURES

__all__ = ["PRESETS", "describe", "names"]

_HERE = pathlib.Path(__file__).parent

PRESETS = {
    "muse_shapes": {
        "folder": _HERE / "muse_shapes",
        "description": (
            "The shapes world: one or two groups of coloured shapes with counts, "
            "sizes, relations and backgrounds. 128 x 128 pixels, two stages. Embedded "
            "in the package, trained by guides/train_muse_shapes.py."
        ),
        "image_size": (128, 128),
        "license": "Apache-2.0",
    },
}


def names():
    """The built-in presets: those with weights, then the paper's configurations.

    Returns:
        list of str.
    """
    return [*sorted(PRESETS), *sorted(ARCHITECTURES)]


def describe(name):
    """What is known of a built-in preset.

    Args:
        name: str.

    Returns:
        dict with `"description"` and `"license"`. If there are weights, also
        `"image_size"` (H, W) and `"path"`; otherwise `"class"` and its arguments, those
        `"published"` in the paper and those `"chosen"` here.

    Raises:
        ValueError: if the name is unknown; the message lists the names.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].describe()
    if name not in PRESETS:
        raise ValueError(f"`name` must be one of {names()}: received {name!r}.")
    entry = PRESETS[name]
    return {
        "description": entry["description"],
        "image_size": entry["image_size"],
        "license": entry["license"],
        "path": str(entry["folder"]),
    }
