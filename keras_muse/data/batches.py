"""Records -> batches that `fit` takes: of tf.data, or of grain."""

import os

import numpy as np

from keras_muse.data.bad_records import BadRecord, BadRecords
from keras_muse.data.order import Order

__all__ = ["grain_batches", "repeat_batch", "tf_batches"]


def tf_batches(records, batch_size, **settings):
    """Batches of records as a `tf.data.Dataset`, which `fit` takes on every backend.

    Args:
        records: what a reader of this room returns.
        batch_size: int, at least 1. Rows of this process.
        **settings: what follows.
        seed: int, 0 or more. Of the order, the crops and the choice of captions.
            Defaults to 0.
        shuffle: bool. Whether each epoch has another order. Defaults to `True`.
        repeat: bool. Endless, to be used with `steps_per_epoch`; else all records once,
            the last batch perhaps smaller. Defaults to `True`.
        start: int. How many rows this process has seen before: the stream goes on
            behind them, the same as if it had not been interrupted. Defaults to 0.
        shard: (index, count) of this process among those that read together; their
            batches, put one behind the other, are those of one process with
            `count * batch_size` rows. Defaults to `(0, 1)`.
        bad_file: optional str or path of a `bad.jsonl`, which gets the names of records
            that cannot be used, which are skipped; it must be kept for `start`.
            Defaults to `None`: the first such record is an error.
        max_bad_fraction: float in [0, 1]. Share of all records from which on there is
            an error nevertheless. Defaults to 0.01.
        num_threads: optional int. How many records are read at once. Defaults to
            the number of cores.

    Returns:
        `tf.data.Dataset` of dicts, as `records.signature` says.

    Raises:
        ValueError: if an argument is out of range.
        TooManyBadRecords, BadRecord: while it is read, inside an error of TensorFlow.
    """
    import tensorflow as tf

    stream = _Stream(records, batch_size, **settings)
    names = list(records.signature)
    shapes = [shape for shape, _ in records.signature.values()]
    dtypes = [
        tf.string if dtype is str else tf.as_dtype(dtype)
        for _, dtype in records.signature.values()
    ]
    blanks = [b"" if d is tf.string else np.zeros((), d.as_numpy_dtype) for d in dtypes]

    def load(position):
        record = stream.load(position)
        if record is None:
            # Something of the right types, filtered out below.
            return (False, *blanks)
        return (True, *(_as_value(record[name]) for name in names))

    def graph(position):
        found = tf.numpy_function(load, [position], [tf.bool, *dtypes])
        return found[0], tuple(found[1:])

    def shaped(_, values):
        return {
            name: tf.ensure_shape(value, shape)
            for name, value, shape in zip(names, values, shapes)
        }

    # Nothing here is left to it, and the thread that tunes hears of the end of its
    # iterator only when it wakes: Keras waited for it, up to a minute an evaluation.
    options = tf.data.Options()
    options.autotune.enabled = False
    last = tf.int64.max if stream.stop is None else stream.stop
    positions = tf.data.Dataset.range(stream.first, last).with_options(options)
    data = positions.map(graph, num_parallel_calls=stream.num_threads)
    data = data.filter(lambda good, _: good).map(shaped)
    return data.batch(batch_size, drop_remainder=stream.stop is None).prefetch(4)


def grain_batches(records, batch_size, **settings):
    """The same batches as a `grain.IterDataset`, for `fit` on every backend.

    Its iterator can be saved and restored by grain's `get_state` and `set_state`. Needs
    grain, of the extra `data`.

    Args:
        records: what a reader of this room returns.
        batch_size: int, at least 1. Rows of this process.
        **settings: those of `tf_batches`.

    Returns:
        `grain.IterDataset` of dicts of arrays.

    Raises:
        ValueError: if an argument is out of range.
        TooManyBadRecords, BadRecord: while it is read.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("`grain_batches` needs keras-muse[data].") from error
    stream = _Stream(records, batch_size, **settings)
    options = grain.ReadOptions(
        num_threads=stream.num_threads,
        prefetch_buffer_size=4 * batch_size,
    )
    return (
        grain.MapDataset.source(stream)
        # What is `None` is left out.
        .to_iter_dataset(options)
        .batch(batch_size, drop_remainder=stream.stop is None)
    )


def repeat_batch(batch):
    """The same batch for ever, as a `tf.data.Dataset`.

    Args:
        batch: dict of arrays.
    """
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch).repeat()


class _Stream:
    """The records of one process in their order, `None` where one is bad.

    A random access source of grain.
    """

    def __init__(
        self,
        records,
        batch_size,
        seed=0,
        shuffle=True,
        repeat=True,
        start=0,
        shard=(0, 1),
        bad_file=None,
        max_bad_fraction=0.01,
        num_threads=None,
    ):
        _check(batch_size, start, shard)
        self.records = records
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard
        self.order = Order(len(records), seed, shuffle)
        self.bad = BadRecords(bad_file, len(records), max_bad_fraction)
        self.num_threads = num_threads or os.cpu_count() or 1
        known = []
        if len(self.bad):
            known = [i for i in range(len(records)) if records.key(i) in self.bad]
        # Positions of this process, from 0 on without a gap.
        self.first = start
        if known:
            place = self.order.position_after(start, known, self._is_own)
            self.first = self._own_before(place)
        self.stop = None if repeat else self._own_before(len(records))

    def __len__(self):
        """For grain, which needs to know."""
        return (2**62 if self.stop is None else self.stop) - self.first

    def __getitem__(self, number):
        return self.load(self.first + number)

    def load(self, own):
        """The record at a position of this process, `None` if it is bad."""
        position = self._position(int(own))
        index = self.order[position]
        if self.records.key(index) in self.bad:
            return None
        random = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        try:
            return self.records.load(index, random)
        except BadRecord as error:
            self.bad.add(error)
            return None

    def _position(self, own):
        """Among the positions of all processes."""
        index, count = self.shard
        batch, row = divmod(own, self.batch_size)
        return (batch * count + index) * self.batch_size + row

    def _is_own(self, positions):
        index, count = self.shard
        return positions // self.batch_size % count == index

    def _own_before(self, position):
        """How many positions of this process lie before one."""
        index, count = self.shard
        rounds, rest = divmod(position, self.batch_size * count)
        rest = min(max(rest - index * self.batch_size, 0), self.batch_size)
        return rounds * self.batch_size + rest


def _as_value(value):
    """What `tf.numpy_function` takes; of text it would take ASCII alone."""
    return value.encode() if isinstance(value, str) else np.asarray(value)


def _check(batch_size, start, shard):
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1: received {batch_size}.")
    if start < 0:
        raise ValueError(f"`start` must be 0 or more: received {start}.")
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(
            "`shard` must be (index, count) with an index in [0, count): received "
            f"{tuple(shard)}."
        )
