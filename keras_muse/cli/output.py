"""Where pictures go, and what their files tell of how they were made."""

import json
import os
import pathlib
import sys

import keras
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import keras_muse
from keras_muse.evaluation.sheets import contact_sheet

__all__ = [
    "Output",
    "make_note",
    "output_paths",
    "say_backend",
    "write_png",
]


class Output:
    """The files of a command: one for each picture, or one for all.

    To be made before the work: it raises if the files could not be written after it.

    Args:
        path: path of a PNG. Of several files, their names get numbers.
        count: int. How many pictures there will be.
        grid: bool. Whether they go into one file.
        sources: paths that must not be overwritten.

    Raises:
        ValueError: if a file cannot be written, or is one of the sources.
    """

    def __init__(self, path, count, grid, sources=()):
        self.paths = output_paths(path, 1 if grid else count)
        for path in self.paths:
            if any(_is_same_file(path, source) for source in sources):
                raise ValueError(
                    f"--output: {str(path)!r} is what to start from, name another."
                )
        self.grid = grid
        self.pictures, self.notes = [], []

    def add(self, picture, note):
        """Takes the next picture, (H, W, 3) uint8, and writes it if it has a file."""
        if not self.grid:
            write_png(self.paths[len(self.notes)], picture, note)
        self.pictures.append(picture)
        self.notes.append(note)

    def finish(self, before=(), columns=None):
        """Writes the one file for all.

        Args:
            before: list of pictures to show before those that were made.
            columns: optional int. Defaults to about as many as rows.
        """
        if self.grid:
            sheet = contact_sheet(np.stack([*before, *self.pictures]), columns)
            write_png(self.paths[0], sheet, {"pictures": json.dumps(self.notes)})


def output_paths(path, count):
    """Where pictures go; an error now is better than one after the work."""
    path = pathlib.Path(path)
    paths = [path]
    if count > 1:
        digits = len(str(count - 1))
        paths = [path.with_stem(f"{path.stem}_{i:0{digits}d}") for i in range(count)]
    for path in paths:
        if not path.parent.is_dir():
            raise ValueError(f"--output: there is no folder {str(path.parent)!r}.")
        if path.is_dir():
            raise ValueError(f"--output: {str(path)!r} is a folder.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"--output: cannot write to {str(path)!r}.")
    return paths


def _is_same_file(path, source):
    return os.path.exists(path) and os.path.exists(source) and path.samefile(source)


def make_note(options, samplers, prompt, seed, **more):
    """What makes a picture again.

    Args:
        options: the command line.
        samplers: list of the settings that were used at each stage.
        prompt: str.
        seed: int.
        **more: what else was set; `None` is left out.

    Returns:
        dict of str.
    """

    def setting(name):
        return " ".join(str(getattr(sampler, name)) for sampler in samplers)

    return {
        "prompt": prompt,
        "negative_prompt": options.negative or "",
        "seed": str(seed),
        "preset": options.preset,
        "num_steps": setting("num_steps"),
        "guidance_scale": setting("guidance_scale"),
        "temperature": setting("temperature"),
        **{name: str(value) for name, value in more.items() if value is not None},
        "Software": f"keras-muse {keras_muse.__version__}",
    }


def write_png(path, picture, note):
    """Writes a PNG that tells how it was made, and prints its path."""
    info = PngInfo()
    for name, value in note.items():
        # Arguments that were not UTF-8 have characters that cannot be written.
        info.add_text(name, value.encode("utf-8", "replace").decode("utf-8"))
    Image.fromarray(picture).save(path, pnginfo=info)
    print(path, flush=True)


def say_backend():
    """Says on stderr what computes."""
    backend = keras.config.backend()
    print(f"keras-muse: using the {backend} backend", file=sys.stderr)
