"""What a training of the shapes world writes down."""

import csv
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

from keras_muse.data import shapes, shapes_checker
from keras_muse.evaluation import CaptionAgreement, psnr
from keras_muse.evaluation.reconstruction import make_reconstruct, to_uint8
from keras_muse.image_tokenizer import CodebookUsage
from keras_muse.models import MuseBackbone, MuseTextToImage

__all__ = ["Log", "TextUse", "Translation", "reconstruction_quality"]


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


def reconstruction_quality(vqgan, images, captions):
    """PSNR, caption agreement and codebook usage of reconstructions."""
    reconstruct = make_reconstruct(vqgan)
    decibels, usage = [], CodebookUsage(vqgan.codebook_size)
    agreement = CaptionAgreement()
    # A larger decoder fills the memory with 500 pictures at once.
    for start in range(0, len(images), 50):
        batch = images[start : start + 50]
        tokens, decoded = reconstruct(batch)
        usage.update_state(tokens)
        decibels.append(psnr(decoded, batch))
        agreement.update(to_uint8(decoded), captions[start : start + 50])
    return {
        "test_psnr": round(float(np.mean(np.concatenate(decibels))), 2),
        "test_agreement": round(agreement.result()["exact"], 4),
        "test_usage": round(float(usage.result()), 4),
    }


OPPOSITES = {
    " left of ": " right of ",
    " right of ": " left of ",
    " above ": " below ",
    " over ": " under ",
    " below ": " above ",
    " under ": " over ",
}


def turn_round(caption):
    """A caption with its relation turned round; with one group as it is.

    A model that reads bags of words finds the turned caption as likely as the true
    one; see `TextUse`.
    """
    for relation, opposite in OPPOSITES.items():
        if relation in caption:
            return caption.replace(relation, opposite)
    return caption


class TextUse:
    """Whether the text is used, and how often a picture is what was asked for."""

    def __init__(self, backbone, preprocessor, seed, count=128):
        """Takes `count` held-out captions and their pictures."""
        # Of a cascade the base alone: the parts are shared, not copied.
        backbone = MuseBackbone(backbone.text_encoder, backbone.stages[:1])
        self.backbone, self.preprocessor = backbone, preprocessor
        images, self.captions = shapes.examples("held_out_captions", 0, count, seed)
        vqgan, transformer = backbone.stages[0]
        self.tokens = ops.convert_to_numpy(vqgan.encode(images))
        cells = images.reshape(count, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        empty = [
            (cells == np.array(color)).all(axis=(3, 4, 5))
            for color in shapes.BACKGROUNDS.values()
        ]
        self.is_object = ~np.any(empty, axis=0).reshape(count, -1)
        self.empty = np.full(self.tokens.shape, transformer.mask_id, "int32")
        self.muse = MuseTextToImage(backbone, preprocessor)

    def __call__(self):
        """The numbers of one moment of the training."""
        cond = self.cross_entropy(self.captions)
        turned = self.cross_entropy([turn_round(text) for text in self.captions])
        uncond = self.cross_entropy([""] * len(self.captions))
        images = self.muse.generate(
            self.captions, num_steps=12, temperature=0.7, seed=0, guidance_scale=1.0
        )
        agreement = shapes_checker.agreement(images, self.captions)
        one = agreement["num_groups"] == 1
        exact = agreement["exact"]
        return {
            "cond": round(cond, 3),
            "cond_turned": round(turned, 3),
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


class Translation:
    """How well the second stage translates the tokens of the first."""

    def __init__(self, backbone, preprocessor, samplers, seed, count=64):
        """Takes `count` held-out captions and their pictures."""
        self.muse = MuseTextToImage(backbone, preprocessor, samplers)
        height = backbone.image_shape[0]
        self.images, self.captions = shapes.examples(
            "held_out_captions", 0, count, seed, scale=height // 64
        )
        # Not the downscaled pictures: two cells of those have other tokens.
        low_res, _ = shapes.examples(
            "held_out_captions", 0, count, seed, scale=height // 128
        )
        self.tokens = [
            ops.convert_to_numpy(stage.image_tokenizer.encode(images))
            for stage, images in zip(backbone.stages, (low_res, self.images))
        ]

    def __call__(self):
        """The numbers of one moment of the training."""
        seeds = np.arange(len(self.captions), dtype="int32")
        tokens = self.muse.generate_tokens(
            self.captions, None, seeds, start_tokens=[self.tokens[0], None]
        )[-1]
        images = self.muse.decode_images(tokens)
        agreement = shapes_checker.agreement(images, self.captions)
        return {
            "test_tokens": round(float(np.mean(tokens == self.tokens[1])), 4),
            "test_psnr": round(float(np.mean(psnr(images, self.images))), 2),
            "test_agreement": round(float(np.mean(agreement["exact"])), 4),
        }
