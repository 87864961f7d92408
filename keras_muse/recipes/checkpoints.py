"""Safe stops: what a training needs to go on as if nothing had happened.

Keras' `BackupAndRestore` keeps the weights of the whole model, in place of the last
ones; here only what is trained is written, beside and renamed, with a checksum, and the
one before is kept for the case that the last one is not whole.
"""

import json
import pathlib
import warnings

import h5py
import keras
import numpy as np
from keras import ops

from keras_muse import distribution
from keras_muse.data import files
from keras_muse.presets.loading import sha256_of

__all__ = ["Checkpoints", "LossNotFinite", "average_checkpoints", "training_state"]


class LossNotFinite(RuntimeError):
    """The loss of an epoch is NaN or infinite."""


def training_state(trainer):
    """The variables that training changes, by name.

    Those of the optimizer, and of the trainer all but the ones of frozen parts: a text
    encoder of billions of weights that nobody trains is in no checkpoint.

    Args:
        trainer: compiled `MuseMaskedImageModel` or `VQGANTrainer`, or another
            `keras.Model` that has `parts`, a list of the models it is made of.

    Returns:
        dict of `keras.Variable`.
    """
    # Weights, and not variables: dropout goes on in a frozen part as well.
    frozen = {
        id(variable)
        for part in trainer.parts
        if not part.trainable
        for variable in part.weights
    }
    optimizer = trainer.optimizer
    if not optimizer.built:
        optimizer.build(trainer.trainable_variables)
    variables = [v for v in trainer.variables if id(v) not in frozen]
    metrics = {id(v) for metric in trainer.metrics for v in metric.variables}
    variables = [v for v in variables if id(v) not in metrics]
    known = {id(v) for v in variables}
    variables += [v for v in optimizer.variables if id(v) not in known]
    # Keras numbers models and optimizers of one process, which are first in a path.
    return {
        f"{number:05d} {v.path.rpartition('/')[2]}": v
        for number, v in enumerate(variables)
    }


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and finds the last whole one.

    Kill the process at any moment and call the same `fit` again, with
    `initial_epoch=checkpoints.restore(trainer)` and data that starts where that epoch
    does: losses and weights are those of a run that was never stopped.

    A loss that is not finite stops the training before it gets into a checkpoint.

    Of many processes the first writes, into a folder that all of them see.

    Args:
        folder: str or path.
        settings: optional dict of what must be the same in a run that goes on; JSON.
        keep: int, at least 1. How many checkpoints stay. Defaults to 2.
        keep_every: optional int. Each of so many epochs stays as well, such as for
            `average_checkpoints`. Defaults to none.

    Raises:
        ValueError: if `keep` is less than 1.

    Example:
    ```python
    checkpoints = Checkpoints("runs/base")
    epoch = checkpoints.restore(trainer)
    data = tf_batches(records, 64, start=64 * 1000 * epoch)
    trainer.fit(
        data, epochs=50, steps_per_epoch=1000, initial_epoch=epoch,
        callbacks=[checkpoints], shuffle=False,
    )
    ```
    """

    def __init__(self, folder, settings=None, keep=2, keep_every=None):
        super().__init__()
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1: received {keep}.")
        self.folder = pathlib.Path(folder)
        # As it is read again.
        self.settings = json.loads(json.dumps(settings or {}))
        self.keep = keep
        self.keep_every = keep_every
        self.history = []

    def restore(self, trainer):
        """Brings a trainer to where the last whole checkpoint was written.

        One that is not whole is left out with a warning, and the one before is used.

        Args:
            trainer: as `training_state`.

        Returns:
            int, the epochs that are done; 0 if there is no checkpoint.

        Raises:
            ValueError: if the checkpoint was written with other settings or by another
                model, or if there are checkpoints and none of them is whole.
        """
        if distribution.current().is_chief:
            for left in self.folder.glob("*.part-*"):
                # Of a run that was killed while it wrote.
                left.unlink()
        damaged = []
        for path in reversed(self.paths()):
            try:
                receipt = self.verified(path)
            except ValueError as error:
                damaged.append(str(error))
                warnings.warn(f"{error} The one before it is used.", stacklevel=2)
                continue
            self._check_settings(path, receipt)
            load_variables(path, training_state(trainer))
            self.history = receipt["history"]
            return receipt["epoch"]
        if damaged:
            raise ValueError(
                f"None of the checkpoints of {str(self.folder)!r} is whole: "
                f"{' '.join(damaged)} Remove the folder to begin anew."
            )
        return 0

    def paths(self):
        """The checkpoints that were finished, the oldest first."""
        receipts = sorted(self.folder.glob("epoch-*.json"))
        return [path.with_suffix(".h5") for path in receipts]

    def on_epoch_end(self, epoch, logs=None):
        """Writes a checkpoint; the receipt, which comes last, makes it count."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        last = self.paths()[-1:]
        kept = f"The last good checkpoint is {str(last[0])!r}." if last else ""
        variables = training_state(self.model)
        wrong = [name for name, value in logs.items() if not np.isfinite(value)]
        # The last step of an epoch may spoil the weights; no loss has seen it yet.
        wrong += [name for name, v in variables.items() if not _is_finite(v)][:1]
        if wrong:
            raise LossNotFinite(
                f"{', '.join(wrong)} of epoch {epoch} is not finite. Lower the "
                "learning rate, clip gradients (`global_clipnorm`), or train in "
                f"float32. {kept}"
            )
        self.history.append({"epoch": epoch + 1, **logs})
        if distribution.current().is_chief:
            self._write(epoch, variables, kept)
        else:
            # A weight that is cut across processes needs all of them to be read.
            for variable in variables.values():
                distribution.current().numpy(variable)

    def _write(self, epoch, variables, kept):
        path = self.folder / f"epoch-{epoch + 1:06d}.h5"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.replace(path) as beside:
                save_variables(beside, variables)
                digest = sha256_of(beside)
            receipt = {
                "epoch": epoch + 1,
                "bytes": path.stat().st_size,
                "sha256": digest,
                "settings": self.settings,
                "history": self.history,
            }
            with files.replace(path.with_suffix(".json")) as beside:
                pathlib.Path(beside).write_text(json.dumps(receipt) + "\n")
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OSError(
                error.errno, f"The checkpoint was not written, {error}. {kept}"
            ) from error
        self._remove_old()

    def _remove_old(self):
        for path in self.paths()[: -self.keep]:
            if not self.keep_every or _epoch(path) % self.keep_every:
                # The receipt first: without it nothing is taken for a checkpoint.
                path.with_suffix(".json").unlink()
                path.unlink(missing_ok=True)

    def verified(self, path):
        """The receipt of a checkpoint.

        Args:
            path: one of `paths()`.

        Returns:
            dict.

        Raises:
            ValueError: if the checkpoint is not whole.
        """
        try:
            receipt = json.loads(path.with_suffix(".json").read_text())
            expected = receipt["bytes"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"The receipt of {str(path)!r} is damaged.") from error
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise ValueError(
                f"The checkpoint {str(path)!r} is truncated: it has {size} bytes and "
                f"was written with {expected}."
            )
        if sha256_of(path) != receipt["sha256"]:
            raise ValueError(
                f"The checkpoint {str(path)!r} is damaged: its SHA-256 is not the one "
                "it was written with."
            )
        return receipt

    def _check_settings(self, path, receipt):
        different = files.differences(receipt["settings"], self.settings)
        if different:
            raise ValueError(
                f"The checkpoint {str(path)!r} was written with other settings, "
                f"{different}. Go on with those, or begin in another folder."
            )


def _is_finite(variable):
    if not keras.backend.is_float_dtype(variable.dtype):
        return True
    return bool(ops.all(ops.isfinite(ops.convert_to_tensor(variable))))


def average_checkpoints(folder, trainer, every, decay=0.7):
    """Sets the trained weights to a moving average over the checkpoints of a folder.

    Muse trains without an average and takes one over its checkpoints, 5,000 steps
    apart, with a decay of 0.7 (section 3). `keep_every` of `Checkpoints` keeps them.

    Args:
        folder: str or path, of `Checkpoints`.
        trainer: as it was trained; need not be compiled alike.
        every: int. Checkpoints of each of so many epochs are averaged: neighbours count
            alike, so they must be equally far apart.
        decay: float in [0, 1). Share of what the average was before each checkpoint.
            Defaults to 0.7, the paper's.

    Returns:
        list of int, the epochs that are in the average.

    Raises:
        ValueError: if there are fewer than two checkpoints, one is damaged or of
            another model, or `decay` is out of range.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"`decay` must lie in [0, 1): received {decay}.")
    checkpoints = Checkpoints(folder)
    paths = [path for path in checkpoints.paths() if _epoch(path) % every == 0]
    if len(paths) < 2:
        raise ValueError(
            f"{str(folder)!r} must have at least two checkpoints, {every} epochs "
            f"apart, to average: it has {len(paths)}. `keep_every` keeps them."
        )
    state = _model_state(trainer)
    averages, epochs = {}, []
    for path in paths:
        epochs.append(checkpoints.verified(path)["epoch"])
        with h5py.File(path, "r") as file:
            for name, variable in state.items():
                if name not in file or file[name].shape != tuple(variable.shape):
                    raise ValueError(
                        f"{str(path)!r} is a checkpoint of another model: it has no "
                        f"{name!r} of the shape {tuple(variable.shape)}."
                    )
                value = file[name][()]
                if name in averages and variable.trainable:
                    value = decay * averages[name] + (1.0 - decay) * value
                averages[name] = value
    for name, variable in state.items():
        variable.assign(averages[name])
    return epochs


def _model_state(trainer):
    """The variables of `training_state` that are not the optimizer's."""
    state = training_state(trainer)  # which builds the optimizer
    optimizer = {id(variable) for variable in trainer.optimizer.variables}
    return {name: v for name, v in state.items() if id(v) not in optimizer}


def save_variables(path, variables):
    """Writes variables to an HDF5 file, bfloat16 as float32, which loses nothing."""
    with h5py.File(path, "w") as file:
        for name, variable in variables.items():
            value = distribution.current().numpy(variable)
            if value.dtype.name == "bfloat16":
                value = value.astype("float32")
            file.create_dataset(name, data=value)


def load_variables(path, variables):
    """Assigns what `save_variables` wrote.

    Raises:
        ValueError: if the file has other variables, or one of another shape.
    """
    with h5py.File(path, "r") as file:
        if set(file) != set(variables):
            odd = sorted({*file} ^ {*variables})[0]
            raise ValueError(
                f"{str(path)!r} is a checkpoint of another model: it has {len(file)} "
                f"variables and the trainer {len(variables)}, only one of them has "
                f"{odd!r}."
            )
        for name, variable in variables.items():
            shape = file[name].shape
            if tuple(variable.shape) != shape:
                raise ValueError(
                    f"{str(path)!r} is a checkpoint of another model: {name!r} has the "
                    f"shape {shape} there and {tuple(variable.shape)} here."
                )
        for name, variable in variables.items():
            variable.assign(file[name][()])


def _epoch(path):
    return int(path.stem.removeprefix("epoch-"))
