"""The super-resolution transformer and its attention along two axes."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.transformer import SuperResolutionTransformer
from keras_muse.transformer.layers import Attention, MultiAxisAttention
from tests.tools import set_weights

V, LOW_V, GRID, LOW_GRID, L, TEXT_DIM = 11, 7, (4, 6), (2, 3), 5, 3
N, M = 24, 6
PADDING = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def tiny(scale=0.3, **kwargs):
    kwargs = {
        "codebook_size": V,
        "grid_size": GRID,
        "num_layers": 2,
        "hidden_dim": 8,
        "num_heads": 2,
        "low_res_codebook_size": LOW_V,
        "low_res_grid_size": LOW_GRID,
        "num_low_res_layers": 1,
        "block_size": 2,
        "text_dim": TEXT_DIM,
        **kwargs,
    }
    model = SuperResolutionTransformer(**kwargs)
    set_weights(model, scale=scale)
    return model


def batch(text=True, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {
        "image_ids": rng.integers(0, V + 1, (2, N)).astype("int32"),
        "low_res_ids": rng.integers(0, LOW_V, (2, M)).astype("int32"),
    }
    if text:
        embeddings = rng.normal(size=(2, L, TEXT_DIM)).astype("float32")
        inputs |= {"text_embeddings": embeddings, "padding_mask": PADDING}
    return inputs


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


def logits_of(model, inputs):
    return ops.convert_to_numpy(model(tensors(inputs)))


# --- Attention along two axes -------------------------------------------------------


def same_group(i, j, dilated, grid=GRID, block=(2, 2)):
    """Whether two tokens see each other, in plain words."""
    for a, b, side, size in zip(
        divmod(i, grid[1]), divmod(j, grid[1]), grid, block, strict=True
    ):
        # Neighbours share a block; dilated tokens have the same place in theirs, where
        # the places are counted across the whole side.
        step = side // size
        same = a % step == b % step if dilated else a // size == b // size
        if not same:
            return False
    return True


def multi_axis(queries, keys, values, grid, block):
    """Every query by itself, over the keys that it may see."""
    batch_size, count, heads, dim = queries.shape
    out = np.zeros_like(values, dtype="float64")
    for head in range(heads):
        for i in range(count):
            seen = [
                j
                for j in range(count)
                if same_group(i, j, head >= heads // 2, grid, block)
            ]
            for b in range(batch_size):
                scores = keys[b, seen, head] @ queries[b, i, head]
                weights = np.exp(scores - scores.max())
                out[b, i, head] = weights @ values[b, seen, head] / weights.sum()
    return out


@pytest.mark.parametrize(
    "grid, block", [(GRID, (2, 2)), (GRID, (2, 3)), ((8, 8), (4, 2))]
)
def test_multi_axis_attention_equals_numpy(grid, block, parity):
    layer = MultiAxisAttention(8, 4, grid, block)
    rng = np.random.default_rng(1)
    shape = (2, grid[0] * grid[1], 4, 2)
    rows = [rng.normal(size=shape).astype("float32") for _ in range(3)]
    mixed = layer.mix(*map(ops.convert_to_tensor, rows), None)
    mixed = ops.convert_to_numpy(mixed)
    np.testing.assert_allclose(mixed, multi_axis(*rows, grid, block), atol=1e-5)
    parity(f"multi_axis_{grid}_{block}", mixed, atol=1e-5)


def test_each_half_of_the_heads_sees_its_own_groups():
    layer = MultiAxisAttention(4, 2, GRID, (2, 2))
    rng = np.random.default_rng(2)
    queries, keys = (
        ops.convert_to_tensor(rng.normal(size=(1, N, 2, 2)), "float32")
        for _ in range(2)
    )
    for j in range(N):
        values = np.zeros((1, N, 2, 2), "float32")
        values[0, j] = 1.0
        mixed = layer.mix(queries, keys, ops.convert_to_tensor(values), None)
        reached = ops.convert_to_numpy(mixed)[0, :, :, 0] > 0
        for head, dilated in ((0, False), (1, True)):
            expected = [same_group(i, j, dilated) for i in range(N)]
            np.testing.assert_array_equal(reached[:, head], expected)
            assert sum(expected) == 4


def test_one_block_is_full_attention():
    full, axes = Attention(8, 2), MultiAxisAttention(8, 2, GRID, GRID)
    rng = np.random.default_rng(3)
    rows = [
        ops.convert_to_tensor(rng.normal(size=(2, N, 2, 4)), "float32")
        for _ in range(3)
    ]
    expected = ops.convert_to_numpy(full.mix(*rows, None))
    mixed = ops.convert_to_numpy(axes.mix(*rows, None))
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_two_layers_reach_every_token():
    model = tiny(num_low_res_layers=0, text_dim=None, grid_size=4)
    inputs = batch(text=False)
    inputs["image_ids"] = inputs["image_ids"][:, :16].copy()
    before = logits_of(model, inputs)
    inputs["image_ids"][:, 0] = (inputs["image_ids"][:, 0] + 1) % V
    changed = np.abs(logits_of(model, inputs) - before).max(-1)
    assert (changed > 1e-7).all()


# --- The model ----------------------------------------------------------------------


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("use_qk_norm, use_gated_mlp", [(False, False), (True, True)])
def test_the_same_on_every_backend(text, use_qk_norm, use_gated_mlp, parity):
    model = tiny(
        text_dim=TEXT_DIM if text else None,
        use_qk_norm=use_qk_norm,
        use_gated_mlp=use_gated_mlp,
    )
    logits = logits_of(model, batch(text))
    assert logits.shape == (2, N, V) and logits.dtype == np.float32
    parity(f"super_resolution_{text}_{use_qk_norm}", logits, atol=1e-4)


@pytest.mark.parametrize("text", [True, False])
def test_parts_equal_the_call(text):
    model = tiny(text_dim=TEXT_DIM if text else None)
    inputs = tensors(batch(text))
    memory = model.project_memory(inputs)
    assert len(memory["keys"]) == len(memory["values"]) == 2
    assert tuple(memory["keys"][0].shape) == (2, M + L * text, 2, 4)
    parts = model.head(model.features(inputs["image_ids"], memory))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(parts), ops.convert_to_numpy(model(inputs))
    )


def test_low_res_tokens_and_their_order_matter():
    model, inputs = tiny(), batch()
    before = logits_of(model, inputs)
    shuffled = {**inputs, "low_res_ids": inputs["low_res_ids"][:, ::-1].copy()}
    assert np.abs(logits_of(model, shuffled) - before).max() > 1e-3
    for place in range(M):
        other = inputs["low_res_ids"].copy()
        other[:, place] = (other[:, place] + 1) % LOW_V
        changed = logits_of(model, {**inputs, "low_res_ids": other})
        assert np.abs(changed - before).max() > 1e-4


def test_padded_words_change_nothing_and_others_do():
    model, inputs = tiny(), batch()
    before = logits_of(model, inputs)
    for visible in (False, True):
        words = inputs["text_embeddings"].copy()
        words[PADDING == visible] += 1.0
        after = logits_of(model, {**inputs, "text_embeddings": words})
        assert (np.abs(after[0] - before[0]).max() > 1e-4) == visible


def test_a_row_does_not_depend_on_its_batch():
    model, inputs = tiny(), batch()
    alone = {name: value[1:] for name, value in inputs.items()}
    np.testing.assert_allclose(
        logits_of(model, alone)[0], logits_of(model, inputs)[1], atol=1e-5
    )


def test_the_gradient_reaches_every_weight_and_every_low_res_row(parity):
    model, inputs = tiny(), batch()
    inputs["low_res_ids"][:] = np.arange(2 * M).reshape(2, M) % LOW_V
    before = [ops.convert_to_numpy(w).copy() for w in model.trainable_variables]
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.train_on_batch(inputs, inputs["image_ids"] % V)
    for variable, old in zip(model.trainable_variables, before):
        moved = np.abs(ops.convert_to_numpy(variable) - old)
        assert moved.max() > 0, variable.path
        if "low_res_embedding/" in variable.path:
            assert (moved[:LOW_V].max(1) > 0).all()
            parity("super_resolution_low_res_step", variable, atol=1e-4)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_logits_are_float32_and_close_under_half_precision(dtype):
    model, half = tiny(scale=0.1), tiny(scale=0.1, dtype=dtype)
    expected, logits = logits_of(model, batch()), logits_of(half, batch())
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max() + 0.02


def test_config_and_preset_round_trip(tmp_path):
    model = tiny(dropout=0.1, low_res_grid_size=[2, 3])
    config = json.loads(json.dumps(model.get_config()))
    copy = SuperResolutionTransformer.from_config(config)
    assert copy.get_config() == model.get_config()
    assert (copy.low_res_grid_size, copy.block_size) == ((2, 3), (2, 2))
    model.save_to_preset(str(tmp_path))
    loaded = SuperResolutionTransformer.from_preset(str(tmp_path))
    np.testing.assert_array_equal(logits_of(loaded, batch()), logits_of(model, batch()))


def test_dropout_is_on_only_in_training():
    model, inputs = tiny(dropout=0.5), tensors(batch())
    memory = [model.project_memory(inputs, training=t) for t in (False, False, True)]
    keys = [ops.convert_to_numpy(m["keys"][0]) for m in memory]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert np.abs(keys[2][:, :M] - keys[0][:, :M]).max() > 1e-3
    # The text is projected and nothing else.
    np.testing.assert_array_equal(keys[2][:, M:], keys[0][:, M:])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"block_size": 4}, r"block_size=\(4, 4\), grid_size=\(4, 6\)"),
        ({"block_size": 0}, r"`block_size` must divide"),
        ({"num_heads": 1}, "`num_heads` must be even.*received 1"),
        ({"num_heads": 3}, "num_heads=3, hidden_dim=8"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="no argument 'low_res_size'"):
        tiny(low_res_size=4)


def test_low_res_tokens_of_another_grid_are_refused():
    model, inputs = tiny(), batch()
    inputs["low_res_ids"] = inputs["low_res_ids"][:, :4]
    with pytest.raises(ValueError, match="6 tokens of a grid of 2 x 3: received 4"):
        model.project_memory(tensors(inputs))
    with pytest.raises(ValueError, match="6"):
        model(tensors(inputs))
