"""Where a preset is, and whether its files are what was saved."""

import hashlib
import json
import pathlib

from keras_muse.presets.architectures import ARCHITECTURES
from keras_muse.presets.placeholders import weights_from_a_file
from keras_muse.presets.table import PRESETS, describe, names

__all__ = ["PresetLoading", "resolve", "sha256_of", "verify", "write_checksums"]

CHECKSUMS = "checksums.json"


class PresetLoading:
    """Mixin of KerasHub classes: knows our preset names and checks local files.

    `from_preset` takes a name of `keras_muse.presets.names()`, a local folder, or a
    `hf://`, `kaggle://` or other handle of KerasHub. `save_to_preset` adds a list of
    checksums, which `from_preset` holds the files of a local folder against.
    """

    @classmethod
    def from_preset(cls, preset, *args, **kwargs):
        """Loads a preset; see the class of KerasHub for the other arguments.

        A preset that is a configuration without weights needs `load_weights=False`,
        and takes the arguments of its class in place of its own.

        Raises:
            ValueError: if the preset is unknown (the message lists the names), it is
                none of this class or has no weights, or a file is missing, truncated
                or changed (the message names it).
        """
        if str(preset) in ARCHITECTURES:
            return cls._from_architecture(str(preset), *args, **kwargs)
        preset = resolve(preset)
        if kwargs.get("load_weights", True) is False:
            return super().from_preset(preset, *args, **kwargs)
        with weights_from_a_file():
            return super().from_preset(preset, *args, **kwargs)

    @classmethod
    def _from_architecture(cls, name, load_weights=True, **kwargs):
        architecture = ARCHITECTURES[name]
        if not issubclass(architecture.model_class(), cls):
            raise ValueError(
                f"`preset` {name!r} is one of `{architecture.kind}`: received it for "
                f"`{cls.__name__}`."
            )
        if load_weights:
            raise ValueError(
                f"`load_weights` must be False for {name!r}, a configuration without "
                "weights: received True."
            )
        return architecture.build(**kwargs)

    def save_to_preset(self, preset_dir, *args, **kwargs):
        """Saves to a folder, with checksums; see the class of KerasHub."""
        super().save_to_preset(preset_dir, *args, **kwargs)
        write_checksums(preset_dir)


class _Presets:
    """The class property `presets`: names and what is known of them."""

    def __get__(self, instance, owner):
        return {name: describe(name) for name in names()}


PresetLoading.presets = _Presets()


def resolve(preset):
    """The folder or handle of a preset, its local files verified.

    Args:
        preset: str or path. A built-in name, a local folder or a handle.

    Returns:
        str.

    Raises:
        ValueError: as `PresetLoading.from_preset`.
    """
    name = str(preset)
    if "://" in name:
        return name
    folder = PRESETS[name]["folder"] if name in PRESETS else pathlib.Path(name)
    if name not in PRESETS and not folder.is_dir():
        raise ValueError(
            f"`preset` must be one of {names()}, a local folder, or a handle "
            f"such as 'hf://user/name' or 'kaggle://...': received {name!r}."
        )
    verify(folder)
    return str(folder)


def verify(folder):
    """Holds the files of a preset folder against its checksums, if it has them.

    Args:
        folder: str or path.

    Raises:
        ValueError: naming the folder or file that is missing, truncated or changed.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no preset folder `{folder}`.")
    path = folder / CHECKSUMS
    if not path.exists():
        return
    try:
        checksums = dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"`{path}` is not the JSON it was saved as.") from error
    for name, expected in checksums.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"The preset lacks its file `{file}`.")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(
                f"`{file}` is truncated or changed: it has {size} bytes, the preset "
                f"was saved with {expected['bytes']}."
            )
        if sha256_of(file) != expected["sha256"]:
            raise ValueError(f"`{file}` is damaged: its SHA-256 is not the saved one.")


def write_checksums(folder):
    """Writes size and SHA-256 of every file of a preset folder."""
    folder = pathlib.Path(folder)
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != CHECKSUMS)
    checksums = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
        for file in files
        # People edit the card; it is not loaded.
        if file.suffix != ".md"
    }
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n")


def sha256_of(path):
    """Hexadecimal SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
