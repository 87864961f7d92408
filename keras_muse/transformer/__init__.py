"""Tokens and text to logits: the masked transformers."""

from keras_muse.transformer.masked_transformer import MaskedTransformer
from keras_muse.transformer.super_resolution import SuperResolutionTransformer

__all__ = ["MaskedTransformer", "SuperResolutionTransformer"]
