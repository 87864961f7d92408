"""One encode function for whatever prepares: pictures and captions -> records."""

import numpy as np
from keras import ops

from keras_muse.data.fingerprints import (
    image_tokenizer_fingerprint,
    text_encoder_fingerprint,
)
from keras_muse.image_tokenizer import downscale
from keras_muse.models import MuseBackbone, MuseTextToImagePreprocessor
from keras_muse.models.compilation import compile_inference

__all__ = ["Encoder"]


class Encoder:
    """The model of a preset: pictures and captions to what is stored of them.

    Args:
        preset: str.
        text: str, see `prepare`.
        batch_size: int. Rows of every call, so that a row is always computed alike.
    """

    def __init__(self, preset, text, batch_size):
        self.backbone = MuseBackbone.from_preset(preset)
        self.text = text
        self.batch_size = batch_size
        self.preprocessor = None
        if text in ("ids", "embeddings"):
            self.preprocessor = MuseTextToImagePreprocessor.from_preset(preset)
        self._encode_images = compile_inference(self.backbone, self._image_ids)
        self._encode_text = compile_inference(
            self.backbone, lambda rows: self.backbone.text_encoder(rows)
        )

    def check(self, records):
        """Raises unless the pictures have the size of the last stage."""
        wanted = self.backbone.image_shape[:2]
        if tuple(records.image_size) != wanted:
            raise ValueError(
                "`image_size` of the records must be that of the last stage, "
                f"{wanted}: received {tuple(records.image_size)}."
            )

    def stages(self):
        """What `dataset_info.json` says of the stages."""
        return [
            {
                "grid_size": list(transformer.grid_size),
                "codebook_size": tokenizer.codebook_size,
                "dtype": _dtype(tokenizer.codebook_size),
                "fingerprint": image_tokenizer_fingerprint(tokenizer),
            }
            for tokenizer, transformer in self.backbone.stages
        ]

    def text_info(self):
        """What `dataset_info.json` says of the text."""
        if self.preprocessor is None:
            return {"kind": self.text}
        encoder = self.backbone.text_encoder if self.text == "embeddings" else None
        tokenizer = self.preprocessor.tokenizer
        info = {
            "kind": self.text,
            "sequence_length": self.preprocessor.sequence_length,
            "pad": 0 if encoder is not None else tokenizer.pad_token_id,
            "fingerprint": text_encoder_fingerprint(encoder, tokenizer),
        }
        if encoder is not None:
            info["dim"] = int(encoder.output.shape[-1])
        return info

    def encode(self, rows):
        """Records of (key, picture, captions), to be packed.

        Returns:
            list of dict.
        """
        if not rows:
            return []
        images = self._padded(np.stack([picture for _, picture, _ in rows]))
        ids = self._encode_images(ops.convert_to_tensor(images))
        ids = [ops.convert_to_numpy(stage) for stage in ids]
        found = []
        for number, (key, _, captions) in enumerate(rows):
            record = {"key": [key]}
            for stage, tokenizer in enumerate(self.backbone.image_tokenizers):
                dtype = _dtype(tokenizer.codebook_size)
                record[f"image_ids_{stage}"] = [ids[stage][number].astype(dtype)]
            if self.text != "none":
                record["captions"] = captions
            found.append(record)
        if self.preprocessor is not None:
            self._add_text(found)
        return found

    def _image_ids(self, images):
        ids = []
        for tokenizer, transformer in self.backbone.stages:
            factor = tokenizer.downsampling_factor
            height, width = (side * factor for side in transformer.grid_size)
            ids.append(tokenizer.encode(downscale(images, height, width)))
        return ids

    def _add_text(self, records):
        """Adds what is stored of the captions, a value for each of them."""
        captions = [caption for record in records for caption in record["captions"]]
        values = []
        for first in range(0, len(captions), self.batch_size):
            values += self._text_values(captions[first : first + self.batch_size])
        name = "token_ids" if self.text == "ids" else "text_embeddings"
        for record in records:
            count = len(record["captions"])
            record[name], values = values[:count], values[count:]

    def _text_values(self, captions):
        count = len(captions)
        captions = captions + [""] * (self.batch_size - count)
        rows = self.preprocessor.generate_preprocess(captions)
        lengths = ops.convert_to_numpy(rows["padding_mask"]).sum(axis=1)
        if self.text == "ids":
            values = ops.convert_to_numpy(rows["token_ids"]).astype("int32")
        else:
            values = ops.convert_to_numpy(self._encode_text(rows))
            largest = np.abs(values).max()
            if not largest < np.finfo("float16").max:
                raise ValueError(
                    "Text embeddings must fit into float16 for `text='embeddings'`: "
                    f"the largest is {largest}. Use `text='ids'`."
                )
            values = values.astype("float16")
        return [row[:length] for row, length in zip(values[:count], lengths)]

    def _padded(self, images):
        missing = self.batch_size - len(images)
        return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])


def _dtype(codebook_size):
    """In which tokens are stored."""
    return "uint16" if codebook_size <= 2**16 else "int32"
