"""Requests of all kinds, right and wrong."""

import numpy as np
import tensorflow as tf

__all__ = ["PROMPTS", "inputs", "mask_png", "png"]

PROMPTS = [
    "a red circle on white",
    "",
    "a blue square on black",
    "green",
    "a red circle on white a red circle on white a red circle on white",
    "круг, 圆, naïve",
    "a  red   circle ",
    "UPPER case, 100 %",
]


def inputs(prompts, seeds, scale=-1.0, negative=None, **more):
    """Inputs of the signatures that read prompts."""
    prompts = [p.encode() if isinstance(p, str) else p for p in prompts]
    count = len(prompts)
    return {
        "prompt": np.array(prompts, object),
        "negative_prompt": np.array([negative or b""] * count, object),
        "seed": np.array(seeds, "int64"),
        "guidance_scale": np.broadcast_to(np.float32(scale), (count,)),
        **{name: np.array(values, object) for name, values in more.items()},
    }


def png(image):
    return tf.io.encode_png(image).numpy()


def mask_png(mask):
    return png(np.where(mask, 255, 0).astype("uint8")[..., None])
