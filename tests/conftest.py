"""One command, three backends.

Keras fixes its backend at import, so `pytest` starts itself for each of JAX, TensorFlow
and PyTorch, and for each part of all tests. `KERAS_BACKEND=jax pytest` runs one.
"""

import collections
import concurrent.futures
import gc
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
LONG = ("models", "distribution", "serving", "presets", "recipes", "image_tokenizer")
PINS = hasattr(os, "sched_setaffinity")  # not everywhere
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
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    parts = parts_of_all_tests() if everything else {"": []}
    # Tracing and compiling keep one core busy. Each process has cores of its own, or
    # their threads wait for each other.
    cores = sorted(os.sched_getaffinity(0)) if PINS else range(os.cpu_count() or 1)
    slots = min(len(BACKENDS), len(cores))
    share = len(cores) // slots
    free = queue.SimpleQueue()
    for first in range(0, slots * share, share):
        free.put(cores[first : first + share])
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(slots) as pool,
    ):
        runs = {
            f"{backend} {part}".strip(): pool.submit(
                run_part, config, backend, part, paths, folder, free
            )
            for part, paths in parts.items()
            for backend in BACKENDS
        }
        results = {name: run.result() for name, run in runs.items()}
    totals = collections.Counter()
    # Negative is the signal that killed a process. A part may have no test of `-k`.
    codes = {abs(code) for code, _, _ in results.values()}
    exit_code = max(codes - {pytest.ExitCode.NO_TESTS_COLLECTED} or codes)
    for _, last, _ in results.values():
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
    for name, (_, _, failures) in results.items():
        for line in failures:
            print(f"{name} | {line}", end="")
    print(f"\n{' + '.join(BACKENDS)}: {time.time() - started:.0f} s\n{counts}")
    return exit_code


def parts_of_all_tests():
    """Name and paths of each part that has a process of its own, longest first.

    What TensorFlow has compiled it never forgets: all tests in one process took 20 GB.
    To start one takes ten seconds, so rooms of short tests share theirs.
    """
    here = pathlib.Path(__file__).parent
    parts = {name: [str(here / name)] for name in LONG}
    parts["pages"] = [str(path) for path in sorted(here.glob("test_*.py"))]
    folders = {path.parent for path in here.glob("*/test_*.py")}
    parts["others"] = [
        str(folder) for folder in sorted(folders) if folder.name not in LONG
    ]
    return parts


def run_part(config, backend, part, paths, folder, free):
    """One part on one backend in a process of its own, on the next free cores.

    Returns its exit code, its line of counts, and the lines of what failed.
    """
    cores = free.get()
    threads = str(len(cores))
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", *config.invocation_params.args, *paths],
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
    if PINS:
        # Before it starts a thread: each inherits its cores.
        os.sched_setaffinity(child.pid, cores)
    last, failures = "", []
    for line in child.stdout:
        print(f"{backend:>10} {part:<15} | {line}", end="", flush=True)
        last = line if COUNTS.search(line) else last
        if line.startswith(("FAILED ", "ERROR ")):
            failures.append(line)
    code = child.wait()
    free.put(cores)
    return code, last, failures


def pytest_sessionstart():
    """TensorFlow rewrites no graph: it takes longer than tests spend in one."""
    # KerasHub imports it on every backend.
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_finish():
    """Leaves what was imported out of all garbage collections to come."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed(monkeypatch):
    """Every test starts from the same random state."""
    import keras
    import tensorflow as tf

    with monkeypatch.context() as patch:
        # It would forget every program that several tests use. Keras draws without it.
        patch.setattr(tf.random, "set_seed", lambda seed: None)
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
