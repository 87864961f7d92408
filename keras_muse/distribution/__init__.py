"""Many devices: strategies, meshes and layouts, in one place.

`distribute` is called once, before models are made; `fit` of the trainers then uses all
devices, on every backend.
"""

from keras_muse.distribution.devices import (
    current,
    distribute,
    launched_processes,
)
from keras_muse.distribution.layouts import check_layout, transformer_layout
from keras_muse.distribution.replicas import first_row, mean, replica
from keras_muse.distribution.training import DistributedTrainer

__all__ = [
    "DistributedTrainer",
    "check_layout",
    "current",
    "distribute",
    "first_row",
    "launched_processes",
    "mean",
    "replica",
    "transformer_layout",
]
