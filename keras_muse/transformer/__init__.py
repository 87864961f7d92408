"""Tokens and text to logits: the masked transformers."""

from keras_muse.transformer.masked_transformer import MaskedTransformer

__all__ = ["MaskedTransformer"]
