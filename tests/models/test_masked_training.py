"""Training with `fit`: what learns, what stays, what the logs say, how it resumes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_muse.models import MuseMaskedImageModel, MuseTextToImage
from keras_muse.recipes import overfit_one_batch
from tests.tools import only_on, tiny_backbone, tiny_preprocessor

CAPTIONS = ["a red circle", "a blue square on white", "green", "a circle on black"]


def data(count, seed=0, size=32):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    images = np.repeat(np.repeat(coarse, size // 4, axis=1), size // 4, axis=2)
    captions = np.array([CAPTIONS[i % 4] for i in range(count)])
    return {"images": images.astype("uint8"), "captions": captions}


def make_trainer(num_stages=1, dtype=None, learning_rate=0.05, **kwargs):
    backbone = tiny_backbone(num_stages, dtype=dtype)
    trainer = MuseMaskedImageModel(backbone, tiny_preprocessor(), **kwargs)
    trainer.compile(keras.optimizers.SGD(learning_rate))
    return trainer


def weights_of(backbone):
    parts = [backbone.text_encoder, *backbone.image_tokenizers, *backbone.transformers]
    return {part.name: part.get_weights() for part in parts}


def changed(before, after):
    return {
        name
        for name in before
        if any(np.any(a != b) for a, b in zip(before[name], after[name]))
    }


def test_frozen_parts_of_a_saved_muse_do_not_decay():
    # On JAX an unused weight has a gradient of zero, and decay would still shrink it.
    frozen = make_trainer().backbone
    backbone = type(frozen).from_config(frozen.get_config())
    backbone.set_weights(frozen.get_weights())
    trainer = MuseMaskedImageModel(backbone, tiny_preprocessor())
    trainer.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.5))
    before = weights_of(backbone)
    trainer.fit(data(8), batch_size=4, verbose=0)
    assert changed(before, weights_of(backbone)) == {"transformer_0"}


@pytest.mark.parametrize(
    "arguments, trained",
    [
        ({}, {"transformer_0"}),
        ({"train_text_encoder": True}, {"transformer_0", "text_encoder"}),
        ({"num_stages": 2, "stage": 1}, {"transformer_1"}),
    ],
    ids=["base", "text_encoder", "second_stage"],
)
def test_only_what_should_learn_changes(arguments, trained):
    trainer = make_trainer(**arguments)
    before = weights_of(trainer.backbone)
    trainer.fit(data(8), batch_size=4, epochs=2, verbose=0, shuffle=False)
    assert changed(before, weights_of(trainer.backbone)) == trained
    assert int(ops.convert_to_numpy(trainer.steps)) == 4
    after = trainer.transformer.get_weights()
    assert all(np.any(a != b) for a, b in zip(before[trainer.transformer.name], after))


@only_on("tensorflow", "about graphs of TensorFlow")
def test_a_step_is_traced_once():
    # Were the optimizer built in the first step, it would be traced again.
    trainer, traced = make_trainer(), []
    step = trainer.train_step
    trainer.train_step = lambda *args: traced.append(args) or step(*args)
    trainer.fit(data(8), batch_size=4, epochs=2, verbose=0)
    assert len(traced) == 1


def test_steps_are_the_same_on_every_backend(parity):
    trainer = make_trainer(
        train_text_encoder=True, caption_dropout=0.3, learning_rate=0.02
    )
    inputs = data(8)
    captions = [str(caption) for caption in inputs.pop("captions")]
    rows = trainer.preprocessor.generate_preprocess(captions)
    inputs.update({name: ops.convert_to_numpy(x) for name, x in rows.items()})
    logs = [trainer.train_on_batch(inputs, return_dict=True) for _ in range(4)]
    parity("training_losses", [float(log["loss"]) for log in logs], atol=1e-4)
    embeddings = trainer.backbone.text_encoder.token_embedding.embeddings
    parity("training_text", ops.convert_to_numpy(embeddings), atol=1e-4)


def test_a_step_forgets_the_gradients_of_the_last():
    """On torch two weights of one name shared a place, and one was never cleared."""
    trainer = make_trainer(train_text_encoder=True, learning_rate=0.0)
    inputs = data(4)
    rows = trainer.preprocessor.generate_preprocess(CAPTIONS)
    inputs = {"images": inputs["images"]} | {
        name: ops.convert_to_numpy(value) for name, value in rows.items()
    }
    trainer.train_on_batch(inputs)
    trainer.optimizer.learning_rate = 1.0
    changes = []
    for _ in range(2):
        weights = trainer.backbone.get_weights()
        trainer.steps.assign(5)
        trainer.train_on_batch(inputs)
        changes.append([a - b for a, b in zip(trainer.backbone.get_weights(), weights)])
        trainer.backbone.set_weights(weights)
    for first, second in zip(*changes):
        np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-5)


def test_a_dataset_of_captions():
    arrays, dataset = make_trainer(), make_trainer()
    inputs = data(8)
    history = arrays.fit(inputs, batch_size=4, verbose=0, shuffle=False)
    pictures = tf.data.Dataset.from_tensor_slices(inputs).batch(4)
    other = dataset.fit(pictures, verbose=0)
    np.testing.assert_allclose(history.history["loss"], other.history["loss"], 1e-5)


def test_evaluation_does_not_depend_on_the_batch():
    trainer = make_trainer()
    inputs = data(7)
    logs = [
        trainer.evaluate(inputs, batch_size=size, verbose=0, return_dict=True)
        for size in (7, 7, 2)
    ]
    assert logs[0] == logs[1]
    for name, value in logs[0].items():
        np.testing.assert_allclose(logs[2][name], value, rtol=1e-4, err_msg=name)
    assert int(ops.convert_to_numpy(trainer.steps)) == 0


def test_what_the_logs_show_adds_up():
    trainer = make_trainer()
    inputs = data(24)
    logs = trainer.evaluate(inputs, batch_size=5, verbose=0, return_dict=True)
    outputs = trainer.predict(inputs, batch_size=24, verbose=0)
    mask, logits = outputs["mask"], outputs["logits"].astype("float64")
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, outputs["image_ids"][..., None], -1)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - chosen
    correct = logits.argmax(-1) == outputs["image_ids"]
    np.testing.assert_allclose(logs["loss"], losses[mask].mean(), rtol=1e-4)
    np.testing.assert_allclose(logs["accuracy"], correct[mask].mean(), rtol=1e-4)
    rate = mask.mean(1)
    for low in (0.0, 0.25, 0.5, 0.75):
        rows = (rate > low) & (rate <= low + 0.25)
        inside = mask & rows[:, None]
        bucket = f"{low:.2f}_{low + 0.25:.2f}"
        for name, values in (("loss", losses), ("accuracy", correct)):
            expected = values[inside].mean() if rows.any() else 0.0
            np.testing.assert_allclose(
                logs[f"{name}_{bucket}"], expected, rtol=1e-4, atol=1e-6
            )
    assert logs["dropped_captions"] == 0.0
    assert len(logs) == 11


def test_compiling_twice_keeps_one_set_of_metrics():
    trainer = make_trainer()
    names = [metric.name for metric in trainer.metrics]
    trainer.compile("sgd")
    assert [metric.name for metric in trainer.metrics] == names
    assert names.count("accuracy") == 1


def test_the_default_optimizer_is_the_paper_s():
    trainer = MuseMaskedImageModel(tiny_backbone())
    optimizer = trainer.optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.9, 0.96)
    assert optimizer.weight_decay == 0.045


def test_mixed_precision_trains():
    trainer = make_trainer(dtype="mixed_bfloat16", train_text_encoder=True)
    history = trainer.fit(data(8), batch_size=8, epochs=8, verbose=0).history["loss"]
    assert all(map(math.isfinite, history))
    assert np.mean(history[-3:]) < np.mean(history[:3])
    for part in (trainer.transformer, trainer.backbone.text_encoder):
        assert {str(w.dtype) for w in part.weights} == {"float32"}


class Stop(keras.callbacks.Callback):
    """Ends a training the hard way."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_resumed_training_is_the_unbroken_one(tmp_path):
    inputs = data(8)

    def fit(folder, *callbacks):
        trainer = MuseMaskedImageModel(
            tiny_backbone(), tiny_preprocessor(), train_text_encoder=True
        )
        trainer.compile(keras.optimizers.AdamW(0.01))
        backup = keras.callbacks.BackupAndRestore(
            str(tmp_path / folder), delete_checkpoint=False
        )
        history = trainer.fit(
            inputs,
            batch_size=4,
            epochs=4,
            verbose=0,
            shuffle=False,
            callbacks=[backup, *callbacks],
        )
        return trainer, history.history

    unbroken, expected = fit("unbroken")
    with pytest.raises(KeyboardInterrupt):
        fit("broken", Stop())
    resumed, history = fit("broken")
    assert int(ops.convert_to_numpy(resumed.steps)) == 8
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[name][2:], rtol=1e-5, err_msg=name)
    for a, b in zip(unbroken.backbone.get_weights(), resumed.backbone.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_preset_of_a_training_goes_on_and_generates(tmp_path):
    trainer = make_trainer(seed=3)
    trainer.fit(data(4), batch_size=2, verbose=0)
    trainer.save_to_preset(str(tmp_path))
    loaded = MuseMaskedImageModel.from_preset(str(tmp_path))
    assert loaded.seed == 3
    assert int(ops.convert_to_numpy(loaded.steps)) == 2
    for a, b in zip(trainer.backbone.get_weights(), loaded.backbone.get_weights()):
        np.testing.assert_array_equal(a, b)
    muse = MuseTextToImage.from_preset(str(tmp_path))
    assert muse.generate("a red circle", num_steps=2, seed=1).shape == (32, 32, 3)


def one_batch(trainer):
    """Four captions, each four times, each with tokens of its own."""
    rng = np.random.default_rng(0)
    rows = trainer.preprocessor.generate_preprocess(CAPTIONS * 4)
    inputs = {name: ops.convert_to_numpy(value) for name, value in rows.items()}
    inputs["image_ids"] = np.tile(rng.integers(0, 32, (4, 16)), (4, 1)).astype("int32")
    return inputs


@pytest.mark.slow
def test_it_learns_one_batch_by_heart(capsys):
    trainer = make_trainer(train_text_encoder=True, caption_dropout=0.0)
    trainer.compile(keras.optimizers.Adam(5e-3, global_clipnorm=1.0))
    inputs = one_batch(trainer)
    losses = overfit_one_batch(trainer, inputs, steps=400)
    assert losses[-1] < 0.05 < losses[0] < math.log(32)
    assert f"{50 * len(losses)} steps: {losses[-1]:.4f} nats" in capsys.readouterr().out
    # With nothing but the text.
    assert trainer.evaluate(inputs, verbose=0, return_dict=True)["accuracy"] > 0.98


def test_what_cannot_be_learned_by_heart_is_said():
    trainer = make_trainer(caption_dropout=0.0, learning_rate=1e-5)
    with pytest.warns(UserWarning, match="was not learned by heart: its loss is .* 4"):
        overfit_one_batch(trainer, one_batch(trainer), steps=4, every=2, verbose=0)
    with pytest.raises(ValueError, match="must have caption_dropout=0.*received 0.1"):
        overfit_one_batch(make_trainer(), {})
    with pytest.raises(ValueError, match="must be positive: received 0, 50, 0.05"):
        overfit_one_batch(trainer, {}, steps=0)


@pytest.mark.parametrize("text, stage", [(True, 0), (True, 1), (False, 1)])
def test_remat_changes_nothing_but_memory(text, stage):
    inputs, trained = data(4), []
    if not text:
        del inputs["captions"]
    for remat in (False, True):
        backbone = tiny_backbone(2, text=text)
        trainer = MuseMaskedImageModel(
            backbone, tiny_preprocessor() if text else None, stage=stage, remat=remat
        )
        trainer.compile(keras.optimizers.SGD(0.05))
        assert trainer.transformer.remat == remat
        history = trainer.fit(inputs, batch_size=4, epochs=2, verbose=0, shuffle=False)
        trained.append((history.history["loss"], trainer.transformer.get_weights()))
    np.testing.assert_allclose(*(losses for losses, _ in trained), rtol=1e-5)
    for a, b in zip(*(weights for _, weights in trained)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_remat_would_drop_other_units():
    backbone = tiny_backbone()
    backbone.transformers[0].dropout = 0.1
    with pytest.raises(ValueError, match="`remat` must be False.*dropout of 0.1"):
        MuseMaskedImageModel(backbone, remat=True)
