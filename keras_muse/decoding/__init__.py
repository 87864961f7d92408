"""Logits to tokens: pure functions that know no model and hold no weights."""

from keras_muse.decoding.masking import mask_rate, random_mask
from keras_muse.decoding.noise import gumbel, uniform
from keras_muse.decoding.order import halton_ranks, halton_turns, random_turns
from keras_muse.decoding.sampler import Sampler, decode
from keras_muse.decoding.sampling import (
    filter_logits,
    log_probability,
    sample_together,
    sample_tokens,
)
from keras_muse.decoding.schedules import guidance_at, num_masked_after

__all__ = [
    "Sampler",
    "decode",
    "filter_logits",
    "guidance_at",
    "gumbel",
    "halton_ranks",
    "halton_turns",
    "log_probability",
    "mask_rate",
    "num_masked_after",
    "random_mask",
    "random_turns",
    "sample_together",
    "sample_tokens",
    "uniform",
]
