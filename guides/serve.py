"""Clients of an exported Muse behind TF Serving: gRPC and REST.

python guides/serve.py "a red circle on white" --grpc localhost:8500
python guides/serve.py "a red circle on white" --rest http://localhost:8501

They need `keras-muse[serving]`, or TensorFlow, tensorflow-serving-api and requests, and
nothing of keras_muse. guides/serving.md tells how to start the server.
"""

import argparse
import base64
import pathlib

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

# gRPC refuses answers above 4 MB: a few pictures of 512 x 512 pixels.
MAX_MESSAGE = 256 * 1024 * 1024
GRPC_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
]
# What the inputs are beside strings.
DTYPES = {"seed": "int64", "guidance_scale": "float32", "tokens": "int32"}


def rows(prompts, seeds, negative_prompts=None, guidance_scale=-1.0):
    """Inputs of `serving_default`, `png` and `tokens`; -1 is the model's guidance."""
    return {
        "prompt": list(prompts),
        "negative_prompt": list(negative_prompts or [""] * len(prompts)),
        "seed": list(seeds),
        "guidance_scale": [guidance_scale] * len(prompts),
    }


def ask_grpc(
    address,
    inputs,
    model="muse",
    signature="serving_default",
    timeout=60.0,
    label=None,
):
    """Outputs of a signature, from a server's gRPC port.

    Args:
        address: str, such as `"localhost:8500"`.
        inputs: dict of lists with one entry a row, as many as the `max_batch` of the
            export; strings are str or bytes.
        model: str. Name of the model.
        signature: str.
        timeout: float. Seconds.
        label: str. Label of the version. Defaults to the newest version, whatever its
            label.

    Returns:
        dict of numpy arrays.

    Raises:
        grpc.RpcError: what the server or the connection says: INVALID_ARGUMENT,
            UNAVAILABLE if too much is waiting, DEADLINE_EXCEEDED, ...
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if label is not None:
        request.model_spec.version_label = label
    for name, values in inputs.items():
        if name not in DTYPES:
            values = [v.encode() if isinstance(v, str) else v for v in values]
        array = np.array(values, DTYPES.get(name, object))
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    with grpc.insecure_channel(address, GRPC_OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def ask_rest(url, inputs, model="muse", signature="png", timeout=60.0, label=None):
    """Outputs of a signature, from a server's REST port.

    Pixels are long as JSON: of `png`, answers are a hundred times shorter than of
    `serving_default`.

    Args:
        url: str, such as `"http://localhost:8501"`.
        inputs: dict of lists with one entry a row, as of `ask_grpc`.
        model: str. Name of the model.
        signature: str.
        timeout: float. Seconds; the server itself gives up after 30, if it is not
            started with `--rest_api_timeout_in_ms`.
        label: str. Label of the version. Defaults to the newest version.

    Returns:
        dict of lists.

    Raises:
        requests.RequestException: if there is no connection, or no answer in time.
        RuntimeError: what the server says.
    """
    instances = [
        {name: _to_json(value) for name, value in zip(inputs, row)}
        for row in zip(*inputs.values())
    ]
    version = "" if label is None else f"/labels/{label}"
    response = requests.post(
        f"{url}/v1/models/{model}{version}:predict",
        json={"signature_name": signature, "instances": instances},
        timeout=timeout,
    )
    answer = response.json()
    if not response.ok:
        raise RuntimeError(f"{response.status_code}: {answer.get('error')}")
    return {
        name: [_from_json(row[name]) for row in answer["predictions"]]
        for name in answer["predictions"][0]
    }


def _to_json(value):
    """Bytes, such as a PNG, as TF Serving has them in JSON."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value


def _from_json(value):
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def main():
    """Asks for a picture of each prompt and writes them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--grpc", metavar="HOST:PORT")
    parser.add_argument("--rest", metavar="URL")
    parser.add_argument("--model", default="muse")
    parser.add_argument("--label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path())
    options = parser.parse_args()
    if bool(options.grpc) == bool(options.rest):
        parser.error("one of --grpc and --rest is needed")
    options.folder.mkdir(parents=True, exist_ok=True)
    ask, server = (ask_grpc, options.grpc) if options.grpc else (ask_rest, options.rest)
    seeds = range(options.seed, options.seed + len(options.prompts))
    inputs = rows(options.prompts, seeds)
    answers = ask(server, inputs, options.model, "png", label=options.label)
    for number, (png, error) in enumerate(zip(answers["png_bytes"], answers["error"])):
        # One bad row does not spoil the others.
        if error:
            print(error if isinstance(error, str) else error.decode())
            continue
        path = options.folder / f"served_{number}.png"
        path.write_bytes(png)
        print(path)


if __name__ == "__main__":
    main()
