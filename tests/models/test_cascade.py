"""Several stages: each sees the tokens of the one before it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import Sampler
from keras_muse.image_tokenizer import VQGAN, VectorQuantizer
from keras_muse.models import MuseBackbone, MuseMaskedImageModel, MuseTextToImage
from tests.tools import tiny_backbone, tiny_muse, tiny_preprocessor

PROMPTS = ["a red circle", "a blue square on white"]
SEEDS = np.array([3, 4], "int32")


@pytest.fixture(scope="module")
def muse():
    return tiny_muse(num_stages=2)


@pytest.fixture(scope="module")
def preprocessor():
    return tiny_preprocessor()


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def batch(preprocessor, count, seed=0):
    rng = np.random.default_rng(seed)
    rows = arrays(
        preprocessor.generate_preprocess([PROMPTS[i % 2] for i in range(count)])
    )
    return {
        "image_ids": rng.integers(0, 32, (count, 64)).astype("int32"),
        "low_res_ids": rng.integers(0, 32, (count, 16)).astype("int32"),
        **rows,
    }


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


def test_the_second_stage_is_guided_and_sees_the_tokens_of_the_first(muse):
    samplers = [
        Sampler(num_steps=2, guidance_scale=1.0),
        Sampler(num_steps=1, guidance_scale=3.0, temperature=0.0),
    ]
    base, fine = muse.generate_tokens(PROMPTS, None, SEEDS, samplers)
    transformer = muse.backbone.transformers[1]
    logits = []
    for prompts in (PROMPTS, ["", ""]):
        rows = muse.preprocessor.generate_preprocess(prompts)
        inputs = {
            "text_embeddings": muse.backbone.text_encoder(rows),
            "padding_mask": rows["padding_mask"],
            "low_res_ids": ops.convert_to_tensor(base),
            "image_ids": ops.full((2, 64), transformer.mask_id, "int32"),
        }
        logits.append(ops.convert_to_numpy(transformer(inputs)).astype("float64"))
    guided = logits[1] + 3.0 * (logits[0] - logits[1])
    ranked = np.sort(guided, axis=-1)
    is_clear = ranked[..., -1] - ranked[..., -2] > 1e-3
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(fine[is_clear], guided.argmax(-1)[is_clear])


def test_other_base_tokens_make_another_picture(muse):
    samplers = [Sampler(num_steps=2), Sampler(num_steps=2, temperature=0.0)]
    plain = muse.generate_tokens(PROMPTS, None, SEEDS, samplers)
    hot = [samplers[0].replace(temperature=4.0), samplers[1]]
    other = muse.generate_tokens(PROMPTS, None, SEEDS, hot)
    assert np.any(plain[0] != other[0]) and np.any(plain[1] != other[1])


def test_three_stages_report_their_steps():
    seen = []
    tiny_muse(num_stages=3).generate(
        PROMPTS,
        num_steps=(3, 2, 1),
        seed=1,
        callback=lambda stage, step, tokens: seen.append((stage, step, tokens.shape)),
    )
    expected = [(0, s, (2, 16)) for s in range(3)] + [(1, s, (2, 64)) for s in range(2)]
    assert seen == [*expected, (2, 0, (2, 256))]


def test_the_same_tokens_on_every_backend(muse, parity):
    samplers = [Sampler(num_steps=3, guidance_scale=2.0), Sampler(num_steps=2)]
    for stage, ids in enumerate(muse.generate_tokens(PROMPTS, None, SEEDS, samplers)):
        parity(f"cascade_tokens_{stage}", ids)


def test_given_tokens_are_translated(muse):
    whole = muse.generate_tokens(PROMPTS, None, SEEDS)
    start = [whole[0], *[None] * (len(whole) - 1)]
    given = muse.generate_tokens(PROMPTS, None, SEEDS, start_tokens=start)
    for one, other in zip(whole, given, strict=True):
        np.testing.assert_array_equal(one, other)
    same = muse.generate_tokens(PROMPTS, None, SEEDS, start_tokens=whole)
    for one, other in zip(whole, same, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"each of the \d stages: received 1"):
        muse.generate_tokens(PROMPTS, None, SEEDS, start_tokens=whole[:1])
    with pytest.raises(
        ValueError, match=r"`start_tokens\[0\]` .* \(2, 16\).*\(2, 64\)"
    ):
        muse.generate_tokens(PROMPTS, None, SEEDS, start_tokens=whole[1:] + whole[:1])
    wrong = [whole[0] + 32, *start[1:]]
    with pytest.raises(ValueError, match=r"`start_tokens\[0\]` must lie in \[0, 32\]"):
        muse.generate_tokens(PROMPTS, None, SEEDS, start_tokens=wrong)


def test_every_stage_can_be_looked_at(muse):
    tokens = muse.generate_tokens(PROMPTS, None, SEEDS)
    base = muse.decode_images(tokens[0], stage=0)
    assert base.shape == (2, 32, 32, 3)
    last = muse.decode_images(tokens[1])
    np.testing.assert_array_equal(last, muse.generate(PROMPTS, seed=SEEDS))
    assert np.any(base != last)


# --- Training -----------------------------------------------------------------------


def test_low_res_tokens_are_those_of_the_downscaled_picture(preprocessor):
    backbone = tiny_backbone(2)
    trainer = MuseMaskedImageModel(backbone, preprocessor, stage=1)
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    ids = trainer._low_res_ids(tensors({"images": large}), stage=1)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ids),
        ops.convert_to_numpy(backbone.image_tokenizers[0].encode(small)),
    )


def low_res_ids_seen(trainer, inputs):
    """What the transformer of a stage reads, in training and in evaluation."""
    seen = []
    project = trainer.transformer.project_memory
    trainer.transformer.project_memory = lambda inputs, **kwargs: (
        seen.append(ops.convert_to_numpy(inputs["low_res_ids"]))
        or project(inputs, **kwargs)
    )
    trainer(tensors(inputs), training=True)
    trainer(tensors(inputs), training=False)
    return seen


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_share_of_corrupted_low_res_tokens(preprocessor, share):
    trainer = MuseMaskedImageModel(
        tiny_backbone(2), preprocessor, stage=1, low_res_corruption=share
    )
    inputs = batch(preprocessor, 1024)
    seen = low_res_ids_seen(trainer, inputs)
    np.testing.assert_array_equal(seen[1], inputs["low_res_ids"])
    # A replacement is the same token once in 32. The share of a row is uniform up to
    # `share`: its mean is half of that, with a deviation of share / sqrt(12).
    changed = (seen[0] != inputs["low_res_ids"]).mean(1) * 32 / 31
    sigma = (share**2 / 12 + share / 2 / 16) ** 0.5 / 1024**0.5
    assert abs(changed.mean() - share / 2) <= 3 * sigma
    assert seen[0].min() >= 0 and seen[0].max() < 32


def test_resampled_low_res_tokens_are_drawn_by_the_stage_before(preprocessor):
    backbone = tiny_backbone(2)
    base = backbone.transformers[0]
    # This base is sure of token 7 at every masked position, and sees what is masked.
    bias = np.full(32, -50.0)
    bias[7] = 50.0
    base.head.kernel.assign(0.0 * base.head.kernel)
    base.head.bias.assign(bias)
    read, features = [], base.features
    base.features = lambda ids, memory: (
        read.append(ops.convert_to_numpy(ids)) or features(ids, memory)
    )
    trainer = MuseMaskedImageModel(
        backbone, preprocessor, stage=1, low_res_resampling=0.8
    )
    inputs = batch(preprocessor, 1024)
    inputs["low_res_ids"] %= 7
    seen = low_res_ids_seen(trainer, inputs)
    np.testing.assert_array_equal(seen[1], inputs["low_res_ids"])
    drawn = seen[0] != inputs["low_res_ids"]
    assert np.all(seen[0][drawn] == 7)
    np.testing.assert_array_equal(read[0] == base.mask_id, drawn)
    sigma = (0.8**2 / 12 + 0.4 / 16) ** 0.5 / 1024**0.5
    assert abs(drawn.mean() - 0.4) <= 3 * sigma


def test_resampling_of_a_third_stage_reads_the_picture_of_the_first(preprocessor):
    trainer = MuseMaskedImageModel(
        tiny_backbone(3), preprocessor, stage=2, low_res_resampling=1.0
    )
    rng = np.random.default_rng(0)
    rows = arrays(preprocessor.generate_preprocess(PROMPTS))
    images = rng.integers(0, 256, (2, *trainer.backbone.image_shape)).astype("uint8")
    logits = trainer(tensors({**rows, "images": images}), training=True)["logits"]
    assert tuple(logits.shape) == (2, 256, 32)
    assert np.all(np.isfinite(ops.convert_to_numpy(logits)))
    ids = rng.integers(0, 32, (2, 64)).astype("int32")
    fine = rng.integers(0, 32, (2, 256)).astype("int32")
    given = {**rows, "image_ids": fine, "low_res_ids": ids}
    with pytest.raises(ValueError, match="must hold 'images'"):
        trainer(tensors(given), training=True)


def test_a_base_with_labels_resamples_by_its_labels():
    trainer = MuseMaskedImageModel(
        tiny_backbone(2, text=False, num_classes=3), stage=1, low_res_resampling=1.0
    )
    rng = np.random.default_rng(0)
    inputs = {
        "image_ids": rng.integers(0, 32, (4, 64)).astype("int32"),
        "low_res_ids": rng.integers(0, 32, (4, 16)).astype("int32"),
        "labels": np.array([0, 1, 2, 1], "int32"),
    }
    assert tuple(trainer(tensors(inputs), training=True)["logits"].shape) == (4, 64, 32)
    del inputs["labels"]
    with pytest.raises(ValueError, match="must hold 'labels'"):
        trainer(tensors(inputs), training=True)


def test_dropping_the_caption_leaves_the_low_res_tokens(preprocessor):
    trainer = MuseMaskedImageModel(
        tiny_backbone(2), preprocessor, stage=1, caption_dropout=1.0
    )
    inputs = batch(preprocessor, 4)
    outputs = arrays(trainer(tensors(inputs), training=True))
    null = arrays(preprocessor.generate_preprocess([""] * 4))
    masked = np.where(outputs["mask"], 32, inputs["image_ids"]).astype("int32")
    expected = trainer.transformer(
        {
            "image_ids": ops.convert_to_tensor(masked),
            "low_res_ids": ops.convert_to_tensor(inputs["low_res_ids"]),
            "text_embeddings": trainer.backbone.text_encoder(tensors(null)),
            "padding_mask": ops.convert_to_tensor(null["padding_mask"]),
        }
    )
    np.testing.assert_allclose(
        outputs["logits"], ops.convert_to_numpy(expected), atol=1e-4
    )
    other = {**inputs, "low_res_ids": inputs["low_res_ids"][::-1].copy()}
    changed = arrays(trainer(tensors(other), training=True))["logits"]
    assert np.abs(changed - outputs["logits"]).max() > 1e-3


def test_training_moves_the_low_res_embeddings(preprocessor):
    trainer = MuseMaskedImageModel(tiny_backbone(2), preprocessor, stage=1)
    trainer.compile(keras.optimizers.SGD(0.1))
    before = [w.copy() for w in trainer.backbone.get_weights()]
    tables = [w for w in trainer.transformer.weights if "low_res_embedding/" in w.path]
    assert len(tables) == 1
    table = ops.convert_to_numpy(tables[0]).copy()
    trainer.fit(batch(preprocessor, 8), batch_size=4, verbose=0)
    assert np.abs(ops.convert_to_numpy(tables[0]) - table).max() > 0
    base = tiny_backbone(2).transformers[0].get_weights()
    for a, b in zip(base, trainer.backbone.transformers[0].get_weights()):
        np.testing.assert_array_equal(a, b)
    assert len(before) == len(trainer.backbone.get_weights())


# --- The larger decoder -------------------------------------------------------------


def test_a_new_decoder_changes_pictures_and_no_token(muse):
    vqgan = muse.backbone.image_tokenizers[1]
    larger = vqgan.with_decoder(base_channels=8, num_residual_blocks=1)
    backbone = muse.backbone.replace_image_tokenizer(1, larger)
    other = MuseTextToImage(backbone, muse.preprocessor, muse.samplers)
    for a, b in zip(
        muse.generate_tokens(PROMPTS, None, SEEDS),
        other.generate_tokens(PROMPTS, None, SEEDS),
    ):
        np.testing.assert_array_equal(a, b)
    pictures = [m.generate(PROMPTS, seed=SEEDS) for m in (muse, other)]
    assert pictures[0].shape == pictures[1].shape
    assert np.any(pictures[0] != pictures[1])


@pytest.mark.parametrize(
    "quantizer, message",
    [
        (VectorQuantizer(32, 6), r"\(32, 8\): received \(32, 6\)"),
        (VectorQuantizer(64, 8), r"\(32, 8\): received \(64, 8\)"),
        (VectorQuantizer(32, 8), "with other codes"),
    ],
    ids=["width", "number", "codes"],
)
def test_a_decoder_of_other_codes_is_refused(muse, quantizer, message):
    options = muse.backbone.image_tokenizers[1].get_config()
    vqgan = VQGAN.from_config({**options, "quantizer": quantizer})
    with pytest.raises(ValueError, match=message):
        muse.backbone.replace_image_tokenizer(1, vqgan)


def test_stages_that_do_not_fit_are_refused():
    backbone = tiny_backbone(2)
    encoder, (base, fine) = backbone.text_encoder, backbone.stages

    def changed(**changes):
        kind = type(fine.transformer)
        config = {**fine.transformer.get_config(), **changes}
        return (fine.image_tokenizer, kind.from_config(config))

    for stages, message in (
        ([fine], r"`stages\[0\]` must not need low-res tokens"),
        ([base, base], r"`stages\[1\]` must take the tokens of the stage before"),
        (
            [base, changed(low_res_codebook_size=16)],
            "`low_res_codebook_size` of .* has, 32: received 16",
        ),
        (
            [base, changed(low_res_grid_size=(2, 8))],
            r"`low_res_grid_size` of .* has, \(4, 4\): received \(2, 8\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            MuseBackbone(encoder, stages)
