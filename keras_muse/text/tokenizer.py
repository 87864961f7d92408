"""The tokenizer: T5's SentencePiece, under a name of our own."""

import sys

import keras_hub

from keras_muse.layers import register

__all__ = ["MuseTokenizer"]


@register
class MuseTokenizer(keras_hub.models.T5Tokenizer):
    """Splits prompts into the pieces of a SentencePiece vocabulary.

    It is `keras_hub.models.T5Tokenizer` under a class of its own, so that a preset of
    this library finds its tokenizer by the type of its backbone. Every vocabulary of a
    T5 fits, and so does every one of `keras_muse.text.train_vocabulary`.

    Args:
        proto: str or bytes. The path of a serialised SentencePiece model or the model
            itself. It must hold `<pad>` and `</s>`.
        **kwargs: arguments of `keras_hub.models.T5Tokenizer`.

    Example:
        ```python
        proto = keras_muse.text.train_vocabulary(["a red cat", "a blue dog"])
        tokenizer = keras_muse.text.MuseTokenizer(proto=proto)
        tokenizer(["a red dog"])
        ```
    """

    def tokenize(self, inputs):
        # Not imported: KerasHub has done so, or there is none and no graph either.
        tf = sys.modules.get("tensorflow")
        if tf is None or tf.executing_eagerly():
            return super().tokenize(inputs)
        # The base class captures a resource that TensorFlow drops whenever a global
        # seed is set; a tokenizer made here makes its resource part of the graph.
        inside = keras_hub.models.T5Tokenizer(
            proto=self.proto,
            sequence_length=self.sequence_length,
            dtype=self.compute_dtype,
            add_bos=self.add_bos,
            add_eos=self.add_eos,
        )
        return inside.tokenize(inputs)
