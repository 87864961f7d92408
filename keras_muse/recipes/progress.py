"""What a training shows while it runs: a table, a speed, pictures."""

import csv
import json
import pathlib
import time

import keras
from PIL import Image

from keras_muse import distribution
from keras_muse.data import files
from keras_muse.evaluation.sheets import contact_sheet

__all__ = ["CSVLog", "SampleGrid", "Throughput"]


class Throughput(keras.callbacks.Callback):
    """Adds `NAME_per_second` to the logs of an epoch, without its validation.

    Put it before callbacks that write logs.

    Args:
        name: str, such as `"tokens"`.
        count: int. How many of them a training step has.
    """

    def __init__(self, name, count):
        super().__init__()
        self.name, self.count = name, count

    def on_epoch_begin(self, epoch, logs=None):
        """Looks at the clock."""
        self.started, self.stopped = time.perf_counter(), None

    # No hook after each step: with one, Keras waits there for the device.
    def on_test_begin(self, logs=None):
        """The steps are done, the validation begins."""
        self.stopped = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Writes into the logs."""
        seconds = (self.stopped or time.perf_counter()) - self.started
        if logs is not None:
            count = self.params["steps"] * self.count
            logs[f"{self.name}_per_second"] = count / seconds


class CSVLog(keras.callbacks.Callback):
    """Writes what `Checkpoints` remembers as a table after every epoch.

    The table is written anew each time, so that it has no epoch twice or not at all,
    wherever the training was stopped. Put it behind the checkpoints.

    Args:
        path: str or path of a CSV file.
        checkpoints: `Checkpoints` of the same training.
        verbose: int. 1 prints each row as JSON. Defaults to 0.
    """

    def __init__(self, path, checkpoints, verbose=0):
        super().__init__()
        self.path, self.checkpoints = pathlib.Path(path), checkpoints
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        """Adds an epoch whose line was not written before the end."""
        if self.checkpoints.history:
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the table."""
        row = self._write()
        if self.verbose:
            print(json.dumps(row), flush=True)

    def _write(self):
        rows = [
            {
                key: float(f"{value:.6g}") if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in self.checkpoints.history
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with files.replace(self.path) as beside, open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        return rows[-1]


class SampleGrid(keras.callbacks.Callback):
    """Writes pictures of the same prompts and seeds, to see a training learn.

    `epoch-000010.png` and so on in `folder`, and the same for TensorBoard.

    Args:
        folder: str or path.
        draw: function without arguments to pictures, (B, H, W, 3) uint8.
        every: int. Epochs between two of them. Defaults to 1.
        tensorboard: optional str or path. Where TensorBoard looks. Defaults to none.
    """

    def __init__(self, folder, draw, every=1, tensorboard=None):
        super().__init__()
        self.folder, self.draw, self.every = pathlib.Path(folder), draw, every
        self.tensorboard = tensorboard

    def on_epoch_end(self, epoch, logs=None):
        """Draws."""
        if (epoch + 1) % self.every:
            return
        # On JAX all processes have to draw, as each has a part of the program.
        sheet = contact_sheet(self.draw())
        if not distribution.current().is_chief:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(self.folder / f"epoch-{epoch + 1:06d}.png")
        if self.tensorboard is not None:
            _write_summary(self.tensorboard, epoch + 1, sheet, logs or {})


def _write_summary(folder, step, picture, scalars):
    """For TensorBoard, which need not be installed: `tf.summary.image` asks for it."""
    import tensorflow as tf

    def metadata(plugin):
        data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
        return tf.compat.v1.SummaryMetadata(plugin_data=data)

    height, width, _ = picture.shape
    image = [str(width).encode(), str(height).encode(), tf.io.encode_png(picture)]
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=step):
        tf.summary.write("samples", tf.stack(image), metadata=metadata("images"))
        for name, value in scalars.items():
            number = tf.constant(value, "float32")
            tf.summary.write(name, number, metadata=metadata("scalars"))
    writer.close()
