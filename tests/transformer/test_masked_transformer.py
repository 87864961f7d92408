"""The base transformer against plain numpy, and what decoding relies on."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_muse.layers import Embedding
from keras_muse.transformer import MaskedTransformer
from keras_muse.transformer.masked_transformer import attention_bias
from tests.tools import set_weights
from tests.transformer import reference

V, GRID, N, L, TEXT_DIM = 11, (2, 3), 6, 5, 7
PADDING = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)


def tiny(scale=0.3, **kwargs):
    kwargs = {
        "codebook_size": V,
        "grid_size": GRID,
        "num_layers": 2,
        "hidden_dim": 8,
        "num_heads": 2,
        **kwargs,
    }
    model = MaskedTransformer(**kwargs)
    set_weights(model, scale=scale)
    return model


def batch(kind="text", seed=0):
    rng = np.random.default_rng(seed)
    inputs = {"image_ids": rng.integers(0, V + 1, (3, N)).astype("int32")}
    inputs["image_ids"][0] = V
    if kind == "text":
        embeddings = rng.normal(size=(3, L, TEXT_DIM)).astype("float32")
        inputs |= {"text_embeddings": embeddings, "padding_mask": PADDING}
    if kind == "labels":
        inputs["labels"] = np.array([0, 4, 3], "int32")
    return inputs


KINDS = {"text": {"text_dim": TEXT_DIM}, "labels": {"num_classes": 4}, "nothing": {}}


def logits_of(model, inputs):
    return ops.convert_to_numpy(model(inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_qk_norm, use_gated_mlp", [(False, False), (True, True)])
def test_equals_numpy(kind, use_qk_norm, use_gated_mlp, parity):
    model = tiny(
        **KINDS[kind],
        use_qk_norm=use_qk_norm,
        use_gated_mlp=use_gated_mlp,
        intermediate_dim=13,
    )
    inputs = batch(kind)
    logits = logits_of(model, inputs)
    assert logits.shape == (3, N, V) and logits.dtype == np.float32
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, reference.forward(model, inputs), atol=1e-5)
    parity(f"transformer_{kind}_{use_qk_norm}_{use_gated_mlp}", logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_parts_equal_the_call_bit_for_bit(kind, dtype):
    model = tiny(**KINDS[kind], dtype=dtype)
    inputs = batch(kind)
    tensors = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    memory = model.project_memory(tensors)
    features = model.features(tensors["image_ids"], memory)
    expected = "bfloat16" if dtype == "mixed_bfloat16" else "float32"
    assert keras.backend.standardize_dtype(features.dtype) == expected
    logits = ops.convert_to_numpy(model.head(features))
    np.testing.assert_array_equal(logits, logits_of(model, inputs))
    if kind == "nothing":
        assert memory == {}
    else:
        length = L if kind == "text" else 1
        shapes = [tuple(x.shape) for x in (*memory["keys"], *memory["values"])]
        assert shapes == [(3, length, 2, 4)] * 4
        assert ("bias" in memory) == (kind == "text")


def test_memory_does_not_look_at_the_image():
    model = tiny(text_dim=TEXT_DIM)
    inputs = batch()
    del inputs["image_ids"]
    assert len(model.project_memory(inputs)["keys"]) == 2


@pytest.mark.parametrize("kind", ["text", "labels"])
def test_guidance_on_features_equals_guidance_on_logits(kind):
    model = tiny(**KINDS[kind])
    inputs, others = batch(kind), batch(kind)
    if kind == "text":
        others["text_embeddings"] = -inputs["text_embeddings"]
    else:
        others["labels"] = np.full(3, 4, "int32")
    ids = inputs["image_ids"]
    with_it = model.features(ids, model.project_memory(inputs))
    without = model.features(ids, model.project_memory(others))
    mixed = model.head(without + 3.0 * (with_it - without))
    expected = logits_of(model, others)
    expected = expected + 3.0 * (logits_of(model, inputs) - expected)
    assert np.abs(expected - logits_of(model, inputs)).max() > 0.01
    np.testing.assert_allclose(ops.convert_to_numpy(mixed), expected, atol=1e-5)


def test_text_padding_changes_nothing():
    model = tiny(text_dim=TEXT_DIM, use_qk_norm=True)
    inputs = batch()
    logits = logits_of(model, inputs)
    # Other numbers under the padding, and more of it.
    hidden = np.where(PADDING[..., None], inputs["text_embeddings"], 1e3)
    longer = np.concatenate([hidden, np.full((3, 4, TEXT_DIM), -1e3)], 1)
    mask = np.concatenate([PADDING, np.zeros((3, 4), bool)], 1)
    for embeddings, padding in ((hidden, PADDING), (longer, mask)):
        changed = {
            **inputs,
            "text_embeddings": embeddings.astype("float32"),
            "padding_mask": padding,
        }
        np.testing.assert_allclose(logits_of(model, changed), logits, atol=1e-6)
    # Without padding at all.
    short = {name: value[2:, ...] for name, value in inputs.items()}
    short["text_embeddings"] = short["text_embeddings"][:, :1]
    short["padding_mask"] = np.ones((1, 1), bool)
    np.testing.assert_allclose(logits_of(model, short), logits[2:], atol=1e-6)


def test_every_visible_word_every_token_and_every_place_matters():
    model = tiny(text_dim=TEXT_DIM)
    inputs = batch()
    logits = logits_of(model, inputs)
    for word in range(3):
        changed = {**inputs, "text_embeddings": inputs["text_embeddings"].copy()}
        changed["text_embeddings"][0, word] += 1
        moved = np.abs(logits_of(model, changed) - logits).max(axis=(1, 2))
        assert moved[0] > 1e-4 and np.all(moved[1:] < 1e-6)
    ids = inputs["image_ids"].copy()
    ids[1] = np.roll(ids[1], 1)
    moved = np.roll(logits_of(model, {**inputs, "image_ids": ids})[1], -1, axis=0)
    assert np.abs(moved - logits[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(kind):
    model = tiny(**KINDS[kind])
    inputs = batch(kind)
    logits = logits_of(model, inputs)
    for row in range(3):
        single = {name: value[row : row + 1] for name, value in inputs.items()}
        np.testing.assert_allclose(logits_of(model, single)[0], logits[row], atol=2e-6)
    order = np.array([2, 0, 1])
    moved = {name: value[order] for name, value in inputs.items()}
    np.testing.assert_allclose(logits_of(model, moved), logits[order], atol=2e-6)


def test_mask_id_is_read_but_never_predicted():
    model = tiny(codebook_size=5)
    assert model.mask_id == 5 and model.num_tokens == N
    ids = np.array([[0, 1, 2, 3, 4, 5]], "int32")
    logits = logits_of(model, {"image_ids": ids})
    assert logits.shape == (1, N, 5)
    for token in range(5):
        other = np.where(ids == 5, token, ids)
        assert np.abs(logits_of(model, {"image_ids": other}) - logits).max() > 1e-3


def test_the_null_label_is_a_label_of_its_own():
    model = tiny(num_classes=4)
    ids = np.full((5, N), V, "int32")
    logits = logits_of(model, {"image_ids": ids, "labels": np.arange(5, dtype="int32")})
    distances = np.abs(logits[:, None] - logits[None]).max(axis=(2, 3))
    assert distances[~np.eye(5, dtype=bool)].min() > 1e-3


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_logits_are_float32_under_every_policy(dtype):
    model = tiny(text_dim=TEXT_DIM, dtype=dtype)
    inputs = batch()
    logits = model(inputs)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert keras.backend.standardize_dtype(model.head.kernel.dtype) == "float32"
    logits = ops.convert_to_numpy(logits)
    exact = logits_of(tiny(text_dim=TEXT_DIM), inputs)
    assert 0 < np.abs(logits - exact).max() < 0.3
    assert np.corrcoef(logits.ravel(), exact.ravel())[0, 1] > 0.99


def test_attention_bias():
    bias = ops.convert_to_numpy(attention_bias(PADDING))
    assert bias.shape == (3, 1, 1, L) and bias.dtype == np.float32
    np.testing.assert_array_equal(bias[:, 0, 0] == 0, PADDING)
    assert bias[:, 0, 0][~PADDING].max() <= -1e9


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip_through_json(kind):
    model = tiny(
        **KINDS[kind], use_qk_norm=True, dropout=0.1, name="other", trainable=False
    )
    config = json.loads(json.dumps(model.get_config()))
    copy = MaskedTransformer.from_config(config)
    assert copy.get_config() == model.get_config()
    assert copy.name == "other" and copy.grid_size == GRID and not copy.trainable
    assert copy.intermediate_dim == 32
    set_weights(copy, scale=0.3)
    inputs = batch(kind)
    np.testing.assert_array_equal(logits_of(copy, inputs), logits_of(model, inputs))
    whole = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    )
    assert whole.get_config() == model.get_config()


def test_policy_round_trips():
    model = tiny(dtype="mixed_bfloat16")
    copy = MaskedTransformer.from_config(model.get_config())
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert copy.blocks[0].mlp.up.compute_dtype == "bfloat16"
    assert copy.head.compute_dtype == "float32"


@pytest.mark.parametrize("kind", ["text", "nothing"])
def test_preset_round_trip(kind, tmp_path):
    model = tiny(**KINDS[kind], use_gated_mlp=True)
    model.save_to_preset(str(tmp_path / "preset"))
    inputs = batch(kind)
    for cls in (MaskedTransformer, keras_hub.models.Backbone):
        copy = cls.from_preset(str(tmp_path / "preset"))
        assert type(copy) is MaskedTransformer
        np.testing.assert_array_equal(logits_of(copy, inputs), logits_of(model, inputs))


def test_keras_file_round_trip(tmp_path):
    model = tiny(text_dim=TEXT_DIM)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(copy, batch()), logits_of(model, batch()))


def test_every_weight_is_counted_once():
    model = tiny(text_dim=TEXT_DIM, use_qk_norm=True, use_gated_mlp=True)
    d, inner = 8, 32
    attention = 4 * d * d + 2 * 4
    block = 2 * attention + 3 * d + 3 * d * inner + 2 * inner + d
    ends = (V + 1) * d + (2 + 3) * d + 2 * d + TEXT_DIM * d
    ends += d * d + d + 2 * d + d * V + V
    assert model.count_params() == ends + 2 * block
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths)


def step(model, inputs, optimizer):
    """The change of every weight in one step towards fixed targets."""
    before = reference.values_of(model)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    targets = np.random.default_rng(1).integers(0, V, (3, N)).astype("int32")
    model.train_on_batch(inputs, targets)
    after = reference.values_of(model)
    return {path: after[path] - before[path] for path in before}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_weight(kind, parity):
    model = tiny(**KINDS[kind], use_qk_norm=True, use_gated_mlp=True)
    inputs = batch(kind)
    change = step(model, inputs, keras.optimizers.SGD(1.0))
    # Attention over one label is no choice: its queries and keys are idle.
    idle = ("cross_attention/query", "cross_attention_norm", "_0/key", "_1/key")
    for path, delta in change.items():
        if kind == "labels" and any(x in path for x in idle):
            assert np.abs(delta).max() < 1e-6, path
        else:
            assert np.abs(delta).max() > 1e-5, path
    used = np.isin(np.arange(V + 1), inputs["image_ids"])
    moved = np.abs(change["token_embedding/embeddings"]).max(-1) > 0
    np.testing.assert_array_equal(moved, used)
    assert np.all(np.abs(change["positions/rows"]).max(-1) > 0)
    assert np.all(np.abs(change["positions/columns"]).max(-1) > 0)
    flat = np.concatenate([change[path].ravel() for path in sorted(change)])
    parity(f"transformer_gradient_{kind}", flat, atol=1e-5)


def test_the_gradient_reaches_the_text_embeddings():
    transformer = tiny(text_dim=TEXT_DIM)
    words = keras.Input((L,), dtype="int32", name="words")
    image_ids = keras.Input((N,), dtype="int32", name="image_ids")
    mask = keras.Input((L,), dtype="bool", name="padding_mask")
    table = Embedding(3 * L, TEXT_DIM, name="table")
    outputs = transformer(
        {"image_ids": image_ids, "text_embeddings": table(words), "padding_mask": mask}
    )
    model = keras.Model(
        {"words": words, "image_ids": image_ids, "padding_mask": mask}, outputs
    )
    set_weights(model, scale=0.3)
    inputs = {
        "image_ids": batch()["image_ids"],
        "words": np.arange(3 * L, dtype="int32").reshape(3, L),
        "padding_mask": PADDING,
    }
    change = step(model, inputs, keras.optimizers.SGD(1.0))
    (delta,) = (value for path, value in change.items() if "table" in path)
    moved = np.abs(delta).max(-1).reshape(3, L)
    # One visible word is read whatever it is asked, and its value still counts.
    assert np.all(moved[PADDING] > 1e-6) and np.all(moved[~PADDING] == 0)


def test_one_adam_step_on_the_mask_token(parity):
    # 18 gradients of one row, summed before Adam squares them, move it by 0.1; as 18
    # rows they would move it by up to 0.1 sqrt(18).
    model = tiny(text_dim=TEXT_DIM)
    inputs = {**batch(), "image_ids": np.full((3, N), V, "int32")}
    change = step(model, inputs, keras.optimizers.Adam(0.1))
    delta = change["token_embedding/embeddings"]
    np.testing.assert_allclose(np.abs(delta[V]), 0.1, rtol=1e-3)
    np.testing.assert_array_equal(delta[:V], 0)
    parity("transformer_adam", delta, atol=1e-4)


def test_dropout_is_on_only_in_training():
    model = tiny(text_dim=TEXT_DIM, dropout=0.5)
    inputs = batch()
    logits = logits_of(model, inputs)
    np.testing.assert_array_equal(logits, logits_of(tiny(text_dim=TEXT_DIM), inputs))
    noisy = ops.convert_to_numpy(model(inputs, training=True))
    assert np.abs(noisy - logits).max() > 1e-3
    memory = model.project_memory(inputs)
    noisy = model.head(model.features(inputs["image_ids"], memory, training=True))
    assert np.abs(ops.convert_to_numpy(noisy) - logits).max() > 1e-3


def test_lora_trains_queries_and_values_alone():
    model = tiny(text_dim=TEXT_DIM)
    inputs = batch()
    logits = logits_of(model, inputs)
    model.enable_lora(2)
    np.testing.assert_allclose(logits_of(model, inputs), logits, atol=1e-6)
    names = [weight.path for weight in model.trainable_weights]
    layers = {name.rsplit("/", 1)[0] for name in names}
    assert layers == {
        *(f"block_{i}/self_attention/query" for i in range(2)),
        *(f"block_{i}/self_attention_memory/value" for i in range(2)),
        *(f"block_{i}/cross_attention/query" for i in range(2)),
        *(f"memory_projection_{i}/value" for i in range(2)),
    }
    assert all("lora" in name for name in names) and len(names) == 16
    change = step(model, inputs, keras.optimizers.SGD(10.0))
    for path, delta in change.items():
        if "lora" not in path:
            assert not delta.any(), path
    assert np.abs(logits_of(model, inputs) - logits).max() > 1e-3


def test_int8_stays_close():
    model = tiny(num_classes=4, hidden_dim=32, num_layers=1)
    inputs = batch("labels")
    exact = logits_of(model, inputs)
    model.quantize("int8")
    result = logits_of(model, inputs)
    block, memory = model.blocks[0], model.memory_projections[0]
    dense = [block.mlp.up, block.mlp.down, block.self_attention.query_dense]
    dense += [memory.key_dense, memory.value_dense, model.head_dense, model.head]
    assert {layer.quantization_mode for layer in dense} == {"int8"}
    assert np.abs(result - exact).max() > 0
    assert np.corrcoef(result.ravel(), exact.ravel())[0, 1] > 0.99


def test_grid_may_be_one_number():
    model = tiny(grid_size=3)
    assert model.grid_size == (3, 3) and model.num_tokens == 9
    ids = np.full((2, 9), V, "int32")
    assert logits_of(model, {"image_ids": ids}).shape == (2, 9, V)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`text_dim` or `num_classes`, not both"):
        tiny(text_dim=3, num_classes=4)
    with pytest.raises(ValueError, match="num_heads=3, hidden_dim=8"):
        tiny(num_heads=3)
