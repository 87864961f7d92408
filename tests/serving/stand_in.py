"""TF Serving's two ports on loopback, over signatures that this process has loaded.

They speak its real protos and its documented JSON, so that clients can be tested.
"""

import base64
import contextlib
import http.server
import json
import threading
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

__all__ = ["answer", "grpc_server", "rest_server"]


def answer(signatures, request):
    """The response to a `PredictRequest`."""
    function = signatures[request.model_spec.signature_name or "serving_default"]
    inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
    response = predict_pb2.PredictResponse()
    for name, value in function(**inputs).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
    return response


@contextlib.contextmanager
def grpc_server(signatures):
    """The address of a gRPC server."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            try:
                return answer(signatures, request)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message[:500])

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Service(), server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None)


@contextlib.contextmanager
def rest_server(signatures):
    """The URL of a REST server, rows in and rows out."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                answer = predict(signatures, body)
                code = 200
            except tf.errors.InvalidArgumentError as error:
                answer, code = {"error": error.message[:500]}, 400
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def predict(signatures, body):
    function = signatures[body["signature_name"]]
    specs = function.structured_input_signature[1]
    inputs = {}
    for name, spec in specs.items():
        values = [decoded(row[name]) for row in body["instances"]]
        dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
        inputs[name] = tf.constant(np.array(values, dtype))
    outputs = {k: v.numpy() for k, v in function(**inputs).items()}
    count = len(body["instances"])
    return {
        "predictions": [
            {name: encoded(name, value[row]) for name, value in outputs.items()}
            for row in range(count)
        ]
    }


def decoded(value):
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def encoded(name, value):
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    return value.decode() if isinstance(value, bytes) else value.tolist()
