"""The files of a version, and those beside it that a server is started with."""

import collections
import os
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

import keras_muse
from keras_muse.presets.loading import sha256_of
from keras_muse.serving.rows import MAX_GUIDANCE, MAX_PROMPT_BYTES, OWN_GUIDANCE
from keras_muse.serving.signatures import Served

__all__ = ["ServerFiles", "batch_sizes", "write_version"]

# Of each signature. On a CPU a batch takes seconds: a client of the last one waits for
# a minute, which is the patience of most.
MAX_ENQUEUED_BATCHES = 4


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
        _card(muse, served, folder, path, signatures, max_batch)
    )


def _example_inputs(signature, size, image_shape):
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


class ServerFiles:
    """What a server is started with: `models.config` and `batching_parameters.txt`.

    They are read at once, so that what an export cannot go on with is known before it
    begins. Of what people wrote there nothing is changed but the versions and labels
    of this model.

    Args:
        path: path `BASE/VERSION`.
        max_batch: int. Rows of the version's largest batch.

    Raises:
        ValueError: if `models.config` is no config of a server, or the batches that
            `batching_parameters.txt` allows are not `max_batch`.
    """

    def __init__(self, path, max_batch):
        self.path, self.max_batch = path, max_batch
        self.config_file = path.parent / "models.config"
        self.batching_file = path.parent / "batching_parameters.txt"
        self.config = model_server_config_pb2.ModelServerConfig()
        if self.config_file.exists():
            try:
                text_format.Parse(self.config_file.read_text(), self.config)
            except (text_format.ParseError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"`{self.config_file}` must be a config of TF Serving: {error}"
                ) from error
        if self.batching_file.exists():
            found = re.search(
                r"max_batch_size\s*\{\s*value\s*:\s*(\d+)",
                self.batching_file.read_text(),
            )
            if found is None or int(found[1]) != max_batch:
                allowed = "none" if found is None else found[1]
                raise ValueError(
                    f"`max_batch` must be what `{self.batching_file}` has for all "
                    f"versions, {allowed}: received {max_batch}. Change one of them."
                )

    def write(self, label):
        """Adds the version, with its label.

        Labels that were there stay, but those of versions that are gone; versions
        without a label are not served.

        Args:
            label: str.
        """
        base, name = self.path.parent, self.path.parent.name
        models = self.config.model_config_list.config
        model = next((model for model in models if model.name == name), None)
        if model is None:
            model = models.add(
                name=name, base_path=str(base), model_platform="tensorflow"
            )
        model.version_labels[label] = int(self.path.name)
        for key, version in list(model.version_labels.items()):
            if not (base / str(version)).is_dir():
                del model.version_labels[key]
        policy = model.model_version_policy
        # "latest" and "all" are somebody's own choice.
        if policy.WhichOneof("policy_choice") in (None, "specific"):
            versions = sorted(set(model.version_labels.values()))
            policy.specific.versions[:] = versions
        _replace(self.config_file, text_format.MessageToString(self.config))
        if not self.batching_file.exists():
            sizes = batch_sizes(self.max_batch)
            lines = [
                f"max_batch_size {{ value: {self.max_batch} }}",
                "batch_timeout_micros { value: 20000 }",
                # What would wait longer is refused, UNAVAILABLE.
                f"max_enqueued_batches {{ value: {MAX_ENQUEUED_BATCHES} }}",
                "num_batch_threads { value: 1 }",
                *(f"allowed_batch_sizes: {size}" for size in sizes),
            ]
            _replace(self.batching_file, "\n".join(lines) + "\n")


def _replace(path, text):
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def _specs(signature):
    """(name, spec) of each input."""
    return sorted(signature.structured_input_signature[1].items()) or [
        (spec.name, spec) for spec in signature.structured_input_signature[0]
    ]


def _write_warm_up(file, model, requests, signatures, image_shape):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, size in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = name
            inputs = _example_inputs(signatures[name], size, image_shape)
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _card(muse, served, folder, path, signatures, max_batch):
    """The text of `model_card.md`."""
    backbone = muse.backbone
    height, width, _ = backbone.image_shape
    length = muse.preprocessor.sequence_length
    weights = pathlib.Path(folder) / "variables/variables.data-00000-of-00001"
    jax = keras.config.backend() == "jax"
    stored = collections.Counter()
    for weight in served.core.weights:
        stored[weight.dtype.name] += int(np.prod(weight.shape))
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
        "B rows in, B rows out. Tokens and pixels of a row do not change with its "
        "batch (measured on CPUs).",
        "",
        f"- `prompt`, `negative_prompt`: UTF-8 of at most {MAX_PROMPT_BYTES} bytes. "
        "The empty string is no prompt, and what guidance leads away from by default. "
        f"Of more than {length} tokens the last are cut off, without a word.",
        "- `seed`: in [-2^31, 2^31). The same prompt and seed make the same picture; "
        "computed in float32 or int8, of the same image tokens as `generate`.",
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
        f"- A request has at most {max_batch} rows, which is also the largest batch; "
        f"a server pads to {batch_sizes(max_batch)}.",
        "- Numbers stored: "
        + ", ".join(f"{count:,} {name}" for name, count in sorted(stored.items()))
        + ". Those of float16 were so before, and are computed with in float32.",
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
