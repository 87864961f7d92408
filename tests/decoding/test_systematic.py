"""Drawing together: every token by its own distribution, and their number even."""

import numpy as np
from keras import ops

from keras_muse.decoding import filter_logits, sample_together, uniform
from tests.decoding import reference
from tests.tools import compiled

N, V, ROWS = 12, 6, 20000
RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(N, V)) * 2).astype("float32")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
CHOSEN = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0], bool)
RANKS = RNG.permutation(N).astype("int32")


@compiled
def filtered_and_drawn(logits, chosen, ranks, start):
    return sample_together(filter_logits(logits), start, chosen, ranks)


def draw(logits, chosen, ranks, start):
    """(ROWS, N) of one row of everything but the noise."""
    rows = len(start)
    arrays = (np.tile(array, (rows, *[1] * array.ndim))
              for array in (logits, chosen, ranks))  # fmt: skip
    arrays = (ops.convert_to_tensor(array) for array in (*arrays, start))
    return ops.convert_to_numpy(filtered_and_drawn(*arrays))


def starts(rows):
    return ops.convert_to_numpy(uniform(np.arange(rows, dtype="int32"), 0, 0, 2, 1))


def test_equals_the_slow_one(parity):
    start = starts(200)
    tokens = draw(LOGITS, CHOSEN, RANKS, start)
    for row in range(200):
        rows = {i: PROBABILITIES[i].astype("float64") for i in np.flatnonzero(CHOSEN)}
        expected = reference.draw_together(rows, float(start[row, 0]), RANKS)
        assert {i: tokens[row, i] for i in rows} == expected
    parity("systematic", tokens[:, CHOSEN])


def test_each_token_has_its_own_distribution():
    tokens = draw(LOGITS, CHOSEN, RANKS, starts(ROWS))
    for i in np.flatnonzero(CHOSEN):
        share = np.bincount(tokens[:, i], minlength=V) / ROWS
        # Five standard errors.
        np.testing.assert_allclose(share, PROBABILITIES[i], atol=5 * 0.5 / ROWS**0.5)


def test_others_are_as_many_as_expected_give_or_take_one():
    tokens = draw(LOGITS, CHOSEN, RANKS, starts(2000))[:, CHOSEN]
    modes = PROBABILITIES[CHOSEN].argmax(-1)
    others = (tokens != modes).sum(1)
    expected = (1 - PROBABILITIES[CHOSEN].max(-1)).sum()
    assert set(others) == {int(expected), int(expected) + 1}
    # Drawn apart they would scatter.
    apart = RNG.random((2000, CHOSEN.sum())) > PROBABILITIES[CHOSEN].max(-1)
    assert len(set(apart.sum(1))) > 4


def test_so_are_those_that_would_become_the_same():
    # Even positions are 0 or else 1, odd ones 0 or else 2: one of each is expected. In
    # one piece, two that lie ten apart would be of one kind.
    logits = np.full((20, 3), -60.0, "float32")
    logits[:, 0] = np.log(0.9)
    logits[::2, 1] = logits[1::2, 2] = np.log(0.1)
    ranks = np.arange(20, dtype="int32")
    tokens = draw(logits, np.ones(20, bool), ranks, starts(500))
    np.testing.assert_array_equal((tokens == 1).sum(1), 1)
    np.testing.assert_array_equal((tokens == 2).sum(1), 1)


def test_the_only_object_comes_once():
    # Four places, one object: drawn apart, it is there once in two of five pictures.
    logits = np.log(np.tile([0.75, 0.25], (4, 1))).astype("float32")
    ranks = np.arange(4, dtype="int32")
    tokens = draw(logits, np.ones(4, bool), ranks, starts(500))
    # Rounding of the shares moves one picture of millions.
    np.testing.assert_array_equal(tokens.sum(1), 1)
    np.testing.assert_allclose(tokens.mean(0), 0.25, atol=0.1)


def test_long_rows_and_large_sums(parity):
    # 4,096 tokens of nearly uniform distributions: the sum passes 2^31 many times.
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4096, 32)).astype("float32") * 0.1
    ranks = rng.permutation(4096).astype("int32")
    tokens = draw(logits, np.ones(4096, bool), ranks, starts(2))
    assert tokens.min() >= 0 and tokens.max() < 32
    others = (tokens != logits.argmax(-1)).sum(1)
    weights = np.exp(logits.astype("float64"))
    expected = (1 - weights.max(-1) / weights.sum(-1)).sum()
    assert np.all(np.abs(others - expected) <= 1.01)
    parity("systematic_long", (tokens != logits.argmax(-1)).sum(1))
