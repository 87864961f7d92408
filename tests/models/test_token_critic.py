"""A critic in a Muse: held, saved, and asked while tokens are filled."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import Sampler
from keras_muse.models import MuseBackbone, MuseTextToImage
from keras_muse.models.compilation import compile_inference
from keras_muse.transformer import TokenCritic
from tests.decoding import reference
from tests.tools import tiny_backbone, tiny_critic, tiny_preprocessor

PROMPTS = ["a red circle", "a blue square on white"]
SEEDS = np.array([3, -7], "int32")
SAMPLER = Sampler(num_steps=5, order="critic", guidance_scale=3.0)


@pytest.fixture(scope="module")
def backbone():
    return tiny_critic(tiny_backbone())


@pytest.fixture(scope="module")
def muse(backbone):
    return MuseTextToImage(backbone, tiny_preprocessor(), SAMPLER)


def slow_tokens(muse, start):
    """By the slow loop, row by row; the critic reads the prompt and is not guided."""
    base, critic = (
        compile_inference(model, model)
        for model in (muse.backbone.transformers[0], muse.backbone.critics[0])
    )
    rows = []
    for row, prompt in enumerate(PROMPTS):
        text = muse.preprocessor.generate_preprocess([prompt, ""])
        embeddings = muse.backbone.text_encoder(text)

        def read(model, index, ids, embeddings=embeddings, text=text):
            inputs = {
                "image_ids": ops.convert_to_tensor(ids, "int32"),
                "text_embeddings": embeddings[index : index + 1],
                "padding_mask": text["padding_mask"][index : index + 1],
            }
            return ops.convert_to_numpy(model(inputs))

        def predict(ids, guidance, read=read):
            cond, null = (read(base, index, ids) for index in (0, 1))
            return null + guidance[:, None, None] * (cond - null)

        rows.append(
            reference.decode(
                predict,
                start[row : row + 1],
                SEEDS[row : row + 1],
                SAMPLER,
                32,
                critic=lambda ids, read=read: read(critic, 0, ids),
            )[0]
        )
    return np.array(rows)


def test_tokens_are_those_of_the_slow_loop(muse, parity):
    (tokens,) = muse.generate_tokens(PROMPTS, None, SEEDS)
    np.testing.assert_array_equal(
        tokens, slow_tokens(muse, np.full((2, 16), 32, "int32"))
    )
    parity("critic_tokens", tokens)
    by_confidence = SAMPLER.replace(order="confidence")
    (others,) = muse.generate_tokens(PROMPTS, None, SEEDS, [by_confidence])
    assert np.any(tokens != others)


def test_known_tokens_stay_and_every_step_can_be_seen(muse):
    start = np.full((2, 16), 32, "int32")
    start[0, :9] = np.arange(9)
    start[1, ::2] = 7
    steps = []
    (tokens,) = muse.generate_tokens(
        PROMPTS, None, SEEDS, start_tokens=[start], callback=lambda *x: steps.append(x)
    )
    known = start != 32
    np.testing.assert_array_equal(tokens[known], start[known])
    assert tokens.max() < 32
    np.testing.assert_array_equal(steps[-1][2], tokens)
    assert all(np.all(ids[known] == start[known]) for _, _, ids in steps)


def test_weights_of_the_critic_are_read_anew(muse):
    critic = muse.backbone.critics[0]
    (before,) = muse.generate_tokens(PROMPTS, None, SEEDS)
    kernel = critic.head.kernel
    value = ops.convert_to_numpy(kernel)
    kernel.assign(-value)
    (after,) = muse.generate_tokens(PROMPTS, None, SEEDS)
    kernel.assign(value)
    assert np.any(before != after)
    np.testing.assert_array_equal(muse.generate_tokens(PROMPTS, None, SEEDS)[0], before)


def test_every_weight_is_tracked(backbone, muse):
    plain = tiny_backbone()
    critic = backbone.critics[0]
    for model in (backbone, muse):
        assert model.count_params() == plain.count_params() + critic.count_params()
        assert len(model.variables) == len(plain.variables) + len(critic.variables)


def test_a_preset_keeps_the_critic(muse, tmp_path):
    folder = str(tmp_path / "preset")
    muse.save_to_preset(folder)
    loaded = MuseTextToImage.from_preset(folder)
    assert isinstance(loaded.backbone.critics[0], TokenCritic)
    assert loaded.samplers == [SAMPLER]
    for ours, theirs in zip(muse.backbone.get_weights(), loaded.backbone.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        *(task.generate_tokens(PROMPTS, None, SEEDS)[0] for task in (muse, loaded))
    )
    lower = MuseBackbone.from_preset(folder, dtype="mixed_bfloat16")
    assert lower.critics[0].dtype_policy.name == "mixed_bfloat16"


def test_configs_with_a_critic_and_without_the_word(backbone):
    config = json.loads(json.dumps(backbone.get_config()))
    copy = MuseBackbone.from_config(config)
    assert json.dumps(copy.get_config()) == json.dumps(config)
    # Of a preset that is older than critics.
    del config["critics"]
    assert MuseBackbone.from_config(config).critics == [None]


def test_the_second_stage_goes_without():
    backbone = tiny_critic(tiny_backbone(2))
    assert backbone.critics[1] is None
    samplers = [SAMPLER, Sampler(num_steps=2)]
    muse = MuseTextToImage(backbone, tiny_preprocessor(), samplers)
    tokens = muse.generate_tokens(PROMPTS, None, SEEDS)
    assert [ids.shape for ids in tokens] == [(2, 16), (2, 64)]
    kept = backbone.replace_image_tokenizer(1, backbone.image_tokenizers[1])
    assert kept.critics == backbone.critics
    with pytest.raises(ValueError, match=r"`critics\[1\]` must be `None`.*super-res"):
        MuseBackbone(
            backbone.text_encoder, backbone.stages, critics=backbone.critics[::-1]
        )
    with pytest.raises(ValueError, match="order='critic' at stage 1, which has none"):
        muse.generate_tokens(PROMPTS, None, SEEDS, [SAMPLER, SAMPLER])


def test_labels():
    backbone = tiny_critic(tiny_backbone(text=False, num_classes=3))
    ids = np.zeros((2, 16), "int32")
    inputs = {"image_ids": ids, "labels": np.array([0, 2], "int32")}
    logits = ops.convert_to_numpy(backbone.critics[0](inputs))
    assert np.any(logits[0] != logits[1])


@pytest.mark.parametrize(
    "name, value", [("codebook_size", 16), ("grid_size", (2, 8)), ("text_dim", None)]
)
def test_a_critic_that_does_not_fit(backbone, name, value):
    critic = backbone.critics[0]
    other = TokenCritic.from_config({**critic.get_config(), name: value})
    with pytest.raises(ValueError, match=rf"`{name}` of `critics\[0\]` must be that"):
        MuseBackbone(backbone.text_encoder, backbone.stages, critics=[other])
    with pytest.raises(ValueError, match="each of the 1 stages: received 2"):
        MuseBackbone(backbone.text_encoder, backbone.stages, critics=[critic, critic])


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="exports by another backend"
)
def test_an_export_asks_it_too(muse):
    import tensorflow as tf

    from keras_muse.serving.core import Core

    core = Core(muse)
    text = muse.preprocessor.generate_preprocess([*PROMPTS, "", ""])
    ids, mask = (np.asarray(text[name]) for name in ("token_ids", "padding_mask"))
    embeddings = core.text(tf.constant(ids, tf.int32), tf.constant(mask))
    for scale in (1.0, 3.0):
        filled = core.fill[0](
            tf.fill([2, 16], 32),
            tf.constant(SEEDS),
            tf.fill([2], scale),
            tf.fill([2], SAMPLER.num_steps),
            embeddings[:2],
            tf.constant(mask[:2]),
            embeddings[2:],
            tf.constant(mask[2:]),
        )
        settings = [SAMPLER.replace(guidance_scale=scale)]
        (tokens,) = muse.generate_tokens(PROMPTS, None, SEEDS, settings)
        np.testing.assert_array_equal(filled.numpy(), tokens)
