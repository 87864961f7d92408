"""What the recipes for one's own pictures share."""

import shutil

from keras_muse import distribution
from keras_muse.data import BadRecord, BadRecords, tf_batches
from keras_muse.recipes.averaging import AveragedWeights, averages_weights
from keras_muse.recipes.checkpoints import Checkpoints
from keras_muse.recipes.progress import CSVLog, SampleGrid, Throughput

__all__ = ["check_steps", "first_good", "fit_to_the_end", "save_whole", "settings_of"]


def fit_to_the_end(
    folder, trainer, records, validation, settings, unit, draw=None, verbose=1
):
    """Trains from where it was stopped to its end.

    Args:
        folder: `pathlib.Path`.
        trainer: compiled, see `training_state`.
        records: what a reader returns.
        validation: likewise, or `None`.
        settings: dict of `settings_of`.
        unit: (name, count): of what a row of a batch has how many.
        draw: optional function to pictures, see `SampleGrid`.
        verbose: int. 1 prints a line an epoch. Defaults to 1.

    Raises:
        ValueError: if the steps are no whole number of epochs, or the folder has
            checkpoints of other settings.
        TooManyBadRecords, LossNotFinite, OSError: what stopped the training.
    """
    devices = distribution.current()
    if getattr(devices, "layout", None) and devices.shard[1] > 1:
        raise ValueError(
            "`kind` 'model' of `distribute` cuts weights across processes, which no "
            "preset can be written from: use one process, or 'data'."
        )
    steps, batch_size = settings["steps"], settings["batch_size"]
    steps_per_epoch = check_steps(steps, settings["steps_per_epoch"])
    checkpoints = Checkpoints(
        folder / "checkpoints",
        {**settings, "num_records": len(records)},
        keep_every=settings.get("keep_every"),
    )
    epoch = checkpoints.restore(trainer)
    bad = settings["max_bad_fraction"]
    rows = devices.rows(batch_size)
    # Each process reads other records, and writes down which of them are bad.
    part = f"_{devices.shard[0]}" if devices.shard[1] > 1 else ""
    sources = {f"bad{part}.jsonl": (records, bad)}
    batches = tf_batches(
        records,
        rows,
        seed=settings["seed"],
        start=epoch * steps_per_epoch * rows,
        shard=devices.shard,
        bad_file=folder / f"bad{part}.jsonl",
        max_bad_fraction=bad,
    )
    name, count = unit
    callbacks = [Throughput(name, count * batch_size), checkpoints]
    if averages_weights(trainer.optimizer):
        averaged = AveragedWeights()
        callbacks.append(averaged)
        draw = averaged.around(draw) if draw is not None else None
    if devices.is_chief:
        callbacks.append(CSVLog(folder / "log.csv", checkpoints, verbose))
    if draw is not None:
        callbacks.append(
            SampleGrid(folder / "samples", draw, tensorboard=folder / "tensorboard")
        )
    validation_steps = None
    if validation is not None:
        # As many as of all records: of a few, one is soon a large share.
        bad = min(bad * (len(records) + len(validation)) / len(validation), 1.0)
        sources[f"bad_validation{part}.jsonl"] = (validation, bad)
        # Over and over, and told how many there are: at an end that it does not know
        # of, Keras warns, and on JAX stops.
        validation_steps = -(-len(validation) // batch_size)
        validation = tf_batches(
            validation,
            batch_size,
            shuffle=False,
            repeat=False,
            bad_file=folder / f"bad_validation{part}.jsonl",
            max_bad_fraction=bad,
        ).repeat()
        if devices.num_replicas > 1:
            # The last batch is filled with the first rows; every process reads all of
            # them, so that none has fewer batches, and takes its part.
            first = devices.shard[0] * rows
            validation = validation.rebatch(batch_size, drop_remainder=True).map(
                lambda batch: {k: v[first : first + rows] for k, v in batch.items()}
            )
    try:
        trainer.fit(
            batches,
            epochs=steps // steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            initial_epoch=epoch,
            validation_data=validation,
            validation_steps=validation_steps,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
    except Exception:
        # TensorFlow hides in an error of its own what stopped the reading.
        for file_name, (source, share) in sources.items():
            BadRecords(folder / file_name, len(source), share)
        raise


def check_steps(steps, steps_per_epoch):
    """Steps of an epoch, at most all of them.

    Raises:
        ValueError: if they do not divide `steps`.
    """
    if steps_per_epoch < 1 or steps % min(steps_per_epoch, steps):
        raise ValueError(
            "`steps` must be a multiple of `steps_per_epoch`: received "
            f"{steps} and {steps_per_epoch}."
        )
    return min(steps_per_epoch, steps)


def first_good(records, count, load):
    """What `load(index)` returns for the first records of which it can, a list."""
    found = []
    for index in range(len(records)):
        if len(found) == count:
            break
        try:
            found.append(load(index))
        except BadRecord:
            # Named and counted where it is trained on.
            continue
    return found


def settings_of(arguments):
    """What must be the same in a run that goes on; JSON.

    Args:
        arguments: dict, `locals()` as the first statement of a recipe.
    """
    given = ("folder", "backbone", "preprocessor", "vqgan", "records", "validation")
    settings = {k: v for k, v in arguments.items() if k not in (*given, "verbose")}
    return {**settings, "optimizer": settings["optimizer"] or {}}


def save_whole(model, path):
    """Saves a preset that is there as a whole or not at all.

    Of many processes the first writes, and none goes on before it is there.
    """
    devices = distribution.current()
    try:
        if devices.is_chief:
            beside = path.with_name(path.name + ".part")
            shutil.rmtree(beside, ignore_errors=True)
            model.save_to_preset(str(beside))
            beside.rename(path)
    finally:
        # The others do not wait for one that failed.
        devices.barrier()
