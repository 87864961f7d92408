"""The encoder as a model: what its outputs depend on, saving, training, errors."""

import json

import keras
import keras_hub
import numpy as np
import pytest

from keras_muse.text import T5TextEncoder
from tests.tools import set_weights

SMALL = {
    "vocabulary_size": 40,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}


def small_encoder(**kwargs):
    encoder = T5TextEncoder(**{**SMALL, **kwargs})
    set_weights(encoder, scale=0.2)
    return encoder


def rows(lengths, padded_length, seed=0):
    """Random prompts of the given lengths; pads carry random ids on purpose."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), padded_length)
    return {
        "token_ids": rng.integers(0, 39, shape).astype("int32"),
        "padding_mask": np.arange(padded_length) < np.array(lengths)[:, None],
    }


def outputs(encoder, inputs):
    return keras.ops.convert_to_numpy(keras.ops.cast(encoder(inputs), "float32"))


def test_shape_dtype_and_zeros_at_pads():
    inputs = rows([3, 6], 6)
    embeddings = outputs(small_encoder(), inputs)
    assert embeddings.shape == (2, 6, 16)
    mask = inputs["padding_mask"]
    assert np.all(embeddings[~mask] == 0)
    assert np.all(np.abs(embeddings[mask]).max(-1) > 0)


def test_outputs_are_the_same_on_every_backend(parity):
    for name, kwargs in {
        "gated": {},
        "plain": {"use_gated_activation": False, "activation": "relu"},
        "heads": {"key_value_dim": 5, "activation": "gelu", "num_relative_buckets": 8},
    }.items():
        embeddings = outputs(small_encoder(**kwargs), rows([3, 6], 6))
        parity(f"t5_text_encoder_{name}", embeddings, atol=2e-5)


def test_pads_change_nothing():
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    padded = rows([3, 6], 11, seed=1)
    padded["token_ids"][:, :6] = inputs["token_ids"]
    short, long = outputs(encoder, inputs), outputs(encoder, padded)
    np.testing.assert_allclose(long[:, :6], short, rtol=1e-6, atol=1e-6)
    inputs["token_ids"][0, 3:] += 1
    np.testing.assert_array_equal(outputs(encoder, inputs), short)


def test_a_row_does_not_depend_on_its_batch():
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    alone = {name: value[1:2] for name, value in inputs.items()}
    np.testing.assert_allclose(
        outputs(encoder, inputs)[1:2], outputs(encoder, alone), rtol=1e-6, atol=1e-6
    )


def test_every_real_token_matters_and_so_does_its_place():
    encoder = small_encoder()
    inputs = rows([6, 6], 6)
    before = outputs(encoder, inputs)
    for column in range(6):
        changed = {**inputs, "token_ids": inputs["token_ids"].copy()}
        changed["token_ids"][0, column] = (changed["token_ids"][0, column] + 1) % 39
        difference = np.abs(outputs(encoder, changed) - before)[0].max(-1)
        assert np.all(difference > 1e-5)
    swapped = {**inputs, "token_ids": inputs["token_ids"][:, ::-1].copy()}
    assert np.abs(outputs(encoder, swapped)[:, ::-1] - before).max() > 1e-3


def test_a_masked_row_gives_zeros_and_no_gradient():
    encoder = small_encoder()
    inputs = rows([0, 6], 6)
    assert np.all(outputs(encoder, inputs)[0] == 0)
    encoder.compile(keras.optimizers.SGD(0.1), loss="mean_squared_error")
    masked = rows([0, 0], 6)
    before = [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]
    encoder.train_on_batch(masked, np.ones((2, 6, 16), "float32"))
    for weight, old in zip(encoder.weights, before):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), old)


def test_an_int_mask_equals_a_bool_mask():
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    as_int = {**inputs, "padding_mask": inputs["padding_mask"].astype("int32")}
    np.testing.assert_array_equal(outputs(encoder, inputs), outputs(encoder, as_int))


def test_the_gradient_reaches_every_weight():
    encoder = small_encoder()
    inputs = rows([6, 5], 6)
    before = [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]
    assert len(encoder.trainable_weights) == len(before) == 3 + 9 * 2
    encoder.compile(keras.optimizers.SGD(0.1), loss="mean_squared_error")
    target = np.random.default_rng(0).normal(size=(2, 6, 16)).astype("float32")
    encoder.train_on_batch(inputs, target)
    for weight, old in zip(encoder.trainable_weights, before):
        change = np.abs(keras.ops.convert_to_numpy(weight) - old).max()
        assert change > 1e-7, weight.path


def test_initial_weights_have_t5s_variances():
    encoder = T5TextEncoder(500, 1, 4, 64, 128, key_value_dim=8)
    layer = encoder.encoder_layers[0]
    expected = (
        (encoder.token_embedding.embeddings, 1.0),
        (encoder.relative_position_bias.table.embeddings, 64**-0.5),
        (layer.query.kernel, (64 * 8) ** -0.5),
        (layer.key.kernel, 64**-0.5),
        (layer.value.kernel, 64**-0.5),
        (layer.attention_output.kernel, 32**-0.5),
        (layer.feedforward_input.kernel, 64**-0.5),
        (layer.feedforward_gate.kernel, 64**-0.5),
        (layer.feedforward_output.kernel, 128**-0.5),
    )
    for variable, deviation in expected:
        numbers = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(numbers.std(), deviation, rtol=0.2)
        assert abs(numbers.mean()) < 0.3 * deviation


def test_dropout_is_on_only_in_training():
    encoder = small_encoder(dropout=0.5)
    inputs = rows([6, 4], 6)
    trained = keras.ops.convert_to_numpy(encoder(inputs, training=True))
    still = outputs(encoder, inputs)
    assert np.abs(trained - still).max() > 0.01
    np.testing.assert_array_equal(still, outputs(encoder, inputs))
    np.testing.assert_array_equal(still, outputs(small_encoder(), inputs))


def test_config_round_trip_through_json():
    kwargs = {
        "key_value_dim": 6,
        "dropout": 0.25,
        "activation": "relu",
        "use_gated_activation": False,
        "num_relative_buckets": 8,
        "max_relative_distance": 20,
        "layer_norm_epsilon": 1e-5,
        "dtype": "mixed_bfloat16",
        "name": "prompt_encoder",
        "trainable": False,
    }
    encoder = T5TextEncoder(**{**SMALL, **kwargs})
    config = json.loads(json.dumps(encoder.get_config()))
    for name, value in {**SMALL, **kwargs}.items():
        if name != "dtype":
            assert config[name] == value
    copy = T5TextEncoder.from_config(config)
    assert copy.get_config() == encoder.get_config()
    assert [weight.shape for weight in copy.weights] == [
        weight.shape for weight in encoder.weights
    ]
    assert copy.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_preset_round_trip(tmp_path, dtype):
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    encoder.save_to_preset(str(tmp_path))
    kwargs = {} if dtype is None else {"dtype": dtype}
    copy = keras_hub.models.Backbone.from_preset(str(tmp_path), **kwargs)
    assert type(copy) is T5TextEncoder
    dtypes = {keras.backend.standardize_dtype(weight.dtype) for weight in copy.weights}
    assert dtypes == {dtype or "float32"}
    atol = 0 if dtype is None else 0.15
    np.testing.assert_allclose(
        outputs(copy, inputs), outputs(encoder, inputs), rtol=0, atol=atol
    )


def test_keras_file_round_trip(tmp_path):
    encoder = small_encoder()
    encoder.save(tmp_path / "encoder.keras")
    copy = keras.models.load_model(tmp_path / "encoder.keras")
    inputs = rows([3, 6], 6)
    np.testing.assert_array_equal(outputs(copy, inputs), outputs(encoder, inputs))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_stays_close_and_finite(dtype):
    inputs = rows([3, 6], 6)
    exact = outputs(small_encoder(), inputs)
    mixed = small_encoder(dtype=dtype)
    compute_dtype = dtype.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(mixed(inputs).dtype) == compute_dtype
    assert mixed.weights[0].dtype == "float32"
    atol = 0.15 if compute_dtype == "bfloat16" else 0.02
    np.testing.assert_allclose(outputs(mixed, inputs), exact, rtol=0, atol=atol)


def test_lora_trains_queries_and_values_alone():
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    before = outputs(encoder, inputs)
    encoder.enable_lora(2)
    names = {weight.path.split("/")[-1] for weight in encoder.trainable_weights}
    layers = {weight.path.split("/")[1] for weight in encoder.trainable_weights}
    assert names == {"lora_kernel_a", "lora_kernel_b"}
    assert layers == {"query", "value"}
    np.testing.assert_allclose(outputs(encoder, inputs), before, rtol=0, atol=1e-6)
    encoder.compile(keras.optimizers.SGD(0.5), loss="mean_squared_error")
    encoder.train_on_batch(inputs, np.ones((2, 6, 16), "float32"))
    assert np.abs(outputs(encoder, inputs) - before).max() > 1e-6


def test_masks_that_do_not_fit_are_refused():
    encoder = small_encoder()
    inputs = rows([3, 6], 6)
    for shape in ((2, 1), (1, 6), (2, 5)):
        with pytest.raises(ValueError, match="padding_mask.*shape"):
            encoder({**inputs, "padding_mask": np.ones(shape, bool)})
    with pytest.raises(ValueError, match="padding_mask"):
        encoder({"token_ids": inputs["token_ids"]})


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="hidden_dim=16, num_heads=3"):
        T5TextEncoder(**{**SMALL, "num_heads": 3})
    T5TextEncoder(**{**SMALL, "num_heads": 3, "key_value_dim": 4})
    for buckets in (2, 7):
        with pytest.raises(ValueError, match=f"num_relative_buckets.*{buckets}"):
            T5TextEncoder(**SMALL, num_relative_buckets=buckets)
    with pytest.raises(ValueError, match="max_relative_distance.*8.*8"):
        T5TextEncoder(**SMALL, max_relative_distance=8)
    with pytest.raises(ValueError, match="no_such_activation"):
        T5TextEncoder(**SMALL, activation="no_such_activation")
