"""The kernel distance: an unbiased distance for few pictures."""

import numpy as np

from keras_muse.evaluation.distances import FeatureMetric

__all__ = ["KernelDistance", "kernel_distance"]


class KernelDistance(FeatureMetric):
    """The kernel distance of two sets of pictures, KID (arXiv 1801.01401).

    The squared maximum mean discrepancy under the kernel `(x y / D + 1)^3`, unbiased,
    as the mean over disjoint blocks: the first block of true with the first block of
    generated pictures, and so on. What fills no block is left out, unless there is no
    full block yet: then all pictures are one, and the result says how many they are. It
    is unbiased, so it may be negative, and good for fewer pictures than the Frechet
    distance is.

    Args:
        extractor: a feature extractor.
        block_size: int, at least 2. Pictures of each side in a block. Defaults to 1000.
        max_waiting: int. Blocks of one side that may wait for the other, which bounds
            the memory: feed both in turns. Defaults to 10.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, extractor, block_size=1000, max_waiting=10):
        super().__init__(extractor)
        if block_size < 2:
            raise ValueError(f"`block_size` must be at least 2: received {block_size}.")
        if max_waiting < 1:
            raise ValueError(
                f"`max_waiting` must be at least 1: received {max_waiting}."
            )
        self.block_size, self.max_waiting = block_size, max_waiting
        self._rows = {True: [], False: []}
        self._waiting = {True: 0, False: 0}
        self._values = np.zeros(0)

    def _take(self, features, real):
        # A copy: a view would hold all of a batch that is mostly used up.
        self._rows[real].append(features.copy())
        self._waiting[real] += len(features)
        while min(self._waiting.values()) >= self.block_size:
            value = kernel_distance(self._block(True), self._block(False))
            self._values = np.append(self._values, value)
        limit = (self.max_waiting + 1) * self.block_size
        if self._waiting[real] >= limit:
            side, other = ("true", "generated") if real else ("generated", "true")
            raise ValueError(
                f"{self._waiting[real]} {side} pictures wait for {other} ones, more "
                f"than `max_waiting` of {self.max_waiting} blocks of "
                f"{self.block_size}: feed both sides in turns."
            )

    def _block(self, real):
        """The next block of a side, which is taken off."""
        rows = np.concatenate(self._rows[real])
        block, rest = rows[: self.block_size], rows[self.block_size :]
        self._rows[real] = [rest.copy()]
        self._waiting[real] = len(rest)
        return block

    def _result(self):
        values = self._values
        used = dict.fromkeys((True, False), len(values) * self.block_size)
        if not len(values):
            used = self._waiting
            if min(used.values()) < 2:
                raise ValueError(
                    "There must be at least 2 true and 2 generated pictures: received "
                    f"{used[True]} and {used[False]}."
                )
            rows = [np.concatenate(self._rows[real]) for real in (True, False)]
            values = np.array([kernel_distance(*rows)])
        return {
            "kernel_distance": float(values.mean()),
            "deviation": float(values.std(ddof=1)) if len(values) > 1 else None,
            "blocks": len(values),
            "real": used[True],
            "generated": used[False],
        }

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        state = {"values": self._values}
        for real, name in ((True, "real"), (False, "generated")):
            if self._rows[real]:
                state[name] = np.concatenate(self._rows[real])
        return state

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self._values = state["values"]
        for real, name in ((True, "real"), (False, "generated")):
            self._rows[real] = [state[name]] if name in state else []
            self._waiting[real] = len(state.get(name, ()))


def kernel_distance(first, second):
    """Unbiased squared maximum mean discrepancy under `(x y / D + 1)^3`.

    Args:
        first: (N, D) float, N at least 2.
        second: (M, D) float, M at least 2.

    Returns:
        float, 0 on average if both are of one distribution.
    """
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
    within = sum(_mean_of_others(rows) for rows in (first, second))
    return float(within - 2.0 * _kernel(first, second).mean())


def _mean_of_others(rows):
    """Mean kernel of the pairs of two different rows."""
    values = _kernel(rows, rows)
    count = len(rows)
    return (values.sum() - np.trace(values)) / (count * (count - 1))


def _kernel(first, second):
    return (first @ second.T / first.shape[1] + 1.0) ** 3
