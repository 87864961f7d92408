"""Tokens a second of a training step, ours on three backends and a peer's.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/training_step.py

The base model of width 512, 8 layers, 8 heads, gated MLPs and normalised queries and
keys, over 256 tokens of 8,192 codes and 64 text embeddings of width 768: forward,
backward and AdamW, the text embeddings given. Every row is a process of its own with
one thread on one core (`--core`; the other cores have to be idle), one after another,
the whole round several times; each row shows the median over all of its steps.
The peer is `muse-maskgit-pytorch` as its README trains it, see peers.py. With `--gpu`
all rows run on the GPU, float32 products in TF32 for all of them.
"""

import argparse
import json
import shlex
import statistics
import sys
import time

import ours as models
import peers
from peers import CODES, SIDE, TEXT, TEXT_WIDTH
from peers import MASKGIT as PEER
from processes import (
    KEEP_MEMORY,
    Failed,
    environment,
    machine,
    once,
    peak_memory,
)
from tables import write

# Row: backend of ours or none, and its dtype policy.
ROWS = {
    f"{PEER} float32": (None, "float32"),
    "JAX float32": ("jax", "float32"),
    "TensorFlow float32": ("tensorflow", "float32"),
    "PyTorch float32": ("torch", "float32"),
    f"{PEER} bfloat16 (weights, too)": (None, "mixed_bfloat16"),
    "JAX mixed_bfloat16": ("jax", "mixed_bfloat16"),
    "TensorFlow mixed_bfloat16": ("tensorflow", "mixed_bfloat16"),
    "PyTorch mixed_bfloat16": ("torch", "mixed_bfloat16"),
    "JAX float32, remat": ("jax", "float32"),
    "TensorFlow float32, remat": ("tensorflow", "float32"),
    "PyTorch float32, remat": ("torch", "float32"),
}


def ours(dtype, batch, steps, remat):
    """(seconds of each step, parameters, versions) of `MuseMaskedImageModel.fit`."""
    import keras
    import numpy as np

    from keras_muse.models import MuseMaskedImageModel

    backbone = models.backbone(models.TRAINING, dtype)
    transformer = backbone.transformers[0]
    trainer = MuseMaskedImageModel(backbone, remat=remat)
    trainer.compile(keras.optimizers.AdamW(1e-4, beta_2=0.96, weight_decay=0.045))
    rng = np.random.default_rng(0)
    data = {
        "image_ids": rng.integers(0, CODES, (batch, SIDE * SIDE)).astype("int32"),
        "text_embeddings": rng.normal(size=(batch, TEXT, TEXT_WIDTH)).astype("float32"),
        "padding_mask": np.ones((batch, TEXT), bool),
    }
    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            # The logs are numbers: the device is done.
            float(logs["loss"])
            seconds.append((time.perf_counter() - self.began) / per_epoch)

    # Long enough that the look at the logs does not count.
    per_epoch = max(steps // 4, 1)
    clock, epochs = Clock(), 2 + -(-steps // per_epoch)
    trainer.fit(
        _repeated(data),
        steps_per_epoch=per_epoch,
        epochs=epochs,
        callbacks=[clock],
        shuffle=False,
        verbose=0,
    )
    versions = {"keras": keras.__version__}
    versions[keras.config.backend()] = _version(keras.config.backend())
    return seconds[2:], transformer.count_params(), versions


def _repeated(data):
    """The same batch for ever."""
    try:
        import tensorflow as tf
    except ImportError:
        # Needs none of it where there is no tf.data.
        import grain

        return grain.MapDataset.source([data]).repeat().to_iter_dataset()
    return tf.data.Dataset.from_tensors(data).repeat()


def theirs(dtype, batch, steps, remat):
    """The same for the peer."""
    import torch

    del remat
    precision = "float32" if dtype == "float32" else "bfloat16"
    # Its VQGAN is never called.
    model = peers.maskgit(precision, peers.MaskGitSize(vae_dim=16))
    device = peers.device()
    model.to(device)
    weights = list(model.transformer.parameters())
    optimizer = torch.optim.AdamW(weights, 1e-4, betas=(0.9, 0.96), weight_decay=0.045)
    torch.manual_seed(0)
    ids = torch.randint(0, CODES, (batch, SIDE * SIDE), device=device)
    shape, precision = (batch, TEXT, TEXT_WIDTH), getattr(torch, precision)
    text = torch.randn(shape, device=device, dtype=precision)
    seconds = []
    for step in range(steps + 3):
        began = time.perf_counter()
        loss = model(ids, text_embeds=text)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if step >= 3:
            seconds.append(time.perf_counter() - began)
    count = sum(weight.numel() for weight in weights)
    return seconds, count, {"torch": torch.__version__}


def _peak_memory(backend):
    """Of the GPU where there is one, else of the process."""
    if backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats()
        if stats:
            return stats["peak_bytes_in_use"]
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    else:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    return peak_memory()


def _version(backend):
    return __import__(backend).__version__


def run_row(row, batch, steps, core, gpu):
    """One row in a process of its own; its JSON."""
    backend = ROWS[row][0] or "torch"
    arguments = ["--row", row, "--batch", str(batch), "--steps", str(steps)]
    if gpu:
        variables = environment(backend, gpu=True)
        return once("training_step.py", arguments, None, variables)
    variables = environment(backend, **KEEP_MEMORY)
    return once("training_step.py", arguments, core, variables)


def report(found, options):
    """The table of all rows."""
    count = options.batch * SIDE * SIDE
    medians = {row: statistics.median(x["seconds"]) for row, x in found.items()}
    peer = medians.get(f"{PEER} float32")
    lines = [
        "## Tokens a second of a training step",
        "",
        f"Batch {options.batch}, {machine(options.gpu)}. Made by `{options.given}`.",
        "",
        "| | parameters | seconds a step | fastest, slowest | tokens a second | to "
        "the peer's float32 | peak memory, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, x in found.items():
        low, high = min(x["seconds"]), max(x["seconds"])
        ratio = f"{peer / medians[row]:.2f}" if peer else ""
        lines.append(
            f"| {row} | {x['parameters'] / 1e6:.1f} M | {medians[row]:.3g} | "
            f"{low:.3g}, {high:.3g} | {count / medians[row]:.0f} | {ratio} | "
            f"{x['peak_bytes'] / 1e9:.2f} |"
        )
    versions = {}
    for x in found.values():
        versions |= x["versions"]
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items())]
    return "\n".join(lines) + "\n"


def main():
    """Reads the command line, writes training_step.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="of a row, each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--name", default="training_step", help="of the results")
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        backend, dtype = ROWS[options.row]
        measure = ours if backend else theirs
        remat = options.row.endswith("remat")
        seconds, count, versions = measure(dtype, options.batch, options.steps, remat)
        answer = {
            "seconds": seconds,
            "parameters": count,
            "versions": versions,
            "peak_bytes": _peak_memory(backend),
        }
        print(json.dumps(answer))
        return
    options.given = shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:]])
    found, failed = {}, False
    for _ in range(options.rounds):
        for row in options.only:
            try:
                x = run_row(
                    row, options.batch, options.steps, options.core, options.gpu
                )
            except Failed as error:
                print(f"{row}: {error}", flush=True)
                failed = True
                continue
            print(row, [round(s, 4) for s in x["seconds"]], flush=True)
            before = found.get(row, {"seconds": []})["seconds"]
            found[row] = {**x, "seconds": before + x["seconds"]}
    text = report(found, options)
    write(options.name, found, text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
