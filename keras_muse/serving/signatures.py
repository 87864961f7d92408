"""The signatures of an export: from prompts and files to pictures, in one graph."""

import numpy as np
import tensorflow as tf

from keras_muse.decoding import num_steps_for
from keras_muse.serving.core import Core, traced
from keras_muse.serving.rows import (
    check_batch,
    errors_of,
    guidance_check,
    prompt_check,
    read_pictures,
    seed_check,
)
from keras_muse.text import MuseTokenizer

__all__ = ["Served"]

PROMPT_INPUTS = {
    "prompt": tf.TensorSpec([None], tf.string, "prompt"),
    "negative_prompt": tf.TensorSpec([None], tf.string, "negative_prompt"),
    "seed": tf.TensorSpec([None], tf.int64, "seed"),
    "guidance_scale": tf.TensorSpec([None], tf.float32, "guidance_scale"),
}
PICTURE_INPUTS = {
    "image_bytes": tf.TensorSpec([None], tf.string, "image_bytes"),
    "mask_bytes": tf.TensorSpec([None], tf.string, "mask_bytes"),
}


class Served(tf.Module):
    """A Muse as the functions of a server.

    Every input has B rows, and what a row gives depends on nothing but itself: noise
    comes from its own seed, pixels are computed row by row. A row that cannot be served
    has a message in `error`, a black picture, no PNG and tokens of -1.

    Args:
        muse: `keras_muse.models.MuseTextToImage`.
    """

    def __init__(self, muse):
        super().__init__(name="muse")
        self.core = Core(muse)
        self._muse = _Hidden(muse)
        self._read_prompts = traced(
            _in_graphs(muse.preprocessor).generate_preprocess,
            [PROMPT_INPUTS["prompt"]],
        )

    def signatures(self):
        """A dict of names and functions of TensorFlow."""
        transformer = self._muse.value.backbone.transformers[-1]
        ids = tf.TensorSpec([None, transformer.num_tokens], tf.int32, "tokens")

        def function(outputs_of, inputs):
            return traced(outputs_of, list(inputs.values()))

        shared = function(self._generate, PROMPT_INPUTS)

        def serving_default(prompt, negative_prompt, seed, guidance_scale):
            tokens, error = shared(prompt, negative_prompt, seed, guidance_scale)
            return _outputs(self.core.pixels(tokens[-1]), error)

        def png(prompt, negative_prompt, seed, guidance_scale):
            outputs = serving_default(prompt, negative_prompt, seed, guidance_scale)
            return {name: outputs[name] for name in ("png_bytes", "error")}

        def tokens(prompt, negative_prompt, seed, guidance_scale):
            tokens, error = shared(prompt, negative_prompt, seed, guidance_scale)
            outputs = {
                f"tokens_{index}": tf.where(error[:, None] == "", ids, -1)
                for index, ids in enumerate(tokens)
            }
            return {**outputs, "error": error}

        return {
            "serving_default": function(serving_default, PROMPT_INPUTS),
            "png": function(png, PROMPT_INPUTS),
            "tokens": function(tokens, PROMPT_INPUTS),
            "inpaint": function(self._inpaint, {**PICTURE_INPUTS, **PROMPT_INPUTS}),
            "decode": function(self._decode, {"tokens": ids}),
        }

    def _generate(self, prompt, negative_prompt, seed, guidance_scale):
        inputs = (prompt, negative_prompt, seed, guidance_scale)
        with tf.control_dependencies(check_batch(**dict(zip(PROMPT_INPUTS, inputs)))):
            error = errors_of(*_prompt_checks(*inputs))
        starts = [
            tf.fill([tf.shape(seed)[0], transformer.num_tokens], transformer.mask_id)
            for transformer in self._muse.value.backbone.transformers
        ]
        return self._fill(starts, *inputs, error), error

    def _inpaint(
        self, image_bytes, mask_bytes, prompt, negative_prompt, seed, guidance_scale
    ):
        inputs = (prompt, negative_prompt, seed, guidance_scale)
        names = [*PICTURE_INPUTS, *PROMPT_INPUTS]
        with tf.control_dependencies(
            check_batch(**dict(zip(names, (image_bytes, mask_bytes, *inputs))))
        ):
            image_bytes = tf.identity(image_bytes)
        backbone = self._muse.value.backbone
        height, width, _ = backbone.image_shape
        pictures, is_picture = read_pictures(image_bytes, height, width, 3)
        masks, is_mask = read_pictures(mask_bytes, height, width, 1)
        masks = masks >= 128
        wanted = f"must be a PNG or JPEG of {width} x {height} pixels."
        error = errors_of(
            (is_picture, f"`image_bytes` {wanted}"),
            (is_mask, f"`mask_bytes` {wanted}"),
            *_prompt_checks(*inputs),
        )
        starts = [start(pictures, masks[..., 0]) for start in self.core.start]
        tokens = self._fill(starts, *inputs, error)
        images = tf.where(masks, self.core.pixels(tokens[-1]), pictures)
        return _outputs(images, error)

    def _decode(self, tokens):
        transformer = self._muse.value.backbone.transformers[-1]
        right = tf.logical_and(tokens >= 0, tokens < transformer.mask_id)
        wanted = f"`tokens` must lie in [0, {transformer.mask_id})."
        with tf.control_dependencies(check_batch(tokens=tokens)):
            error = errors_of((tf.reduce_all(right, axis=1), wanted))
        return _outputs(self.core.pixels(tf.where(right, tokens, 0)), error)

    def _fill(self, starts, prompt, negative_prompt, seed, guidance_scale, error):
        """Tokens of every stage; those of rows with an error mean nothing."""
        muse = self._muse.value
        right = error == ""
        seeds = tf.cast(tf.where(right, seed, 0), tf.int32)
        scale = tf.where(right, guidance_scale, 1.0)
        prompts = tf.concat([prompt, negative_prompt], axis=0)
        prompts = tf.where(tf.concat([right, right], axis=0), prompts, "")
        text, mask = self._text(prompts)
        (text, null), (mask, null_mask) = tf.split(text, 2), tf.split(mask, 2)
        tokens = []
        for ids, fill, sampler, transformer in zip(
            starts, self.core.fill, muse.samplers, muse.backbone.transformers
        ):
            count = transformer.num_tokens
            masked = tf.reduce_sum(
                tf.cast(ids == transformer.mask_id, tf.int32), axis=1
            )
            # By a table, as that is written for arrays.
            steps = num_steps_for(np.arange(count + 1), count, sampler.num_steps)
            scales = tf.where(scale < 0.0, sampler.guidance_scale, scale)
            low_res_ids = tokens[-1:]
            tokens.append(
                fill(
                    ids,
                    seeds,
                    scales,
                    tf.gather(steps, masked),
                    text,
                    mask,
                    null,
                    null_mask,
                    *low_res_ids,
                )
            )
        return tokens

    def _text(self, prompts):
        """Text embeddings and padding mask of prompts."""
        preprocessor = self._muse.value.preprocessor
        # One tokenizer in the export, however many signatures there are.
        rows = self._read_prompts(prompts)
        shape = (None, preprocessor.sequence_length)
        ids = tf.ensure_shape(tf.cast(rows["token_ids"], tf.int32), shape)
        mask = tf.ensure_shape(rows["padding_mask"], shape)
        return self.core.text(ids, mask), mask


def _in_graphs(preprocessor):
    """The preprocessor with a tokenizer that can be part of a graph."""
    tokenizer = preprocessor.tokenizer
    if isinstance(tokenizer, MuseTokenizer):
        return preprocessor
    tokenizer = MuseTokenizer(proto=tokenizer.proto)
    return type(preprocessor)(tokenizer, preprocessor.sequence_length)


class _Hidden:
    """Something that a `tf.Module` holds without saving it."""

    def __init__(self, value):
        self.value = value


def _prompt_checks(prompt, negative_prompt, seed, guidance_scale):
    return (
        prompt_check("prompt", prompt),
        prompt_check("negative_prompt", negative_prompt),
        seed_check(seed),
        guidance_check(guidance_scale),
    )


def _outputs(images, error):
    right = error == ""
    images = tf.where(right[:, None, None, None], images, tf.zeros_like(images))
    files = tf.map_fn(
        tf.io.encode_png, images, fn_output_signature=tf.TensorSpec([], tf.string)
    )
    return {
        "images": images,
        "png_bytes": tf.where(right, files, ""),
        "error": error,
    }
