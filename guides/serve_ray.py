"""A server without TF Serving: Ray Serve over the same SavedModel, as an example.

pip install "ray[serve]" tensorflow tensorflow-text
MUSE_MODEL=$PWD/served/muse/1 PYTHONPATH=guides serve run serve_ray:app
curl -s localhost:8000 -d '{"prompt": "a red circle on white", "seed": 1}' -o muse.png

It needs no keras_muse. Requests that come together are computed
together; when too many wait, further ones get a 503 at once.
"""

import asyncio
import json
import os

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the op that reads prompts)
from ray import serve
from starlette.responses import JSONResponse, Response

# What the model is padded to, as in its batching_parameters.txt.
SIZES = (1, 2, 4, 8)
INPUTS = {
    "prompt": (str, ""),
    "negative_prompt": (str, ""),
    "seed": (int, 0),
    "guidance_scale": ((int, float), -1.0),
}


@serve.deployment(
    num_replicas=1,
    # One batch at work and one that fills up; then a queue, then refusal.
    max_ongoing_requests=2 * SIZES[-1],
    max_queued_requests=4 * SIZES[-1],
    ray_actor_options={"num_cpus": 1},
)
class Muse:
    """One SavedModel and the queue before it."""

    def __init__(self, path):
        # Kept: a signature alone does not keep its weights.
        self.model = tf.saved_model.load(path)
        self.png = self.model.signatures["png"]
        for size in SIZES:
            self.run([{name: value for name, (_, value) in INPUTS.items()}] * size)

    def run(self, requests):
        """The (png, error) of each request."""
        count = len(requests)
        size = next(size for size in SIZES if size >= count)
        rows = requests + requests[:1] * (size - count)
        outputs = self.png(
            prompt=tf.constant([row["prompt"] for row in rows]),
            negative_prompt=tf.constant([row["negative_prompt"] for row in rows]),
            seed=tf.constant([row["seed"] for row in rows], tf.int64),
            guidance_scale=tf.constant(
                np.array([row["guidance_scale"] for row in rows], "float32")
            ),
        )
        answers = zip(outputs["png_bytes"].numpy(), outputs["error"].numpy())
        return list(answers)[:count]

    @serve.batch(max_batch_size=SIZES[-1], batch_wait_timeout_s=0.02)
    async def batch(self, requests):
        """Answers requests together, beside the loop that takes further ones."""
        return await asyncio.to_thread(self.run, requests)

    async def __call__(self, request):
        """A PNG, or what is wrong."""
        try:
            row = read(await request.body())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        png, error = await self.batch(row)
        if error:
            return JSONResponse({"error": error.decode()}, status_code=400)
        return Response(png, media_type="image/png")


def read(text):
    """The inputs of a request, or a `ValueError` that tells what is wrong."""
    wanted = f"the body must be a JSON object with keys of {list(INPUTS)}"
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{wanted}: {error}") from error
    if not isinstance(body, dict) or not set(body) <= set(INPUTS):
        raise ValueError(wanted)
    row = {name: default for name, (_, default) in INPUTS.items()} | body
    for name, (kind, _) in INPUTS.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"`{name}` must not be {row[name]!r}")
    # What TensorFlow would not take fails all requests that are computed with it.
    if not -(2**63) <= row["seed"] < 2**63:
        raise ValueError("`seed` must lie in [-2^63, 2^63)")
    if not abs(row["guidance_scale"]) < 1e30:
        raise ValueError("`guidance_scale` must be a number of float32")
    for name in ("prompt", "negative_prompt"):
        # Half of a surrogate pair is JSON, and no UTF-8: a `ValueError`, too.
        row[name].encode()
    return row


app = Muse.bind(os.environ.get("MUSE_MODEL", "served/muse/1"))
