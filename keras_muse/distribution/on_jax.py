"""Data and model parallelism on JAX, by `keras.distribution`."""

import os

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_muse.distribution.devices import Devices
from keras_muse.distribution.layouts import check_layout, transformer_layout

__all__ = ["JaxDevices"]


class JaxDevices(Devices):
    """A mesh over the devices of all processes.

    Args:
        kind: `"data"`, `"tpu"`, which is the same here, or `"model"`.
        model_shards: int.
        layout: optional dict of the rules.
        devices: optional list of str.
    """

    def __init__(self, kind, model_shards, layout, devices):
        _join_processes()
        devices = devices or keras.distribution.list_devices()
        if model_shards < 1 or len(devices) % model_shards:
            raise ValueError(
                f"`model_shards` must divide the number of devices, {len(devices)}: "
                f"received {model_shards}."
            )
        self.num_replicas = len(devices) // model_shards
        processes = jax.process_count()
        if self.num_replicas % processes:
            raise ValueError(
                "`model_shards` must leave every process replicas of its own: received "
                f"{model_shards} for {len(devices)} devices of {processes} processes."
            )
        self.shard = (jax.process_index(), processes)
        self.layout = None
        if kind == "model":
            mesh = keras.distribution.DeviceMesh(
                (self.num_replicas, model_shards), ("batch", "model"), devices
            )
            self.layout = transformer_layout() if layout is None else dict(layout)
            rules = keras.distribution.LayoutMap(mesh)
            for rule, axes in self.layout.items():
                rules[rule] = tuple(axes)
            distribution = keras.distribution.ModelParallel(
                layout_map=rules, batch_dim_name="batch", auto_shard_dataset=False
            )
        else:
            # Every process reads its own part, see `shard`.
            distribution = keras.distribution.DataParallel(
                devices=devices, auto_shard_dataset=False
            )
        keras.distribution.set_distribution(distribution)

    def numpy(self, variable):
        value = variable.value if isinstance(variable, keras.Variable) else variable
        if not isinstance(value, jax.Array) or value.is_fully_addressable:
            return np.asarray(value)
        if value.is_fully_replicated:
            return np.asarray(value.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(value, tiled=True))

    def barrier(self):
        if self.shard[1] > 1:
            multihost_utils.sync_global_devices("keras_muse")

    def check(self, trainer):
        if self.layout is not None and trainer.layout_is_for_it:
            check_layout(self.layout, trainer.variables)

    def stop(self):
        keras.distribution.set_distribution(None)


def _join_processes():
    """Once, and before JAX has looked for its devices."""
    found = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    if found is None or jax.distributed.is_initialized():
        return
    # Has no effect on other hardware.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize()
