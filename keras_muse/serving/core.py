"""The numeric parts of a Muse as functions of TensorFlow tensors, with stored weights.

They are written once, in `keras.ops`. With the TensorFlow backend they become graphs;
with JAX each becomes one `XlaCallModule`.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_muse.decoding import cells_of
from keras_muse.models.stages import (
    critic_of,
    filled,
    judgement,
    pass_inputs,
    pixels_of,
    tokens_of,
)

__all__ = ["Core", "traced"]


class Core(tf.Module):
    """The functions of a Muse, all batched in dimension 0.

    Args:
        muse: `keras_muse.models.MuseTextToImage` with a preprocessor.

    Attributes:
        text: `(token_ids, padding_mask)`, (B, L) int32 and bool, to text embeddings.
        fill: list of functions, one a stage, that fill masked image tokens, see
            `_fill`.
        start: list of functions, one a stage, from (B, H, W, 3) uint8 images of the
            size of the last stage and (B, H, W) bool masks to image tokens, masked
            where a mask is true.
        pixels: from the image tokens of the last stage to (B, H, W, 3) uint8 images.

    The last two compute one row after another: a convolution may round differently in
    another batch, and a pixel be another by 1 of 255.
    """

    def __init__(self, muse):
        super().__init__()
        self.stored = {}
        backbone = muse.backbone
        length = muse.preprocessor.sequence_length
        encoder = backbone.text_encoder
        # What `T5TextEncoder` returns, without running it.
        embeddings = ((length, encoder.output.shape[-1]), encoder.compute_dtype)
        mask = ((length,), "bool")
        text = [((length,), "int32"), mask]
        self.text = self._function(
            [encoder],
            lambda ids, mask: encoder({"token_ids": ids, "padding_mask": mask}),
            text,
        )
        self.fill, self.start = [], []
        num_low_res = None
        for index, (tokenizer, transformer) in enumerate(backbone.stages):
            sampler = muse.samplers[index]
            inputs = [((transformer.num_tokens,), "int32")]
            inputs += [((), dtype) for dtype in ("int32", "float32", "int32")]
            inputs += [embeddings, mask] * 2
            if num_low_res is not None:
                inputs.append(((num_low_res,), "int32"))
            num_low_res = transformer.num_tokens
            critic = critic_of(backbone, index, sampler)
            fill = functools.partial(_fill, transformer, critic, sampler, index)
            layers = [transformer, *filter(None, [critic])]
            self.fill.append(self._function(layers, fill, inputs))
            start = functools.partial(_start, tokenizer, transformer)
            shape = backbone.image_shape
            inputs = [(shape, "uint8"), (shape[:2], "bool")]
            layers = [tokenizer.encoder, tokenizer.quantizer]
            row = tf.TensorSpec([transformer.num_tokens], tf.int32)
            self.start.append(self._function(layers, start, inputs, row))
        tokenizer, transformer = backbone.stages[-1]
        self.pixels = self._function(
            [tokenizer.quantizer, tokenizer.decoder],
            lambda tokens: pixels_of(tokenizer, tokens, transformer.grid_size),
            [((transformer.num_tokens,), "int32")],
            tf.TensorSpec(backbone.image_shape, tf.uint8),
        )
        self.weights = [variable for _, variable in self.stored.values()]
        # SavedModel would follow the Keras variables as well.
        del self.stored

    def _function(self, layers, function, inputs, row=None):
        """A function of TensorFlow tensors with any number of rows.

        Args:
            layers: Keras layers with all the weights that `function` reads.
            function: function of `keras.ops`.
            inputs: list of (shape of a row, dtype).
            row: optional `tf.TensorSpec` of a row of the output; with it, rows are
                computed one after another.
        """
        variables = {id(v): v for layer in layers for v in layer.weights}.values()
        stored = [self._store(variable) for variable in variables]
        # Keras variables read as tensors here: they are not part of what is saved.
        pure = functools.partial(_with_values, list(variables), function)
        if keras.config.backend() == "jax":
            pure = _from_jax(pure, inputs)

        def call(*args):
            values = [tf.cast(s, v.dtype) for s, v in zip(stored, variables)]
            if row is None:
                return pure(values, *args)
            return tf.map_fn(
                lambda one: pure(values, *(value[None] for value in one))[0],
                args,
                fn_output_signature=row,
            )

        signature = [tf.TensorSpec([None, *shape], dtype) for shape, dtype in inputs]
        return traced(call, signature)

    def _store(self, variable):
        """The TensorFlow variable of a weight, in float16 if nothing is lost."""
        if id(variable) not in self.stored:
            value = ops.convert_to_tensor(variable.value)
            if keras.config.backend() != "tensorflow":
                value = np.asarray(value)
            value = tf.convert_to_tensor(value)
            if value.dtype == tf.float32:
                half = tf.cast(value, tf.float16)
                if tf.reduce_all(tf.cast(half, tf.float32) == value):
                    value = half
            stored = tf.Variable(value, trainable=False)
            self.stored[id(variable)] = variable, stored
        return self.stored[id(variable)][1]


def traced(function, signature):
    """A function of TensorFlow, traced once for all who call it.

    A `tf.function` would be traced anew by its second caller within a graph, and be
    saved twice.
    """
    function = tf.function(function, input_signature=signature, autograph=False)
    return function.get_concrete_function()


def _with_values(variables, function, values, *args):
    with keras.StatelessScope(state_mapping=zip(variables, values)):
        return function(*args)


def _from_jax(function, inputs):
    """A JAX function as one of TensorFlow tensors."""
    from jax.experimental import jax2tf

    shapes = [f"(b, {', '.join(map(str, shape))})" for shape, _ in inputs]
    return jax2tf.convert(
        function,
        with_gradient=False,
        polymorphic_shapes=[None, *shapes],
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )


def _start(tokenizer, transformer, images, masks):
    """Image tokens of pictures, masked where the masks are true."""
    ids = tokens_of(tokenizer, images, transformer.grid_size)
    holes = cells_of(masks, transformer.grid_size)
    return ops.where(holes, transformer.mask_id, ids)


def _fill(
    transformer,
    critic,
    sampler,
    index,
    image_ids,
    seeds,
    guidance_scale,
    num_steps,
    text_embeddings,
    padding_mask,
    null_embeddings,
    null_mask,
    low_res_ids=None,
):
    """Fills the masked tokens of one stage; see `keras_muse.decoding.decode`."""
    text = [
        {"text_embeddings": text_embeddings, "padding_mask": padding_mask},
        {"text_embeddings": null_embeddings, "padding_mask": null_mask},
    ]
    critic_memory = critic and critic.project_memory(text[0])

    def tokens(guided):
        memory = transformer.project_memory(pass_inputs(text, guided, low_res_ids))
        return filled(
            transformer,
            memory,
            guided,
            image_ids,
            seeds,
            sampler,
            index,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            critic=judgement(critic, critic_memory),
        )

    # The second pass costs as much as the first.
    return ops.cond(
        ops.any(guidance_scale != 1.0), lambda: tokens(True), lambda: tokens(False)
    )
