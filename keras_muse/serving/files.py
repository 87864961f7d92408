"""The files of a version, and those beside it that a server is started with."""

import json
import os
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text

import keras_muse
from keras_muse.presets.loading import sha256_of
from keras_muse.serving.rows import MAX_GUIDANCE, MAX_PROMPT_BYTES, OWN_GUIDANCE
from keras_muse.serving.signatures import Served

__all__ = ["batch_sizes", "example_inputs", "write_server_files", "write_version"]

# A version and its labels, as written below.
_LABEL = re.compile(r'version_labels \{ key: "([^"]+)" value: (\d+) \}')


def batch_sizes(max_batch):
    """The sizes that batches are padded to: powers of 2, then `max_batch`."""
    sizes = [2**power for power in range(max_batch.bit_length())]
    return sizes if sizes[-1] == max_batch else [*sizes, max_batch]


def write_version(muse, folder, path, max_batch, warm_up):
    """Writes the SavedModel, its warm-up requests and its card.

    Args:
        muse: `keras_muse.models.MuseTextToImage`.
        folder: path, an empty folder.
        path: path where the folder will be: `BASE/VERSION`.
        max_batch: int.
        warm_up: bool.
    """
    served = Served(muse)
    signatures = served.signatures()
    tf.saved_model.save(
        served,
        str(folder),
        signatures=signatures,
        # Gradients of JAX functions cannot be saved, and nobody trains a server.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    if warm_up:
        extra = folder / "assets.extra"
        extra.mkdir()
        _write_warm_up(
            extra / "tf_serving_warmup_requests",
            path.parent.name,
            [("serving_default", size) for size in batch_sizes(max_batch)]
            + [(name, 1) for name in signatures if name != "serving_default"],
            signatures,
            muse.backbone.image_shape,
        )
    (folder / "model_card.md").write_text(
        _card(muse, folder, path, signatures, max_batch)
    )


def example_inputs(signature, size, image_shape):
    """Inputs of a signature with `size` rows: dict of numpy arrays.

    Args:
        signature: function of `Served.signatures`.
        size: int.
        image_shape: (H, W, 3) of the pictures.
    """
    image = tf.io.encode_png(tf.zeros(image_shape, "uint8")).numpy()
    mask = tf.io.encode_png(tf.fill([*image_shape[:2], 1], tf.constant(255, "uint8")))
    rows = {
        "prompt": b"",
        "negative_prompt": b"",
        "seed": 0,
        "guidance_scale": OWN_GUIDANCE,
        "image_bytes": image,
        "mask_bytes": mask.numpy(),
        "tokens": 0,
    }
    return {
        name: np.full(
            [size, *spec.shape[1:]],
            rows[name],
            object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype,
        )
        for name, spec in _specs(signature)
    }


def write_server_files(path, max_batch, label):
    """Writes `models.config` and `batching_parameters.txt` beside a version.

    Args:
        path: path `BASE/VERSION`.
        max_batch: int.
        label: str. Points to this version from now on; others stay where they are, as
            long as their version is there.
    """
    base, version = path.parent, int(path.name)
    versions = sorted(int(p.name) for p in base.iterdir() if p.name.isdigit())
    config = base / "models.config"
    labels = {}
    if config.exists():
        labels = {k: int(v) for k, v in _LABEL.findall(config.read_text())}
    labels = {k: v for k, v in {**labels, label: version}.items() if v in versions}
    lines = [
        "model_config_list {",
        "  config {",
        f"    name: {json.dumps(base.name)}",
        f"    base_path: {json.dumps(str(base))}",
        '    model_platform: "tensorflow"',
        "    model_version_policy { specific {",
        *(f"      versions: {number}" for number in versions),
        "    } }",
        *(
            f'    version_labels {{ key: "{key}" value: {number} }}'
            for key, number in sorted(labels.items())
        ),
        "  }",
        "}",
    ]
    _replace(config, lines)
    _replace(
        base / "batching_parameters.txt",
        [
            f"max_batch_size {{ value: {max_batch} }}",
            "batch_timeout_micros { value: 20000 }",
            # What waits longer is refused, UNAVAILABLE, in place of piling up.
            "max_enqueued_batches { value: 16 }",
            "num_batch_threads { value: 1 }",
            *(f"allowed_batch_sizes: {size}" for size in batch_sizes(max_batch)),
        ],
    )


def _replace(path, lines):
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text("\n".join(lines) + "\n")
    beside.replace(path)


def _specs(signature):
    """(name, spec) of each input."""
    return sorted(signature.structured_input_signature[1].items()) or [
        (spec.name, spec) for spec in signature.structured_input_signature[0]
    ]


def _write_warm_up(file, model, requests, signatures, image_shape):
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, size in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = name
            inputs = example_inputs(signatures[name], size, image_shape)
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _card(muse, folder, path, signatures, max_batch):
    """The text of `model_card.md`."""
    backbone = muse.backbone
    height, width, _ = backbone.image_shape
    length = muse.preprocessor.sequence_length
    weights = pathlib.Path(folder) / "variables/variables.data-00000-of-00001"
    jax = keras.config.backend() == "jax"
    policies = sorted({p.dtype_policy.name for p in backbone.transformers})
    lines = [
        f"# {path.parent.name}, version {path.name}",
        "",
        f"A Muse of {backbone.count_params():,} parameters and {len(backbone.stages)} "
        f"stages for TF Serving: pictures of {width} x {height} pixels.",
        "",
        "| signature | inputs | outputs |",
        "|---|---|---|",
    ]
    for name, signature in signatures.items():
        inputs = ", ".join(f"`{n}` {_type(s)}" for n, s in _specs(signature))
        outputs = ", ".join(
            f"`{n}` {_type(s)}" for n, s in sorted(signature.structured_outputs.items())
        )
        lines.append(f"| `{name}` | {inputs} | {outputs} |")
    lines += [
        "",
        "B rows in, B rows out; a row depends on itself alone, not on its batch.",
        "",
        f"- `prompt`, `negative_prompt`: UTF-8 of at most {MAX_PROMPT_BYTES} bytes. "
        "The empty string is no prompt, and what guidance leads away from by default. "
        f"Of more than {length} tokens the last are cut off, without a word.",
        "- `seed`: in [-2^31, 2^31). The same prompt and seed make the same picture.",
        f"- `guidance_scale`: in [0, {MAX_GUIDANCE:g}] for all stages; 1 is none; "
        f"{OWN_GUIDANCE:g} takes those below.",
        f"- `image_bytes`, `mask_bytes`: PNG or JPEG of {width} x {height} pixels; a "
        "mask is white where the picture is to be made anew.",
        "- `error`: empty, or what is wrong with the row, which then has a black "
        "picture, an empty PNG and tokens of -1. Its batch mates are served.",
        "",
        "| stage | tokens | steps | sampler |",
        "|---|---|---|---|",
    ]
    for index, (sampler, transformer) in enumerate(
        zip(muse.samplers, backbone.transformers)
    ):
        settings = {**sampler.get_config()}
        steps = settings.pop("num_steps")
        text = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        lines.append(f"| {index} | {transformer.num_tokens} | {steps} | {text} |")
    lines += [
        "",
        f"- Batches of at most {max_batch}, padded to {batch_sizes(max_batch)}.",
        f"- Dtype policy of the transformers: {', '.join(policies)}. Weights that are "
        "numbers of float16 are stored as such.",
        f"- Weights: {weights.stat().st_size:,} bytes, SHA-256 `{sha256_of(weights)}`.",
        f"- Made with keras_muse {keras_muse.__version__}, Keras {keras.__version__}, "
        f"TensorFlow {tf.__version__}, TensorFlow Text {tensorflow_text.__version__}. "
        "An older TensorFlow may not know an op. The SentencePiece op of TensorFlow "
        "Text, which is needed, is part of TF Serving.",
    ]
    if jax:
        lines.append(
            "- Computed by JAX: the server needs `--xla_cpu_compilation_enabled=true`, "
            "or `--xla_gpu_compilation_enabled=true` on GPUs."
        )
    return "\n".join(lines) + "\n"


def _type(spec):
    shape = ", ".join("B" if side is None else str(side) for side in spec.shape)
    return f"({shape}{',' if len(spec.shape) == 1 else ''}) {spec.dtype.name}"
