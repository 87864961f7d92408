"""Logits to tokens: pure functions that know no model and hold no weights."""

from keras_muse.decoding.contradiction import contradiction
from keras_muse.decoding.editing import (
    cells_of,
    feathered,
    grow,
    random_part,
    refine_cells,
)
from keras_muse.decoding.masking import mask_rate, random_mask
from keras_muse.decoding.noise import gumbel, seeds_of, uniform
from keras_muse.decoding.order import halton_ranks, halton_turns, random_turns
from keras_muse.decoding.resampling import Resampler, resample
from keras_muse.decoding.sampler import Sampler, decode
from keras_muse.decoding.sampling import (
    filter_logits,
    log_probability,
    sample_scored,
    sample_together,
    sample_tokens,
)
from keras_muse.decoding.schedules import guidance_at, num_masked_after, num_steps_for
from keras_muse.decoding.windows import grown_windows

__all__ = [
    "Resampler",
    "Sampler",
    "cells_of",
    "contradiction",
    "decode",
    "feathered",
    "filter_logits",
    "grow",
    "grown_windows",
    "guidance_at",
    "gumbel",
    "halton_ranks",
    "halton_turns",
    "log_probability",
    "mask_rate",
    "num_masked_after",
    "num_steps_for",
    "random_mask",
    "random_part",
    "random_turns",
    "refine_cells",
    "resample",
    "sample_scored",
    "sample_together",
    "sample_tokens",
    "seeds_of",
    "uniform",
]
