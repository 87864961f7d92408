"""Masked modelling: what is masked, what is dropped, what the loss is."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import mask_rate, uniform
from keras_muse.models import MuseMaskedImageModel
from tests.tools import tiny_backbone, tiny_preprocessor

CAPTIONS = ["a red circle", "a blue square on white", "green", "a circle on black"]
ROWS = 4096


@pytest.fixture(scope="module")
def preprocessor():
    return tiny_preprocessor()


@pytest.fixture(scope="module")
def trainer(preprocessor):
    return MuseMaskedImageModel(tiny_backbone(), preprocessor, caption_dropout=0.3)


@pytest.fixture(scope="module")
def many(trainer, preprocessor):
    """The outputs of one training call on many rows, as numpy arrays."""
    inputs = batch(preprocessor, ROWS)
    outputs = trainer(tensors(inputs), training=True)
    return inputs, arrays(outputs)


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


def batch(preprocessor, count, seed=0):
    """Random tokens and captions, preprocessed."""
    rng = np.random.default_rng(seed)
    captions = [CAPTIONS[i] for i in rng.integers(0, len(CAPTIONS), count)]
    rows = arrays(preprocessor.generate_preprocess(captions))
    ids = rng.integers(0, 32, (count, 16)).astype("int32")
    return {"image_ids": ids, **rows}


def cross_entropy(logits, ids):
    logits = logits.astype("float64")
    logits = logits - logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(-1))
    return log_sum - np.take_along_axis(logits, ids[..., None], -1)[..., 0]


def rates(rows, seed=0, step=0):
    rows = ops.arange(rows, dtype="int32")
    return ops.convert_to_numpy(mask_rate(uniform(rows, seed, step, 0, 1)))[:, 0]


def test_mask_counts_follow_the_rate(many):
    _, outputs = many
    expected = np.maximum(np.round(rates(ROWS) * 16), 1)
    np.testing.assert_array_equal(outputs["mask"].sum(1), expected)
    # Every position is as likely as any other: 3 sigma of a share of 4096.
    share = outputs["mask"].mean(0)
    np.testing.assert_allclose(share, outputs["mask"].mean(), atol=3 * 0.5 / 64)


def test_moments_of_the_mask_rate(many):
    rate = np.concatenate([rates(ROWS, step=step) for step in range(16)])
    # Three sigma of a mean of 65536; the variance of r is .5 - .6366^2 = .0947 and
    # that of r^2 is 3/8 - 1/4.
    assert abs(rate.mean() - 2 / np.pi) < 3 * 0.0947**0.5 / 256
    assert abs((rate**2).mean() - 0.5) < 3 * 0.125**0.5 / 256


@pytest.mark.parametrize("low", [0.5, 1.0])
def test_low_mask_rates_are_raised(preprocessor, many, low):
    model = MuseMaskedImageModel(tiny_backbone(), preprocessor, min_mask_rate=low)
    inputs = {name: rows[:256] for name, rows in many[0].items()}
    counts = arrays(model(tensors(inputs), training=True))["mask"].sum(1)
    expected = np.round(np.maximum(rates(256), np.float32(low)) * 16)
    np.testing.assert_array_equal(counts, expected)


def test_token_weights_weigh_the_loss(preprocessor):
    model = MuseMaskedImageModel(tiny_backbone(), preprocessor)
    inputs = batch(preprocessor, 16)
    weights = np.random.default_rng(3).random((16, 16)).astype("float32")
    weights[0] = 0.0  # a row that counts nothing
    for given in (weights, None, np.zeros_like(weights)):
        rows = inputs if given is None else {**inputs, "token_weights": given}
        outputs = model(tensors(rows), training=True)
        model.steps.assign(0)
        loss = float(ops.convert_to_numpy(model.compute_loss(y_pred=outputs)))
        outputs = arrays(outputs)
        w = outputs["mask"] * (1.0 if given is None else given.astype("float64"))
        losses = cross_entropy(outputs["logits"], inputs["image_ids"])
        expected = (losses * w).sum() / max(w.sum(), 1e-9)
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_mask_depends_on_step_and_seed(preprocessor, many):
    inputs = batch(preprocessor, 32)
    masks = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        model = MuseMaskedImageModel(tiny_backbone(), preprocessor, seed=seed)
        model.steps.assign(step)
        masks.append(arrays(model(tensors(inputs), training=True))["mask"])
    np.testing.assert_array_equal(masks[0], many[1]["mask"][:32])
    assert np.any(masks[0] != masks[1]) and np.any(masks[0] != masks[2])


def test_the_share_of_dropped_captions(many):
    _, outputs = many
    sigma = (0.3 * 0.7 / ROWS) ** 0.5
    assert abs(outputs["dropped"].mean() - 0.3) < 3 * sigma
    # Whether a caption is dropped tells nothing of how much is masked.
    assert abs(np.corrcoef(outputs["dropped"], outputs["mask"].sum(1))[0, 1]) < 3 / 64


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_caption_or_every_caption_dropped(preprocessor, share):
    model = MuseMaskedImageModel(tiny_backbone(), preprocessor, caption_dropout=share)
    inputs = tensors(batch(preprocessor, 64))
    assert arrays(model(inputs, training=True))["dropped"].mean() == share
    assert not arrays(model(inputs, training=False))["dropped"].any()


@pytest.mark.parametrize("use_embeddings", [False, True])
def test_dropped_rows_read_the_null_caption(trainer, preprocessor, use_embeddings):
    inputs = batch(preprocessor, 64)
    backbone = trainer.backbone

    def embeddings(rows):
        rows = {name: rows[name] for name in ("token_ids", "padding_mask")}
        return backbone.text_encoder(tensors(rows))

    if use_embeddings:
        given = {**inputs, "text_embeddings": embeddings(inputs)}
        del given["token_ids"]
    else:
        given = inputs
    outputs = arrays(trainer(tensors(given), training=True))
    assert 0 < outputs["dropped"].sum() < 64
    null = arrays(preprocessor.generate_preprocess([""] * 64))
    ids = np.where(outputs["mask"], 32, inputs["image_ids"]).astype("int32")
    logits = [
        ops.convert_to_numpy(
            backbone.transformers[0](
                {
                    "image_ids": ops.convert_to_tensor(ids),
                    "text_embeddings": embeddings(rows),
                    "padding_mask": ops.convert_to_tensor(rows["padding_mask"]),
                }
            )
        )
        for rows in (inputs, null)
    ]
    own, dropped = logits
    expected = np.where(outputs["dropped"][:, None, None], dropped, own)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(own - dropped).max() > 0.1


def test_the_loss_is_the_cross_entropy_of_masked_tokens(trainer, many):
    _, outputs = many
    head = {name: value[:64] for name, value in outputs.items()}

    def loss(**changes):
        y_pred = tensors({**head, **changes})
        return float(
            ops.convert_to_numpy(trainer.compute_loss(y_pred=y_pred, training=False))
        )

    mask = head["mask"]
    expected = cross_entropy(head["logits"], head["image_ids"])[mask].mean()
    np.testing.assert_allclose(loss(), expected, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=head["logits"].shape)
    noise = noise.astype("float32")
    # What is not masked has no part in it, so it carries no gradient.
    unmasked = np.where(mask[..., None], 0.0, noise).astype("float32")
    assert loss(logits=head["logits"] + unmasked) == loss()
    assert loss(logits=head["logits"] + noise) != loss()


def test_labels(preprocessor):
    backbone = tiny_backbone(text=False, num_classes=3)
    model = MuseMaskedImageModel(backbone, caption_dropout=0.5)
    ids = np.random.default_rng(0).integers(0, 32, (64, 16)).astype("int32")
    labels = np.arange(64) % 3
    inputs = tensors({"image_ids": ids, "labels": labels.astype("int32")})
    outputs = arrays(model(inputs, training=True))
    read = np.where(outputs["dropped"], 3, labels)
    masked = np.where(outputs["mask"], 32, ids)
    expected = backbone.transformers[0](
        tensors({"image_ids": masked.astype("int32"), "labels": read.astype("int32")})
    )
    np.testing.assert_allclose(
        outputs["logits"], ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="must hold 'labels': received the keys"):
        model(tensors({"image_ids": ids}))


def test_no_condition():
    model = MuseMaskedImageModel(tiny_backbone(text=False))
    ids = np.random.default_rng(0).integers(0, 32, (8, 16)).astype("int32")
    outputs = arrays(model(tensors({"image_ids": ids}), training=True))
    assert outputs["logits"].shape == (8, 16, 32)


def test_every_kind_of_input_is_the_same_picture_and_text(trainer, preprocessor):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    pictures = {
        "uint8": {"images": images},
        "float": {"images": images.astype("float32") / 255.0},
        "ids": {
            "image_ids": ops.convert_to_numpy(trainer.image_tokenizer.encode(images))
        },
    }
    rows = arrays(preprocessor.generate_preprocess(CAPTIONS))
    embeddings = ops.convert_to_numpy(trainer.backbone.text_encoder(tensors(rows)))
    texts = {
        "captions": {"captions": np.array(CAPTIONS)},
        "token_ids": rows,
        "embeddings": {
            "text_embeddings": embeddings,
            "padding_mask": rows["padding_mask"],
        },
    }
    kinds = [("uint8", text) for text in texts] + [("float", "token_ids")]
    kinds += [("ids", "captions")]
    outputs = [
        trainer.predict({**pictures[p], **texts[t]}, verbose=0) for p, t in kinds
    ]
    for output in outputs[1:]:
        for name in ("image_ids", "mask"):
            np.testing.assert_array_equal(output[name], outputs[0][name])
        np.testing.assert_allclose(
            output["logits"], outputs[0]["logits"], rtol=1e-4, atol=1e-4
        )


def test_the_codebook_is_read_in_float32_under_every_policy(preprocessor):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, 32, 32, 3)).astype("float32")
    text = arrays(preprocessor.generate_preprocess([""] * 8))
    backbone = tiny_backbone(dtype="float32")
    expected = ops.convert_to_numpy(backbone.image_tokenizers[0].encode(images))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = MuseMaskedImageModel(backbone, preprocessor)
        outputs = arrays(model(tensors({"images": images, **text})))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(outputs["image_ids"], expected)
    assert outputs["logits"].dtype == np.float32


def test_config_round_trip(preprocessor):
    model = MuseMaskedImageModel(
        tiny_backbone(num_stages=2),
        preprocessor,
        stage=1,
        caption_dropout=0.25,
        train_text_encoder=True,
        seed=5,
        name="trainer",
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    copy = keras.saving.deserialize_keras_object(config)
    assert isinstance(copy, MuseMaskedImageModel)
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    assert (copy.stage, copy.caption_dropout, copy.seed) == (1, 0.25, 5)
    assert copy.train_text_encoder and copy.name == "trainer"
    assert copy.transformer is copy.backbone.transformers[1]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"token_ids": 0, "padding_mask": 0}, "must hold 'image_ids' or 'images'"),
        ({"image_ids": 0}, "'token_ids' and 'padding_mask' or 'text_embeddings' and "),
        ({"image_ids": 0, "token_ids": 0}, "received the keys .'image_ids', 'token_i"),
    ],
)
def test_missing_inputs(trainer, preprocessor, inputs, message):
    every = batch(preprocessor, 2)
    with pytest.raises(ValueError, match=message):
        trainer(tensors({name: every[name] for name in inputs}))


def test_bad_inputs(trainer, preprocessor):
    inputs = batch(preprocessor, 2)
    with pytest.raises(ValueError, match="must have 16 tokens at stage 0: received 15"):
        trainer(tensors({**inputs, "image_ids": inputs["image_ids"][:, :15]}))
    with pytest.raises(ValueError, match="`preprocessor` is needed to read `captions`"):
        MuseMaskedImageModel(trainer.backbone).preprocess_samples({"captions": ["a"]})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stage": 1}, r"`stage` must lie in \[0, 1\): received 1"),
        ({"stage": -1}, "received -1"),
        ({"caption_dropout": 1.1}, r"`caption_dropout` must lie in \[0, 1\].*1.1"),
        ({"caption_dropout": -0.1}, "received -0.1"),
        ({"min_mask_rate": 1.5}, r"`min_mask_rate` must lie in \[0, 1\].*1.5"),
    ],
)
def test_bad_arguments(trainer, arguments, message):
    with pytest.raises(ValueError, match=message):
        MuseMaskedImageModel(trainer.backbone, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"loss": "mse"}, {"metrics": ["mse"]}, {"weighted_metrics": ["mse"]}],
    ids=["loss", "metrics", "weighted_metrics"],
)
def test_loss_and_metrics_are_fixed(trainer, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` is fixed"):
        trainer.compile("sgd", **arguments)
