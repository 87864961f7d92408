"""Killed at any moment, a training goes on as if nothing had happened."""

import errno
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_muse import data
from keras_muse.data.order import Order
from keras_muse.image_tokenizer import VQGANTrainer
from keras_muse.models import MuseMaskedImageModel
from keras_muse.recipes import checkpoints as module
from keras_muse.recipes.checkpoints import Checkpoints, LossNotFinite, training_state
from tests.tools import only_on, tiny_backbone, tiny_preprocessor

STEPS, ROWS = 3, 4


class Tokens:
    """Records without a file."""

    captions = True
    signature = {"image_ids": ((16,), "int32"), "captions": ((), str)}

    def __len__(self):
        return 10

    def key(self, index):
        return str(index)

    def load(self, index, random):
        ids = np.random.default_rng(index).integers(0, 32, 16, "int32")
        return {"image_ids": ids, "captions": ("a red circle", "a square")[index % 2]}


def make_trainer():
    trainer = MuseMaskedImageModel(tiny_backbone(), tiny_preprocessor(), seed=3)
    trainer.compile(
        keras.optimizers.AdamW(1e-2, use_ema=True, gradient_accumulation_steps=2)
    )
    return trainer


def fit(folder, epochs, trainer=None, **settings):
    """(trainer, checkpoints) after as many epochs, those on disk among them."""
    trainer = make_trainer() if trainer is None else trainer
    checkpoints = Checkpoints(folder, **settings)
    done = checkpoints.restore(trainer)
    batches = data.tf_batches(Tokens(), ROWS, start=done * STEPS * ROWS, num_threads=1)
    trainer.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=STEPS,
        initial_epoch=done,
        callbacks=[checkpoints],
        shuffle=False,
        verbose=0,
    )
    return trainer, checkpoints


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Four epochs without a stop."""
    return fit(tmp_path_factory.mktemp("unbroken"), 4)


def values(trainer):
    return [keras.ops.convert_to_numpy(v) for v in training_state(trainer).values()]


def assert_same(run, unbroken):
    assert run[1].history == unbroken[1].history
    for left, right in zip(values(run[0]), values(unbroken[0]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_it_goes_on_where_it_was(tmp_path, unbroken):
    fit(tmp_path, 1)
    fit(tmp_path, 3)
    assert_same(fit(tmp_path, 4), unbroken)
    # Done is done.
    assert_same(fit(tmp_path, 4), unbroken)


def test_a_truncated_checkpoint(tmp_path, unbroken):
    _, checkpoints = fit(tmp_path, 3)
    last = checkpoints.paths()[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    with pytest.warns(UserWarning) as warned:
        run = fit(tmp_path, 4)
    (message,) = (str(w.message) for w in warned if "checkpoint" in str(w.message))
    assert f"epoch-000003.h5' is truncated: it has {len(whole) - 100} bytes" in message
    assert message.endswith("The one before it is used.")
    assert_same(run, unbroken)


def test_a_damaged_checkpoint(tmp_path):
    _, checkpoints = fit(tmp_path, 2)
    for path in checkpoints.paths():
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    with pytest.warns(UserWarning, match="is damaged: its SHA-256"):
        with pytest.raises(ValueError, match="None of the checkpoints of .* is whole"):
            Checkpoints(tmp_path).restore(make_trainer())


def test_a_full_disk(tmp_path, unbroken, monkeypatch):
    fit(tmp_path, 2)
    write = module.save_variables

    def full(path, variables):
        with open(path, "w") as file:
            file.write("the first bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_variables", full)
    with pytest.raises(OSError) as error:
        fit(tmp_path, 4)
    assert error.value.errno == errno.ENOSPC
    assert "The checkpoint was not written" in str(error.value)
    assert "No space left on device" in str(error.value)
    assert "The last good checkpoint is" in str(error.value)
    assert "epoch-000002.h5" in str(error.value)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(module, "save_variables", write)
    assert_same(fit(tmp_path, 4), unbroken)


def test_a_loss_that_is_not_finite(tmp_path):
    fit(tmp_path, 1)
    trainer = make_trainer()
    Checkpoints(tmp_path).restore(trainer)
    trainer.transformer.weights[0].assign(
        np.full(trainer.transformer.weights[0].shape, np.nan)
    )
    checkpoints = Checkpoints(tmp_path)
    batches = data.tf_batches(Tokens(), ROWS, num_threads=1)
    with pytest.raises(LossNotFinite) as error:
        trainer.fit(
            batches,
            steps_per_epoch=1,
            epochs=2,
            initial_epoch=1,
            callbacks=[checkpoints],
            shuffle=False,
            verbose=0,
        )
    assert "loss" in str(error.value) and "epoch 1 is not finite" in str(error.value)
    assert "Lower the learning rate" in str(error.value)
    assert "epoch-000001.h5" in str(error.value)
    assert [path.name for path in checkpoints.paths()] == ["epoch-000001.h5"]
    # Also if no loss has seen it yet.
    checkpoints.set_model(trainer)
    with pytest.raises(LossNotFinite, match=r"embeddings of epoch 1 is not finite"):
        checkpoints.on_epoch_end(1, {"loss": 1.0})


def test_frozen_parts_are_not_written():
    trainer = make_trainer()
    written = {id(variable) for variable in training_state(trainer).values()}
    wanted = [*trainer.transformer.variables, *trainer.optimizer.variables]
    assert {id(v) for v in wanted} | {id(trainer.steps)} == written
    for part in (trainer.text_encoder, trainer.image_tokenizer):
        assert not written & {id(v) for v in part.variables}


def test_a_tokenizer_goes_on(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), "uint8")

    def run(folder, epochs):
        trainer = VQGANTrainer(tiny_backbone().image_tokenizers[0])
        trainer.compile(keras.optimizers.Adam(1e-2))
        checkpoints = Checkpoints(folder)
        done = checkpoints.restore(trainer)
        for epoch in range(done, epochs):
            rows = images[8 * epoch : 8 * epoch + 8]
            trainer.fit(
                rows,
                batch_size=4,
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[checkpoints],
                shuffle=False,
                verbose=0,
            )
        return trainer, checkpoints

    run(tmp_path / "part", 1)
    assert_same(run(tmp_path / "part", 3), run(tmp_path / "whole", 3))


def test_which_are_kept(tmp_path):
    _, checkpoints = fit(tmp_path, 7, keep=2, keep_every=3)
    assert [int(path.stem[-6:]) for path in checkpoints.paths()] == [3, 6, 7]
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(ValueError, match="`keep` must be at least 1: received 0"):
        Checkpoints(tmp_path, keep=0)


def test_an_average_over_checkpoints(tmp_path):
    trainer, checkpoints = fit(tmp_path, 7, keep=2, keep_every=2)
    before = []
    # The seventh epoch is there as well, and is not as far from the sixth.
    for path in checkpoints.paths()[:-1]:
        module.load_variables(path, training_state(trainer))
        weights = trainer.trainable_weights
        before.append([keras.ops.convert_to_numpy(w) for w in weights])
    frozen = [keras.ops.convert_to_numpy(w) for w in trainer.text_encoder.weights]
    # Another optimizer will do.
    other = make_trainer()
    other.compile("sgd")
    assert module.average_checkpoints(tmp_path, other, 2, decay=0.7) == [2, 4, 6]
    for found, *values in zip(other.trainable_weights, *before, strict=True):
        weights = (0.7**2, 0.3 * 0.7, 0.3)
        expected = sum(w * value for w, value in zip(weights, values))
        found = keras.ops.convert_to_numpy(found)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for found, expected in zip(other.text_encoder.weights, frozen):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), expected)
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\): received 1"):
        module.average_checkpoints(tmp_path, other, 2, decay=1.0)
    with pytest.raises(ValueError, match="must have at least two checkpoints"):
        module.average_checkpoints(tmp_path / "none", other, 1)


def test_other_settings_and_models(tmp_path):
    fit(tmp_path, 1, settings={"learning_rate": 0.1, "shape": (1, 2)})
    with pytest.raises(ValueError) as error:
        fit(tmp_path, 2, settings={"learning_rate": 0.2, "shape": (1, 2)})
    assert "other settings, learning_rate: 0.1 there and 0.2 now" in str(error.value)
    trainer = make_trainer()
    trainer.compile("sgd")
    settings = {"learning_rate": 0.1, "shape": (1, 2)}
    with pytest.raises(ValueError, match="is a checkpoint of another model: it has"):
        fit(tmp_path, 2, trainer, settings=settings)


SCRIPT = """
import sys, time
from tests.recipes import test_checkpoints as tests
class Slow(tests.Tokens):
    def load(self, index, random):
        time.sleep(0.01)
        return super().load(index, random)
tests.Tokens = Slow
tests.fit(sys.argv[1], 12)
"""


@pytest.mark.slow
@only_on("torch", "about files and processes")
def test_kill_9_at_any_moment(tmp_path, unbroken):
    def start():
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])

    process = start()
    while process.poll() is None and len(Checkpoints(tmp_path).paths()) < 2:
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start().wait() == 0
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(make_trainer()) == 12
    assert checkpoints.history[:4] == unbroken[1].history
    assert [row["epoch"] for row in checkpoints.history] == list(range(1, 13))


def test_the_order_of_the_data_is_that_of_the_stream():
    # What the tests above rely on: epochs of the training are not those of the data.
    assert STEPS * ROWS != len(Tokens())
    assert sorted(Order(10)[i] for i in range(10)) == list(range(10))
