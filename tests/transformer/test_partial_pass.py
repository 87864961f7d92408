"""A pass of some tokens: what it must equal, and what it may not see."""

import numpy as np
import pytest
from keras import ops

from keras_muse.transformer import MaskedTransformer
from keras_muse.transformer.partial_pass import full_pass, partial_pass
from tests.tools import set_weights

N, V = 16, 10
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, V + 1, (3, N)).astype("int32")
OTHERS = RNG.integers(0, V + 1, (3, N)).astype("int32")
POSITIONS = np.stack([RNG.permutation(N)[:6] for _ in range(3)]).astype("int32")


def parts(num_layers, text_dim=8):
    transformer = MaskedTransformer(
        V, 4, num_layers, 16, 2, text_dim=text_dim, use_qk_norm=True
    )
    set_weights(transformer, scale=0.4)
    inputs = {}
    if text_dim:
        text = np.random.default_rng(1).normal(size=(3, 5, 8))
        inputs["text_embeddings"] = text.astype("float32")
        inputs["padding_mask"] = np.arange(5) < np.array([[5], [3], [1]])
    return transformer, transformer.project_memory(inputs)


def changing_at(positions):
    changing = np.zeros((3, N), bool)
    np.put_along_axis(changing, positions, True, axis=1)
    return changing


def numpy_of(hidden):
    return ops.convert_to_numpy(hidden)


@pytest.mark.parametrize("num_layers, text_dim", [(1, 8), (3, 8), (3, None)])
def test_the_full_pass_is_that_of_the_transformer(num_layers, text_dim):
    transformer, memory = parts(num_layers, text_dim)
    hidden, seen = full_pass(transformer, IDS, memory)
    expected = numpy_of(transformer.features(IDS, memory))
    np.testing.assert_allclose(numpy_of(hidden), expected, atol=1e-5)
    assert [tuple(keys.shape) for keys, _ in seen] == [(3, N, 2, 8)] * num_layers


def run(num_layers, before, after, positions, changing):
    transformer, memory = parts(num_layers)
    _, seen = full_pass(transformer, before, memory)
    part = partial_pass(transformer, after, memory, seen, positions, changing)
    return numpy_of(part), numpy_of(transformer.features(after, memory))


def test_where_nothing_has_changed_it_is_the_full_pass(parity):
    changing = changing_at(POSITIONS)
    part, whole = run(3, IDS, IDS, POSITIONS, changing)
    expected = np.take_along_axis(whole, POSITIONS[..., None], axis=1)
    np.testing.assert_allclose(part, expected, atol=1e-5)
    parity("partial_pass", part, atol=1e-5)


def test_of_all_tokens_it_is_the_full_pass():
    everywhere = np.tile(np.arange(N, dtype="int32"), (3, 1))
    part, whole = run(3, IDS, OTHERS, everywhere, np.ones((3, N), bool))
    np.testing.assert_allclose(part, whole, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_with_one_layer_nothing_is_lost_and_with_more_a_little(num_layers):
    changing = changing_at(POSITIONS)
    after = np.where(changing, OTHERS, IDS)
    part, whole = run(num_layers, IDS, after, POSITIONS, changing)
    expected = np.take_along_axis(whole, POSITIONS[..., None], axis=1)
    error = np.abs(part - expected).max()
    # The other tokens have not seen the change.
    assert error < 1e-5 if num_layers == 1 else error > 1e-3


def test_more_positions_than_change_make_no_difference():
    few = POSITIONS[:, :3]
    changing = changing_at(few)
    after = np.where(changing, OTHERS, IDS)
    part, _ = run(3, IDS, after, few, changing)
    more, _ = run(3, IDS, after, POSITIONS, changing)
    np.testing.assert_allclose(more[:, :3], part, atol=1e-5)
