"""Data parallelism on TensorFlow, in one process or many, on CPUs, GPUs or TPUs.

One code path: a step under `strategy.run`, with static shapes, no strings and nothing
of Python in it, in a loop that is a part of the graph.
"""

import json
import os

import keras
import tensorflow as tf

from keras_muse.distribution.devices import Devices, launched_processes

__all__ = ["TensorFlowDevices", "build_optimizer", "evaluate", "fit", "step"]


class TensorFlowDevices(Devices):
    """A strategy that all models made from now on are made under.

    Args:
        kind: `"data"` or `"tpu"`.
        devices: optional list of str. Only for one process.
        tpu: optional str.
    """

    def __init__(self, kind, devices, tpu):
        workers = launched_processes()
        if kind == "tpu":
            self.strategy = _tpu_strategy(tpu)
        elif workers > 1:
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
            self.shard = (_task_index(), workers)
        else:
            found = devices or _devices()
            # The default, NCCL, is for GPUs alone.
            over = tf.distribute.ReductionToOneDevice()
            on_gpu = all("GPU" in device.upper() for device in found)
            self.strategy = tf.distribute.MirroredStrategy(
                found, cross_device_ops=None if on_gpu else over
            )
        self.num_replicas = self.strategy.num_replicas_in_sync
        tf.distribute.experimental_set_strategy(self.strategy)

    def barrier(self):
        @tf.function
        def together():
            ones = self.strategy.run(lambda: tf.ones(()))
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None)

        # Has its sum when the last of them has come.
        together()

    def stop(self):
        tf.distribute.experimental_set_strategy(None)


def _task_index():
    """Of this process among all; a chief comes before the workers."""
    config = json.loads(os.environ["TF_CONFIG"])
    kind, index = config["task"]["type"], int(config["task"]["index"])
    if kind not in ("chief", "worker"):
        raise ValueError(
            f"The task of TF_CONFIG must be a 'chief' or a 'worker': received {kind!r}."
        )
    chiefs = len(config["cluster"].get("chief", []))
    return index + (chiefs if kind == "worker" else 0)


def _devices():
    """All GPUs, or all logical CPUs."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _tpu_strategy(tpu):
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu or "")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def fit(
    trainer,
    x,
    y=None,
    batch_size=None,
    epochs=1,
    verbose="auto",
    callbacks=None,
    validation_data=None,
    shuffle=True,
    initial_epoch=0,
    steps_per_epoch=None,
    validation_steps=None,
    validation_freq=1,
    **kwargs,
):
    """`keras.Model.fit` of a `DistributedTrainer` made under a strategy.

    `x` and `validation_data` are `tf.data.Dataset`s of the batches of this process.
    `batch_size` and `shuffle` are not looked at, as batches have their order, nor are
    `jit_compile` and `run_eagerly` of `compile`; `y` and what else Keras takes must be
    `None`. In several workers callbacks see logs after an epoch only. Returns a
    `keras.callbacks.History`.

    Raises:
        ValueError: if an argument cannot be used, the data ends early, or the optimizer
            accumulates gradients, which TensorFlow cannot do under a strategy.
    """
    del batch_size, shuffle
    _refuse({"y": y, **kwargs})
    accumulated = trainer.optimizer.gradient_accumulation_steps
    if accumulated:
        raise ValueError(
            "`gradient_accumulation_steps` of the optimizer must be None under "
            f"`tf.distribute`: received {accumulated}."
        )
    train = _Loop(trainer, trainer.train_step, x, steps_per_epoch)
    check = None
    if validation_data is not None:
        check = _Loop(
            trainer, trainer.test_step, validation_data, validation_steps, restart=True
        )
    build_optimizer(trainer)
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=bool(verbose),
            model=trainer,
            verbose=1 if verbose == "auto" else verbose,
            epochs=epochs,
            steps=steps_per_epoch,
        )
    trainer.stop_training = False
    callbacks.on_train_begin()
    logs = {}
    for epoch in range(initial_epoch, epochs):
        callbacks.on_epoch_begin(epoch)
        logs = train.run(callbacks.on_train_batch_begin, callbacks.on_train_batch_end)
        if check is not None and (epoch + 1) % validation_freq == 0:
            found = _test(check, callbacks)
            logs = {**logs, **{f"val_{name}": value for name, value in found.items()}}
        callbacks.on_epoch_end(epoch, logs)
        if trainer.stop_training:
            break
    if epochs > 0:
        # Weights become their average there, if that was asked for.
        trainer.optimizer.finalize_variable_values(trainer.trainable_weights)
    callbacks.on_train_end(logs)
    return trainer.history


def build_optimizer(trainer):
    """Makes the variables of the optimizer before the first step, which would do it.

    Keras' `fit` leaves it to that step, and TensorFlow traces it twice then.
    """
    if not trainer.optimizer.built:
        with trainer.distribute_strategy.scope():
            trainer.optimizer.build(trainer.trainable_variables)


def step(trainer, x):
    """One step of a replica, with gradients of the whole batch.

    They are summed before they are clipped; Keras would clip those of each replica.
    Returns what the metrics of this replica are.
    """
    context = tf.distribute.get_replica_context()
    optimizer, weights = trainer.optimizer, trainer.trainable_weights
    with tf.GradientTape() as tape:
        y_pred = trainer(x, training=True)
        loss = trainer.compute_loss(x=x, y_pred=y_pred, training=True)
        loss = optimizer.scale_loss(loss)
    found = tape.gradient(loss, [weight.value for weight in weights])
    weights = [w for w, gradient in zip(weights, found) if gradient is not None]
    gradients = [gradient for gradient in found if gradient is not None]
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    if optimizer.clipnorm is not None:
        gradients = [tf.clip_by_norm(g, optimizer.clipnorm) for g in gradients]
    elif optimizer.global_clipnorm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)
    elif optimizer.clipvalue is not None:
        limit = optimizer.clipvalue
        gradients = [tf.clip_by_value(g, -limit, limit) for g in gradients]
    # The optimizer sums over the replicas once more; a part is within all limits.
    count = context.num_replicas_in_sync
    optimizer.apply([gradient / count for gradient in gradients], weights)
    return trainer.compute_metrics(x, None, y_pred, None)


def evaluate(
    trainer,
    x,
    y=None,
    batch_size=None,
    verbose="auto",
    steps=None,
    callbacks=None,
    return_dict=False,
    **kwargs,
):
    """`keras.Model.evaluate` under a strategy; see `fit`."""
    del batch_size, verbose
    _refuse({"y": y, **kwargs})
    check = _Loop(trainer, trainer.test_step, x, steps, restart=True)
    logs = _test(check, keras.callbacks.CallbackList(callbacks, model=trainer))
    return logs if return_dict else list(logs.values())


def _refuse(arguments):
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(
            f"`{given[0]}` cannot be given under `tf.distribute`, where all comes from "
            "a `tf.data.Dataset`."
        )


def _test(loop, callbacks):
    callbacks.on_test_begin()
    logs = loop.run(callbacks.on_test_batch_begin, callbacks.on_test_batch_end)
    callbacks.on_test_end(logs)
    return logs


class _Loop:
    """Steps over the batches of this process.

    Args:
        trainer: `DistributedTrainer`.
        step: `trainer.train_step` or `trainer.test_step`.
        data: `tf.data.Dataset`.
        steps: optional int, of an epoch. Defaults to all batches, read anew each time.
        restart: bool. Whether each epoch begins with the first batch, and does not go
            on behind the last one of the epoch before. Defaults to `False`.
    """

    def __init__(self, trainer, step, data, steps, restart=False):
        if not isinstance(data, tf.data.Dataset):
            raise ValueError(
                "Under `tf.distribute` batches must come from a `tf.data.Dataset`: "
                f"received {type(data).__name__}."
            )
        self.trainer, self.steps = trainer, steps
        self.restart = restart or steps is None
        # What is not known to be there must not be asked for.
        self.several = min(int(trainer.steps_per_execution), steps or 1)
        strategy = trainer.distribute_strategy
        self.many_processes = isinstance(
            strategy, tf.distribute.MultiWorkerMirroredStrategy
        )
        if hasattr(trainer, "preprocess_samples"):
            data = data.map(trainer.preprocess_samples, tf.data.AUTOTUNE)
        data = data.map(lambda x, *_: x)
        # To be on its way to a device before it is asked for is of no use on a CPU, and
        # ending that takes minutes there.
        on_cpu = all("CPU" in device for device in strategy.extended.worker_devices)
        self.data = strategy.distribute_datasets_from_function(
            lambda context: _parts(data, context),
            tf.distribute.InputOptions(experimental_fetch_to_device=not on_cpu),
        )
        self.iterator = None

        @tf.function
        def run(iterator, count):
            # The loop is a part of the graph, so a device gets many steps at once.
            for _ in tf.range(count):
                strategy.run(step, args=((next(iterator),),))

        self._run = run

    def run(self, on_begin, on_end):
        """One epoch; returns the results of the metrics, as numbers."""
        self.trainer.reset_metrics()
        if self.iterator is None or self.restart:
            self.iterator = iter(self.data)
        done = 0
        while done != self.steps:
            count = min(self.several, self.steps - done) if self.steps else 1
            on_begin(done)
            try:
                self._run(self.iterator, tf.constant(count))
            except tf.errors.OutOfRangeError as error:
                if self.steps is None and done:
                    break
                raise ValueError(
                    f"The data ended after {done} steps: it must have "
                    f"{self.steps or 'some'} whole batches for each epoch, `repeat()` "
                    "makes it endless."
                ) from error
            done += count
            # In many processes every look costs an exchange.
            on_end(done - 1, {} if self.many_processes else self._logs())
            if self.trainer.stop_training:
                break
        return self._logs()

    def _logs(self):
        results = self.trainer.get_metrics_result()
        return {name: float(value) for name, value in results.items()}


def _parts(data, context):
    """The batches of this process, cut into those of its replicas."""
    rows = tf.nest.flatten(data.element_spec)[0].shape[0]
    if rows is None:
        first = next(iter(data.take(1)))
        rows = int(tf.nest.flatten(first)[0].shape[0])
    replicas = context.num_replicas_in_sync // context.num_input_pipelines
    if rows % replicas:
        raise ValueError(
            f"A batch must be a multiple of the {replicas} replicas of this process: "
            f"it has {rows} rows."
        )
    return data.rebatch(rows // replicas, drop_remainder=True).prefetch(2)
