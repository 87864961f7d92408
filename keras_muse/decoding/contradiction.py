"""Which tokens of a picture a prompt contradicts."""

import numpy as np
from keras import ops

from keras_muse.decoding.masking import random_mask
from keras_muse.decoding.noise import uniform
from keras_muse.decoding.sampling import log_probability

__all__ = ["contradiction"]

# A stream of noise and the first of its steps, apart from those of decoding.
_HALVES, _BEFORE = 7, -1


def contradiction(predict, image_ids, seeds, mask_id, num_rounds=2, stage=0):
    """How much less likely a prompt makes each token of a picture.

    The idea of DiffEdit (arXiv 2210.11427) for masked tokens: where two predictions
    differ, with the prompt and with what guidance leads away from, is where the prompt
    wants the picture changed. A random half of the tokens is masked, then the other, so
    that each is predicted once a round without being seen.

    Args:
        predict: function, as of `decode`; at guidance 1 it has to be the prediction
            with the prompt, at guidance 0 that without.
        image_ids: (B, N) int32, none of them masked.
        seeds: (B,) int32. One a row.
        mask_id: int. The id of a masked token.
        num_rounds: int. The mean of so many rounds is taken. Defaults to 2.
        stage: int. Index of the stage, which has its own noise. Defaults to 0.

    Returns:
        (B, N) float32: log-probability of the token without the prompt minus that with
        it, in nats. Above 0 the prompt makes it less likely.
    """
    num_tokens = image_ids.shape[1]
    image_ids = ops.cast(image_ids, "int32")
    one = ops.ones(ops.shape(seeds), "float32")

    def look(i, score):
        # Steps 2r and 2r + 1 are the halves of round r.
        noise = uniform(seeds, stage, _BEFORE - i // 2, _HALVES, num_tokens)
        half = random_mask(0.5 * one, noise)
        masked = ops.where(i % 2 == 0, half, ops.logical_not(half))
        ids = ops.where(masked, mask_id, image_ids)
        without, with_it = (
            log_probability(predict(ids, guidance * one), image_ids)
            for guidance in (0.0, 1.0)
        )
        return score + ops.where(masked, without - with_it, 0.0)

    total = ops.fori_loop(
        0, 2 * num_rounds, look, ops.zeros_like(image_ids, dtype="float32")
    )
    return total / np.float32(num_rounds)
