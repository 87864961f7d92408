"""A model that is a table, for tests of what calls a model again and again."""

import keras
import numpy as np
from keras import ops

__all__ = [
    "GRID",
    "MASK",
    "N",
    "SEEDS",
    "V",
    "WITHOUT_WEIGHTS",
    "judge",
    "judge_in_numpy",
    "predict",
    "predict_in_numpy",
]

N, V = 16, 10
GRID = (2, 8)
MASK = V
WITHOUT_WEIGHTS = keras.Sequential()
RNG = np.random.default_rng(0)
# Logits for each (sum of the known tokens, position), with and without a condition.
CONDITIONED = RNG.normal(size=(13, N, V)).astype("float32") * 2
UNCONDITIONED = RNG.normal(size=(13, N, V)).astype("float32") * 2
# What a critic says of each position, for each sum of the tokens.
TRUST = RNG.normal(size=(13, N)).astype("float32") * 3
SEEDS = np.array([5, 6, -1, 2**31 - 1, -(2**31), 0, 77, 1234567], "int32")


def predict(image_ids, guidance):
    """A model of a table: small integers and one product, equal on every backend."""
    known = ops.where(image_ids == MASK, 0, 3 * image_ids + 1)
    rows = ops.sum(known, axis=1) % 13
    without = ops.take(ops.convert_to_tensor(UNCONDITIONED), rows, axis=0)
    with_it = ops.take(ops.convert_to_tensor(CONDITIONED), rows, axis=0)
    return without + guidance[:, None, None] * (with_it - without)


def predict_in_numpy(image_ids, guidance):
    rows = np.where(image_ids == MASK, 0, 3 * image_ids + 1).sum(1) % 13
    difference = CONDITIONED[rows] - UNCONDITIONED[rows]
    return UNCONDITIONED[rows] + guidance[:, None, None] * difference


def judge(image_ids):
    """A critic of a table."""
    rows = ops.sum(3 * image_ids + 1, axis=1) % 13
    return ops.take(ops.convert_to_tensor(TRUST), rows, axis=0)


def judge_in_numpy(image_ids):
    return TRUST[(3 * image_ids + 1).sum(1) % 13]
