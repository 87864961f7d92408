"""The first check of a set-up: can it learn one batch by heart?"""

import warnings

import keras

from keras_muse.data import repeat_batch

__all__ = ["overfit_one_batch"]


def overfit_one_batch(trainer, batch, steps=2000, target=0.05, every=50, verbose=1):
    """Trains on one batch until it is known by heart, or the steps are used up.

    What cannot be learned by heart will not be learned from millions of pictures
    either: tokens that do not fit their captions, a learning rate that is far off, a
    part that is frozen. The captions of the batch must differ, since where all is
    masked nothing else tells its pictures apart. A warning says that it failed.

    Args:
        trainer: compiled `MuseMaskedImageModel` with `caption_dropout=0`: a dropped
            caption says nothing of its picture. Its weights change.
        batch: dict of arrays, as its `fit` takes.
        steps: int. At most so many. Defaults to 2,000.
        target: float. Loss in nats, the mean of `every` steps over all mask rates,
            below which the batch is known. Defaults to 0.05.
        every: int. Steps between two looks. Defaults to 50.
        verbose: int. 1 prints each look. Defaults to 1.

    Returns:
        list of float, the loss of each `every` steps; the last one is below `target` if
        the batch was learned.

    Raises:
        ValueError: if the trainer drops captions, or a number is not positive.
    """
    if trainer.caption_dropout:
        raise ValueError(
            "`trainer` must have caption_dropout=0 to learn by heart: received "
            f"{trainer.caption_dropout}."
        )
    if min(steps, every) < 1 or target <= 0:
        raise ValueError(
            "`steps`, `every` and `target` must be positive: received "
            f"{steps}, {every}, {target}."
        )
    history = trainer.fit(
        repeat_batch(batch),
        steps_per_epoch=every,
        epochs=-(-steps // every),
        callbacks=[_StopBelow(target, verbose)],
        shuffle=False,
        verbose=0,
    )
    losses = history.history["loss"]
    if losses[-1] >= target:
        warnings.warn(
            f"One batch was not learned by heart: its loss is {losses[-1]:.3f} nats "
            f"after {len(losses) * every} steps, and should be below {target}.",
            stacklevel=2,
        )
    return losses


class _StopBelow(keras.callbacks.Callback):
    def __init__(self, target, verbose):
        super().__init__()
        self.target, self.verbose = target, verbose

    def on_epoch_end(self, epoch, logs=None):
        if self.verbose:
            steps = (epoch + 1) * self.params["steps"]
            print(f"{steps} steps: {logs['loss']:.4f} nats", flush=True)
        self.model.stop_training = logs["loss"] < self.target
