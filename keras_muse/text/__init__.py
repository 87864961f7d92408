"""Prompts to text embeddings: vocabulary, tokenizer, preprocessing, encoder."""

from keras_muse.text.encoder import T5TextEncoder
from keras_muse.text.preprocessor import tokenize_prompts
from keras_muse.text.tokenizer import MuseTokenizer
from keras_muse.text.vocabulary import train_vocabulary

__all__ = ["MuseTokenizer", "T5TextEncoder", "tokenize_prompts", "train_vocabulary"]
