"""Prompts to token ids, as a KerasHub preprocessor."""

import keras
import keras_hub

from keras_muse.layers import register
from keras_muse.models.backbone import MuseBackbone
from keras_muse.presets.loading import PresetLoading
from keras_muse.text import MuseTokenizer, tokenize_prompts

__all__ = ["MuseTextToImagePreprocessor"]

# By this KerasHub finds the tokenizer of a preset.
MuseTokenizer.backbone_cls = MuseBackbone


@register
class MuseTextToImagePreprocessor(
    PresetLoading, keras_hub.models.TextToImagePreprocessor
):
    """Turns prompts into token ids of a fixed length and their padding mask.

    The empty prompt becomes the null caption of guidance, `</s>` alone. A prompt that
    is too long is truncated, `</s>` kept, and warned about once.

    Args:
        tokenizer: `keras_muse.text.MuseTokenizer`, or any
            `keras_hub.models.T5Tokenizer`.
        sequence_length: int. Length L of a row. Defaults to 77.
        **kwargs: `name` of a Keras layer.

    Call arguments:
        x: a string, or a list, array or tensor of strings.

    Returns:
        dict of `"token_ids"` (B, L) int32 and `"padding_mask"` (B, L) bool.

    Raises:
        TypeError: if `x` is not made of strings.
    """

    backbone_cls = MuseBackbone
    tokenizer_cls = MuseTokenizer

    def __init__(self, tokenizer, sequence_length=77, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length

    def call(self, x, y=None, sample_weight=None):
        rows = tokenize_prompts(self.tokenizer, x, self.sequence_length)
        return keras.utils.pack_x_y_sample_weight(rows, y, sample_weight)

    def generate_preprocess(self, x):
        """What a call does, for `generate`."""
        return tokenize_prompts(self.tokenizer, x, self.sequence_length)

    def get_config(self):
        return {**super().get_config(), "sequence_length": self.sequence_length}
