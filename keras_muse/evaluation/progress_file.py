"""What a long evaluation has seen so far, in a file, to go on from."""

import contextlib
import json
import os

import numpy as np

from keras_muse.data import files

__all__ = ["check_settings", "load_progress", "remove", "save_progress"]

SETTINGS = "settings"


def save_progress(path, settings, arrays):
    """Writes arrays and the settings that they were made with, whole or not at all.

    Args:
        path: str or path of an `.npz`.
        settings: dict that JSON can hold.
        arrays: {name: array}.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    text = np.frombuffer(json.dumps(settings).encode(), "uint8")
    with files.replace(path) as beside, open(beside, "wb") as file:
        np.savez(file, **{SETTINGS: text}, **arrays)


def load_progress(path, settings):
    """Reads what `save_progress` wrote.

    Args:
        path: str or path.
        settings: dict, of the run that is to go on.

    Returns:
        {name: array}, or `None` if there is no such file.

    Raises:
        ValueError: if the file is damaged, or was made with other settings.
    """
    if not os.path.exists(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = json.loads(arrays.pop(SETTINGS).tobytes())
    except Exception as error:
        # Of a damaged zip file, NumPy raises many types.
        raise ValueError(
            f"{str(path)!r} must be the progress of an evaluation: it cannot be read, "
            f"{type(error).__name__}: {error}. Remove it to begin anew."
        ) from error
    check_settings(path, found, settings)
    return arrays


def check_settings(path, found, settings):
    """Refuses to go on with other settings.

    Raises:
        ValueError: naming what differs.
    """
    different = files.differences(found, settings)
    if different:
        raise ValueError(
            f"{str(path)!r} was begun with other settings, {different}. Name another "
            "output, or go on with those."
        )


def remove(*paths):
    """Removes files that may not be there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
