"""Trainings on many devices, in processes of their own, equal that on one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
BACKEND = keras.config.backend()
pytestmark = pytest.mark.slow


def free_ports(count):
    """Ports that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(arguments, **variables):
    """A process of this backend, in the root of the repository."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    # Its devices are its own.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    """Waits for all of them; shows what one that failed printed."""
    try:
        printed = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, printed):
        assert process.returncode == 0, text[-6000:]


def run(output, kind, devices, processes=1, model_shards=1, parts="muse,vqgan"):
    """What each process of a training wrote, a list of dicts of arrays."""
    worker = "tests.distribution.worker"
    arguments = [worker, str(output), kind, str(devices), str(model_shards), parts]
    ports = free_ports(processes)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    started = []
    if BACKEND == "torch" and kind != "one":
        torchrun = ["torch.distributed.run", f"--nproc_per_node={processes}"]
        torchrun += [f"--master_port={ports[0]}", "--module"]
        started.append(start([*torchrun, *arguments]))
    for index in range(0 if started else processes):
        variables = {}
        if processes > 1 and BACKEND == "jax":
            variables = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(addresses),
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
            }
        if processes > 1 and BACKEND == "tensorflow":
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            variables = {"TF_CONFIG": json.dumps(config)}
        started.append(start(arguments, **variables))
    finish(started)
    return [dict(np.load(f"{output}-{index}.npz")) for index in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same training on one device."""
    return run(tmp_path_factory.mktemp("one") / "one", "one", 1)[0]


CASES = {
    "jax": {
        "two_processes_of_four": {"kind": "data", "devices": 4, "processes": 2},
        "model_parallel": {
            "kind": "model",
            "devices": 4,
            "processes": 2,
            "model_shards": 2,
            "parts": "muse",
        },
    },
    "tensorflow": {
        "mirrored": {"kind": "data", "devices": 4, "parts": "muse"},
        "two_workers": {"kind": "data", "devices": 1, "processes": 2},
    },
    "torch": {"two_processes": {"kind": "data", "devices": 1, "processes": 2}},
}[BACKEND]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_one_device(case, one, tmp_path):
    found = run(tmp_path / "many", **case)
    assert set(found[0]) <= set(one) and "muse/loss" in found[0]
    for name, value in found[0].items():
        if name.endswith("/loss"):
            # The noise of a step, what it divides by, its averages: all of the batch.
            np.testing.assert_allclose(value[0], one[name][0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(value, one[name], rtol=5e-4, atol=5e-4, err_msg=name)
        for other in found[1:]:
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_the_training_moves(one):
    for part in ("muse", "vqgan"):
        assert one[f"{part}/loss"][0] > one[f"{part}/loss"][-1] + 0.01
