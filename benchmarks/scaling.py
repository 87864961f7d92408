"""What a super-resolution forward pass costs as the picture grows.

    python benchmarks/scaling.py

Multi-axis attention in blocks of 8 x 8 against full attention, one picture, for 256 to
16,384 tokens. Each measurement has a process of its own, so that peak memory is its own
as well; full attention is left out where its weights alone pass `--limit` GiB. Results
go to benchmarks/results/scaling.md and .json.
"""

import argparse
import json
import math
import os
import time

from processes import once, peak_memory
from tables import write

SIDES = (16, 32, 64, 128)
BLOCK = 8
HEADS = 2


def measure(side, block_size, repeats):
    """Seconds of the best of `repeats` passes, and MiB that the passes added."""
    import keras
    import numpy as np

    from keras_muse.transformer import SuperResolutionTransformer

    model = SuperResolutionTransformer(
        codebook_size=256,
        grid_size=side,
        num_layers=2,
        hidden_dim=64,
        num_heads=HEADS,
        low_res_codebook_size=256,
        low_res_grid_size=8,
        num_low_res_layers=1,
        block_size=block_size,
        text_dim=32,
    )
    inputs = {
        "image_ids": np.full((1, side * side), 256, "int32"),
        "low_res_ids": np.zeros((1, 64), "int32"),
        "text_embeddings": np.zeros((1, 16, 32), "float32"),
        "padding_mask": np.ones((1, 16), bool),
    }
    before = peak_memory() / 2**20
    seconds = []
    for _ in range(repeats + 1):  # the first one compiles
        started = time.perf_counter()
        model.predict_on_batch(inputs)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": min(seconds[1:]),
        "peak_mib": peak_memory() / 2**20 - before,
        "backend": keras.config.backend(),
        "keras": keras.__version__,
    }


def in_a_process(side, block_size, repeats):
    """`measure` in a fresh process."""
    arguments = ["--one", str(side), str(block_size), "--repeats", str(repeats)]
    return once("scaling.py", arguments, None, dict(os.environ))


def exponent(rows):
    """Slope of log seconds over log tokens, from 1,024 tokens on."""
    points = [
        (math.log(n), math.log(row["seconds"])) for n, row in rows.items() if n >= 1024
    ]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return covariance / sum((x - mean_x) ** 2 for x, _ in points)


def cells(row):
    """Seconds and MiB of a measurement for the table."""
    if row is None:
        return ["does not fit", ""]
    return [f"{1000 * row['seconds']:.1f} ms", f"{row['peak_mib']:.0f} MiB"]


def main():
    """Measures everything and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.repeats)))
        return
    axes, full = {}, {}
    for side in SIDES:
        tokens = side * side
        axes[tokens] = in_a_process(side, BLOCK, options.repeats)
        weights = HEADS * tokens**2 * 4 / 2**30  # GiB, float32
        full[tokens] = None
        if weights <= options.limit:
            full[tokens] = in_a_process(side, side, options.repeats)
        print(tokens, axes[tokens], full[tokens], flush=True)
    slopes = {
        "multi-axis": exponent(axes),
        "full": exponent({n: row for n, row in full.items() if row}),
    }
    lines = [
        "## One super-resolution forward pass",
        "",
        "| tokens | multi-axis, time | memory | full attention, time | memory |",
        "|---|---|---|---|---|",
    ]
    for tokens, row in axes.items():
        lines.append(
            f"| {tokens} | " + " | ".join(cells(row) + cells(full[tokens])) + " |"
        )
    lines += ["", "Exponent of the time over the number of tokens, from 1,024 on: "]
    lines[-1] += (
        ", ".join(f"{name} {slope:.2f}" for name, slope in slopes.items()) + "."
    )
    text = "\n".join(lines) + "\n"
    write("scaling", {"multi_axis": axes, "full": full, "exponents": slopes}, text)


if __name__ == "__main__":
    main()
