"""Optimizers by name."""

import numpy as np
import pytest

from keras_muse.recipes import make_optimizer


def rates(optimizer, steps):
    schedule = optimizer._learning_rate
    return [float(np.asarray(schedule(np.int32(step)))) for step in steps]


def test_the_papers():
    optimizer = make_optimizer("paper", steps=1_000_000)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.9, 0.96)
    assert optimizer.weight_decay == 0.045
    first, half_up, top, middle, last = rates(
        optimizer, (0, 2500, 5000, 502_500, 1_000_000)
    )
    assert first == 0.0
    np.testing.assert_allclose([half_up, top], [5e-5, 1e-4], rtol=1e-5)
    # Half of a cosine.
    np.testing.assert_allclose(middle, 5e-5, rtol=1e-3)
    assert last < 1e-10


def test_the_small_one():
    optimizer = make_optimizer("small", steps=3000)
    assert optimizer.global_clipnorm == 1.0 and optimizer.beta_2 == 0.98
    found = rates(optimizer, (0, 150, 300, 2000, 2500, 3000))
    np.testing.assert_allclose(found, [0, 5e-4, 1e-3, 1e-3, 5e-4, 0], atol=1e-9)


def test_arguments_replace_what_the_name_stands_for():
    optimizer = make_optimizer(
        "paper",
        steps=100,
        learning_rate=1e-2,
        weight_decay=0.0,
        ema_momentum=0.99,
        gradient_accumulation_steps=4,
    )
    assert optimizer.use_ema and optimizer.ema_momentum == 0.99
    assert optimizer.gradient_accumulation_steps == 4
    assert optimizer.weight_decay == 0.0
    # The warm-up is at most a tenth of the training.
    np.testing.assert_allclose(rates(optimizer, (10,)), [1e-2], rtol=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one of 'paper', 'small': received 'big'"):
        make_optimizer("big")
    with pytest.raises(ValueError, match="`steps` must be at least 1: received 0"):
        make_optimizer(steps=0)
