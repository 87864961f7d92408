"""How many pictures a server gives, how soon, and what it does with too many requests.

    pip install "ray[serve]"
    python benchmarks/serving.py

The embedded preset with 16 + 4 steps is exported and served twice: by the Ray example
of guides/, and in this process by the batch function of TensorFlow's core, which TF
Serving batches with as well. Each has 1, 8, then 32 clients for a minute, every one of
which asks again when it has its answer; then more clients than may wait. Every picture
is compared, byte by byte, with the one that the same request gave alone.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

import numpy as np
import requests
import tensorflow as tf
import tensorflow_text  # noqa: F401
from tables import markdown, write

from keras_muse import serving
from keras_muse.data import shapes
from keras_muse.serving.files import MAX_ENQUEUED_BATCHES

STEPS = (16, 4)
CLIENTS = (1, 8, 32)
OVERLOAD = 96
URL = "http://127.0.0.1:8000"
GUIDES = pathlib.Path(__file__).parents[1] / "guides"


class Refused(Exception):
    """The server has too much to do and said so."""


def known_pictures(model, count):
    """Requests, and the PNG that each gives alone."""
    _, prompts = shapes.examples("held_out_captions", 0, count, 3)
    scales = [-1.0, 1.0, 3.0]
    rows = [
        {
            "prompt": prompt,
            "negative_prompt": "",
            "seed": seed,
            "guidance_scale": scales[seed % 3],
        }
        for seed, prompt in enumerate(prompts)
    ]
    function = model.signatures["png"]
    return [(row, function(**tensors(row))["png_bytes"].numpy()[0]) for row in rows]


def tensors(row):
    """One request as a batch of one."""
    return {
        "prompt": tf.constant([row["prompt"]]),
        "negative_prompt": tf.constant([row["negative_prompt"]]),
        "seed": tf.constant([row["seed"]], tf.int64),
        "guidance_scale": tf.constant([row["guidance_scale"]], tf.float32),
    }


def batch_function(model):
    """An `ask(row)` over the batch function, and the sizes that it has computed."""
    function = model.signatures["png"]
    sizes = []

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1,
        max_batch_size=8,
        batch_timeout_micros=20_000,
        allowed_batch_sizes=[1, 2, 4, 8],
        max_enqueued_batches=MAX_ENQUEUED_BATCHES,
    )
    def batched(prompt, negative_prompt, seed, guidance_scale):
        tf.numpy_function(lambda s: sizes.append(len(s)) or s, [seed], tf.int64)
        outputs = function(
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            guidance_scale=guidance_scale,
        )
        return outputs["png_bytes"], outputs["error"]

    # Traced once: each trace would have a queue of its own.
    kinds = ("string", "string", "int64", "float32")
    signature = [tf.TensorSpec([1], kind) for kind in kinds]
    one = tf.function(batched, input_signature=signature).get_concrete_function()

    def ask(row):
        try:
            png, error = one(*tensors(row).values())
        except tf.errors.UnavailableError as error:
            # Behind a listing of where the op was made.
            raise Refused(re.search(r"The batch .*is full", str(error))[0]) from error
        assert not error.numpy()[0], error
        return png.numpy()[0]

    return ask, sizes


sessions = threading.local()


def ask_ray(row):
    """The picture of a request to the Ray example."""
    if not hasattr(sessions, "session"):
        sessions.session = requests.Session()
    response = sessions.session.post(URL, json=row, timeout=300)
    if response.status_code == 503:
        raise Refused(response.text)
    response.raise_for_status()
    return response.content


@contextlib.contextmanager
def ray_server(path):
    """The Ray example, until the end of the block."""
    command = shutil.which("serve")
    if command is None:
        raise SystemExit("There is no `serve` on PATH: pip install 'ray[serve]'.")
    environment = {
        **os.environ,
        "MUSE_MODEL": str(path),
        # Its replicas import the example by name.
        "PYTHONPATH": str(GUIDES),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with open(path.parent / "ray.log", "w") as log:
        server = subprocess.Popen(
            [command, "run", "serve_ray:app"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(300):
                with contextlib.suppress(requests.ConnectionError):
                    if requests.post(URL, json={"prompt": "a"}, timeout=60).ok:
                        break
                if server.poll() is not None:
                    break
                time.sleep(1)
            else:
                raise SystemExit(f"no server: {(path.parent / 'ray.log').read_text()}")
            if server.poll() is not None:
                raise SystemExit(f"it ended: {(path.parent / 'ray.log').read_text()}")
            yield ask_ray
        finally:
            server.terminate()
            server.wait(60)


def load(ask, known, clients, seconds):
    """What as many clients see, each of which asks again when it has its answer."""
    times, counts = [], collections.Counter()
    messages = collections.Counter()
    rows = itertools.cycle(known)
    lock = threading.Lock()
    stop = time.monotonic() + seconds

    def client():
        while time.monotonic() < stop:
            with lock:
                row, wanted = next(rows)
            started = time.monotonic()
            try:
                png = ask(row)
            except Refused as error:
                counts["refused"] += 1
                messages[str(error)[:200]] += 1
                # A client that asks again at once would measure nothing but itself.
                time.sleep(0.5)
                continue
            except Exception as error:
                counts["failed"] += 1
                messages[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            times.append(time.monotonic() - started)
            counts["right" if png == wanted else "wrong"] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - started
    if not times:
        raise SystemExit(f"Nothing was answered: {dict(messages)}")
    return {
        "requests/s": round(len(times) / elapsed, 2),
        "p50, s": round(float(np.percentile(times, 50)), 2),
        "p99, s": round(float(np.percentile(times, 99)), 2),
        "answered": len(times),
        "wrong": counts["wrong"],
        "failed": counts["failed"],
        "refused": counts["refused"],
    }, dict(messages)


def main():
    """Reads the command line, writes serving.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--known", type=int, default=48)
    options = parser.parse_args()
    table, said = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = serving.export_preset(
            "muse_shapes", pathlib.Path(folder) / "muse/1", num_steps=STEPS
        )
        model = tf.saved_model.load(str(path))
        known = known_pictures(model, options.known)

        def measure(name, ask, clients):
            table[name], messages = load(ask, known, clients, options.seconds)
            if messages:
                said[name] = messages
            print(name, table[name], messages, flush=True)

        ask, sizes = batch_function(model)
        # All sizes are compiled before anybody waits, as warm-up requests see to it.
        for size in (1, 2, 4, 8):
            load(ask, known, size, 2.0)
        for clients in CLIENTS:
            sizes.clear()
            measure(f"batch function, {clients} clients", ask, clients)
            mean = sum(sizes) / len(sizes)
            table[f"batch function, {clients} clients"]["batch"] = round(mean, 1)
        room = 8 * MAX_ENQUEUED_BATCHES
        measure(f"batch function, {OVERLOAD} clients, room for {room}", ask, OVERLOAD)
        del model, ask
        with ray_server(path) as ask:
            load(ask, known, 8, 10.0)
            for clients in CLIENTS:
                measure(f"Ray Serve, {clients} clients", ask, clients)
            measure(f"Ray Serve, {OVERLOAD} clients, room for 48", ask, OVERLOAD)
    about = {
        "tensorflow": tf.__version__,
        "cores": os.cpu_count(),
        "steps": STEPS,
        "seconds": options.seconds,
    }
    text = markdown(
        f"Pictures from a server, {STEPS[0]} + {STEPS[1]} steps, {os.cpu_count()} "
        f"cores, {options.seconds:g} s a row",
        table,
    )
    text += (
        "\n`batch` is the mean size of a batch. A server of Ray has one of the cores "
        "for a replica\n(`num_cpus` of the example), the batch function all.\n"
        "\nWhat was said to those who were refused:\n\n"
    )
    for name, messages in said.items():
        text += f"- {name}: `{json.dumps(max(messages, key=messages.get))}`\n"
    text += "\nMade by `python benchmarks/serving.py`, which tells what it is.\n"
    write("serving", {"about": about, "table": table, "messages": said}, text)


if __name__ == "__main__":
    main()
