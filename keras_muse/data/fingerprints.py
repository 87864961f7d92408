"""What made a token or an embedding, as a short string that tells it from others."""

import hashlib
import json

import numpy as np
from keras import ops

__all__ = ["image_tokenizer_fingerprint", "text_encoder_fingerprint"]

# Of a config, what does not change the numbers that come out.
_NO_MATTER = ("name", "trainable", "dtype")


def image_tokenizer_fingerprint(vqgan):
    """Of what decides the tokens of a picture: encoder and codebook, not the decoder.

    A `VQGAN.with_decoder` has the fingerprint of the tokenizer it was made from.

    Args:
        vqgan: `keras_muse.image_tokenizer.VQGAN`.

    Returns:
        str, 16 hexadecimal digits.
    """
    config = {
        key: value
        for key, value in vqgan.get_config().items()
        if not key.startswith(("decoder_", "upsampling", "quantizer"))
    }
    codes = vqgan.quantizer.decode(np.arange(vqgan.codebook_size))
    return _digest(config, [*vqgan.encoder.weights, codes])


def text_encoder_fingerprint(text_encoder, tokenizer):
    """Of what decides text embeddings, or with `None` token ids alone.

    Args:
        text_encoder: optional `keras_hub.models.Backbone`.
        tokenizer: `keras_hub.models.T5Tokenizer`.

    Returns:
        str, 16 hexadecimal digits.
    """
    vocabulary = hashlib.sha256(tokenizer.proto).hexdigest()
    if text_encoder is None:
        return _digest({"vocabulary": vocabulary}, [])
    config = {**text_encoder.get_config(), "vocabulary": vocabulary}
    return _digest(config, text_encoder.weights)


def _digest(config, weights):
    digest = hashlib.sha256()
    config = {key: value for key, value in config.items() if key not in _NO_MATTER}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in weights:
        array = np.asarray(ops.convert_to_numpy(weight), "<f4")
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
