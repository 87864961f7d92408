"""Rows of a benchmark as processes of their own, on one core, in turns.

A row builds what it measures, runs it once, and waits. Then all rows are asked in turn,
one after another, round after round: what slows the machine down for a while slows all
of them down, and nothing else runs while one of them does.
"""

import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
import select
import statistics
import subprocess
import sys
import time

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
# glibc gives the memory of each large tensor back to Linux otherwise, and the next one
# is mapped anew: a good part of PyTorch's time.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}
# Rows wait beside each other: none may take all of a GPU.
FREE_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# Of a process of ours that needs no TensorFlow, on another backend.
WITHOUT_TENSORFLOW = {"KERAS_MUSE_WITHOUT_TENSORFLOW": "1"}
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # There is nothing to load, and nobody may ask for it.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
DISTRIBUTIONS = (
    "keras",
    "keras-hub",
    "jax",
    "tensorflow",
    "torch",
    "diffusers",
    "transformers",
    "muse-maskgit-pytorch",
)


def hide_others():
    """As in an environment of one backend, without what only benchmarks install.

    Keras imports JAX and Matplotlib wherever they are.
    """
    for name in {"jax", "torch", "matplotlib"} - {os.environ["KERAS_BACKEND"]}:
        sys.modules[name] = None


class Failed(Exception):
    """A row stopped, or took longer than the limit."""


def pinned(core):
    """What a command begins with to run on one core; nothing for `None`."""
    return [] if core is None else ["taskset", "-c", str(core)]


def command(script, arguments, core):
    """A script of this folder on one core."""
    path = pathlib.Path(__file__).with_name(script)
    return [*pinned(core), sys.executable, str(path), *arguments]


def environment(backend=None, gpu=False, **variables):
    """Of a row: one thread, a backend of Keras, nothing from a network.

    On a GPU as many threads as it likes, and float32 products in TF32 for all rows.
    """
    backend = {"KERAS_BACKEND": backend} if backend else {}
    own = {"NVIDIA_TF32_OVERRIDE": "1"} if gpu else ONE_THREAD
    return {**os.environ, **own, **QUIET, **backend, **variables}


class Row:
    """A process that measures once whenever it is asked.

    Args:
        script: str. A file of this folder which, given `arguments`, calls `answer`.
        arguments: list of str.
        core: int. Where it runs.
        variables: dict. Its environment.
        limit: float. Seconds that it may take to get ready, and for each answer.
    """

    def __init__(self, script, arguments, core, variables, limit):
        self.limit = limit
        self.process = subprocess.Popen(
            command(script, arguments, core),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.facts = self._read()
        except Failed:
            self.stop()
            raise

    def ask(self):
        """One measurement: the dict that the row answers."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self):
        """Ends the process."""
        self.process.kill()
        self.process.wait()

    def _read(self):
        if not select.select([self.process.stdout], [], [], self.limit)[0]:
            raise Failed(f"no answer within {self.limit:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"it stopped with exit code {self.process.wait()}")
        return json.loads(line)


def answer(build):
    """The other end of a `Row`.

    Args:
        build: function without arguments that returns the function to time, and a dict
            of facts about it. The function takes whether it only has to get ready, and
            may return a dict of what it measured itself.
    """
    # What libraries print goes elsewhere.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value):
        print(json.dumps(value), file=channel, flush=True)

    function, facts = build()
    function(True)
    say(facts)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        own = function(False) or {}
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        say({"wall": wall, "cpu": cpu, **own})


def label(name):
    """Of a row, or of a row of a section."""
    return name if isinstance(name, str) else ", ".join(name)


def in_turns(starts, rounds, together=1):
    """Asks rows in turns.

    Args:
        starts: dict of functions without arguments that return a `Row`.
        rounds: int. Answers of each row.
        together: int. How many rows may get ready at once.

    Returns:
        dict of `{"facts": dict, "answers": list}`, or of `{"failed": str}`.
    """
    # In the order of the table, whichever is ready first.
    rows, found = {}, dict.fromkeys(starts)

    def get_ready(name):
        print(f"{label(name)} gets ready", file=sys.stderr, flush=True)
        try:
            rows[name] = starts[name]()
            found[name] = {"facts": rows[name].facts, "answers": []}
        except Failed as error:
            found[name] = {"failed": str(error)}

    try:
        with concurrent.futures.ThreadPoolExecutor(together) as pool:
            list(pool.map(get_ready, starts))
        for _ in range(rounds):
            for name, row in list(rows.items()):
                try:
                    measured = row.ask()
                except Failed as error:
                    found[name] = {"failed": str(error)}
                    rows.pop(name).stop()
                    continue
                found[name]["answers"].append(measured)
                print(
                    f"{label(name)}: {measured['wall']:.4g} s",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        for row in rows.values():
            row.stop()
    return found


def once(script, arguments, core, variables, limit=3600):
    """Runs a script of this folder to its end; the JSON of its last line."""
    try:
        result = subprocess.run(
            command(script, arguments, core),
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {limit:g} s") from None
    if result.returncode:
        raise Failed(f"it stopped with exit code {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def spread(row, key="wall"):
    """(median, smallest, largest) of what a row of `in_turns` answered."""
    values = [answer[key] for answer in row["answers"]]
    return statistics.median(values), min(values), max(values)


def peak_memory():
    """Bytes that this process had in memory at most."""
    # Not that of `getrusage`: a new process inherits the peak of the one before it.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


def processor():
    """The name of the processor, and what it multiplies beside float32."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = [line for line in text.splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    flags = set(text.split())
    return f"{name} ({', '.join(flag for flag in known if flag in flags)})"


def machine(gpu=False):
    """What rows ran on."""
    if not gpu:
        return f"one core of {processor()}"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.check_output(command, text=True).strip()


def versions():
    """Of Python and of what is installed of the libraries that are compared."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def about(gpu=False):
    """What makes figures repeatable."""
    return {"machine": machine(gpu), "versions": versions()}


def footer(given, gpu=False):
    """The last lines of a table: the command, and what it ran on."""
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"\nOn {machine(gpu)}. Made by `{given}`.\n\nVersions: {listed}.\n"
