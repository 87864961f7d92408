"""One process of a training on many devices; started by `test_processes.py`.

    python -m tests.distribution.worker OUTPUT KIND DEVICES MODEL_SHARDS PARTS

Trains the PARTS, `muse` or `vqgan` or both with a comma, and writes losses and weights
after five steps as `OUTPUT-INDEX.npz`. KIND `one` is the training without any of it.
"""

import os
import sys

import numpy as np

BATCH, STEPS = 8, 5


def main(output, kind, count, model_shards, parts):
    """Trains a tiny Muse, a tiny image tokenizer, or both."""
    _make_cpus(int(count))
    import keras

    from keras_muse import distribution

    keras.utils.set_random_seed(0)
    devices = distribution.current()
    if kind != "one":
        devices = distribution.distribute(kind, int(model_shards))
    results = {}
    for name in parts.split(","):
        make, data = PARTS[name]
        trainer = make()
        check = {}
        if name == "muse":
            check = {
                "validation_data": own_part(data(), devices),
                "validation_steps": 2,
                "validation_freq": STEPS,
            }
        history = trainer.fit(
            own_part(data(), devices),
            epochs=STEPS,
            steps_per_epoch=1,
            shuffle=False,
            verbose=0,
            **check,
        ).history
        for key in set(history) & {"loss", "val_loss", "psnr", "accuracy"}:
            results[f"{name}/{key}"] = np.array(history[key])
        for variable in trainer.variables:
            if "seed" not in variable.path and "metric" not in variable.path:
                results[f"{name}/{variable.path}"] = devices.numpy(variable)
    devices.barrier()
    np.savez(f"{output}-{devices.shard[0]}.npz", **results)
    distribution.distribute(None)


def _make_cpus(count):
    """Splits this machine's CPU into so many devices, before anything looks."""
    backend = os.environ["KERAS_BACKEND"]
    if backend == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", count)
    if backend == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        tf.config.set_logical_device_configuration(cpu, parts)


def make_muse():
    """Every part of a step that draws or divides: dropped captions, masks."""
    import keras

    from keras_muse.models import MuseMaskedImageModel
    from tests.tools import tiny_backbone

    trainer = MuseMaskedImageModel(
        tiny_backbone(), caption_dropout=0.3, train_text_encoder=True
    )
    # A norm that is reached: it is that of the whole batch that must be clipped.
    trainer.compile(keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5))
    return trainer


def make_vqgan():
    """With a discriminator and averages, a codebook that moves and revives nothing."""
    import keras

    from keras_muse.image_tokenizer import (
        VQGAN,
        PatchDiscriminator,
        VectorQuantizer,
        VQGANTrainer,
    )
    from tests.tools import set_weights

    vqgan = VQGAN(
        VectorQuantizer(32, 8, revival_threshold=0.0, entropy_weight=0.1),
        base_channels=4,
        channel_multipliers=(1, 2),
        strides=(4,),
        num_residual_blocks=(0, 1),
        groups=2,
        upsampling="depth_to_space",
    )
    critic = PatchDiscriminator(base_channels=4, num_layers=2, groups=4)
    critic(np.zeros((1, 32, 32, 3), "float32"))
    for part in (vqgan, critic):
        set_weights(part, scale=0.3)
    vqgan.quantizer.usage.assign(np.ones(32, "float32"))
    trainer = VQGANTrainer(vqgan, critic)
    trainer.compile(
        keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5), lecam_weight=0.1
    )
    return trainer


def tokens():
    """Batches of tokens and text, (STEPS, BATCH, ...)."""
    rng = np.random.default_rng(3)
    return {
        "image_ids": rng.integers(0, 32, (STEPS, BATCH, 16)).astype("int32"),
        "token_ids": rng.integers(2, 60, (STEPS, BATCH, 6)).astype("int32"),
        "padding_mask": np.ones((STEPS, BATCH, 6), bool),
    }


def images():
    """Batches of pictures, (STEPS, BATCH, ...)."""
    rng = np.random.default_rng(4)
    return {"images": rng.uniform(size=(STEPS, BATCH, 32, 32, 3)).astype("float32")}


def own_part(arrays, devices):
    """The rows of this process, of every batch."""
    import tensorflow as tf

    index, count = devices.shard
    rows = devices.rows(BATCH)
    assert rows * count == BATCH
    own = {k: v[:, index * rows : (index + 1) * rows] for k, v in arrays.items()}
    return tf.data.Dataset.from_tensor_slices(own).repeat()


PARTS = {"muse": (make_muse, tokens), "vqgan": (make_vqgan, images)}

if __name__ == "__main__":
    main(*sys.argv[1:])
