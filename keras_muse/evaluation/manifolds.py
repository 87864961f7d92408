"""Precision and recall: how good and how varied generated pictures are."""

import numpy as np

from keras_muse.evaluation.distances import FeatureMetric

__all__ = ["PrecisionRecall", "precision_recall"]

SIDES = ((True, "real"), (False, "generated"))


class PrecisionRecall(FeatureMetric):
    """Improved precision and recall of two sets of pictures (arXiv 1904.06991).

    A set is the union of balls around its features, each as large as to touch the k-th
    nearest neighbour. Precision is the share of generated pictures inside the true set,
    which is quality; recall that of true pictures inside the generated set, which is
    variety. Of longer streams a random sample of each side is kept, which bounds the
    memory, and depends on the seed and the order of pictures alone.

    Args:
        extractor: a feature extractor.
        k: int, at least 1. Defaults to 3, the paper's.
        max_pictures: int, more than `k`. Pictures of a side that are kept. Defaults to
            10,000.
        seed: int, 0 or more. Of the sample. Defaults to 0.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, extractor, k=3, max_pictures=10000, seed=0):
        super().__init__(extractor)
        _check_k(k)
        if max_pictures <= k:
            raise ValueError(
                f"`max_pictures` must be more than `k` of {k}: received {max_pictures}."
            )
        if seed < 0:
            raise ValueError(f"`seed` must be 0 or more: received {seed}.")
        self.k, self.max_pictures, self.seed = k, max_pictures, seed
        self._kept = {True: None, False: None}
        self._seen = {True: 0, False: 0}

    def _take(self, features, real):
        kept, features = self._kept[real], features.astype("float32")
        seen = self._seen[real]
        room = max(self.max_pictures - seen, 0)
        first = features[:room]
        if len(first):
            kept = first.copy() if kept is None else np.concatenate([kept, first])
        for index, row in enumerate(features[room:], seen + len(first)):
            # Algorithm R (Vitter 1985), whose draw depends on the place alone.
            noise = np.random.Philox(key=[self.seed, index], counter=int(real) << 192)
            place = int(np.random.Generator(noise).integers(index + 1))
            if place < self.max_pictures:
                kept[place] = row
        self._kept[real] = kept
        self._seen[real] = seen + len(features)

    def _result(self):
        for real, name in ((True, "true"), (False, "generated")):
            if self._seen[real] <= self.k:
                raise ValueError(
                    f"There must be more than k = {self.k} {name} pictures: received "
                    f"{self._seen[real]}."
                )
        precision, recall = precision_recall(
            self._kept[True], self._kept[False], self.k
        )
        return {
            "precision": precision,
            "recall": recall,
            "k": self.k,
            **{name: self._seen[real] for real, name in SIDES},
            **{f"{name}_sampled": len(self._kept[real]) for real, name in SIDES},
        }

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        state = {f"{name}_seen": np.array(self._seen[real]) for real, name in SIDES}
        for real, name in SIDES:
            if self._kept[real] is not None:
                state[name] = self._kept[real]
        return state

    def load_state(self, state):
        """Goes on from what `state` returned."""
        for real, name in SIDES:
            self._seen[real] = int(state[f"{name}_seen"])
            self._kept[real] = state.get(name)


def precision_recall(real, generated, k=3, chunk_size=1000):
    """Improved precision and recall (arXiv 1904.06991).

    Args:
        real: (N, D) float, N more than `k`.
        generated: (M, D) float, M more than `k`.
        k: int, at least 1. Defaults to 3.
        chunk_size: int. Rows of the distance matrix in memory. Defaults to 1000.

    Returns:
        (precision, recall), floats in [0, 1].

    Raises:
        ValueError: if there are not more than `k` rows.
    """
    _check_k(k)
    real, generated = np.asarray(real, "float64"), np.asarray(generated, "float64")
    for name, rows in (("real", real), ("generated", generated)):
        if len(rows) <= k:
            raise ValueError(
                f"`{name}` must have more than k = {k} rows: received {len(rows)}."
            )
    return (
        _share_inside(generated, real, k, chunk_size),
        _share_inside(real, generated, k, chunk_size),
    )


def _share_inside(rows, centres, k, chunk_size):
    """Share of the rows that lie in a ball around a centre."""
    # The nearest of all is the centre itself.
    radii = np.concatenate(
        [
            np.partition(distances, k, axis=1)[:, k]
            for distances in _distances(centres, centres, chunk_size)
        ]
    )
    inside = [
        (distances <= radii).any(axis=1)
        for distances in _distances(rows, centres, chunk_size)
    ]
    return float(np.concatenate(inside).mean())


def _distances(rows, centres, chunk_size):
    """Squared distances, (chunk, N) at a time."""
    squares = np.sum(centres**2, axis=1)
    for start in range(0, len(rows), chunk_size):
        chunk = rows[start : start + chunk_size]
        sums = np.sum(chunk**2, axis=1)[:, None] + squares
        distances = sums - 2.0 * chunk @ centres.T
        # Equal rows are apart by rounding alone, and a ball may have no radius.
        distances[distances < 1e-12 * sums] = 0.0
        yield distances


def _check_k(k):
    if k < 1:
        raise ValueError(f"`k` must be at least 1: received {k}.")
