"""Trains the embedded preset `muse_shapes` from nothing.

    python guides/train_muse_shapes.py --folder runs/muse_shapes

It trains the image tokenizer, then the base transformer together with its small text
encoder, and writes a preset. Everything is drawn from one seed. Kill it whenever you
like: the same command goes on from the last checkpoint. It runs on CPU or on a GPU, on
every backend; on CPU `KERAS_BACKEND=torch` is the fastest.

What to expect (two CPU cores, PyTorch):
    tokenizer   128,000 pictures, 10 minutes: PSNR passes 30 dB after 35,000 pictures
                and caption agreement through the reconstruction 98 % after 60,000.
    base        the loss starts at ln(512) = 6.2. It falls below 1 within 10,000
                pictures, while the model learns backgrounds and positions. Then the
                gap of `uncond - cond`, the cross-entropy of object tokens on an empty
                canvas without and with the caption, opens: the text is being used.
                Exact agreement stays near 0 until long after. Counting comes late.
The log of the run that made the preset is in benchmarks/results/train_muse_shapes/.
"""

import argparse
import csv
import json
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import ops

import keras_muse
from keras_muse.data import shapes, shapes_checker

SEED = 7
TEXT_LENGTH = 20
IMAGE_SIZE = 64


def make_tokenizer():
    """64 x 64 pixels to 8 x 8 tokens: one token is one cell of the world."""
    return keras_muse.image_tokenizer.VQGAN(
        keras_muse.image_tokenizer.VectorQuantizer(512, 32, name="quantizer"),
        base_channels=16,
        channel_multipliers=(1, 4),
        strides=(8,),
        num_residual_blocks=(0, 1),
        groups=8,
        upsampling="depth_to_space",
        local_encoder=True,
        dtype="float32",
        name="image_tokenizer",
    )


def make_preprocessor():
    """A vocabulary of the world's words, and letters for all others."""
    words = shapes.words()
    tokenizer = keras_muse.text.MuseTokenizer(
        proto=keras_muse.text.train_vocabulary(words, words, vocabulary_size=128)
    )
    return keras_muse.models.MuseTextToImagePreprocessor(tokenizer, TEXT_LENGTH)


def make_backbone(image_tokenizer, vocabulary_size, precision):
    """The small Muse: 8 x 8 tokens, a transformer of width 192."""
    text_encoder = keras_muse.text.T5TextEncoder(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=256,
        dtype=precision,
        name="text_encoder",
    )
    transformer = keras_muse.transformer.MaskedTransformer(
        codebook_size=image_tokenizer.codebook_size,
        grid_size=8,
        num_layers=4,
        hidden_dim=192,
        num_heads=6,
        text_dim=128,
        use_qk_norm=True,
        dtype=precision,
        name="base_transformer",
    )
    return keras_muse.models.MuseBackbone(
        text_encoder, [(image_tokenizer, transformer)], name="muse_shapes"
    )


@keras.saving.register_keras_serializable(package="train_muse_shapes")
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


class Log(keras.callbacks.Callback):
    """Appends the logs of every epoch, and what `measure` returns, to a CSV file."""

    def __init__(self, path, pictures_per_epoch, measure=None, every=1):
        """See the class."""
        super().__init__()
        self.path, self.measure, self.every = pathlib.Path(path), measure, every
        self.pictures_per_epoch = pictures_per_epoch
        rows = self.rows()
        self.started = time.time() - (float(rows[-1]["seconds"]) if rows else 0.0)

    def rows(self):
        """What was written so far."""
        if not self.path.exists():
            return []
        with self.path.open() as file:
            return list(csv.DictReader(file))

    def pictures_seen(self):
        """How many pictures the training has seen before it was stopped."""
        rows = self.rows()
        return int(rows[-1]["pictures"]) if rows else 0

    def on_epoch_end(self, epoch, logs=None):
        """Writes and prints a line."""
        row = {"pictures": (epoch + 1) * self.pictures_per_epoch}
        row["seconds"] = round(time.time() - self.started)
        row.update({name: round(float(v), 4) for name, v in (logs or {}).items()})
        if self.measure is not None and (epoch + 1) % self.every == 0:
            row.update(self.measure())
        # A resumed run repeats the epoch that was cut off.
        rows = [r for r in self.rows() if int(r["pictures"]) < row["pictures"]] + [row]
        names = list(dict.fromkeys(name for r in rows for name in r))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        print(json.dumps(row), flush=True)


def train_tokenizer(folder, steps, steps_per_epoch=200, batch_size=32):
    """Trains the VQGAN on reconstruction; returns it."""
    done = folder / "tokenizer"
    if done.exists():
        return keras_muse.image_tokenizer.VQGAN.from_preset(str(done))
    vqgan = make_tokenizer()
    trainer = keras_muse.image_tokenizer.VQGANTrainer(vqgan)
    trainer.compile(
        keras.optimizers.Adam(
            WarmupStableDecay(2e-3, 100, int(0.6 * steps), steps),
            beta_2=0.99,
            global_clipnorm=1.0,
        ),
        reconstruction="l2",
        reconstruction_weight=10.0,
    )
    test_images, captions = shapes.examples("held_out_captions", 0, 500, SEED + 1)
    log = Log(
        folder / "tokenizer.csv",
        batch_size * steps_per_epoch,
        lambda: reconstruction_quality(vqgan, test_images, captions),
    )
    fit(
        trainer,
        folder / "tokenizer_backup",
        log,
        steps,
        steps_per_epoch,
        batch_size,
        prepare=lambda batch: batch["images"],
    )
    vqgan.save_to_preset(done)
    return vqgan


def reconstruction_quality(vqgan, images, captions):
    """PSNR, caption agreement and codebook usage of reconstructions."""
    tokens = ops.convert_to_numpy(vqgan.encode(images))
    decoded = ops.convert_to_numpy(vqgan.decode(tokens))
    error = np.mean((decoded - images / 255.0) ** 2, axis=(1, 2, 3))
    agreement = shapes_checker.agreement(np.uint8(np.round(decoded * 255)), captions)
    return {
        "test_psnr": round(float(np.mean(-10 * np.log10(error))), 2),
        "test_agreement": round(float(np.mean(agreement["exact"])), 4),
        "test_usage": round(len(np.unique(tokens)) / vqgan.codebook_size, 4),
    }


def fit(trainer, backup, log, steps, steps_per_epoch, batch_size, prepare=None):
    """`fit` on fresh pictures, with a checkpoint every epoch."""
    callbacks = [keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False), log]
    # Fresh scenes for ever; a resumed run goes on where the stream was cut off.
    pictures = shapes.dataset(
        "train", SEED, batch_size=batch_size, start=log.pictures_seen()
    )
    if prepare is not None:
        pictures = pictures.map(prepare)
    trainer.fit(
        pictures.prefetch(8),
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def train_base(folder, vqgan, pictures, precision, steps_per_epoch=250, batch_size=64):
    """Trains the base transformer and the text encoder; returns the backbone."""
    preprocessor = make_preprocessor()
    backbone = make_backbone(vqgan, preprocessor.tokenizer.vocabulary_size(), precision)
    trainer = keras_muse.models.MuseMaskedImageModel(
        backbone, preprocessor, train_text_encoder=True, seed=SEED
    )
    steps = pictures // batch_size
    trainer.compile(make_optimizer(steps))
    log = Log(
        folder / "base.csv",
        batch_size * steps_per_epoch,
        Measure(backbone, preprocessor),
        every=4,
    )
    fit(trainer, folder / "base_backup", log, steps, steps_per_epoch, batch_size)
    return backbone, preprocessor


def make_optimizer(steps):
    """Learning rate 1.5e-3 for most of the run, then down to zero."""
    return keras.optimizers.AdamW(
        WarmupStableDecay(1.5e-3, 500, int(0.75 * steps), steps),
        beta_1=0.9,
        beta_2=0.98,
        weight_decay=0.02,
        global_clipnorm=1.0,
    )


class Measure:
    """Whether the text is used, and how often a picture is what was asked for."""

    def __init__(self, backbone, preprocessor, count=128):
        """Takes `count` held-out captions and their pictures."""
        self.backbone, self.preprocessor = backbone, preprocessor
        images, self.captions = shapes.examples("held_out_captions", 0, count, SEED + 2)
        vqgan, transformer = backbone.stages[0]
        self.tokens = ops.convert_to_numpy(vqgan.encode(images))
        # Cells that are one colour show the background.
        cells = images.reshape(count, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        self.is_object = cells.std(axis=(3, 4)).max(axis=-1).reshape(count, -1) > 0
        self.empty = np.full(self.tokens.shape, transformer.mask_id, "int32")
        self.muse = keras_muse.models.MuseTextToImage(backbone, preprocessor)

    def __call__(self):
        """The numbers of one moment of the training."""
        cond = self.cross_entropy(self.captions)
        uncond = self.cross_entropy([""] * len(self.captions))
        images = self.muse.generate(
            self.captions, num_steps=12, temperature=0.7, seed=0, guidance_scale=1.0
        )
        agreement = shapes_checker.agreement(images, self.captions)
        one = agreement["num_groups"] == 1
        exact = agreement["exact"]
        return {
            "cond": round(cond, 3),
            "uncond": round(uncond, 3),
            "exact": round(float(exact.mean()), 3),
            "exact_1_group": round(float(exact[one].mean()), 3),
            "exact_2_groups": round(float(exact[~one].mean()), 3),
            "count": round(float(agreement["count"].mean()), 3),
            "colors": round(float(agreement["colors"].mean()), 3),
            "relation": round(float(agreement["relation"][~one].mean()), 3),
        }

    def cross_entropy(self, captions):
        """Of the object tokens, all tokens masked."""
        rows = self.preprocessor.generate_preprocess(captions)
        logits = self.backbone.predict(
            {**rows, "image_ids_0": self.empty}, verbose=0, batch_size=32
        )["logits_0"]
        losses = ops.sparse_categorical_crossentropy(
            self.tokens, ops.convert_to_tensor(logits), from_logits=True
        )
        return float(np.mean(ops.convert_to_numpy(losses)[self.is_object]))


def save_preset(folder, backbone, preprocessor):
    """Writes the preset as it is shipped: float32 policy, float16 weights."""
    config = backbone.get_config()
    plain = keras_muse.models.MuseBackbone.from_config({**config, "dtype": "float32"})
    plain.set_weights(backbone.get_weights())
    sampler = keras_muse.decoding.Sampler()
    muse = keras_muse.models.MuseTextToImage(plain, preprocessor, samplers=sampler)
    muse.save_to_preset(str(folder / "preset"))
    keras_muse.presets.store_as_float16(folder / "preset")


def main():
    """Reads the command line and runs the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=pathlib.Path, default="runs/muse_shapes")
    parser.add_argument("--tokenizer-steps", type=int, default=3600)
    parser.add_argument("--pictures", type=int, default=640_000)
    parser.add_argument(
        "--precision",
        default="mixed_bfloat16",
        help="dtype policy of the transformer and the text encoder in training",
    )
    parser.add_argument("--steps-per-epoch", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    vqgan = train_tokenizer(
        options.folder,
        options.tokenizer_steps,
        min(200, options.steps_per_epoch),
    )
    keras.utils.set_random_seed(SEED)
    backbone, preprocessor = train_base(
        options.folder,
        vqgan,
        options.pictures,
        options.precision,
        options.steps_per_epoch,
        options.batch_size,
    )
    save_preset(options.folder, backbone, preprocessor)


if __name__ == "__main__":
    main()
