"""The order in which records are seen: endless, shuffled anew each epoch, resumable."""

import numpy as np

__all__ = ["Order"]


class Order:
    """Which record stands where in an endless stream.

    The stream is one permutation of all records after another. Which record a position
    has depends on the seed alone, so a run that was stopped goes on where it was, and
    every process of a training on many devices finds its own rows without talking to
    the others.

    Args:
        count: int, at least 1. Number of records.
        seed: int, 0 or more. Defaults to 0.
        shuffle: bool. Else records come in their own order. Defaults to `True`.

    Raises:
        ValueError: if there is no record, or `seed` is negative.
    """

    def __init__(self, count, seed=0, shuffle=True):
        if count < 1:
            raise ValueError("There must be at least one record: received none.")
        if seed < 0:
            raise ValueError(f"`seed` must be 0 or more: received {seed}.")
        self.count = count
        self.seed = seed
        self.shuffle = shuffle
        self._permutations = {}

    def __getitem__(self, position):
        """The record at a position, both counted from 0: an int."""
        epoch, place = divmod(position, self.count)
        if not self.shuffle:
            return place
        return int(self.permutation(epoch)[place])

    def permutation(self, epoch):
        """(count,) int64, the records in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.count)
        found = self._permutations.get(epoch)
        if found is None:
            # Apart from the random numbers that records draw with the same seed.
            noise = np.random.Philox(key=[self.seed, epoch], counter=1 << 192)
            found = np.random.Generator(noise).permutation(self.count)
            # Readers work ahead, so two epochs are open around the end of one.
            before = self._permutations.get(epoch - 1)
            kept = {} if before is None else {epoch - 1: before}
            self._permutations = {**kept, epoch: found}
        return found

    def position_after(self, seen, bad, is_own):
        """The position behind the first `seen` good records of a process.

        Args:
            seen: int.
            bad: records that are skipped, of those up to there all.
            is_own: function from positions to bool, vectorized: which of them the
                process reads.

        Returns:
            int.

        Raises:
            ValueError: if all records are bad.
        """
        if len(bad) >= self.count:
            raise ValueError(f"All {self.count} records are bad.")
        left, epoch = seen, 0
        while True:
            start = epoch * self.count
            good = ~np.isin(self.permutation(epoch), bad)
            good &= is_own(np.arange(start, start + self.count))
            total = np.count_nonzero(good)
            if left <= total:
                # Of nothing seen, nothing is skipped either.
                return start + (np.flatnonzero(good)[left - 1] + 1 if left else 0)
            left -= total
            epoch += 1
