"""The token critic against plain numpy, saved and loaded, and what it refuses."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_muse.transformer import MaskedTransformer, TokenCritic
from tests.tools import set_weights
from tests.transformer import reference

V, GRID, N, L, TEXT_DIM = 11, (2, 3), 6, 5, 7
PADDING = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
KINDS = {"text": {"text_dim": TEXT_DIM}, "labels": {"num_classes": 4}, "nothing": {}}


def tiny(cls=TokenCritic, **kwargs):
    options = {"num_layers": 2, "hidden_dim": 8, "num_heads": 2, **kwargs}
    model = cls(codebook_size=V, grid_size=GRID, **options)
    set_weights(model, scale=0.3)
    return model


def batch(kind="text"):
    rng = np.random.default_rng(0)
    inputs = {"image_ids": rng.integers(0, V, (3, N)).astype("int32")}
    if kind == "text":
        embeddings = rng.normal(size=(3, L, TEXT_DIM)).astype("float32")
        inputs |= {"text_embeddings": embeddings, "padding_mask": PADDING}
    if kind == "labels":
        inputs["labels"] = np.array([0, 4, 3], "int32")
    return inputs


def logits_of(model, inputs):
    return ops.convert_to_numpy(model(inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_equals_numpy_and_its_parts(kind, dtype, parity):
    model = tiny(**KINDS[kind], use_qk_norm=True, dtype=dtype)
    inputs = batch(kind)
    logits = logits_of(model, inputs)
    assert logits.shape == (3, N) and logits.dtype == np.float32
    assert logits.std() > 0.1
    memory = model.project_memory(inputs)
    judged = model.judge(ops.convert_to_tensor(inputs["image_ids"]), memory)
    np.testing.assert_array_equal(ops.convert_to_numpy(judged), logits)
    expected = reference.forward(model, inputs)[..., 0]
    if dtype == "float32":
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        parity(f"critic_{kind}", logits, atol=1e-5)
    else:
        assert 0 < np.abs(logits - expected).max() < 0.1


def test_it_has_no_mask_and_a_head_of_one_logit():
    critic = tiny(text_dim=TEXT_DIM)
    transformer = tiny(MaskedTransformer, text_dim=TEXT_DIM)
    shapes = [
        {weight.path: tuple(weight.shape) for weight in model.weights}
        for model in (critic, transformer)
    ]
    changed = {name for name in shapes[1] if shapes[0][name] != shapes[1][name]}
    assert set(shapes[0]) == set(shapes[1])
    assert changed == {"token_embedding/embeddings", "head/kernel", "head/bias"}
    assert shapes[0]["token_embedding/embeddings"] == (V, 8)
    assert shapes[0]["head/kernel"] == (8, 1)
    assert not hasattr(critic, "mask_id") and critic.num_tokens == N


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_weight(kind):
    model = tiny(**KINDS[kind], use_qk_norm=True)
    before = reference.values_of(model)
    model.compile(keras.optimizers.SGD(1.0), loss="binary_crossentropy")
    targets = np.random.default_rng(1).integers(0, 2, (3, N)).astype("float32")
    model.train_on_batch(batch(kind), targets)
    after = reference.values_of(model)
    # Attention over one label is no choice: its queries and keys are idle.
    idle = ("cross_attention/query", "cross_attention_norm", "_0/key", "_1/key")
    for path, value in before.items():
        if kind != "labels" or not any(name in path for name in idle):
            assert np.abs(after[path] - value).max() > 1e-6, path


def test_it_starts_from_the_layers_of_a_transformer():
    transformer = tiny(MaskedTransformer, text_dim=TEXT_DIM, num_layers=3)
    critic = tiny(text_dim=TEXT_DIM)
    set_weights(critic, seed=1)
    inputs = batch()
    before = reference.values_of(critic)
    critic.start_from(transformer)
    after, learned = (reference.values_of(model) for model in (critic, transformer))
    for path, value in after.items():
        wanted = before if path.startswith("head/") else learned
        np.testing.assert_array_equal(value, wanted[path][: len(value)], path)
    # Of two layers, the last hidden state is the same.
    two = tiny(MaskedTransformer, text_dim=TEXT_DIM)
    critic.start_from(two)
    ids = ops.convert_to_tensor(inputs["image_ids"])
    states = [
        ops.convert_to_numpy(model.features(ids, model.project_memory(inputs)))
        for model in (critic, two)
    ]
    np.testing.assert_allclose(*states, atol=1e-6)
    with pytest.raises(ValueError, match="have the `num_heads` of the critic, 2.*4"):
        critic.start_from(tiny(MaskedTransformer, text_dim=TEXT_DIM, num_heads=4))
    with pytest.raises(ValueError, match="at least the 2 layers.*received 1"):
        critic.start_from(tiny(MaskedTransformer, text_dim=TEXT_DIM, num_layers=1))


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips(kind, tmp_path):
    model = tiny(**KINDS[kind], use_gated_mlp=True, name="other")
    inputs = batch(kind)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == model.get_config() and copy.name == "other"
    model.save_to_preset(str(tmp_path / "preset"))
    for cls in (TokenCritic, keras_hub.models.Backbone):
        copy = cls.from_preset(str(tmp_path / "preset"))
        assert type(copy) is TokenCritic
        np.testing.assert_array_equal(logits_of(copy, inputs), logits_of(model, inputs))


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`text_dim` or `num_classes`, not both"):
        tiny(text_dim=3, num_classes=4)
    with pytest.raises(ValueError, match="num_heads=3, hidden_dim=8"):
        tiny(num_heads=3)
    with pytest.raises(TypeError, match="There is no argument 'depth'"):
        tiny(depth=3)
