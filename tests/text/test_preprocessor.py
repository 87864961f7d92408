"""Prompts to rows: the same from every kind of input, eager or in a graph."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_muse.text import (
    MuseTokenizer,
    T5TextEncoder,
    preprocessor,
    tokenize_prompts,
    train_vocabulary,
)

WORDS = ["a", "red", "circle"]
TOKENIZER = MuseTokenizer(proto=train_vocabulary([], WORDS))
PROMPTS = ["a red circle", "", "red"]
IDS = [[3, 4, 5, 1, 0], [1, 0, 0, 0, 0], [4, 1, 0, 0, 0]]


@pytest.fixture(autouse=True)
def no_report_yet(monkeypatch):
    monkeypatch.setattr(preprocessor, "truncation_reported", False)


def assert_rows(rows, expected):
    expected = np.array(expected)
    ids, mask = (np.asarray(rows[name]) for name in ("token_ids", "padding_mask"))
    assert set(rows) == {"token_ids", "padding_mask"}
    assert (ids.dtype, mask.dtype) == ("int32", "bool")
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(mask, expected != 0)


@pytest.mark.parametrize(
    "prompts",
    [
        PROMPTS,
        tuple(PROMPTS),
        [prompt.encode() for prompt in PROMPTS],
        np.array(PROMPTS),
        np.array(PROMPTS, dtype=object),
        np.array([prompt.encode() for prompt in PROMPTS]),
        tf.constant(PROMPTS),
    ],
    ids=["list", "tuple", "bytes", "numpy", "numpy_object", "numpy_bytes", "tf"],
)
def test_batches(prompts):
    rows = tokenize_prompts(TOKENIZER, prompts, 5)
    assert all(keras.ops.is_tensor(value) for value in rows.values())
    assert_rows(rows, IDS)


@pytest.mark.parametrize(
    "prompt",
    ["red", b"red", np.str_("red"), np.array("red"), tf.constant("red")],
    ids=["str", "bytes", "numpy_str", "numpy", "tf"],
)
def test_one_prompt_is_a_batch_of_one(prompt):
    assert_rows(tokenize_prompts(TOKENIZER, prompt, 5), IDS[2:])


def test_the_caller_keeps_its_list():
    prompts = [b"a", "red"]
    tokenize_prompts(TOKENIZER, prompts, 5)
    assert prompts == [b"a", "red"]


def test_rows_feed_the_encoder():
    encoder = T5TextEncoder(TOKENIZER.vocabulary_size(), 1, 1, 4, 4)
    assert encoder(tokenize_prompts(TOKENIZER, PROMPTS, 5)).shape == (3, 5, 4)


def test_too_long_prompts_keep_their_end_token():
    with pytest.warns(UserWarning):
        rows = tokenize_prompts(TOKENIZER, ["a red circle a red", "red"], 3)
    assert_rows(rows, [[3, 4, 1], [4, 1, 0]])
    assert_rows(tokenize_prompts(TOKENIZER, PROMPTS, 1), [[1], [1], [1]])


def test_truncation_is_reported_once():
    expected = r"6 tokens.*`sequence_length`=3"
    with pytest.warns(UserWarning, match=expected) as caught:
        tokenize_prompts(TOKENIZER, ["red", "a red circle a red"], 3)
        tokenize_prompts(TOKENIZER, "a red circle a red red", 3)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_prompts_that_fit_exactly_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_rows(tokenize_prompts(TOKENIZER, "a red circle", 4), [[3, 4, 5, 1]])


def test_inside_tf_data():
    prompts = [*PROMPTS, "a a a a a a a a"]
    dataset = tf.data.Dataset.from_tensor_slices(prompts).batch(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        dataset = dataset.map(lambda batch: tokenize_prompts(TOKENIZER, batch, 5))
        (rows,) = list(dataset)
    assert dataset.element_spec["token_ids"].shape.as_list() == [None, 5]
    assert dataset.element_spec["padding_mask"].shape.as_list() == [None, 5]
    assert_rows(rows, [*IDS, [3, 3, 3, 3, 1]])


def test_inside_a_tf_function():
    @tf.function(input_signature=[tf.TensorSpec([None], "string")])
    def many(prompts):
        return tokenize_prompts(TOKENIZER, prompts, 5)

    @tf.function(input_signature=[tf.TensorSpec([], "string")])
    def one(prompt):
        return tokenize_prompts(TOKENIZER, prompt, 5)

    @tf.function(input_signature=[])
    def constant():
        return tokenize_prompts(TOKENIZER, PROMPTS, 5)

    assert_rows(many(tf.constant(PROMPTS)), IDS)
    assert_rows(many(tf.constant(PROMPTS[:1])), IDS[:1])
    assert_rows(one(tf.constant("red")), IDS[2:])
    assert_rows(constant(), IDS)


def test_graph_and_eager_agree_on_any_text():
    texts = ["Zebra, 12 RED circles!", "ß€漢 é", " \t a  red ", "redder acircle a\nred"]
    dataset = tf.data.Dataset.from_tensors(texts)
    (rows,) = dataset.map(lambda batch: tokenize_prompts(TOKENIZER, batch, 24))
    eager = tokenize_prompts(TOKENIZER, texts, 24)
    assert_rows(eager, np.asarray(rows["token_ids"]))


def test_graphs_outlive_a_new_global_seed():
    traced = tf.function(lambda batch: tokenize_prompts(TOKENIZER, batch, 5))
    assert_rows(traced(tf.constant(PROMPTS)), IDS)
    dataset = tf.data.Dataset.from_tensors(PROMPTS).map(traced)
    keras.utils.set_random_seed(2)
    assert_rows(traced(tf.constant(PROMPTS)), IDS)
    assert_rows(next(iter(dataset)), IDS)


def test_inside_a_saved_model(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], "string")])
    def serve(prompts):
        return tokenize_prompts(TOKENIZER, prompts, 5)

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path))
    assert_rows(tf.saved_model.load(str(tmp_path)).serve(tf.constant(PROMPTS)), IDS)


@pytest.mark.parametrize(
    "prompts, kind",
    [
        (3, "int"),
        (None, "NoneType"),
        ({"prompts": "red"}, "dict"),
        ([["red"]], "list"),
        (["red", None], "NoneType"),
        (np.zeros(3), "float"),
        (tf.constant([1]), "int"),
    ],
)
def test_other_types_are_refused(prompts, kind):
    with pytest.raises(TypeError, match=f"`prompts`.*type {kind}"):
        tokenize_prompts(TOKENIZER, prompts, 5)


def test_other_shapes_are_refused():
    for prompts in (np.array([["red"]]), tf.constant([["red"]])):
        with pytest.raises(ValueError, match=r"`prompts`.*\(1, 1\)"):
            tokenize_prompts(TOKENIZER, prompts, 5)
    for prompts in ([], np.array([], "U1"), tf.constant([], "string")):
        with pytest.raises(ValueError, match="`prompts`.*at least one"):
            tokenize_prompts(TOKENIZER, prompts, 5)


def test_graph_tensors_that_do_not_fit_are_refused():
    function = tf.function(lambda batch: tokenize_prompts(TOKENIZER, batch, 5))
    with pytest.raises(TypeError, match="`prompts`.*int32"):
        function.get_concrete_function(tf.TensorSpec([None], "int32"))
    for shape in (None, [None, None]):
        with pytest.raises(ValueError, match="`prompts`.*shape"):
            function.get_concrete_function(tf.TensorSpec(shape, "string"))


@pytest.mark.parametrize("sequence_length", [0, -1, None, 2.0, True])
def test_lengths_that_do_not_fit_are_refused(sequence_length):
    with pytest.raises(ValueError, match=f"`sequence_length`.*{sequence_length}"):
        tokenize_prompts(TOKENIZER, "red", sequence_length)
