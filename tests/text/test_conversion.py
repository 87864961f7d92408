"""Equality with the two other T5s, from their weights."""

import keras
import keras_hub
import numpy as np
import pytest
import torch
import transformers

from keras_muse.text import T5TextEncoder
from tests.tools import set_weights

SIZE = {
    "vocabulary_size": 40,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}


def prompts(length):
    rng = np.random.default_rng(3)
    return {
        "token_ids": rng.integers(0, 40, (2, length)).astype("int32"),
        "padding_mask": np.arange(length) < np.array([[length], [length // 2]]),
    }


def keras_hub_t5(**kwargs):
    t5 = keras_hub.models.T5Backbone(**{**SIZE, **kwargs})
    set_weights(t5, scale=0.3)
    return t5


@pytest.mark.parametrize(
    "kwargs",
    [
        {"activation": "gelu", "tie_embedding_weights": False, "key_value_dim": 5},
        {"use_gated_activation": False, "activation": "relu"},
    ],
    ids=["gated_untied", "plain_tied"],
)
def test_equals_keras_hub(kwargs):
    t5 = keras_hub_t5(**kwargs)
    inputs = prompts(6)
    expected = t5(
        {
            "encoder_token_ids": inputs["token_ids"],
            "encoder_padding_mask": inputs["padding_mask"],
            "decoder_token_ids": inputs["token_ids"][:, :1],
            "decoder_padding_mask": inputs["padding_mask"][:, :1],
        }
    )["encoder_sequence_output"]
    encoder = T5TextEncoder.from_t5(t5)
    mask = inputs["padding_mask"]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(encoder(inputs))[mask],
        keras.ops.convert_to_numpy(expected)[mask],
        rtol=0,
        atol=1e-5,
    )


def test_from_t5_takes_a_copy_and_other_arguments():
    t5 = keras_hub_t5(activation="gelu", layer_norm_epsilon=1e-4, dropout=0.3)
    encoder = T5TextEncoder.from_t5(t5, activation="gelu_approximate", name="text")
    config = encoder.get_config()
    assert config["activation"] == "gelu_approximate"
    assert config["name"] == "text"
    assert config["layer_norm_epsilon"] == 1e-4
    assert config["dropout"] == 0.0
    before = keras.ops.convert_to_numpy(encoder.token_embedding.embeddings)
    set_weights(t5, seed=1)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(encoder.token_embedding.embeddings), before
    )


def test_from_t5_refuses_what_is_no_t5():
    encoder = T5TextEncoder(**SIZE)
    with pytest.raises(TypeError, match="`t5`.*T5Backbone.*T5TextEncoder"):
        T5TextEncoder.from_t5(encoder)
    with pytest.raises(TypeError, match="Received: str"):
        T5TextEncoder.from_t5("t5_1.1_small")
    with pytest.raises(ValueError, match="num_layers.*block.1"):
        T5TextEncoder.from_t5(keras_hub_t5(num_layers=1), num_layers=3)


def hugging_face_t5(feed_forward_proj, whole=False):
    config = transformers.T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        feed_forward_proj=feed_forward_proj,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    kind = (
        transformers.T5ForConditionalGeneration
        if whole
        else transformers.T5EncoderModel
    )
    model = kind(config).to("cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    arrays = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    return model, arrays


def encoder_for(feed_forward_proj, **kwargs):
    gated = feed_forward_proj == "gated-gelu"
    arguments = {
        **SIZE,
        "use_gated_activation": gated,
        "activation": "gelu_approximate" if gated else "relu",
    }
    return T5TextEncoder(**{**arguments, **kwargs})


@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "whole"])
@pytest.mark.parametrize("feed_forward_proj", ["gated-gelu", "relu"])
def test_equals_hugging_face(feed_forward_proj, whole):
    model, arrays = hugging_face_t5(feed_forward_proj, whole)
    # Longer than the largest distance that has a bucket of its own.
    inputs = prompts(150)
    with torch.no_grad():
        expected = (model.encoder if whole else model)(
            input_ids=torch.tensor(inputs["token_ids"], dtype=torch.long, device="cpu"),
            attention_mask=torch.tensor(inputs["padding_mask"], device="cpu").long(),
        ).last_hidden_state.numpy()
    encoder = encoder_for(feed_forward_proj)
    assert encoder.load_hugging_face_weights(arrays) is encoder
    mask = inputs["padding_mask"]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(encoder(inputs))[mask],
        expected[mask],
        rtol=0,
        atol=1e-4,
    )


def test_hugging_face_weights_that_do_not_fit_change_nothing():
    _, arrays = hugging_face_t5("gated-gelu")
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    encoder = encoder_for("gated-gelu")
    before = [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]
    missing = {key: value for key, value in arrays.items() if key != name}
    with pytest.raises(ValueError, match=f"Missing: {name}. Left over: none"):
        encoder.load_hugging_face_weights(missing)
    with pytest.raises(ValueError, match="Left over: encoder.block.9"):
        encoder.load_hugging_face_weights({**arrays, "encoder.block.9.x": before[0]})
    with pytest.raises(ValueError, match=rf"{name}.*\(24, 16\).*\(7, 16\)"):
        encoder.load_hugging_face_weights({**arrays, name: np.zeros((16, 7))})
    for weight, old in zip(encoder.weights, before):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), old)
    with pytest.raises(ValueError, match="wi.weight.*and 1 more"):
        encoder_for("relu", num_layers=4).load_hugging_face_weights(arrays)
    with pytest.raises(ValueError, match="vocabulary_size|shape"):
        encoder_for("gated-gelu", vocabulary_size=41).load_hugging_face_weights(arrays)
