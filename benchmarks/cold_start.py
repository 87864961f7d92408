"""Seconds from the start of a process to its first picture, ours and a peer's.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/cold_start.py

Every run is a fresh process with one thread on one core, all rows in turns, after one
run of each that fills the file cache. The clock runs from before the process is started
until the PNG is written; that of the command line until the process has ended.

Ours loads the embedded preset `muse_shapes` (8 x 8 tokens, then 16 x 16, 128 pixels)
on each backend and makes a picture in 12 + 4 steps, or in the 48 + 8 of the preset. The
peer is `AmusedPipeline.from_pretrained` of a folder of safetensors that this benchmark
saves: about as many parameters, untrained, 128 pixels from 8 x 8 tokens, so that there
is no second stage to pay for, with its documented 12 steps and with 56. Where the time
goes is told by the process itself: imports, loading, the first picture (with tracing
and compiling) and, after the clock has stopped, a second one.

A process of ours sees what `pip install "keras-muse[torch]"` installs, or the same of
another backend: Keras imports JAX and Matplotlib wherever they are. The peer imports
none of them. Rows `without TensorFlow` have `KERAS_MUSE_WITHOUT_TENSORFLOW=1`, those
with `cache` JAX's own `JAX_COMPILATION_CACHE_DIR`, filled by the run before the first.
"""

import argparse
import functools
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import peers
from processes import (
    WITHOUT_TENSORFLOW,
    Failed,
    about,
    environment,
    footer,
    hide_others,
    once,
    pinned,
)
from tables import markdown, three_digits, write

BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
OUR_STEPS = {"12 + 4 steps": (12, 4), "48 + 8 steps": (48, 8)}
THEIR_STEPS = {"12 steps": 12, "56 steps": 56}
REFERENCE = f"{peers.AMUSED}, 12 steps"
PARTS = ("imports", "loading", "first picture", "second picture")


def rows(folder=""):
    """{name: (backend or None, steps, variables)}; no steps mean the command line."""
    found = {f"{peers.AMUSED}, {steps}": (None, steps, {}) for steps in THEIR_STEPS}
    kinds = [(backend, name, {}) for backend, name in BACKENDS.items()]
    for backend in ("torch", "jax"):
        name = f"{BACKENDS[backend]} without TensorFlow"
        kinds.append((backend, name, WITHOUT_TENSORFLOW))
    cache = {
        **WITHOUT_TENSORFLOW,
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    kinds.append(("jax", "JAX without TensorFlow, cache", cache))
    for steps in OUR_STEPS:
        for backend, name, variables in kinds:
            found[f"ours, {name}, {steps}"] = (backend, steps, variables)
    for backend, name, variables in kinds:
        row = f"keras-muse generate, {name}, 48 + 8 steps"
        found[row] = (backend, None, variables)
    return found


def generate():
    """The command `keras-muse`."""
    hide_others()
    from keras_muse.cli import main

    sys.exit(main(sys.argv[2:]))


def our_picture(steps, path):
    """Writes a picture; the time at the end of each part, and parameters."""
    hide_others()
    from PIL import Image

    import keras_muse

    clock = [time.time()]
    muse = keras_muse.presets.load("muse_shapes")
    clock.append(time.time())
    settings = {"num_steps": OUR_STEPS[steps], "seed": 0}
    Image.fromarray(muse.generate(peers.PROMPT, **settings)).save(path)
    clock.append(time.time())
    muse.generate(peers.PROMPT, **settings)
    clock.append(time.time())
    return clock, muse.backbone.count_params()


def their_picture(steps, path, folder):
    """The same of the peer."""
    peers.hide_torchvision()
    from diffusers import AmusedPipeline

    clock = [time.time()]
    pipeline = AmusedPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    clock.append(time.time())
    make = functools.partial(
        pipeline, peers.PROMPT, num_inference_steps=THEIR_STEPS[steps]
    )
    make().images[0].save(path)
    clock.append(time.time())
    make()
    clock.append(time.time())
    parts = pipeline.transformer, pipeline.vqvae, pipeline.text_encoder
    return clock, peers.count(*parts)


def run(name, folder, options):
    """One cold start: seconds to the file, those of its parts, parameters."""
    backend, steps, variables = rows(folder)[name]
    variables = environment(backend, **variables)
    started = time.time()
    if steps is None:
        command = [sys.executable, __file__, "--command", "generate", peers.PROMPT]
        command += ["--output", f"{folder}/picture.png", "--seed", "0"]
        subprocess.run(
            [*pinned(options.core), *command],
            env=variables,
            check=True,
            capture_output=True,
            timeout=options.limit,
        )
        return {"seconds": time.time() - started}
    arguments = ["--row", name, folder]
    clock, parameters = once(
        "cold_start.py", arguments, options.core, variables, options.limit
    )
    ends = [started, *clock]
    parts = [end - start for start, end in zip(ends, ends[1:])]
    return {
        "seconds": clock[2] - started,
        "parts": dict(zip(PARTS, parts)),
        "parameters": parameters,
    }


def cells(runs, reference):
    """The cells of a row; `reference` is the median of the peer, if it is there."""
    seconds = [run["seconds"] for run in runs]
    median = statistics.median(seconds)
    found = {}
    if "parameters" in runs[0]:
        found["parameters"] = f"{runs[0]['parameters'] / 1e6:.1f} M"
    found["seconds"] = three_digits(median)
    found["fastest, slowest"] = (
        f"{three_digits(min(seconds))}, {three_digits(max(seconds))}"
    )
    if reference:
        found["times the peer's 12 steps"] = f"{reference / median:.2f}"
    if "parts" in runs[0]:
        for part in PARTS:
            middle = statistics.median(run["parts"][part] for run in runs)
            found[part] = three_digits(middle)
    return found


def measure(options):
    """{row: list of runs}."""
    chosen = [
        name
        for name in rows()
        if not options.only or any(only in name for only in options.only)
    ]
    found = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        once("cold_start.py", ["--save", folder], options.core, environment())
        for turn in range(options.rounds + 1):
            for name in chosen:
                result = run(name, folder, options)
                print(f"{name}: {result['seconds']:.3g} s", file=sys.stderr, flush=True)
                # The first one read its files from the disk.
                if turn:
                    found[name].append(result)
    return found


def main():
    """Reads the command line, writes cold_start.{json,md}."""
    if sys.argv[1:2] == ["--command"]:
        generate()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="parts of the names of rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, help="seconds")
    parser.add_argument("--name", default="cold_start", help="of the results")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.save:
        peers.amused(peers.AMUSED_TINY, options.save).save_pretrained(options.save)
        print("{}")
        return
    if options.row:
        name, folder = options.row
        backend, steps, _ = rows()[name]
        arguments = steps, f"{folder}/picture.png"
        made = our_picture(*arguments) if backend else their_picture(*arguments, folder)
        print(json.dumps(made))
        return
    try:
        found = measure(options)
    except (Failed, subprocess.SubprocessError) as error:
        sys.exit(f"A row did not make its picture: {error}.")
    reference = found.get(REFERENCE)
    if reference:
        reference = statistics.median(run["seconds"] for run in reference)
    table = {name: cells(runs, reference) for name, runs in found.items()}
    given = shlex.join(["python", "benchmarks/cold_start.py", *sys.argv[1:]])
    title = "From the start of a process to its first picture, 128 x 128"
    report = {**about(), "rows": found}
    write(options.name, report, markdown(title, table) + footer(given))


if __name__ == "__main__":
    main()
