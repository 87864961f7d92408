"""Optimizers by name: the paper's, and one for small models."""

import keras

from keras_muse.recipes.fitting import WarmupStableDecay

__all__ = ["OPTIMIZERS", "make_optimizer"]

# The numbers of "paper" are those of Muse's appendix, whose optimizer is Adafactor with
# momentum; AdamW, which needs more memory, is what its open peers train with.
OPTIMIZERS = {
    "paper": {
        "learning_rate": 1e-4,
        "beta_2": 0.96,
        "weight_decay": 0.045,
        "warmup_steps": 5000,
    },
    "small": {
        "learning_rate": 1e-3,
        "beta_2": 0.98,
        "weight_decay": 0.02,
        "warmup_steps": 300,
        "global_clipnorm": 1.0,
    },
}


def make_optimizer(
    name="paper",
    steps=1_000_000,
    learning_rate=None,
    beta_2=None,
    weight_decay=None,
    warmup_steps=None,
    global_clipnorm=None,
    gradient_accumulation_steps=None,
    ema_momentum=None,
):
    """AdamW with warm-up and decay; arguments replace what the name stands for.

    Biases and the scales of normalisation layers are not decayed.

    Args:
        name: `"paper"`: learning rate 1e-4, betas .9 and .96, weight decay .045, 5,000
            steps of warm-up, cosine decay. `"small"`, for models of some million
            weights: 1e-3, .9 and .98, .02, 300, gradients clipped to a norm of 1; a
            plateau, and a linear decay in the last third. Defaults to `"paper"`.
        steps: int. Training steps, at whose end the learning rate is 0. Defaults to a
            million.
        learning_rate: optional float. After the warm-up.
        beta_2: optional float.
        weight_decay: optional float.
        warmup_steps: optional int. At most a tenth of all steps are used.
        global_clipnorm: optional float.
        gradient_accumulation_steps: optional int, at least 2. Batches of an update.
        ema_momentum: optional float in [0, 1), such as 0.9999. The weights are at the
            end their own exponential moving average, as `fit` of Keras leaves them; the
            recipes validate and draw samples with the average as well.

    Returns:
        `keras.optimizers.AdamW`.

    Raises:
        ValueError: if there is no such name, `steps` is less than 1, or Keras refuses
            an argument.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, OPTIMIZERS))}: received "
            f"{name!r}."
        )
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1: received {steps}.")
    given = {
        "learning_rate": learning_rate,
        "beta_2": beta_2,
        "weight_decay": weight_decay,
        "warmup_steps": warmup_steps,
        "global_clipnorm": global_clipnorm,
    }
    given = {key: value for key, value in given.items() if value is not None}
    settings = {**OPTIMIZERS[name], **given}
    warmup = min(settings.pop("warmup_steps"), max(steps // 10, 1))
    peak = settings.pop("learning_rate")
    if name == "paper":
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, max(steps - warmup, 1), warmup_target=peak, warmup_steps=warmup
        )
    else:
        schedule = WarmupStableDecay(peak, warmup, (2 * steps) // 3, steps)
    if ema_momentum is not None:
        settings.update(use_ema=True, ema_momentum=ema_momentum)
    optimizer = keras.optimizers.AdamW(
        schedule,
        beta_1=0.9,
        gradient_accumulation_steps=gradient_accumulation_steps,
        **settings,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "scale", "gamma", "beta"])
    return optimizer
