"""How the recipes train: a schedule that can be prolonged, checkpoints, Muon."""

import keras
from keras import ops

from keras_muse.layers import register

__all__ = ["WarmupStableDecay", "fit", "muon"]


@register
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up, a plateau, a linear decay to zero: a plateau can be prolonged."""

    def __init__(self, peak, warmup, decay_start, decay_end):
        """Peak rate and the three steps at which the schedule bends."""
        self.peak = peak
        self.warmup = warmup
        self.decay_start = decay_start
        self.decay_end = decay_end

    def __call__(self, step):
        """The learning rate of a step."""
        step = ops.cast(step, "float32")
        length = max(self.decay_end - self.decay_start, 1)
        left = (self.decay_end - step) / length
        return self.peak * ops.clip(ops.minimum(step / self.warmup, left), 0.0, 1.0)

    def get_config(self):
        """The arguments."""
        return vars(self)


def fit(trainer, backup, log, batches, steps, steps_per_epoch):
    """`fit` with a checkpoint every epoch; `batches` are those not seen yet."""
    trainer.fit(
        batches,
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        callbacks=[
            keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False),
            log,
        ],
        shuffle=False,
        verbose=0,
    )


def muon(steps, decay=0.3, peak=2e-3):
    """Muon for matrices, Adam for the rest, learning rate flat and then down to zero.

    Muon (arXiv 2502.16982) leaves the first plateau, where a model knows how frequent
    each token is and no more, after 20,000 pictures; AdamW (1e-3, batches of 32) was
    still on it after 36,000. At 4e-3 the feed-forward networks of the text encoder
    outgrow its attention, and captions become bags of words.
    """
    return keras.optimizers.Muon(
        WarmupStableDecay(peak, 300, int((1.0 - decay) * steps), steps),
        adam_lr_ratio=0.5,
        adam_beta_2=0.98,
        # Not matrices of a layer: the codes' logits, tables of positions.
        exclude_layers=["(^|/)head/", "relative"],
        weight_decay=0.02,
        adam_weight_decay=0.02,
    )
