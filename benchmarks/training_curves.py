"""Plots the logs of the recipe of `muse_shapes`.

    python benchmarks/training_curves.py runs/muse_shapes

Copies the logs of the folder to benchmarks/results/train_muse_shapes/ and draws
curves.png of all that lie there.
"""

import csv
import pathlib
import shutil
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

RESULTS = pathlib.Path(__file__).parent / "results" / "train_muse_shapes"
PANELS = (
    ("tokenizer.csv", "tokenizer: PSNR, dB", ("test_psnr",)),
    ("tokenizer.csv", "tokenizer: agreement, usage", ("test_agreement", "test_usage")),
    ("lessons.csv", "lessons: weighted cross-entropy, nats", ("loss",)),
    ("base.csv", "base: masked cross-entropy, nats", ("loss",)),
    (
        "base.csv",
        "base: object tokens, empty canvas, nats",
        ("cond", "cond_turned", "uncond"),
    ),
    (
        "base.csv",
        "base: agreement while training (128 pictures)",
        ("exact", "exact_1_group", "exact_2_groups", "count", "colors"),
    ),
    *(
        panel
        for log, times in (("prolonged_7", "once"), ("prolonged_207", "twice"))
        for panel in (
            (f"{log}.csv", f"base, prolonged {times}: cross-entropy, nats", ("loss",)),
            (
                f"{log}.csv",
                f"base, prolonged {times}: agreement (128 pictures)",
                ("exact", "exact_1_group", "exact_2_groups", "count", "colors"),
            ),
        )
    ),
    ("high_res_tokenizer.csv", "high-res tokenizer: PSNR, dB", ("test_psnr",)),
    ("super_resolution.csv", "super-resolution: masked cross-entropy", ("loss",)),
    ("large_decoder.csv", "larger decoder: PSNR, dB", ("test_psnr",)),
    ("large_decoder_prolonged.csv", "larger decoder, prolonged", ("test_psnr",)),
    # Of benchmarks/cascade.py, to hold the larger one against.
    ("plain_decoder.csv", "decoder like the encoder: PSNR, dB", ("test_psnr",)),
)


def main():
    """Reads the folder from the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(name for name, _, _ in PANELS):
        if (source / name).exists():
            shutil.copy(source / name, RESULTS / name)
    panels = [panel for panel in PANELS if (RESULTS / panel[0]).exists()]
    rows_of_axes = -(-len(panels) // 3)
    figure, axes = pyplot.subplots(rows_of_axes, 3, figsize=(15, 3.6 * rows_of_axes))
    for axis, (name, title, columns) in zip(axes.flat, panels):
        with (RESULTS / name).open() as file:
            rows = list(csv.DictReader(file))
        for column in columns:
            points = [
                (int(row["pictures"]), float(row[column]))
                for row in rows
                if row[column]
            ]
            axis.plot(*zip(*points), marker=".", label=column)
        axis.set(title=title, xlabel="pictures")
        axis.legend()
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(RESULTS / "curves.png", dpi=90)


if __name__ == "__main__":
    main()
