"""Tokens a second of a training step, ours on three backends and a peer's.

    pip install --no-deps muse-maskgit-pytorch==0.3.5 vector-quantize-pytorch==1.32.0 \
        memory-efficient-attention-pytorch==0.1.6 ema-pytorch==0.8.3 einops==0.8.2 \
        einx==0.4.3 frozendict==2.5.1 beartype==0.23.1 loguru torch-einops-utils tqdm
    python benchmarks/training_step.py

The base model of width 512, 8 layers, 8 heads, gated MLPs and normalised queries and
keys, over 256 tokens of 8,192 codes and 64 text embeddings of width 768: forward,
backward and AdamW, the text embeddings given. Every row is a process of its own with
one thread on one core (`--core`; the other cores have to be idle), one after another,
the whole round several times; each row shows the median over all of its steps.
The peer is `muse-maskgit-pytorch` as its README trains it. For its imports that a step
does not use (torchvision, transformers, accelerate) there are empty modules. With
`--gpu` all rows run on the GPU, float32 products in TF32 for all of them.
"""

import argparse
import json
import os
import pathlib
import resource
import shlex
import statistics
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
CODES, SIDE, WIDTH, DEPTH, HEADS = 8192, 16, 512, 8, 8
TEXT, TEXT_WIDTH = 64, 768
# Of a gated MLP of the peer: 4 * WIDTH * 2 / 3.
INNER = 1365
PEER = "muse-maskgit-pytorch"
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

    from keras_muse.image_tokenizer import VQGAN, VectorQuantizer
    from keras_muse.models import MuseBackbone, MuseMaskedImageModel
    from keras_muse.text import T5TextEncoder
    from keras_muse.transformer import MaskedTransformer

    transformer = MaskedTransformer(
        CODES,
        SIDE,
        num_layers=DEPTH,
        hidden_dim=WIDTH,
        num_heads=HEADS,
        intermediate_dim=INNER,
        text_dim=TEXT_WIDTH,
        use_qk_norm=True,
        use_gated_mlp=True,
        dtype=dtype,
    )
    # What tokens and text embeddings would come from is there and has nothing to do.
    encoder = T5TextEncoder(
        64, num_layers=1, num_heads=2, hidden_dim=TEXT_WIDTH, intermediate_dim=8
    )
    vqgan = VQGAN(
        VectorQuantizer(CODES, 8),
        base_channels=4,
        channel_multipliers=(1, 1),
        strides=(16,),
        num_residual_blocks=(0, 0),
        groups=2,
    )
    backbone = MuseBackbone(encoder, [(vqgan, transformer)])
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
    _stand_in()
    from muse_maskgit_pytorch import MaskGit, MaskGitTransformer, VQGanVAE, t5

    t5.T5_CONFIGS[t5.DEFAULT_T5_NAME] = {
        "config": type("Config", (), {"d_model": TEXT_WIDTH})
    }
    transformer = MaskGitTransformer(
        num_tokens=CODES,
        seq_len=SIDE * SIDE,
        dim=WIDTH,
        depth=DEPTH,
        dim_head=WIDTH // HEADS,
        heads=HEADS,
        ff_mult=4,
        # Overflows in bfloat16.
        flash=dtype == "float32",
    )
    vae = VQGanVAE(dim=16, codebook_size=CODES, use_vgg_and_gan=False)
    model = MaskGit(
        image_size=256, transformer=transformer, vae=vae, cond_drop_prob=0.1
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Under autocast it stops with an error, so its weights are bfloat16 as well.
    precision = torch.float32 if dtype == "float32" else torch.bfloat16
    model.to(device, precision)
    weights = list(transformer.parameters())
    optimizer = torch.optim.AdamW(weights, 1e-4, betas=(0.9, 0.96), weight_decay=0.045)
    torch.manual_seed(0)
    ids = torch.randint(0, CODES, (batch, SIDE * SIDE), device=device)
    text = torch.randn((batch, TEXT, TEXT_WIDTH), device=device, dtype=precision)
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


def _stand_in():
    """Empty modules for what the peer imports and a step does not use."""
    import importlib.machinery
    import unittest.mock

    for name in (
        "torchvision",
        "torchvision.transforms",
        "torchvision.datasets",
        "torchvision.utils",
        "torchvision.models",
        "transformers",
        "accelerate",
    ):
        module = unittest.mock.MagicMock(name=name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(backend):
    return __import__(backend).__version__


def run_row(row, batch, steps, core, gpu):
    """One row in a process of its own; its JSON."""
    backend, _ = ROWS[row]
    variables = {"NVIDIA_TF32_OVERRIDE": "1"}
    if not gpu:
        variables = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # PyTorch's memory is mapped anew for every tensor otherwise.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "17179869184",
        }
    command = [sys.executable, __file__, "--row", row]
    command += ["--batch", str(batch), "--steps", str(steps)]
    result = subprocess.run(
        command if gpu else ["taskset", "-c", str(core), *command],
        env={**os.environ, "KERAS_BACKEND": backend or "torch", **variables},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        print(f"{row} failed:\n{result.stderr[-3000:]}", flush=True)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def machine(gpu):
    """What the rows ran on."""
    if gpu:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.check_output(command, text=True).strip()
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = [x for x in text.splitlines() if x.startswith("model name")]
    return f"one core of {names[0].partition(':')[2].strip() if names else 'a CPU'}"


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
            x = run_row(row, options.batch, options.steps, options.core, options.gpu)
            if x is None:
                failed = True
                continue
            print(row, [round(s, 4) for s in x["seconds"]], flush=True)
            before = found.get(row, {"seconds": []})["seconds"]
            found[row] = {**x, "seconds": before + x["seconds"]}
    text = report(found, options)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / f"{options.name}.md").write_text(text)
    print(text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
