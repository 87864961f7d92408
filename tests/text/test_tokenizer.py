"""The tokenizer as a KerasHub tokenizer: saved, loaded, inverted."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_muse.text import MuseTokenizer, train_vocabulary

PROTO = train_vocabulary([], ["red", "circle"])


def test_it_is_a_t5_tokenizer_of_ours():
    tokenizer = MuseTokenizer(proto=PROTO)
    assert isinstance(tokenizer, keras_hub.models.T5Tokenizer)
    name = keras.saving.get_registered_name(MuseTokenizer)
    assert name == "keras_muse>MuseTokenizer"
    text = "red circle cat"
    assert tokenizer.detokenize(tokenizer(text)) == text


def test_config_and_assets_round_trip(tmp_path):
    tokenizer = MuseTokenizer(proto=PROTO, name="prompts")
    config = keras.saving.serialize_keras_object(tokenizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is MuseTokenizer
    assert copy.name == "prompts"
    tokenizer.save_assets(str(tmp_path))
    copy.load_assets(str(tmp_path))
    assert list(copy("red cat")) == list(tokenizer("red cat"))


def plain(pieces):
    """Tensors, ragged tensors, arrays and bytes as lists, ints and str."""
    if hasattr(pieces, "to_list"):
        pieces = pieces.to_list()
    if keras.ops.is_tensor(pieces):
        pieces = keras.ops.convert_to_numpy(pieces)
    pieces = np.asarray(pieces).tolist() if hasattr(pieces, "dtype") else pieces
    if isinstance(pieces, list):
        return [plain(piece) for piece in pieces]
    return pieces.decode() if isinstance(pieces, bytes) else pieces


@pytest.mark.parametrize("inputs", [["red circle", "cat"], "red"], ids=["two", "one"])
@pytest.mark.parametrize(
    "kwargs", [{"sequence_length": 4}, {"dtype": "string"}, {"add_eos": True}], ids=str
)
def test_graphs_keep_every_setting(kwargs, inputs):
    tokenizer = MuseTokenizer(proto=PROTO, **kwargs)
    graph = tf.function(lambda: tokenizer(inputs))()
    assert plain(graph) == plain(tokenizer(inputs))
    assert plain(graph) != plain(MuseTokenizer(proto=PROTO)(inputs))
