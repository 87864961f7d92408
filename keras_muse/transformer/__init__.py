"""Tokens and text to logits: the masked transformers; and their critic."""

from keras_muse.transformer.masked_transformer import MaskedTransformer
from keras_muse.transformer.super_resolution import SuperResolutionTransformer
from keras_muse.transformer.token_critic import TokenCritic

__all__ = ["MaskedTransformer", "SuperResolutionTransformer", "TokenCritic"]
