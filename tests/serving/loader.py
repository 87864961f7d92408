"""Drives `loader.cc`, which stands for TF Serving."""

import pathlib
import subprocess
import sysconfig

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import named_tensor_pb2

__all__ = ["build", "run", "text_ops"]

SOURCE = pathlib.Path(__file__).with_name("loader.cc")


def build(folder):
    """Compiles the loader against the TensorFlow that is installed: its path."""
    library = pathlib.Path(tf.sysconfig.get_lib())
    program = pathlib.Path(folder) / "loader"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-w", "-DEIGEN_MAX_ALIGN_BYTES=64"]
        + [f"-D_GLIBCXX_USE_CXX11_ABI={tf.sysconfig.CXX11_ABI_FLAG}"]
        + [f"-I{tf.sysconfig.get_include()}", str(SOURCE), "-o", str(program)]
        # The linker may drop what is not called by name, such as the sessions.
        + [f"-L{library}", "-Wl,--no-as-needed", f"-Wl,-rpath,{library}"]
        + ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"],
        check=True,
    )
    return program


def text_ops():
    """The library with the op that reads prompts."""
    folder = pathlib.Path(sysconfig.get_paths()["platlib"])
    return folder / "tensorflow_text/python/ops/_sentencepiece_tokenizer.so"


def run(program, model, requests, folder, xla=False, timeout=600):
    """Answers of the loader.

    Args:
        program: of `build`.
        model: folder of the SavedModel.
        requests: list of (signature, dict of inputs).
        folder: for files.
        xla: bool. Whether XLA may be used.
        timeout: int. Seconds after which it counts as hanging.

    Returns:
        list, for each request a dict of arrays, or a str: what went wrong.
    """
    folder = pathlib.Path(folder)
    source, target = folder / "requests", folder / "responses"
    with tf.io.TFRecordWriter(str(source)) as writer:
        for signature, inputs in requests:
            writer.write(f"{signature} {len(inputs)}".encode())
            for name, value in inputs.items():
                named = named_tensor_pb2.NamedTensorProto(
                    name=name, tensor=tf.make_tensor_proto(value)
                )
                writer.write(named.SerializeToString())
    command = [program, model, text_ops(), source, target, *(["xla"] if xla else [])]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-4000:]}")
    records = tf.data.TFRecordDataset(str(target)).as_numpy_iterator()
    answers = []
    for head in records:
        code, rest = head.decode().split(" ", 1)
        if code != "OK":
            answers.append(f"{code} {rest}")
            continue
        outputs = {}
        for _ in range(int(rest)):
            named = named_tensor_pb2.NamedTensorProto.FromString(next(records))
            outputs[named.name] = np.asarray(tf.make_ndarray(named.tensor))
        answers.append(outputs)
    return answers
