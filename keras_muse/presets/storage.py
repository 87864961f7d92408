"""Half the bytes for a preset's weights."""

import pathlib

import h5py
import numpy as np

from keras_muse.presets.loading import write_checksums

__all__ = ["store_as_float16"]


def store_as_float16(preset_dir):
    """Rewrites the weights of a saved preset in float16, which Keras loads as they are.

    Args:
        preset_dir: str or path. A folder written by `save_to_preset`.

    Raises:
        ValueError: if a weight is too large for float16, naming it and its file.
    """
    for path in sorted(pathlib.Path(preset_dir).glob("*.weights.h5")):
        smaller = path.with_suffix(".float16")
        try:
            with h5py.File(path, "r") as source, h5py.File(smaller, "w") as target:
                source.visititems(lambda name, item: _copy(target, name, item, path))
                target.attrs.update(source.attrs)
            smaller.replace(path)
        finally:
            smaller.unlink(missing_ok=True)
    write_checksums(preset_dir)


def _copy(target, name, item, path):
    if isinstance(item, h5py.Group):
        target.require_group(name).attrs.update(item.attrs)
        return
    values = item[()]
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise ValueError(f"`{name}` of `{path}` has values too large for float16.")
        values = values.astype(np.float16)
    target.create_dataset(name, data=values).attrs.update(item.attrs)
