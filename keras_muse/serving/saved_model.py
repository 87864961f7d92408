"""Writes a Muse as one version of a model of TF Serving."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import keras

from keras_muse.models import MuseBackbone, MuseTextToImage
from keras_muse.models.inputs import as_count, as_num_steps

__all__ = ["BACKENDS", "PRECISIONS", "export", "export_preset"]

BACKENDS = ("tensorflow", "jax")
PRECISIONS = ("float32", "bfloat16", "int8")


def export(
    muse,
    path,
    num_steps=None,
    stages=None,
    max_batch=8,
    precision=None,
    label="stable",
    warm_up=True,
    backend="tensorflow",
):
    """Exports a Muse as a SavedModel: strings in, pictures out, no Python in between.

    Needs `tensorflow-serving-api` (`keras-muse[serving]`). Signatures, all with one
    entry a row, see the `model_card.md` of the export:
    `serving_default` (prompt, negative_prompt, seed, guidance_scale -> images,
    png_bytes, error), `png`, `tokens`, `inpaint` and `decode`. The same prompt and seed
    make the same image tokens as `generate` does on every backend, in every batch; but
    in bfloat16, which TensorFlow rounds in other places in a graph.

    The folder is written beside its place and renamed, so that a watching server never
    sees half of it. Beside it are `models.config`, with a label for the version, and
    `batching_parameters.txt`, for the server; in it are warm-up requests.

    Steps are fixed here, and no input: a server computes rows of many clients in one
    batch, which lasts as long as the row with most steps.

    Args:
        muse: task of `keras_muse.models` with a preprocessor. Its samplers are
            exported.
        path: str or path `BASE/VERSION`, such as `"served/muse/1"`, the version an int
            above 0. BASE names the model.
        num_steps: int, or one a stage. Decoding steps. Defaults to those of the
            samplers.
        stages: int. How many stages, from the base on; with fewer, pictures are smaller
            and sooner there. Defaults to all.
        max_batch: int, at least 1. The largest batch, the same for all versions. A
            server pads batches to a power of 2, or to this. Defaults to 8.
        precision: `"float32"`, `"bfloat16"` or `"int8"`, see
            `MuseTextToImage.quantize`. Defaults to that of the task. What it costs is
            in benchmarks/results/export_precision.md. Weights that are numbers of
            float16 are stored as such, and become float32 in each request.
        label: str. Label of this version in `models.config`. Other labels there stay.
            Defaults to `"stable"`.
        warm_up: bool. Whether to write warm-up requests, which a server answers before
            it takes others. Defaults to `True`.
        backend: `"tensorflow"` or `"jax"`. What computes within the SavedModel. One of
            JAX is a program of XLA: the server needs
            `--xla_cpu_compilation_enabled=true` (or `--xla_gpu_...`). If it is not the
            backend of this process, another process exports. Defaults to
            `"tensorflow"`.

    Returns:
        `pathlib.Path` of the SavedModel.

    Raises:
        TypeError, ValueError: if an argument is out of range, or the task has no
            preprocessor.
        FileExistsError: if the version is there.
        ImportError: if there is no `tensorflow-serving-api`, or not the backend.
        RuntimeError: if the other process failed, with what it said.
    """
    path = _checked(path, max_batch, precision, label, backend)
    muse = _selected(muse, num_steps, stages)
    if precision == "int8" and _is_int8(muse):
        precision = None
    if precision is not None or backend != keras.config.backend():
        if _is_int8(muse):
            raise ValueError(
                "`precision` must be None or 'int8', and `backend` that of this "
                f"process, for a model of int8: received precision={precision!r}, "
                f"backend={backend!r}."
            )
        # A preset is what every backend and every precision can be loaded from.
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preset-", dir=path.parent) as folder:
            muse.save_to_preset(folder)
            return export_preset(
                folder,
                path,
                max_batch=max_batch,
                precision=precision,
                label=label,
                warm_up=warm_up,
                backend=backend,
            )
    return _write(muse, path, max_batch, label, warm_up)


def export_preset(
    preset,
    path,
    num_steps=None,
    stages=None,
    max_batch=8,
    precision=None,
    label="stable",
    warm_up=True,
    backend="tensorflow",
):
    """Exports a preset, without loading it here if another process has to do it.

    Args:
        preset: name, folder or handle of a preset.
        path: as of `export`, like all that follows.
        num_steps: int, or one a stage.
        stages: int.
        max_batch: int.
        precision: `"float32"`, `"bfloat16"` or `"int8"`.
        label: str.
        warm_up: bool.
        backend: `"tensorflow"` or `"jax"`.

    Returns:
        `pathlib.Path` of the SavedModel.

    Raises:
        TypeError, ValueError, FileExistsError, ImportError, RuntimeError: as `export`.
    """
    path = _checked(path, max_batch, precision, label, backend)
    if backend != keras.config.backend():
        command = ["export", str(preset), str(path.parent), "--version", path.name]
        command += ["--max-batch", str(max_batch), "--label", label]
        command += ["--backend", backend]
        for option, value in (("--stages", stages), ("--precision", precision)):
            command += [] if value is None else [option, str(value)]
        if num_steps is not None:
            steps = num_steps if isinstance(num_steps, (list, tuple)) else [num_steps]
            command += ["--steps", *map(str, steps)]
        command += [] if warm_up else ["--no-warm-up"]
        _run(command, backend)
        return path
    options = {} if precision in (None, "int8") else {"dtype": precision}
    muse = MuseTextToImage.from_preset(preset, **options)
    if precision == "int8" and not _is_int8(muse):
        muse.quantize("int8")
    return _write(_selected(muse, num_steps, stages), path, max_batch, label, warm_up)


def _is_int8(muse):
    return any(str(weight.dtype) == "int8" for weight in muse.backbone.weights)


def _checked(path, max_batch, precision, label, backend):
    path = pathlib.Path(path).absolute()
    # What a server reads as a version, written in one way.
    name = path.name
    if not (name.isascii() and name.isdigit() and name == str(int(name)) != "0"):
        raise ValueError(
            "`path` must end in a version, an int above 0, as in 'served/muse/1': "
            f"received {str(path)!r}."
        )
    if path.exists():
        raise FileExistsError(
            f"`path` must be a version that is not there: {str(path)!r} is. A server "
            "may be reading it; export the next version."
        )
    as_count("max_batch", max_batch, least=1)
    for name, value, known in (
        ("precision", precision, (None, *PRECISIONS)),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, known))}: received "
                f"{value!r}."
            )
    if not (isinstance(label, str) and label.replace("-", "").isalnum()):
        raise ValueError(
            f"`label` must be made of letters, digits and '-': received {label!r}."
        )
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise ImportError(
            "An export needs `tensorflow-serving-api`: install `keras-muse[serving]`."
        )
    if importlib.util.find_spec(backend) is None:
        raise ImportError(
            f"`backend` must be installed: there is no `{backend}`. Install "
            f"`keras-muse[{backend}]`."
        )
    return path


def _selected(muse, num_steps, stages):
    """A `MuseTextToImage` of the first stages, with the steps in its samplers."""
    if muse.preprocessor is None:
        raise ValueError("`muse` must have a preprocessor: received None.")
    count = len(muse.backbone.stages)
    stages = count if stages is None else as_count("stages", stages, least=1)
    if stages > count:
        raise ValueError(f"`stages` must lie in [1, {count}]: received {stages}.")
    samplers = muse.samplers[:stages]
    for sampler in samplers:
        if sampler.refresh_every > 1:
            raise ValueError(
                "`refresh_every` must be 1 to be exported, whose steps are one loop: "
                f"received refresh_every={sampler.refresh_every}."
            )
    limits = [part.num_tokens for part in muse.backbone.transformers[:stages]]
    defaults = [sampler.num_steps for sampler in samplers]
    steps = as_num_steps(num_steps, defaults, limits)
    samplers = [s.replace(num_steps=n) for s, n in zip(samplers, steps)]
    backbone = muse.backbone
    if stages < count:
        backbone = MuseBackbone(
            backbone.text_encoder,
            backbone.stages[:stages],
            critics=backbone.critics[:stages],
            name=backbone.name,
        )
    return MuseTextToImage(backbone, muse.preprocessor, samplers)


def _write(muse, path, max_batch, label, warm_up):
    from keras_muse.serving.files import ServerFiles, write_version

    server_files = ServerFiles(path, max_batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that is no number, which no server takes for a version.
    beside = pathlib.Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    try:
        write_version(muse, beside, path, max_batch, warm_up)
        beside.chmod(0o755)
        os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    server_files.write(label)
    return path


def _run(command, backend):
    """`keras-muse COMMAND` in a process with another backend."""
    done = subprocess.run(
        [sys.executable, "-m", "keras_muse", *command],
        # An export computes nothing, and this process may hold the accelerator.
        env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        said = next((s for s in lines if s.startswith("keras-muse: error:")), lines[-1])
        raise RuntimeError(
            f"The export with the backend {backend!r} failed, exit code "
            f"{done.returncode}: {said.removeprefix('keras-muse: error: ')}"
        )
