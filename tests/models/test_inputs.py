"""What a caller of `generate` may pass, and what is refused in which words."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from keras_muse.models.inputs import as_batches, as_num_steps, as_scales, as_seeds

PROMPTS = ["a red circle", "a blue square"]
INT32_MAX = 2**31 - 1


@pytest.mark.parametrize(
    "inputs",
    [
        PROMPTS,
        tuple(PROMPTS),
        [prompt.encode() for prompt in PROMPTS],
        np.array(PROMPTS),
        np.array(PROMPTS, dtype=object),
        tf.constant(PROMPTS),
        {"prompts": PROMPTS},
        {"prompts": PROMPTS, "negative_prompts": None},
        tf.data.Dataset.from_tensor_slices(PROMPTS).batch(2),
        tf.data.Dataset.from_tensor_slices({"prompts": PROMPTS}).batch(2),
    ],
    ids="list tuple bytes numpy object tf dict none dataset dict_dataset".split(),
)
def test_many_prompts(inputs):
    assert as_batches(inputs) == ([(PROMPTS, None)], False)


@pytest.mark.parametrize(
    "inputs",
    ["red", b"red", np.str_("red"), np.array("red"), tf.constant("red")],
    ids=["str", "bytes", "numpy_str", "numpy", "tf"],
)
def test_one_prompt(inputs):
    assert as_batches(inputs) == ([(["red"], None)], True)
    assert as_batches({"prompts": inputs}) == ([(["red"], None)], True)


def test_a_list_of_one_is_not_single():
    assert as_batches(["red"]) == ([(["red"], None)], False)


def test_negative_prompts():
    one = {"prompts": PROMPTS, "negative_prompts": "white"}
    each = {"prompts": np.array(PROMPTS), "negative_prompts": ("on", "white")}
    assert as_batches(one)[0] == [(PROMPTS, ["white", "white"])]
    assert as_batches(each)[0] == [(PROMPTS, ["on", "white"])]


def test_a_dataset_keeps_its_batches():
    dataset = tf.data.Dataset.from_tensor_slices(
        {"prompts": ["a", "b", "c"], "negative_prompts": ["x", "y", "z"]}
    )
    batches, is_single = as_batches(dataset.batch(2))
    assert batches == [(["a", "b"], ["x", "y"]), (["c"], ["z"])]
    assert not is_single


def test_the_caller_keeps_what_it_passed():
    inputs = {"prompts": [b"red", "blue"], "negative_prompts": "white"}
    before = copy.deepcopy(inputs)
    as_batches(inputs)
    assert inputs == before


@pytest.mark.parametrize(
    "inputs, error, message",
    [
        (3, TypeError, "`inputs` must be a string or a list of strings: received 3 of"),
        (None, TypeError, "received None of type NoneType"),
        ({"red"}, TypeError, "of type set"),
        (["red", 3], TypeError, "`inputs` must hold strings only: received 3 of type"),
        ([["red"]], TypeError, "must hold strings only: received .'red'. of type list"),
        (np.array([[1.0]]), TypeError, "must hold strings only"),
        ([], ValueError, "`inputs` must hold at least one prompt: received none"),
        ({"prompts": []}, ValueError, "`prompts` must hold at least one prompt"),
        ({"prompts": 3}, TypeError, "`prompts` must be a string"),
        ({"prompt": "a"}, ValueError, "must have the key 'prompts'.*'prompt'"),
        ({"prompts": "a", "images": 1}, ValueError, "received the keys .'images', 'pr"),
        ({}, ValueError, "must have the key 'prompts'"),
        (
            {"prompts": PROMPTS, "negative_prompts": ["a"]},
            ValueError,
            "`negative_prompts` must be one string or one for each of the 2 prompts: "
            "received 1",
        ),
        (
            {"prompts": "a", "negative_prompts": 3},
            TypeError,
            "`negative_prompts` must be a string",
        ),
        (
            tf.data.Dataset.from_tensor_slices(PROMPTS).batch(2).take(0),
            ValueError,
            "at least one prompt",
        ),
        (
            tf.data.Dataset.from_tensor_slices([1, 2]).batch(2),
            TypeError,
            "must hold strings only: received 1",
        ),
    ],
)
def test_bad_prompts(inputs, error, message):
    with pytest.raises(error, match=message):
        as_batches(inputs)


def test_seeds():
    assert as_seeds(7, 3).tolist() == [7, 8, 9]
    assert as_seeds(np.int64(7), 2).tolist() == [7, 8]
    assert as_seeds(np.array(7), 2).tolist() == [7, 8]
    assert as_seeds(-(2**31), 1).tolist() == [-(2**31)]
    for seed in ([4, 9], (4, 9), np.array([4, 9]), np.array([4, 9], "uint8")):
        seeds = as_seeds(seed, 2)
        assert seeds.tolist() == [4, 9]
        assert seeds.dtype == np.int32


def test_random_seeds_differ_between_rows_and_calls():
    seeds = np.concatenate([as_seeds(None, 4), as_seeds(None, 4)])
    assert seeds.dtype == np.int32
    assert len(set(seeds.tolist())) == 8


@pytest.mark.parametrize(
    "seed, error, message",
    [
        ([1], ValueError, "one int for each prompt: received 1 seeds for 2 prompts"),
        ([1, 2, 3], ValueError, "received 3 seeds for 2 prompts"),
        ([], ValueError, "received 0 seeds for 2 prompts"),
        (1.5, TypeError, "`seed` must be None, an int or a list of ints.*1.5"),
        ([1, 2.0], TypeError, "`seed` must be None, an int or a list of ints"),
        (np.array([1.0, 2.0]), TypeError, "`seed` must be None, an int"),
        (True, TypeError, "received True"),
        ("1", TypeError, "received '1'"),
        (2**31, ValueError, r"`seed` must lie in \[-2\^31, 2\^31\): received 21474836"),
        (INT32_MAX, ValueError, "received 2147483648"),
        ([0, -(2**31) - 1], ValueError, "received -2147483649"),
    ],
)
def test_bad_seeds(seed, error, message):
    with pytest.raises(error, match=message):
        as_seeds(seed, 2)


def test_steps_and_scales():
    assert as_num_steps(None, [12, 8], [16, 64]) == [12, 8]
    assert as_num_steps(np.int32(3), [12, 8], [16, 64]) == [3, 3]
    assert as_num_steps((16, 64), [12, 8], [16, 64]) == [16, 64]
    assert as_scales("temperature", None, [1.0, 2.0]) == [1.0, 2.0]
    assert as_scales("temperature", 0, [1.0, 2.0]) == [0.0, 0.0]
    assert as_scales("temperature", [np.float32(0.5), 2], [1.0, 1.0]) == [0.5, 2.0]


@pytest.mark.parametrize(
    "num_steps, error, message",
    [
        (0, ValueError, r"`num_steps` must lie in \[1, 16\].*received 0"),
        (17, ValueError, r"must lie in \[1, 16\], the number of image tokens.*17"),
        ([16, 65], ValueError, r"must lie in \[1, 64\].*received 65"),
        (1.0, TypeError, "`num_steps` must be an int, or one for each stage.*1.0"),
        (True, TypeError, "received True"),
        ("4", TypeError, "received '4'"),
        ([4], ValueError, "one for each of the 2 stages: received .4."),
        ([4, 4, 4], ValueError, "one for each of the 2 stages"),
    ],
)
def test_bad_steps(num_steps, error, message):
    with pytest.raises(error, match=message):
        as_num_steps(num_steps, [12, 8], [16, 64])


@pytest.mark.parametrize(
    "scale, error, message",
    [
        (-0.1, ValueError, "`guidance_scale` must be finite and at least 0.*-0.1"),
        (float("nan"), ValueError, "received nan"),
        (float("inf"), ValueError, "received inf"),
        ("4", TypeError, "`guidance_scale` must be a number, or one for.*'4'"),
        (True, TypeError, "received True"),
        ([1.0], ValueError, "one for each of the 2 stages"),
        ([1.0, None], TypeError, "must be a number"),
    ],
)
def test_bad_scales(scale, error, message):
    with pytest.raises(error, match=message):
        as_scales("guidance_scale", scale, [1.0, 1.0])
