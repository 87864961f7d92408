"""One command, three backends.

Keras fixes its backend at import, so `pytest` starts itself once for each of JAX,
TensorFlow and PyTorch, one after another. `KERAS_BACKEND=jax pytest` runs one.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
COUNTS = re.compile(r"(\d+) (passed|failed|error|errors|skipped)\b")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile much and compute little: XLA optimises less here.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)


def pytest_cmdline_main(config):
    """Runs the same command line once a backend, unless one was chosen."""
    if os.environ.get("KERAS_BACKEND") or config.option.collectonly:
        return None
    totals, exit_code, started = {}, 0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        for backend in BACKENDS:
            print(f"\n======== {backend} ========", flush=True)
            child = subprocess.Popen(
                [sys.executable, "-m", "pytest", *config.invocation_params.args],
                cwd=config.invocation_params.dir,
                env={**os.environ, "KERAS_BACKEND": backend, "PARITY_FOLDER": folder},
                stdout=subprocess.PIPE,
                text=True,
            )
            last = ""
            for line in child.stdout:
                print(line, end="", flush=True)
                last = line if COUNTS.search(line) else last
            exit_code = max(exit_code, child.wait())
            for count, word in COUNTS.findall(last):
                word = word.replace("errors", "error")
                totals[word] = totals.get(word, 0) + int(count)
    totals["failed"] = totals.get("failed", 0) + totals.pop("error", 0)
    if exit_code and not totals["failed"]:
        totals["failed"] = 1
    counts = ", ".join(
        f"{totals.get(word, 0)} {word}" for word in ("passed", "failed", "skipped")
    )
    print(f"\n{' + '.join(BACKENDS)}: {time.time() - started:.0f} s\n{counts}")
    return exit_code


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state."""
    import keras

    keras.utils.set_random_seed(1)


@pytest.fixture
def parity():
    """`parity(name, array, atol)`: the array is the same on every backend.

    The first backend of a run writes it down, the others must agree. Arrays must not
    depend on random weights, which differ: set them with `tests.tools.set_weights`.
    """
    folder = os.environ.get("PARITY_FOLDER")

    def check(name, array, atol=0.0):
        if folder is None:
            return
        path = pathlib.Path(folder) / f"{name}.npy"
        array = np.asarray(array)
        if path.exists():
            np.testing.assert_allclose(array, np.load(path), rtol=0, atol=atol)
        else:
            np.save(path, array)

    return check
