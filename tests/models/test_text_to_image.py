"""Prompts to pictures: what comes in, what goes out, and which settings do what."""

import copy
import re

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_muse.decoding import Sampler, decode
from keras_muse.models import MuseTextToImage, MuseTextToImagePreprocessor
from keras_muse.models.stages import pass_inputs
from keras_muse.text import preprocessor as text_preprocessor
from keras_muse.transformer import MaskedTransformer
from keras_muse.transformer.partial_pass import full_pass, partial_pass
from tests.tools import set_weights, tiny_backbone, tiny_muse, tiny_preprocessor

PROMPTS = ["a red circle", "a blue square"]
QUICK = {"num_steps": 3, "guidance_scale": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def muse():
    return tiny_muse()


@pytest.fixture(scope="module")
def two_stages():
    return tiny_muse(num_stages=2)


@pytest.fixture(scope="module")
def pictures(muse):
    return muse.generate(PROMPTS, **QUICK)


def tokens(muse, prompts, seeds, negative_prompts=None, stage=0, **settings):
    samplers = [sampler.replace(**settings) for sampler in muse.samplers]
    seeds = np.array(seeds, "int32")
    return muse.generate_tokens(prompts, negative_prompts, seeds, samplers)[stage]


def test_one_string_gives_one_picture(muse, pictures):
    picture = muse.generate(PROMPTS[0], **QUICK)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert pictures.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(picture, pictures[0])
    assert np.any(pictures[0] != pictures[1])


@pytest.mark.parametrize(
    "inputs",
    [
        tuple(PROMPTS),
        np.array(PROMPTS),
        tf.constant(PROMPTS),
        {"prompts": PROMPTS},
        tf.data.Dataset.from_tensor_slices(PROMPTS).batch(2),
        tf.data.Dataset.from_tensor_slices({"prompts": PROMPTS}).batch(2),
    ],
    ids="tuple numpy tf dict dataset dict_dataset".split(),
)
def test_every_kind_of_input_gives_the_same(muse, pictures, inputs):
    np.testing.assert_array_equal(muse.generate(inputs, **QUICK), pictures)


def test_batches_of_a_dataset_are_rows_of_one_call(muse):
    prompts = [*PROMPTS, "a green circle"]
    dataset = tf.data.Dataset.from_tensor_slices(
        {"prompts": prompts, "negative_prompts": ["on", "white", "black"]}
    )
    inputs = {"prompts": prompts, "negative_prompts": ["on", "white", "black"]}
    for seed in (5, [3, 8, 1]):
        np.testing.assert_array_equal(
            muse.generate(dataset.batch(2), **{**QUICK, "seed": seed}),
            muse.generate(inputs, **{**QUICK, "seed": seed}),
        )


def test_the_caller_keeps_its_dict(muse):
    inputs = {"prompts": list(PROMPTS), "negative_prompts": "white"}
    before = copy.deepcopy(inputs)
    muse.generate(inputs, **QUICK)
    assert inputs == before


def test_negative_prompts(muse, pictures):
    def generate(negative):
        return muse.generate(
            {"prompts": PROMPTS, "negative_prompts": negative}, **QUICK
        )

    one, each = generate("white"), generate(["white", "white"])
    np.testing.assert_array_equal(one, each)
    assert np.any(one[0] != pictures[0]) and np.any(one[1] != pictures[1])
    np.testing.assert_array_equal(generate(""), pictures)
    mixed = generate(["white", ""])
    np.testing.assert_array_equal(mixed[0], one[0])
    np.testing.assert_array_equal(mixed[1], pictures[1])


def test_the_empty_prompt_is_what_guidance_leads_away_from(muse):
    unguided = tokens(muse, ["", ""], [1, 2], guidance_scale=1.0, num_steps=3)
    guided = tokens(muse, ["", ""], [1, 2], guidance_scale=5.0, num_steps=3)
    np.testing.assert_array_equal(guided, unguided)
    conditional = tokens(muse, PROMPTS, [1, 2], guidance_scale=1.0, num_steps=3)
    assert np.any(conditional != unguided)


def test_guidance_changes_the_result(muse):
    results = [
        tokens(muse, PROMPTS, [1, 2], guidance_scale=scale, num_steps=3)
        for scale in (0.0, 1.0, 3.0)
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.any(results[a] != results[b])
    constant = tokens(
        muse,
        PROMPTS,
        [1, 2],
        guidance_scale=3.0,
        num_steps=3,
        guidance_schedule="constant",
    )
    assert np.any(constant != results[2])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def slow_tokens(muse, prompt, seed, sampler, negative_prompt=""):
    """Parallel decoding of one row of the first stage, in numpy but for the noise."""
    from keras_muse.decoding import uniform

    transformer = muse.backbone.transformers[0]
    num_tokens, mask_id = transformer.num_tokens, transformer.mask_id

    def predict(prompt, ids):
        rows = muse.preprocessor.generate_preprocess([prompt])
        ids = ops.convert_to_tensor(ids)
        logits = muse.backbone({**rows, "image_ids_0": ids})["logits_0"]
        return ops.convert_to_numpy(logits)[0].astype("float64")

    def noise(step, stream):
        seeds = ops.convert_to_tensor(np.array([seed], "int32"))
        return ops.convert_to_numpy(uniform(seeds, 0, step, stream, num_tokens))[0]

    ids = np.full((1, num_tokens), mask_id, "int32")
    steps = sampler.num_steps
    for step in range(steps):
        logits = predict(prompt, ids)
        if sampler.guidance_scale != 1.0:
            position = step / (steps - 1) if steps > 1 else 1.0
            scale = 1.0 + (sampler.guidance_scale - 1.0) * position
            null = predict(negative_prompt, ids)
            logits = null + scale * (logits - null)
        cumulative = np.cumsum(softmax(logits / sampler.temperature), axis=-1)
        drawn = np.sum(cumulative <= noise(step, 0)[:, None], axis=-1)
        confidence = np.log(softmax(logits))[np.arange(num_tokens), drawn]
        left = 1.0 - (step + 1) / steps
        gumbel = -np.log(-np.log(noise(step, 1)))
        confidence = confidence + sampler.choice_temperature * left * gumbel
        masked = ids[0] == mask_id
        remain = int(num_tokens * np.cos(0.5 * np.pi * (step + 1) / steps) + 1e-3)
        remain = max(1, min(remain, masked.sum() - 1)) if step + 1 < steps else 0
        order = np.argsort(np.where(masked, confidence, np.inf))
        ids[0] = np.where(masked, drawn, ids[0])
        ids[0, order[:remain]] = mask_id
    return ids[0]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_tokens_are_those_of_a_slow_reference(muse, scale):
    sampler = Sampler(num_steps=5, guidance_scale=scale, temperature=0.8)
    fast = tokens(
        muse,
        PROMPTS,
        [11, 12],
        ["white", "a"],
        num_steps=5,
        guidance_scale=scale,
        temperature=0.8,
    )
    for row, negative_prompt in enumerate(["white", "a"]):
        slow = slow_tokens(muse, PROMPTS[row], 11 + row, sampler, negative_prompt)
        np.testing.assert_array_equal(fast[row], slow)


@pytest.mark.parametrize(
    "settings, rows_of_steps",
    [
        ({"guidance_scale": 1.0}, [2, 2, 2, 2]),
        ({"guidance_scale": 3.0, "guidance_schedule": "constant"}, [4, 4, 4, 4]),
        # It is 1 at the first step of the ramp.
        ({"guidance_scale": 3.0}, [2, 4, 4, 4]),
        ({"guidance_scale": 3.0, "guidance_interval": (0.25, 0.75)}, [2, 4, 4, 2]),
    ],
    ids=str,
)
def test_no_guidance_runs_no_second_pass(monkeypatch, settings, rows_of_steps):
    seen = []
    features = MaskedTransformer.features
    preprocess = MuseTextToImagePreprocessor.generate_preprocess

    def count_rows(self, image_ids, memory, training=None):
        assert memory["keys"][0].shape[0] == image_ids.shape[0]
        seen.append(image_ids.shape[0])
        return features(self, image_ids, memory, training)

    def count_prompts(self, x):
        seen.append(list(x))
        return preprocess(self, x)

    monkeypatch.setattr(MaskedTransformer, "features", count_rows)
    monkeypatch.setattr(
        MuseTextToImagePreprocessor, "generate_preprocess", count_prompts
    )
    muse = tiny_muse()
    sampler = Sampler(num_steps=4, **settings)
    MuseTextToImage(muse.backbone, muse.preprocessor, sampler).generate(PROMPTS, seed=1)
    prompts = [x for x in seen if isinstance(x, list)]
    rows = [x for x in seen if isinstance(x, int)]
    assert prompts == [PROMPTS, ["", ""]][: 1 + (4 in rows_of_steps)]
    if keras.config.backend() == "torch":
        assert rows == rows_of_steps
    else:
        # Of what is traced.
        assert set(rows) == set(rows_of_steps)


def test_seeds(muse):
    def generate(prompts, seed):
        return tokens_of_images(muse, prompts, seed)

    prompts = ["a red circle"] * 2
    first = generate(prompts, 4)
    assert np.any(first[0] != first[1])
    np.testing.assert_array_equal(first, generate(prompts, [4, 5]))
    np.testing.assert_array_equal(first, generate(prompts, np.array([4, 5])))
    np.testing.assert_array_equal(first[::-1], generate(prompts, (5, 4)))
    assert np.any(generate(prompts, None) != generate(prompts, None))


def tokens_of_images(muse, prompts, seed):
    return muse.generate(prompts, **{**QUICK, "seed": seed})


def test_a_row_depends_on_itself_alone(muse):
    prompts = [
        f"a {color} {shape}"
        for color in ("red", "blue", "green", "white")
        for shape in ("circle", "square")
    ]
    negative = ["white", "", "a", "on", "black", "red", "circle", ""]
    seeds = list(range(20, 28))
    settings = {"num_steps": 6, "guidance_scale": 3.0}
    together = tokens(muse, prompts, seeds, negative, **settings)
    assert len(np.unique(together, axis=0)) == 8
    for row in range(8):
        alone = tokens(muse, [prompts[row]], [seeds[row]], [negative[row]], **settings)
        np.testing.assert_array_equal(alone[0], together[row])


REFRESHED = Sampler(
    num_steps=8, refresh_every=3, mask_schedule="linear", guidance_scale=3.0
)
# Of each picture all, nearly all, or fewer tokens are to be filled.
HOLES = np.arange(16) < np.array([[16], [13], [12], [7]] * 8)
HOLED = np.where(HOLES, 32, np.arange(16)).astype("int32")
MANY = [f"a {word}" for word in ("red", "blue", "green", "white")] * 8


def refreshed(muse, rows=slice(None), callback=None, sampler=REFRESHED):
    seeds = np.arange(32, dtype="int32")[rows]
    return muse.generate_tokens(
        MANY[rows], None, seeds, [sampler], callback, [HOLED[rows]]
    )[0]


def test_between_refreshes_what_was_known_is_seen_as_it_was(muse, parity):
    """Against a loop that passes all tokens, and hides what is not to be seen."""
    transformer = muse.backbone.stages[0].transformer
    text = muse._encode_prompts(MANY, None, True)
    memory = transformer.project_memory(pass_inputs(text, True))
    everywhere = np.tile(np.arange(16, dtype="int32"), (64, 1))
    # A hole has the steps of its share of the picture.
    num_steps = np.array([8, 7, 6, 4] * 8, "int32")
    ids = HOLED
    for step in range(8):
        both = np.concatenate([ids, ids])
        if step % 3 == 0:
            hidden, seen = full_pass(transformer, both, memory)
            masked = both == 32
            changing = masked | (masked.sum(1, keepdims=True) > 12)
        else:
            hidden = partial_pass(transformer, both, memory, seen, everywhere, changing)
        cond, uncond = ops.split(hidden, 2)

        def predict(ids, guidance):
            guidance = guidance[:, None, None]
            return transformer.head(uncond + guidance * (cond - uncond))

        seeds = np.arange(32, dtype="int32")
        ids = decode(
            predict, ids, seeds, REFRESHED, 32, step, step + 1, HOLES, num_steps
        )
        ids = ops.convert_to_numpy(ids)
    result = refreshed(muse)
    np.testing.assert_array_equal(result, ids)
    parity("refreshed", result)
    assert np.any(refreshed(muse, sampler=REFRESHED.replace(refresh_every=1)) != result)


def test_refreshing_depends_on_neither_batch_nor_callback(muse):
    result, seen = refreshed(muse), []
    for row in range(4):
        alone = refreshed(muse, slice(row, row + 1))
        np.testing.assert_array_equal(alone[0], result[row])

    def look(stage, step, ids):
        seen.append(ids)

    np.testing.assert_array_equal(refreshed(muse, callback=look), result)
    masked = [(ids == 32).sum() for ids in seen]
    assert len(seen) == 8 and masked == sorted(masked, reverse=True)
    np.testing.assert_array_equal(seen[-1], result)


def test_multi_axis_attention_cannot_be_refreshed(two_stages):
    samplers = [two_stages.samplers[0], REFRESHED]
    muse = MuseTextToImage(two_stages.backbone, two_stages.preprocessor, samplers)
    with pytest.raises(ValueError, match="`refresh_every` must be 1.*multi-axis"):
        muse.generate(PROMPTS, num_steps=2)


def test_the_same_seed_gives_the_same_on_every_backend(two_stages, parity):
    prompts = [*PROMPTS, "", "on white a green circle"]
    for scale in (1.0, 4.0):
        samplers = [
            sampler.replace(num_steps=6, guidance_scale=scale, temperature=0.9)
            for sampler in two_stages.samplers
        ]
        seeds = np.array([1, -7, 2**31 - 1, 40], "int32")
        base, high = two_stages.generate_tokens(prompts, None, seeds, samplers)
        parity(f"text_to_image_base_{scale}", base)
        parity(f"text_to_image_high_{scale}", high)
        parity(f"text_to_image_pixels_{scale}", two_stages.decode_images(high), atol=1)


def test_two_stages(two_stages):
    seeds = np.array([1, 2], "int32")
    samplers = [sampler.replace(num_steps=3) for sampler in two_stages.samplers]
    base, high = two_stages.generate_tokens(PROMPTS, None, seeds, samplers)
    assert (base.shape, high.shape) == ((2, 16), (2, 64))
    for ids in (base, high):
        assert ids.dtype == np.int32
        assert ids.min() >= 0 and ids.max() < 32
    pictures = two_stages.generate(PROMPTS, num_steps=3, seed=1, guidance_scale=1.0)
    np.testing.assert_array_equal(pictures, two_stages.decode_images(high))
    # The stages draw noise of their own.
    assert np.any(base != high[:, :16])


def test_settings_of_each_stage(two_stages):
    steps = []
    pictures = two_stages.generate(
        PROMPTS,
        num_steps=[2, 5],
        guidance_scale=[1.0, 3.0],
        temperature=(1.0, 0.5),
        seed=1,
        callback=lambda stage, step, tokens: steps.append((stage, step)),
    )
    assert steps == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    other = two_stages.generate(
        PROMPTS, num_steps=[2, 5], guidance_scale=[1.0, 1.0], seed=1
    )
    assert np.any(pictures != other)


def test_the_callback_sees_every_step(muse, pictures):
    seen = []

    def callback(stage, step, tokens):
        seen.append((stage, step, tokens.copy()))
        tokens[:] = 0

    np.testing.assert_array_equal(
        muse.generate(PROMPTS, **QUICK, callback=callback), pictures
    )
    assert [(stage, step) for stage, step, _ in seen] == [(0, 0), (0, 1), (0, 2)]
    masked = [np.sum(ids == 32, axis=1).tolist() for _, _, ids in seen]
    # 16 cos(pi / 6) and 16 cos(pi / 3).
    assert masked == [[13, 13], [8, 8], [0, 0]]
    for (_, _, before), (_, _, after) in zip(seen, seen[1:]):
        known = before != 32
        np.testing.assert_array_equal(after[known], before[known])
    np.testing.assert_array_equal(muse.decode_images(seen[-1][2]), pictures)


def test_the_progress_bar(muse, pictures, capsys):
    muse.generate(PROMPTS, **QUICK)
    assert capsys.readouterr().out == ""
    dataset = tf.data.Dataset.from_tensor_slices(PROMPTS).batch(1)
    shown = muse.generate(dataset, **QUICK, verbose=1)
    np.testing.assert_array_equal(shown, pictures)
    out = capsys.readouterr().out
    assert "1/6" in out and "6/6" in out


def test_temperature_zero_takes_the_most_likely(muse):
    rows = muse.preprocessor.generate_preprocess(PROMPTS)
    ids = ops.convert_to_tensor(np.full((2, 16), 32, "int32"))
    logits = muse.backbone({**rows, "image_ids_0": ids})["logits_0"]
    best = ops.convert_to_numpy(ops.argmax(logits, axis=-1))
    for seeds in ([1, 2], [3, 4]):
        drawn = tokens(muse, PROMPTS, seeds, num_steps=1, temperature=0.0)
        np.testing.assert_array_equal(drawn, best)
    warm = tokens(muse, PROMPTS, [1, 2], num_steps=1, temperature=1.0)
    assert np.any(warm != best)


def test_other_numbers_compile_nothing_anew(monkeypatch):
    muse = tiny_muse()
    traces = []
    features = MaskedTransformer.features

    def count(self, *args, **kwargs):
        traces.append(self.name)
        return features(self, *args, **kwargs)

    monkeypatch.setattr(MaskedTransformer, "features", count)
    first = muse.generate(PROMPTS, num_steps=3, guidance_scale=2.0, seed=1)
    functions, before = dict(muse._functions), len(traces)
    second = muse.generate(PROMPTS, num_steps=7, guidance_scale=5.5, seed=9)
    assert np.any(first != second)
    assert muse._functions == functions
    if keras.config.backend() != "torch":
        assert before >= 1
        assert len(traces) == before


def test_new_weights_are_used():
    muse, fresh = tiny_muse(seed=0), tiny_muse(seed=5)
    before = muse.generate(PROMPTS, **QUICK)
    muse.backbone.set_weights(fresh.backbone.get_weights())
    after = muse.generate(PROMPTS, **QUICK)
    assert np.any(before != after)
    np.testing.assert_array_equal(after, fresh.generate(PROMPTS, **QUICK))
    # A part that only turns tokens to pixels, too.
    ids = np.arange(16, dtype="int32")[None]
    pixels = muse.decode_images(ids)
    set_weights(muse.backbone.image_tokenizers[0].decoder, seed=9)
    assert np.any(muse.decode_images(ids) != pixels)


def test_a_preset_keeps_its_sampler(tmp_path):
    sampler = Sampler(num_steps=4, guidance_scale=2.5, temperature=0.7, top_k=5)
    muse = tiny_muse(samplers=sampler)
    muse.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.TextToImage.from_preset(str(tmp_path))
    assert loaded.samplers == [sampler]
    np.testing.assert_array_equal(
        loaded.generate(PROMPTS, seed=3), muse.generate(PROMPTS, seed=3)
    )


def test_images_of_tokens(muse):
    ids = np.random.default_rng(0).integers(0, 32, (2, 16))
    images = muse.decode_images(ids)
    tokenizer = muse.backbone.image_tokenizers[0]
    expected = ops.convert_to_numpy(tokenizer.decode(ids.astype("int32"))) * 255
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images, np.round(expected), atol=1)


@pytest.mark.parametrize(
    "ids, error, message",
    [
        (
            np.full((1, 16), 32),
            ValueError,
            r"lie in \[0, 32\): received values from 32",
        ),
        (np.full((1, 16), -1), ValueError, "from -1 to -1"),
        (np.zeros((1, 15), int), ValueError, r"shape \(B, 16\): received \(1, 15\)"),
        (np.zeros(16, int), ValueError, r"received \(16,\)"),
        (np.zeros((1, 16)), TypeError, "`tokens` must be integers: received float64"),
    ],
)
def test_bad_tokens(muse, ids, error, message):
    with pytest.raises(error, match=message):
        muse.decode_images(ids)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"inputs": 3}, TypeError, "`inputs` must be a string"),
        ({"inputs": []}, ValueError, "at least one prompt"),
        ({"inputs": {"prompts": "a", "prompt": "b"}}, ValueError, "received the keys"),
        ({"num_steps": 17}, ValueError, r"`num_steps` must lie in \[1, 16\]"),
        ({"num_steps": 2.5}, TypeError, "`num_steps` must be an int"),
        ({"guidance_scale": -1.0}, ValueError, "`guidance_scale` must be finite"),
        ({"guidance_scale": "3"}, TypeError, "`guidance_scale` must be a number"),
        (
            {"temperature": -0.1},
            ValueError,
            "`temperature` must be finite and at least",
        ),
        ({"guidance_schedule": "up"}, ValueError, "`guidance_schedule` must be one of"),
        ({"seed": [1, 2, 3]}, ValueError, "received 3 seeds for 2 prompts"),
        ({"seed": 0.5}, TypeError, "`seed` must be None, an int"),
    ],
)
def test_bad_arguments_stop_before_anything_is_generated(
    muse, arguments, error, message
):
    calls = []
    arguments = {"inputs": PROMPTS, **arguments}
    with pytest.raises(error, match=message):
        muse.generate(**arguments, callback=lambda *step: calls.append(step))
    assert not calls


def test_a_prompt_too_long_is_cut_and_warned_about_once(muse, monkeypatch, recwarn):
    monkeypatch.setattr(text_preprocessor, "truncation_reported", False)
    long = "a red circle on a blue square on a green circle"
    with pytest.warns(UserWarning, match="`sequence_length`=8: its end is cut off"):
        cut = muse.generate(long, **QUICK)
    same = muse.generate("a red circle on a blue square", **QUICK)
    np.testing.assert_array_equal(cut, same)
    recwarn.clear()
    muse.generate(long, **QUICK)
    assert not [w for w in recwarn if "cut off" in str(w.message)]


def test_it_does_not_train(muse):
    with pytest.raises(TypeError, match=re.escape("MuseMaskedImageModel(backbone")):
        muse.fit(np.zeros((1, 32, 32, 3)), epochs=1)


def test_what_it_cannot_be_made_of(muse):
    with pytest.raises(ValueError, match="`backbone` must have a text encoder"):
        MuseTextToImage(tiny_backbone(text=False))
    with pytest.raises(ValueError, match="each of the 1 stages: received 2"):
        MuseTextToImage(muse.backbone, samplers=[Sampler(), Sampler()])
    with pytest.raises(ValueError, match="`preprocessor` is needed to read prompts"):
        MuseTextToImage(muse.backbone).generate("a")


def test_the_preprocessor_round_trip():
    preprocessor = tiny_preprocessor(sequence_length=5)
    rows = preprocessor(["a red circle", ""])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(rows["token_ids"]), [[3, 4, 7, 1, 0], [1, 0, 0, 0, 0]]
    )
    assert ops.convert_to_numpy(rows["padding_mask"]).sum(1).tolist() == [4, 1]
    copy = MuseTextToImagePreprocessor.from_config(preprocessor.get_config())
    assert copy.sequence_length == 5
