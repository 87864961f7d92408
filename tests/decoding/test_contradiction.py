"""Where a prompt contradicts a picture: by hand, by a slow loop, token by token."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import contradiction
from keras_muse.models.compilation import compile_inference
from tests.decoding import reference
from tests.decoding.table import (
    MASK,
    SEEDS,
    WITHOUT_WEIGHTS,
    N,
    V,
    predict,
    predict_in_numpy,
)

COMPILED = {}
IDS = np.random.default_rng(8).integers(0, V, (8, N)).astype("int32")


def run(ids=IDS, seeds=SEEDS, model=predict, num_rounds=2, stage=0):
    """`contradiction` as it is used: compiled."""
    # TensorFlow would give up a number of tokens that changes.
    key = model, num_rounds, stage, ids.shape[1]
    if key not in COMPILED:

        def function(ids, seeds):
            return contradiction(model, ids, seeds, MASK, num_rounds, stage)

        COMPILED[key] = compile_inference(WITHOUT_WEIGHTS, function)
    tensors = (ops.convert_to_tensor(x, "int32") for x in (ids, seeds))
    result = ops.convert_to_numpy(COMPILED[key](*tensors))
    assert result.dtype == np.float32 and result.shape == ids.shape
    return result


@pytest.mark.parametrize("num_rounds, stage", [(1, 0), (2, 0), (5, 2)])
def test_equals_the_slow_loop(num_rounds, stage, parity):
    result = run(num_rounds=num_rounds, stage=stage)
    expected = reference.contradiction(
        predict_in_numpy, IDS, SEEDS, MASK, num_rounds, stage
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    parity(f"contradiction_{num_rounds}_{stage}", result, atol=1e-5)


def test_without_compilation_and_with_defaults():
    result = contradiction(predict, IDS, SEEDS, MASK)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(result), run(), atol=1e-5)


def test_a_contradiction_computed_by_hand():
    # Without a prompt all ten are as likely; with it, 0 is nine times as likely as all
    # others together, so it has 0.9 where it had 0.1, and they 0.9 / 81.
    def model(image_ids, guidance):
        wanted = ops.one_hot(ops.zeros_like(image_ids), V)
        return guidance[:, None, None] * np.log(81.0) * wanted

    result = run(model=model)
    expected = np.where(IDS == 0, np.log(0.1 / 0.9), np.log(0.1 * 90))
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    # Less likely with the prompt is above 0.
    assert np.all((result > 0) == (IDS != 0))


def test_no_contradiction_where_guidance_makes_no_difference():
    def model(image_ids, guidance):
        return predict(image_ids, ops.ones_like(guidance))

    np.testing.assert_array_equal(run(model=model), 0)


def telling(image_ids, guidance):
    """With the prompt, 0 gets a logit of how many are masked; where seen, of 1,000."""
    is_masked = ops.cast(image_ids == MASK, "float32")
    count = ops.sum(is_masked, axis=1, keepdims=True)
    logit = ops.where(image_ids == MASK, count, 1000.0) * guidance[:, None]
    return logit[..., None] * ops.one_hot(ops.zeros_like(image_ids), V)


def times_in_the_larger(num_tokens, num_rounds, stage=0):
    """(B, N) int: in how many rounds each token was in the larger half.

    Passes only if it was in one of the halves in each round and never seen then: a 9 is
    the less likely the more tokens are masked, and impossible where it was seen.
    """
    ids = np.full((8, num_tokens), 9, "int32")
    result = run(ids, model=telling, num_rounds=num_rounds, stage=stage)
    half = num_tokens - num_tokens // 2
    larger, smaller = (
        np.log((np.exp(count) + V - 1) / V) for count in (half, num_tokens - half)
    )
    if larger == smaller:
        np.testing.assert_allclose(result, larger, rtol=1e-5)
        return np.full(ids.shape, num_rounds)
    times = (result - smaller) / (larger - smaller) * num_rounds
    np.testing.assert_allclose(times, np.round(times), atol=1e-3)
    assert np.round(times).min() >= 0 and np.round(times).max() <= num_rounds
    return np.round(times).astype("int32")


@pytest.mark.parametrize(
    "num_tokens, half, num_rounds", [(1, 1, 1), (2, 2, 1), (7, 4, 3), (16, 16, 3)]
)
def test_each_token_is_predicted_once_a_round_without_being_seen(
    num_tokens, half, num_rounds
):
    # Of seven tokens, four are masked and then three. Even halves are both the larger.
    times = times_in_the_larger(num_tokens, num_rounds)
    np.testing.assert_array_equal(times.sum(1), half * num_rounds)


def test_rounds_rows_and_stages_have_their_own_halves():
    one, two = times_in_the_larger(7, 1), times_in_the_larger(7, 2)
    # Two of the 35 halves may be the same by chance.
    assert len({row.tobytes() for row in one}) >= 6
    # The first of two rounds is the only one of one; the second is another.
    second = two - one
    assert set(second.ravel()) == {0, 1}
    assert (second != one).any(1).sum() >= 6
    assert (times_in_the_larger(7, 1, stage=1) != one).any(1).sum() >= 6


def test_eight_rows_equal_eight_singles_in_any_order():
    batch = run()
    for row in range(8):
        single = run(IDS[row : row + 1], SEEDS[row : row + 1])
        np.testing.assert_allclose(single[0], batch[row], atol=1e-6)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_allclose(run(IDS[order], SEEDS[order]), batch[order], atol=1e-6)
