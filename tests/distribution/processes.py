"""Several processes that train together, started as each backend wants it."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras

__all__ = ["launch"]

ROOT = pathlib.Path(__file__).parents[2]
BACKEND = keras.config.backend()


def launch(module, arguments, processes, folder=ROOT):
    """Runs a module in so many processes, and waits; raises if one fails.

    Args:
        module: str, of `python -m`.
        arguments: list of str.
        processes: int. 1 is a process that knows of no others.
        folder: where they run.
    """
    ports = _free_ports(processes)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    started = []
    if BACKEND == "torch" and processes > 1:
        torchrun = ["torch.distributed.run", f"--nproc_per_node={processes}"]
        torchrun += [f"--master_port={ports[0]}", "--module", module]
        started.append(_start([*torchrun, *arguments], folder))
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
        started.append(_start([module, *arguments], folder, **variables))
    try:
        printed = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, printed):
        assert process.returncode == 0, text[-6000:]


def _free_ports(count):
    """Ports that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _start(arguments, folder, **variables):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **variables,
    }
    # Of the devices of the tests.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
