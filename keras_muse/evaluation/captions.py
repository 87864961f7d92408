"""Whether pictures are what their captions say."""

import hashlib
import json

import keras
import keras_hub
import numpy as np
from keras import ops
from PIL import Image

from keras_muse.data import shapes_checker
from keras_muse.evaluation.features import check_pictures, fingerprint_of
from keras_muse.models.compilation import compile_inference

__all__ = ["CLIPScore", "CaptionAgreement", "clip_scores"]

# What `shapes_checker.agreement` says of a picture, beside what to tabulate by.
SCORES = ("exact background count colors shapes sizes relation whole").split()


class CLIPScore:
    """Mean similarity of pictures and captions to a CLIP (arXiv 2104.08718).

    `100 max(cos, 0)` of the embeddings of each picture and its caption, as torchmetrics
    has it; the paper of the score has 2.5 in place of 100, that of Muse has 1. Memory
    does not grow with the number of pictures. Scores of two CLIPs are not comparable.

    Args:
        backbone: `keras_hub.models.CLIPBackbone`.
        preprocessor: `keras_hub.models.CLIPPreprocessor` with an image converter.
            Pictures are scaled by PIL's bicubic filter first, as the CLIP of OpenAI
            has it: that of the converter is not antialiased by default.
        name: str. What a result says of it. Defaults to the name of the backbone.

    Raises:
        ValueError: if the preprocessor has no image converter.
    """

    def __init__(self, backbone, preprocessor, name=None):
        if preprocessor.image_converter is None:
            raise ValueError(
                "`preprocessor` must have an image converter: received one with "
                "`image_converter=None`."
            )
        self.backbone, self.preprocessor = backbone, preprocessor
        self.name = name or backbone.name
        self.fingerprint = _clip_fingerprint(backbone, preprocessor)
        self._embed = compile_inference(backbone, self._embeddings)
        self.count, self.total = 0, 0.0

    @classmethod
    def from_preset(cls, preset):
        """Loads a CLIP.

        Args:
            preset: str or path. A preset of `keras_hub.models.CLIPBackbone`, such as
                `"clip_vit_large_patch14"`, a handle, or a local folder.

        Returns:
            `CLIPScore`.
        """
        preset = str(preset)
        return cls(
            keras_hub.models.CLIPBackbone.from_preset(preset),
            keras_hub.models.CLIPPreprocessor.from_preset(preset),
            name=preset.rstrip("/").rpartition("/")[-1],
        )

    def update(self, images, captions):
        """Takes pictures and their captions.

        Args:
            images: (B, H, W, 3) uint8.
            captions: B of str.

        Raises:
            ValueError: if there are not as many captions as images.
        """
        scores = self.scores(images, captions)
        self.count += len(scores)
        self.total += float(scores.sum())

    def scores(self, images, captions):
        """(B,) float64, the score of each picture; arguments as of `update`."""
        images, captions = check_pictures(images), list(captions)
        _check_count(images, captions)
        images = _covering(images, self.preprocessor.image_converter.image_size)
        rows = self.preprocessor(
            {"prompts": captions, "images": images.astype("float32")}
        )
        pictures, texts = self._embed(
            ops.convert_to_tensor(rows["images"], "float32"),
            ops.convert_to_tensor(rows["token_ids"], "int32"),
        )
        return clip_scores(
            ops.convert_to_numpy(ops.cast(pictures, "float32")),
            ops.convert_to_numpy(ops.cast(texts, "float32")),
        )

    def _embeddings(self, images, token_ids):
        return (
            self.backbone.get_vision_embeddings(images),
            self.backbone.get_text_embeddings(token_ids),
        )

    def result(self):
        """Dict of the score, and of what it is made of."""
        if not self.count:
            raise ValueError("There must be at least one picture: received none.")
        return {
            "clip_score": self.total / self.count,
            "generated": self.count,
            "model": self.name,
            "fingerprint": self.fingerprint,
        }

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        return {"count": np.array(self.count), "total": np.array(self.total)}

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self.count, self.total = int(state["count"]), float(state["total"])


class CaptionAgreement:
    """How often pictures of the shapes world have what their captions ask for.

    See `keras_muse.data.shapes_checker.agreement`. The relation counts where there is
    one, in captions of two groups.
    """

    def __init__(self):
        self.counts = {name: [0, 0] for name in SCORES}

    def update(self, images, captions):
        """Takes pictures and their captions.

        Args:
            images: (B, H, W, 3) uint8, H = W = 64 or a multiple.
            captions: B of str, of the world's grammar.
        """
        scores = shapes_checker.agreement(images, captions)
        of_two = scores["num_groups"] == 2
        for name, counts in self.counts.items():
            values = scores[name][of_two] if name == "relation" else scores[name]
            counts[0] += int(np.sum(values))
            counts[1] += len(values)

    def result(self):
        """dict: the share of each score, `None` where nothing was to be seen."""
        if not self.counts["exact"][1]:
            raise ValueError("There must be at least one picture: received none.")
        shares = {
            name: good / seen if seen else None
            for name, (good, seen) in self.counts.items()
        }
        return {**shares, "generated": self.counts["exact"][1]}

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        return {name: np.array(value) for name, value in self.counts.items()}

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self.counts = {name: state[name].tolist() for name in SCORES}


def clip_scores(pictures, texts):
    """`100 max(cos, 0)` of pairs of embeddings (arXiv 2104.08718).

    Args:
        pictures: (B, D) float.
        texts: (B, D) float.

    Returns:
        (B,) float64 in [0, 100].
    """
    pictures, texts = np.asarray(pictures, "float64"), np.asarray(texts, "float64")
    lengths = np.linalg.norm(pictures, axis=-1) * np.linalg.norm(texts, axis=-1)
    # Embeddings of length 0 have no angle; their score is 0.
    cosines = np.sum(pictures * texts, axis=-1) / np.where(lengths > 0, lengths, 1.0)
    return 100.0 * np.maximum(cosines, 0.0)


def _covering(images, size):
    """Pictures whose shorter side covers a size; the converter cuts off the rest."""
    if size is None:
        return images
    height, width = images.shape[1:3]
    factor = max(size[0] / height, size[1] / width)
    shape = (round(height * factor), round(width * factor))
    if shape == (height, width):
        return images
    return np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize(shape[::-1], Image.Resampling.BICUBIC)
            )
            for image in images
        ]
    )


def _check_count(images, captions):
    if len(images) != len(captions):
        raise ValueError(
            "`captions` must have one caption per image: received "
            f"{len(images)} images and {len(captions)} captions."
        )


def _clip_fingerprint(backbone, preprocessor):
    """Of weights, preprocessing and vocabulary."""
    tokenizer, converter = preprocessor.tokenizer, preprocessor.image_converter
    words = json.dumps([tokenizer.vocabulary, list(tokenizer.merges)], sort_keys=True)
    settings = {
        "kind": "clip",
        "model": backbone.get_config(),
        "vocabulary": hashlib.sha256(words.encode()).hexdigest(),
        "pad": tokenizer.pad_token_id,
        "length": preprocessor.sequence_length,
        "images": converter.get_config(),
        "resize": "PIL bicubic, antialiased, uint8",
    }
    # Names and policies do not change the numbers, and Keras counts the names up.
    return fingerprint_of(_without(settings, "name", "dtype"), backbone.weights)


def _without(value, *names):
    """JSON without the keys of some names."""
    if isinstance(value, dict):
        return {k: _without(v, *names) for k, v in value.items() if k not in names}
    if isinstance(value, (list, tuple)):
        return [_without(item, *names) for item in value]
    plain = value is None or isinstance(value, (str, int, float))
    return value if plain else str(keras.tree.map_structure(str, value))
