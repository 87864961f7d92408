"""How many tokens stay masked after a step, and how strongly a step is guided."""

import math

import numpy as np
from keras import ops

__all__ = [
    "GUIDANCE_SCHEDULES",
    "MASK_SCHEDULES",
    "guidance_at",
    "num_masked_after",
    "num_steps_for",
]

# Share of the tokens that are still masked when a share of the steps is done.
MASK_SCHEDULES = {
    "cosine": lambda done: ops.cos(0.5 * math.pi * done),
    "linear": lambda done: 1.0 - done,
    "square": lambda done: 1.0 - done**2,
    "cubic": lambda done: 1.0 - done**3,
}

# Share of the way from 1 to the guidance scale; `position` is 0 at the first step and
# 1 at the last.
GUIDANCE_SCHEDULES = {
    "linear": lambda position: position,
    "constant": lambda position: ops.ones_like(position),
}


def num_masked_after(step, num_steps, num_start, num_unknown, schedule="cosine"):
    """How many tokens of a row are masked again after a decoding step.

    MaskGIT (arXiv 2202.04200, section 3.2) and Muse (section 2.8). The count follows
    the tokens masked at the start, so a small hole in a picture is filled in as many
    steps as the whole of it. Each step reveals at least one token of a row while two
    or more are unknown; the last reveals all, and there is one for it to reveal.

    Args:
        step: () int32, from 0.
        num_steps: () or (B,) int32.
        num_start: (B,) int32. Tokens masked before the first step.
        num_unknown: (B,) int32. Tokens masked before this step.
        schedule: str. A key of `MASK_SCHEDULES`. Defaults to `"cosine"`.

    Returns:
        (B,) int32.
    """
    done = ops.cast(step + 1, "float32") / ops.cast(num_steps, "float32")
    share = ops.cast(MASK_SCHEDULES[schedule](done), "float32")
    # The small number absorbs what float32 loses where the product is whole.
    count = ops.floor(ops.cast(num_start, "float32") * share + 1e-3)
    count = ops.minimum(ops.cast(count, "int32"), num_unknown - 1)
    count = ops.maximum(count, 1)
    # A row without unknown tokens has nothing to mask.
    count = ops.minimum(count, num_unknown)
    return ops.where(step + 1 >= num_steps, ops.zeros_like(count), count)


def guidance_at(
    step, num_steps, guidance_scale, schedule="linear", interval=(0.0, 1.0)
):
    """The guidance scale of one step.

    Muse, section 2.7: guidance rises linearly through sampling. Here it is 1, no
    guidance, at the first step and `guidance_scale` at the last; a single step has
    the full scale. Outside of the interval it is 1 (arXiv 2404.07724; for masked
    models arXiv 2503.07197).

    Args:
        step: () int32, from 0.
        num_steps: () or (B,) int32.
        guidance_scale: (B,) or () float32. s of `uncond + s (cond - uncond)`.
        schedule: str. A key of `GUIDANCE_SCHEDULES`. Defaults to `"linear"`.
        interval: (float, float) in [0, 1]. Step i of T is guided where i / T lies in
            it, the end left out. Defaults to `(0, 1)`: every step.

    Returns:
        float32, (B,) if one of the two is, else ().
    """
    last = ops.cast(num_steps - 1, "float32")
    position = ops.where(
        last > 0, ops.cast(step, "float32") / ops.maximum(last, 1.0), 1.0
    )
    # A row that is through waits at its full scale.
    position = ops.minimum(position, 1.0)
    guidance = 1.0 + (guidance_scale - 1.0) * GUIDANCE_SCHEDULES[schedule](position)
    if tuple(interval) == (0.0, 1.0):
        return guidance
    # The small number absorbs what float32 loses where the product is whole.
    first, end = (share * ops.cast(num_steps, "float32") - 1e-3 for share in interval)
    step = ops.cast(step, "float32")
    inside = ops.logical_and(step >= first, step < end)
    return ops.where(inside, guidance, 1.0)


def num_steps_for(num_masked, num_tokens, num_steps):
    """How many steps fill what is masked of a picture.

    As many tokens a step, in the mean, as a whole picture gets: a quarter of the tokens
    takes a quarter of the steps. So an edit is as careful as a generation and costs
    what it changes.

    Args:
        num_masked: (B,) int numpy array. Tokens masked before the first step.
        num_tokens: int. N.
        num_steps: int. Steps of a whole picture, at most N.

    Returns:
        (B,) int32 numpy array: `num_steps` times the masked share, rounded up.
    """
    return -(-np.asarray(num_masked, "int64") * num_steps // num_tokens).astype("int32")
