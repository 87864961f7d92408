"""The training of a critic: what it sees, what the loss is, what learns."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.decoding import mask_rate, uniform
from keras_muse.models import MuseMaskedImageModel, MuseTokenCriticModel
from tests.decoding import reference
from tests.tools import tiny_backbone, tiny_critic, tiny_preprocessor

CAPTIONS = ["a red circle", "a blue square on white", "green", "a circle on black"]


def make_trainer(seed=0, **options):
    backbone = tiny_critic(tiny_backbone())
    trainer = MuseTokenCriticModel(backbone, tiny_preprocessor(), seed=seed, **options)
    trainer.compile(keras.optimizers.Adam(0.02))
    return trainer


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


def batch(trainer, count, seed=0):
    """Random tokens and captions, preprocessed."""
    rng = np.random.default_rng(seed)
    captions = [CAPTIONS[i % 4] for i in range(count)]
    text = arrays(trainer.preprocessor.generate_preprocess(captions))
    return {"image_ids": rng.integers(0, 32, (count, 16)).astype("int32"), **text}


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


def noise(count, stream, width, step=0):
    rows = ops.arange(count, dtype="int32")
    return ops.convert_to_numpy(uniform(rows, 0, step, stream, width))


def test_the_critic_sees_what_the_transformer_draws(trainer, parity):
    inputs = batch(trainer, 12)
    outputs = arrays(trainer(inputs, training=True))
    mask, ids = outputs["mask"], inputs["image_ids"]
    rates = ops.convert_to_numpy(mask_rate(noise(12, 0, 1)))[:, 0]
    np.testing.assert_array_equal(mask.sum(1), np.maximum(np.round(rates * 16), 1))
    order = noise(12, 1, 16)
    assert all(o[m].max() < o[~m].min() for o, m in zip(order, mask) if not m.all())

    backbone = trainer.backbone
    text = tensors({name: inputs[name] for name in ("token_ids", "padding_mask")})
    embeddings = backbone.text_encoder(text)
    known = {"text_embeddings": embeddings, "padding_mask": text["padding_mask"]}
    masked = np.where(mask, 32, ids).astype("int32")
    logits = backbone.transformers[0]({**known, **tensors({"image_ids": masked})})
    logits = ops.convert_to_numpy(logits)
    draws, expected = noise(12, 2, 16), ids.copy()
    for row, position in zip(*np.nonzero(mask)):
        probabilities = reference.filter_logits(logits[row, position])
        expected[row, position] = reference.draw(probabilities, draws[row, position])
    np.testing.assert_array_equal(outputs["image_ids"], expected)
    # Some draws are by chance what the picture has, and are draws all the same.
    assert np.any(mask & (expected == ids))

    judged = backbone.critics[0]({**known, **tensors({"image_ids": expected})})
    np.testing.assert_allclose(
        outputs["logits"], ops.convert_to_numpy(judged), rtol=1e-4, atol=1e-4
    )
    parity("critic_training_ids", outputs["image_ids"])


def test_loss_and_logs(trainer):
    inputs = batch(trainer, 12)
    outputs = arrays(trainer(inputs, training=False))
    logits, own = outputs["logits"].astype("float64"), ~outputs["mask"]
    losses = np.log1p(np.exp(np.where(own, -logits, logits)))
    logs = trainer.evaluate(inputs, batch_size=12, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    assert logs["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert logs["accuracy"] == pytest.approx(np.mean((logits > 0) == own), rel=1e-5)
    # What is drawn of a picture does not depend on the batch or the step.
    other = trainer.evaluate(inputs, batch_size=5, verbose=0, return_dict=True)
    for name, value in logs.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5)
    loss = trainer.compute_loss(y_pred=tensors(outputs), training=False)
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(losses.mean(), rel=1e-5)


def test_the_critic_alone_learns(parity):
    trainer = make_trainer()
    trainer.compile(keras.optimizers.AdamW(0.02, weight_decay=0.5))
    before = [part.get_weights() for part in trainer.parts]
    # Pictures of one token, which the transformer does not know.
    inputs = {**batch(trainer, 16), "image_ids": np.full((16, 16), 3, "int32")}
    logs = [trainer.train_on_batch(inputs, return_dict=True) for _ in range(25)]
    assert int(ops.convert_to_numpy(trainer.steps)) == 25
    parity("critic_losses", [float(log["loss"]) for log in logs[:4]], atol=1e-4)
    for part, weights in zip(trainer.parts, before):
        changed = [np.any(a != b) for a, b in zip(part.get_weights(), weights)]
        assert any(changed) == (part is trainer.critic), part.name
    logs = trainer.evaluate(inputs, batch_size=16, verbose=0, return_dict=True)
    assert logs["accuracy"] > 0.9


def test_the_training_of_the_transformer_leaves_the_critic():
    backbone = tiny_critic(tiny_backbone())
    trainer = MuseMaskedImageModel(backbone, tiny_preprocessor())
    trainer.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.5))
    before = backbone.critics[0].get_weights()
    base = backbone.transformers[0].get_weights()
    trainer.train_on_batch(batch(trainer, 4))
    for ours, theirs in zip(before, backbone.critics[0].get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    after = backbone.transformers[0].get_weights()
    assert any(np.any(a != b) for a, b in zip(base, after))


def test_captions_and_pictures():
    trainer = make_trainer()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    inputs = {"images": images, "captions": np.array(CAPTIONS)}
    history = trainer.fit(inputs, batch_size=4, verbose=0)
    assert set(history.history) == {"loss", "accuracy"}


def test_labels():
    backbone = tiny_critic(tiny_backbone(text=False, num_classes=3))
    trainer = MuseTokenCriticModel(backbone)
    ids = np.random.default_rng(0).integers(0, 32, (2, 16)).astype("int32")
    inputs = {"image_ids": ids, "labels": np.array([0, 2], "int32")}
    assert trainer.predict_on_batch(inputs)["logits"].shape == (2, 16)


def test_config_round_trip(trainer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(trainer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert isinstance(copy, MuseTokenCriticModel)
    assert json.dumps(copy.get_config()) == json.dumps(trainer.get_config())
    assert copy.critic is copy.backbone.critics[0]


def test_what_cannot_be_trained(trainer):
    with pytest.raises(ValueError, match="`TokenCritic` at stage 0.*received None"):
        MuseTokenCriticModel(tiny_backbone())
    with pytest.raises(ValueError, match=r"`stage` must lie in \[0, 1\): received 1"):
        MuseTokenCriticModel(trainer.backbone, stage=1)
    with pytest.raises(ValueError, match="`loss` is fixed"):
        trainer.compile(loss="mse")
