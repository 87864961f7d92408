"""What an export in another precision costs: agreement, size, seconds.

    python benchmarks/export_precision.py

The embedded preset, exported with each precision, makes pictures of held-out captions
in batches of 8; how many are what the caption says, how many tokens are those of
float32, how large the export is, and how long the tokens of a picture take, alone and
in a batch.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401
from shapes_agreement import SEED, scores
from tables import markdown, write

from keras_muse import serving
from keras_muse.data import shapes

SIZES = (1, 8)


def inputs(prompts, seeds):
    """The inputs of a signature, with the guidance of the preset."""
    count = len(prompts)
    return {
        "prompt": tf.constant(prompts),
        "negative_prompt": tf.constant([""] * count),
        "seed": tf.constant(seeds, tf.int64),
        "guidance_scale": tf.fill([count], -1.0),
    }


def seconds(function, prompts, repeats=5):
    """Median time of a call, for each size of a batch, a picture."""
    result = {}
    for size in SIZES:
        times = []
        for repeat in range(repeats + 1):
            started = time.monotonic()
            function(**inputs(prompts[:size], range(size)))
            times.append(time.monotonic() - started)
        # The first call compiles.
        result[f"s a picture, batch {size}"] = round(np.median(times[1:]) / size, 2)
    return result


def measure(path, prompts):
    """One export: pictures, fine tokens, and what it costs."""
    model = tf.saved_model.load(str(path))
    generate, decode = model.signatures["tokens"], model.signatures["decode"]
    times = seconds(generate, prompts)
    images, ids = [], []
    for start in range(0, len(prompts), 8):
        batch = prompts[start : start + 8]
        made = generate(**inputs(batch, range(start, start + len(batch))))
        ids.append(np.concatenate([made["tokens_0"], made["tokens_1"]], axis=1))
        images.append(decode(tokens=made["tokens_1"])["images"].numpy())
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        np.concatenate(images),
        np.concatenate(ids),
        {"MB": round(size / 1e6, 1), **times},
    )


def instructions():
    """Whether the processor multiplies bfloat16 or int8 itself."""
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    names = [n for n in ("avx512_bf16", "amx_bf16", "avx512_vnni") if n in flags]
    return "with " + ", ".join(names) if names else "no bfloat16 or int8 instructions"


def main():
    """Reads the command line, writes export_precision.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    _, prompts = shapes.examples("held_out_captions", 0, options.count, SEED)
    table, reference = {}, None
    with tempfile.TemporaryDirectory() as folder:
        for precision in serving.PRECISIONS:
            path = serving.export_preset(
                "muse_shapes",
                pathlib.Path(folder) / precision / "1",
                precision=precision,
                warm_up=False,
            )
            images, ids, row = measure(path, prompts)
            reference = ids if reference is None else reference
            exact = scores(images, prompts)["all"]["exact"]
            table[precision] = {
                "exact": exact,
                "equal tokens": round(float(np.mean(ids == reference)), 4),
                "equal pictures": round(float((ids == reference).all(1).mean()), 4),
                **row,
            }
            print(precision, table[precision], flush=True)
    about = {"tensorflow": tf.__version__, "cores": os.cpu_count()}
    text = markdown(
        f"Exports of the embedded preset, {options.count} held-out captions, "
        f"{os.cpu_count()} cores, {instructions()}",
        table,
    )
    text += (
        "\nThe weights of this preset are numbers of float16 and are stored as such by "
        "the float32 export, so that bfloat16 makes it no smaller."
        "\n\nMade by `python benchmarks/export_precision.py`, which tells what it is.\n"
    )
    write("export_precision", {"about": about, "table": table}, text)


if __name__ == "__main__":
    main()
