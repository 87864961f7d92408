"""One command, three backends.

Keras fixes its backend at import, so `pytest` starts itself once for each of JAX,
TensorFlow and PyTorch, side by side. `KERAS_BACKEND=jax pytest` runs one.
"""

import collections
import concurrent.futures
import gc
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
# Tests compile much and compute little: XLA optimises less here, and writes its loops
# by its older emitters, which are far quicker at it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)


def pytest_cmdline_main(config):
    """Runs the same command line once a backend, unless one was chosen."""
    if os.environ.get("KERAS_BACKEND") or config.option.collectonly:
        return None
    started = time.time()
    # Tracing and compiling keep one core busy, and no backend as long as another: with
    # all of them at once no core waits for the last.
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(len(BACKENDS)) as pool,
    ):
        runs = [pool.submit(run_backend, config, name, folder) for name in BACKENDS]
        results = [run.result() for run in runs]
    totals = collections.Counter()
    # Negative is the signal that killed a backend.
    exit_code = max(abs(code) for code, _, _ in results)
    for _, last, _ in results:
        for count, word in COUNTS.findall(last):
            totals[{"error": "failed", "errors": "failed"}.get(word, word)] += int(
                count
            )
    if exit_code and not totals["failed"]:
        totals["failed"] = 1
    counts = ", ".join(
        f"{totals[word]} {word}" for word in ("passed", "failed", "skipped")
    )
    # Last, where a log that was cut short still has them.
    for backend, (_, _, failures) in zip(BACKENDS, results):
        for line in failures:
            print(f"{backend:>10} | {line}", end="")
    print(f"\n{' + '.join(BACKENDS)}: {time.time() - started:.0f} s\n{counts}")
    return exit_code


def run_backend(config, backend, folder):
    """One backend in a process of its own.

    Returns its exit code, its line of counts, and the lines of what failed.
    """
    # Where there are no more cores, more threads would only wait for each other.
    threads = str(max((os.cpu_count() or 1) // len(BACKENDS), 1))
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", *config.invocation_params.args],
        cwd=config.invocation_params.dir,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PARITY_FOLDER": folder,
            # Many tests compile the same program.
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "OMP_NUM_THREADS": threads,
            "TF_NUM_INTRAOP_THREADS": threads,
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    last, failures = "", []
    for line in child.stdout:
        print(f"{backend:>10} | {line}", end="", flush=True)
        last = line if COUNTS.search(line) else last
        if line.startswith(("FAILED ", "ERROR ")):
            failures.append(line)
    return child.wait(), last, failures


def pytest_collection_finish():
    """Leaves what was imported out of all garbage collections to come."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state."""
    import keras

    keras.utils.set_random_seed(1)


@pytest.fixture
def parity():
    """`parity(name, array, atol)`: the array is the same on every backend.

    The first backend to come to it writes it down, the others must agree. Arrays must
    not depend on random weights, which differ: set them with `tests.tools.set_weights`.
    """
    folder = os.environ.get("PARITY_FOLDER")

    def check(name, array, atol=0.0):
        if folder is None:
            return
        path = pathlib.Path(folder) / f"{name}.npy"
        array = np.asarray(array)
        own = path.with_suffix(f".{os.getpid()}.npy")
        np.save(own, array)
        try:
            # Either there is a whole file of that name or none.
            os.link(own, path)
        except FileExistsError:
            np.testing.assert_allclose(array, np.load(path), rtol=0, atol=atol)
        finally:
            own.unlink()

    return check
