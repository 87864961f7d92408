"""Mask-free editing: some tokens are drawn anew again and again."""

import dataclasses

from keras import ops

from keras_muse.decoding.checks import Settings, check_floats, check_ints
from keras_muse.decoding.masking import random_mask
from keras_muse.decoding.noise import uniform
from keras_muse.decoding.sampling import filter_logits, sample_tokens
from keras_muse.layers import register

__all__ = ["Resampler", "resample"]

# Streams of noise within a step, apart from those of `decode`.
_WHICH, _TOKEN = 4, 5


@register
@dataclasses.dataclass(frozen=True)
class Resampler(Settings):
    """The settings of mask-free editing; a preset stores them.

    Muse, appendix: 8 % of the tokens are masked and drawn anew in each of 100 steps,
    with guidance 4 and the 3 most likely tokens. Those are the defaults.

    Args:
        num_steps: int, at least 1. Defaults to 100.
        mask_rate: float in (0, 1]. Share of the tokens that a step draws anew, at
            least one. Defaults to 0.08.
        guidance_scale: float, at least 0, as of `Sampler`, the same in all steps.
            Defaults to 4.
        temperature: float, at least 0. Defaults to 1.
        top_k: optional int, at least 1. Defaults to 3.

    Raises:
        ValueError: if an argument is outside its range.
    """

    num_steps: int = 100
    mask_rate: float = 0.08
    guidance_scale: float = 4.0
    temperature: float = 1.0
    top_k: int | None = 3

    def __post_init__(self):
        """Refuses settings out of range."""
        check_ints(self, {"num_steps": 1, "top_k": 1}, optional=("top_k",))
        check_floats(self, ("guidance_scale", "temperature", "mask_rate"))
        if not 0.0 < self.mask_rate <= 1.0:
            raise ValueError(
                "`mask_rate` must lie in (0, 1]: received "
                f"mask_rate={self.mask_rate!r}."
            )


def resample(
    predict,
    image_ids,
    seeds,
    resampler,
    mask_id,
    start=0,
    stop=None,
    guidance_scale=None,
    mask_rate=None,
    stage=0,
):
    """Draws a random part of the tokens anew, step after step.

    Args:
        predict: function, as of `decode`.
        image_ids: (B, N) int32, none of them masked.
        seeds: (B,) int32. One a row.
        resampler: `Resampler`. The numbers below replace its own, so that they can be
            tensors of a compiled function.
        mask_id: int. The id of a masked token.
        start: () int32. First step to run. Defaults to 0.
        stop: () int32. The step not to run any more. Defaults to the resampler's
            `num_steps`.
        guidance_scale: (B,) float32. Defaults to the resampler's.
        mask_rate: (B,) float32. Defaults to the resampler's.
        stage: int. Index of the stage, which has its own noise. Defaults to 0.

    Returns:
        (B, N) int32.
    """
    num_tokens = image_ids.shape[1]
    stop = resampler.num_steps if stop is None else stop
    shape = ops.shape(seeds)
    if mask_rate is None:
        mask_rate = ops.full(shape, resampler.mask_rate, "float32")
    if guidance_scale is None:
        guidance_scale = ops.full(shape, resampler.guidance_scale, "float32")

    def step(i, ids):
        masked = random_mask(mask_rate, uniform(seeds, stage, i, _WHICH, num_tokens))
        logits = predict(ops.where(masked, mask_id, ids), guidance_scale)
        logits = filter_logits(logits, resampler.temperature, resampler.top_k)
        drawn = sample_tokens(logits, uniform(seeds, stage, i, _TOKEN, num_tokens))
        return ops.where(masked, drawn, ids)

    return ops.fori_loop(start, stop, step, ops.cast(image_ids, "int32"))
