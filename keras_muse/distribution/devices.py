"""The one function that decides how many devices are used, and how."""

import json
import os

import keras
from keras import ops

__all__ = ["Devices", "current", "distribute", "launched_processes"]


class Devices:
    """The devices of a training: one, of one process.

    Attributes:
        shard: (index, count) of this process among those that train together, for
            `keras_muse.data.tf_batches`.
        num_replicas: int. In how many parts a batch is cut; divides its rows.
    """

    shard = (0, 1)
    num_replicas = 1

    @property
    def is_chief(self):
        """Whether this process writes files, prints and draws."""
        return self.shard[0] == 0

    def rows(self, batch_size):
        """Rows that this process reads of a batch.

        Args:
            batch_size: int. Rows of the whole batch.

        Raises:
            ValueError: if the replicas cannot have equal parts of it.
        """
        if batch_size % self.num_replicas or batch_size < 1:
            raise ValueError(
                f"`batch_size` must be a multiple of the {self.num_replicas} replicas: "
                f"received {batch_size}."
            )
        return batch_size // self.shard[1]

    def numpy(self, variable):
        """The whole value of a variable; all processes have to ask together."""
        return ops.convert_to_numpy(variable)

    def barrier(self):
        """Waits until all processes have come here."""

    def check(self, trainer):
        """Raises if a trainer cannot be trained as was asked for."""

    def stop(self):
        """Ends what `distribute` began."""


_CURRENT = Devices()


def current():
    """What `distribute` was last asked for; one device if it never was.

    Returns:
        `Devices`.
    """
    return _CURRENT


def distribute(kind="data", model_shards=1, layout=None, devices=None, tpu=None):
    """Trains on many devices from now on. To be called before models are made.

    | backend | `"data"` | `"model"` | `"tpu"` | many processes |
    |---|---|---|---|---|
    | JAX | `DataParallel` | `ModelParallel` | as `"data"` | `KERAS_DISTRIBUTION_*` |
    | TensorFlow | `MirroredStrategy` | no | `TPUStrategy` | `TF_CONFIG` |
    | PyTorch | DDP | no | no | `torchrun`, one for each device |

    Whether there are many processes is read from the environment variables that each
    backend's launcher sets: `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `_NUM_PROCESSES` and
    `_PROCESS_ID` (see `keras.distribution.initialize`), `TF_CONFIG` (which makes it a
    `MultiWorkerMirroredStrategy`), or what `torchrun` sets. Each process reads its own
    part of a batch, `current().rows(batch_size)` rows of the `shard` that
    `current().shard` names. They need a folder that all of them see.

    Tests hold all of them but the TPU against one device, on CPUs: two processes of
    four devices, four mirrored devices, two workers, two processes of PyTorch.
    `TPUStrategy` has the step of `MirroredStrategy`, was never run on a TPU, and the
    step of one device, without the exchange, compiles with XLA.

    A step is that of one device but for what each replica draws for itself: the units
    that dropout drops, alike on all of them, and the embeddings that revive codes.

    Args:
        kind: `"data"`, each device has all weights and a part of the batch; `"model"`,
            weights are cut across `model_shards` devices as well; `"tpu"`; or `None`,
            one device again. Defaults to `"data"`.
        model_shards: int. Divides the number of devices. Only for `"model"`.
        layout: optional dict of regular expressions to axes, see `transformer_layout`,
            which is what it defaults to. Only for `"model"`.
        devices: optional list of str, for one process on JAX, such as `["gpu:0",
            "gpu:1"]`, or TensorFlow, `["GPU:0", "GPU:1"]`. Defaults to all of them.
        tpu: optional str, name or address of a TPU, only for kind="tpu" on TensorFlow.

    Returns:
        `Devices`, also of `current()` from now on.

    Raises:
        ValueError: if the backend has no such kind, or the numbers do not fit. `fit`
            raises it if a rule of the layout matches no variable.

    Example:
    ```python
    devices = keras_muse.distribution.distribute("data")
    trainer = keras_muse.models.MuseMaskedImageModel(backbone, preprocessor)
    trainer.compile(optimizer)
    batches = keras_muse.data.tf_batches(
        records, devices.rows(256), shard=devices.shard
    )
    trainer.fit(batches, steps_per_epoch=1000)
    ```
    """
    global _CURRENT
    if tpu is not None and (kind != "tpu" or keras.config.backend() != "tensorflow"):
        raise ValueError(
            f"`tpu` is for kind='tpu' on TensorFlow: received kind={kind!r}, tpu={tpu}."
        )
    if devices is not None and (kind == "tpu" or launched_processes() > 1):
        raise ValueError(
            "`devices` must be None for a TPU or many processes, which use all: "
            f"received {devices}."
        )
    if kind not in ("data", "model", "tpu", None):
        raise ValueError(
            f"`kind` must be 'data', 'model', 'tpu' or None: received {kind!r}."
        )
    if kind != "model" and (model_shards != 1 or layout is not None):
        raise ValueError(
            "`model_shards` and `layout` are for kind='model': received "
            f"kind={kind!r}, model_shards={model_shards}, layout={layout}."
        )
    _CURRENT.stop()
    _CURRENT = Devices()
    if kind is not None:
        _CURRENT = _start(kind, model_shards, layout, devices, tpu)
    return _CURRENT


def launched_processes():
    """How many processes a launcher of this backend started together, an int."""
    backend = keras.config.backend()
    if backend == "jax":
        return int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1))
    if backend == "torch":
        return int(os.environ.get("WORLD_SIZE", 1))
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    return max(len(cluster.get("chief", [])) + len(cluster.get("worker", [])), 1)


def _start(kind, model_shards, layout, devices, tpu):
    backend = keras.config.backend()
    if backend == "jax":
        from keras_muse.distribution.on_jax import JaxDevices

        return JaxDevices(kind, model_shards, layout, devices)
    if kind == "model":
        raise ValueError(
            f"kind='model' needs the JAX backend: the backend is {backend!r}."
        )
    if backend == "tensorflow":
        from keras_muse.distribution.on_tensorflow import TensorFlowDevices

        return TensorFlowDevices(kind, devices, tpu)
    if kind == "tpu":
        raise ValueError("kind='tpu' needs the JAX or TensorFlow backend.")
    from keras_muse.distribution.on_torch import TorchDevices

    return TorchDevices(devices)
