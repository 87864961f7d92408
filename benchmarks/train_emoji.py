"""Publishes the training of guides/emoji.toml: logs, curves, samples.

    keras-muse train guides/emoji.toml --folder runs/emoji
    python benchmarks/train_emoji.py runs/emoji

Copies the logs to benchmarks/results/train_emoji/, draws their curves, what the image
tokenizer makes of held-out pictures, how the first held-out names were drawn on the
way, and what the preset draws for names that were in the training and for some that
are none of a picture.
"""

import csv
import pathlib
import shutil
import sys

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot

from keras_muse.evaluation.sheets import contact_sheet
from keras_muse.models import MuseTextToImage

RESULTS = pathlib.Path(__file__).parent / "results" / "train_emoji"
PANELS = (
    ("image_tokenizer_0", "image tokenizer: PSNR, dB", ("psnr", "val_psnr")),
    (
        "image_tokenizer_0",
        "share of the codes in use",
        ("codebook_usage", "val_codebook_usage"),
    ),
    ("stage_0", "base: cross-entropy, nats", ("loss", "val_loss")),
    (
        "stage_0",
        "by the share of masked tokens",
        tuple(f"loss_{low:.2f}_{low + 0.25:.2f}" for low in (0.0, 0.25, 0.5, 0.75)),
    ),
)
KNOWN = (
    "red heart",
    "grinning face",
    "thumbs up",
    "pizza",
    "automobile",
    "green apple",
    "soccer ball",
    "person surfing",
)
NEW = (
    "blue apple",
    "green heart with arrow",
    "crying cat",
    "red clock",
    "yellow fish",
    "purple flower",
    "flag with a red circle",
    "happy moon",
)


def main():
    """Reads the folder from the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3))
    for axis, (part, title, columns) in zip(axes, PANELS):
        shutil.copy(source / part / "log.csv", RESULTS / f"{part}.csv")
        with open(source / part / "log.csv") as file:
            rows = list(csv.DictReader(file))
        for column in columns:
            axis.plot(
                [int(row["epoch"]) for row in rows],
                [float(row[column]) for row in rows],
                label=column,
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "curves.png", dpi=80)
    last = sorted((source / "image_tokenizer_0" / "samples").iterdir())[-1]
    shutil.copy(last, RESULTS / "reconstructions.png")
    _progress(source / "stage_0" / "samples")
    muse = MuseTextToImage.from_preset(str(source / "preset"))
    prompts = [*KNOWN, *NEW]
    # Four seeds of each, a row of the sheet for each name.
    pictures = [muse.generate([prompt] * 4, seed=[1, 2, 3, 4]) for prompt in prompts]
    for name, part in (
        ("known", pictures[: len(KNOWN)]),
        ("new", pictures[len(KNOWN) :]),
    ):
        sheet = contact_sheet(np.concatenate(part), columns=8)
        Image.fromarray(sheet).save(RESULTS / f"{name}.png")


def _progress(folder):
    """The first row of the grids of some epochs, one below the other."""
    paths = sorted(folder.iterdir())
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, 5).astype(int)]
    grids = [np.asarray(Image.open(path)) for path in chosen]
    side = grids[0].shape[1] // 4
    rows = [
        np.concatenate([grid[:side], grid[side : 2 * side]], axis=1) for grid in grids
    ]
    Image.fromarray(np.concatenate(rows)).save(RESULTS / "progress.png")


if __name__ == "__main__":
    main()
