"""What is validated, drawn and saved of a training with averaged weights."""

import csv

import keras
import numpy as np
import pytest

from keras_muse.image_tokenizer import VQGANTrainer
from keras_muse.recipes import vqgans
from keras_muse.recipes.averaging import averages_weights
from keras_muse.recipes.progress import CSVLog

MOMENTUM, STEPS = 0.7, 3


class Pictures:
    """Records without a file."""

    captions = False
    image_size = (16, 16)
    signature = {"images": ((16, 16, 3), "uint8")}

    def __init__(self, seed):
        self.seed = seed

    def without_captions(self):
        return self

    def __len__(self):
        return 8

    def key(self, index):
        return str(index)

    def load(self, index, random):
        rng = np.random.default_rng([self.seed, index])
        return {"images": rng.integers(0, 256, (16, 16, 3), "uint8")}

    def load_picture(self, index, random):
        return self.load(index, random)["images"]


def train(folder):
    return vqgans.train_image_tokenizer(
        folder,
        Pictures(0),
        STEPS,
        batch_size=4,
        steps_per_epoch=1,
        quantizer={"codebook_size": 16, "embedding_dim": 4, "decay": 0.5},
        model={
            "base_channels": 4,
            "channel_multipliers": (1, 2),
            "strides": (4,),
            "num_residual_blocks": (0, 1),
            "groups": 2,
        },
        optimizer={"learning_rate": 0.02, "warmup_steps": 1, "ema_momentum": MOMENTUM},
        perceptual="none",
        discriminator={"base_channels": 4, "num_layers": 1, "groups": 2},
        lecam_weight=0.1,
        validation=Pictures(1),
        verbose=0,
    )


def weights(vqgan):
    return [keras.ops.convert_to_numpy(v).copy() for v in vqgan.weights]


def test_what_is_measured_is_what_is_saved(tmp_path, monkeypatch):
    seen, drawn = [], []
    write = CSVLog.on_epoch_end

    def look(log, epoch, logs=None):
        seen.append(weights(log.model.vqgan))
        if epoch == STEPS - 1:
            raise KeyboardInterrupt
        write(log, epoch, logs)

    def inference(vqgan, reconstruct):
        return lambda images: drawn.append(weights(vqgan)) or reconstruct(images)

    monkeypatch.setattr(CSVLog, "on_epoch_end", look)
    monkeypatch.setattr(vqgans, "compile_inference", inference)
    # Killed when the last checkpoint was written; its sample was not drawn.
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    vqgan = train(tmp_path)
    averages = seen[:1]
    for values in seen[1:]:
        pairs = zip(averages[-1], values, strict=True)
        averages.append([MOMENTUM * a + (1 - MOMENTUM) * b for a, b in pairs])
    assert len(averages) == STEPS and len(drawn) == STEPS - 1
    assert max(np.abs(a - b).max() for a, b in zip(averages[-1], seen[-1])) > 1e-3
    for found, expected in (
        (weights(vqgan), averages[-1]),
        *zip(drawn, averages),
    ):
        for variable, value, average in zip(vqgan.weights, found, expected):
            np.testing.assert_allclose(value, average, atol=1e-5, err_msg=variable.path)
    with open(tmp_path / "log.csv") as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["lecam"]) > 0
    trainer = VQGANTrainer(vqgan)
    trainer.compile()
    pictures = np.stack([Pictures(1).load(i, None)["images"] for i in range(8)])
    logs = trainer.evaluate(pictures, batch_size=4, verbose=0, return_dict=True)
    for name in ("psnr", "reconstruction", "commitment"):
        assert float(row[f"val_{name}"]) == pytest.approx(logs[name], rel=1e-4), name


def test_an_optimizer_inside_of_another():
    inner = keras.optimizers.Adam(use_ema=True)
    assert averages_weights(keras.optimizers.LossScaleOptimizer(inner))
    assert not averages_weights(keras.optimizers.Adam())
