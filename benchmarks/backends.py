"""Same prompt, same seed: same tokens on JAX, TensorFlow and PyTorch.

    python benchmarks/backends.py

Makes 1,000 pictures on each backend, in processes side by side, and counts those whose
tokens of all stages are identical; then compares batches of 8 with single prompts.
Results go to benchmarks/results/.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

RESULTS = pathlib.Path(__file__).parent / "results"
BACKENDS = ("jax", "tensorflow", "torch")


def run(preset, count, path):
    """Writes the tokens of one backend."""
    import numpy as np

    import keras_muse
    from keras_muse.data import shapes

    muse = keras_muse.presets.load(preset)
    _, captions = shapes.examples("held_out_captions", 0, count, 11)
    seeds = np.arange(count, dtype="int32")

    def tokens(start, stop):
        stages = muse.generate_tokens(captions[start:stop], None, seeds[start:stop])
        return np.concatenate(stages, axis=1)

    batches = [tokens(start, start + 50) for start in range(0, count, 50)]
    eights = [tokens(start, start + 8) for start in range(0, 64, 8)]
    singles = [tokens(start, start + 1) for start in range(64)]
    np.savez(
        path,
        tokens=np.concatenate(batches),
        eights=np.concatenate(eights),
        singles=np.concatenate(singles),
    )


def main():
    """Reads the command line, starts the backends, compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.preset, options.count, options.run)
        return
    import numpy as np

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for backend in BACKENDS:
            path = f"{folder}/{backend}.npz"
            arguments = ["--preset", options.preset, "--count", str(options.count)]
            processes[backend] = subprocess.Popen(
                [sys.executable, __file__, *arguments, "--run", path],
                env={**os.environ, "KERAS_BACKEND": backend},
            )
        codes = {backend: process.wait() for backend, process in processes.items()}
        if any(codes.values()):
            sys.exit(f"exit codes: {codes}")
        for backend in BACKENDS:
            results[backend] = dict(np.load(f"{folder}/{backend}.npz"))
    first = results[BACKENDS[0]]["tokens"]
    report = {"pictures": options.count}
    same = np.ones(options.count, bool)
    for backend in BACKENDS:
        result = results[backend]
        same &= (result["tokens"] == first).all(axis=1)
        report[f"{backend}: batch of 8 equals 8 singles, of 64"] = int(
            (result["eights"] == result["singles"]).all(axis=1).sum()
        )
    report["identical on all three"] = int(same.sum())
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1)
    (RESULTS / "backends.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
