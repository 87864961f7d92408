"""Muse: text-to-image with masked generative transformers, in Keras 3.

A prompt becomes text embeddings, they guide a masked transformer that fills a grid of
image tokens in a few parallel steps, and a VQGAN turns the tokens into pixels.
"""

from keras_muse.backend import choose_backend, leave_out_tensorflow

choose_backend()
leave_out_tensorflow()

from keras_muse import (  # noqa: E402
    data,
    decoding,
    evaluation,
    image_tokenizer,
    models,
    presets,
    recipes,
    serving,
    text,
    transformer,
)

__version__ = "0.1.0"

__all__ = [
    "data",
    "decoding",
    "evaluation",
    "image_tokenizer",
    "models",
    "presets",
    "recipes",
    "serving",
    "text",
    "transformer",
]
