"""What `distribute` refuses, and what a step sees of its replicas."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_muse import distribution
from keras_muse.recipes import config
from tests.distribution import worker
from tests.recipes.test_config import CONFIG
from tests.tools import only_on, tiny_backbone

BACKEND = keras.config.backend()


@pytest.fixture(autouse=True)
def one_device_again():
    yield
    distribution.distribute(None)


def test_one_device_is_the_default():
    devices = distribution.current()
    assert devices.shard == (0, 1) and devices.num_replicas == 1
    assert devices.is_chief and devices.rows(6) == 6
    assert distribution.replica() == (0, 1) and distribution.first_row(4) == 0
    value = ops.ones((2,))
    assert distribution.mean(value) is value


def test_rows_are_equal_parts():
    devices = distribution.current()
    devices.num_replicas, devices.shard = 4, (1, 2)
    try:
        assert devices.rows(8) == 4 and not devices.is_chief
        with pytest.raises(ValueError, match="multiple of the 4 replicas: received 6"):
            devices.rows(6)
    finally:
        del devices.num_replicas, devices.shard


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "all"}, "`kind` must be 'data', 'model', 'tpu' or None: rec.*'all'"),
        ({"kind": "data", "model_shards": 2}, "are for kind='model'.*model_shards=2"),
        ({"kind": "tpu", "layout": {}}, "are for kind='model'.*kind='tpu'"),
        ({"kind": "data", "tpu": "mine"}, "`tpu` is for kind='tpu'.*tpu=mine"),
        ({"kind": "tpu", "devices": ["a"]}, r"`devices` must be None.*received \['a'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        distribution.distribute(**arguments)
    assert distribution.current().num_replicas == 1


def test_processes_that_know_nothing_of_each_other_are_refused(monkeypatch, tmp_path):
    assert distribution.launched_processes() == 1
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    assert distribution.launched_processes() == 2
    (tmp_path / "muse.toml").write_text(CONFIG)
    with pytest.raises(ValueError, match="one of 2 processes .* needs .devices."):
        config.train(tmp_path / "muse.toml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has model parallelism")
def test_model_parallelism_needs_jax():
    with pytest.raises(ValueError, match=f"needs the JAX backend.*{BACKEND}"):
        distribution.distribute("model")


@only_on("torch", "is started by torchrun")
def test_a_process_of_pytorch_must_be_one_of_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="Start this with `torchrun"):
        distribution.distribute("data")
    with pytest.raises(ValueError, match="`devices` must be None on PyTorch"):
        distribution.distribute("data", devices=["cuda:0"])


def test_every_rule_of_the_layout_is_about_both_transformers():
    backbone = tiny_backbone(2)
    for transformer in backbone.transformers:
        layout = distribution.transformer_layout()
        distribution.check_layout(layout, transformer.variables)
        cut = {
            variable.path
            for variable in transformer.variables
            for rule in layout
            if distribution.layouts.re.fullmatch(rule, variable.path)
        }
        # Nothing that has a width and is not an embedding or a norm is whole.
        whole = [v for v in transformer.variables if v.path not in cut]
        assert all(
            v.path.split("/")[0] in ("head_dense", "text_projection")
            or len(v.shape) != 2
            or "embedding" in v.path
            for v in whole
        ), [v.path for v in whole]
        # One rule for each, or Keras raises.
        assert not any(
            sum(bool(distribution.layouts.re.fullmatch(r, v.path)) for r in layout) > 1
            for v in transformer.variables
        )


def test_a_rule_that_matches_nothing_is_an_error():
    transformer = tiny_backbone().transformers[0]
    # What Keras takes without a word: it holds a rule against the whole path.
    layout = {**distribution.transformer_layout(), "query.*kernel": (None, "model")}
    with pytest.raises(ValueError) as error:
        distribution.check_layout(layout, transformer.variables)
    assert "'query.*kernel'" in str(error.value)
    assert "matches no variable" in str(error.value)
    assert "'block_0/self_attention_memory/value/kernel'" in str(error.value)


@only_on("jax", "JAX alone has layouts")
def test_a_wrong_rule_stops_the_training_before_it_begins():
    layout = {"block_0/mlp/wide/kernel": (None, "model")}
    distribution.distribute("model", layout=layout)
    trainer = worker.make_muse()
    batches = worker.own_part(worker.tokens(), distribution.current())
    with pytest.raises(ValueError, match="block_0/mlp/wide/kernel.*matches no varia"):
        trainer.fit(batches, steps_per_epoch=1, verbose=0)
    assert int(ops.convert_to_numpy(trainer.steps)) == 0


@only_on("jax", "JAX alone has layouts")
def test_model_shards_divide_the_devices():
    with pytest.raises(ValueError, match="`model_shards` must divide.*received 7"):
        distribution.distribute("model", model_shards=7)


@only_on("tensorflow", "of TensorFlow's loop")
class TestTensorFlow:
    """The loop under a strategy, and the step of a TPU."""

    def test_a_step_compiles_with_xla(self):
        import tensorflow as tf

        # What a TPU needs: static shapes, no strings, nothing of Python.
        for make, data in worker.PARTS.values():
            trainer = make()
            trainer.optimizer.build(trainer.trainable_variables)
            step = tf.function(trainer.train_step, jit_compile=True)
            batch = {name: tf.constant(v[0]) for name, v in data().items()}
            before = [v.numpy() for v in trainer.trainable_variables]
            logs = step((batch,))
            assert np.isfinite(float(logs["loss"]))
            after = [v.numpy() for v in trainer.trainable_variables]
            assert sum(np.any(a != b) for a, b in zip(before, after)) > 20

    def test_a_strategy_of_one_device(self):
        import tensorflow as tf

        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            trainer = worker.make_vqgan()
        # By the loop of Keras, with an optimizer that is built under the strategy.
        images = worker.images()["images"][0]
        history = trainer.fit(images, batch_size=4, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_it_says_what_it_cannot_take(self):
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            trainer = worker.make_muse()
        from keras_muse.distribution import on_tensorflow

        arrays = {name: value[0] for name, value in worker.tokens().items()}
        with pytest.raises(ValueError, match="must come from a `tf.data.Dataset`"):
            on_tensorflow.fit(trainer, arrays)
        data = tf.data.Dataset.from_tensor_slices(arrays).batch(4)
        with pytest.raises(ValueError, match="`class_weight` cannot be given"):
            on_tensorflow.fit(trainer, data, class_weight={0: 1.0})
        with pytest.raises(ValueError, match="ended after 2 steps: it must have 3"):
            on_tensorflow.fit(trainer, data, steps_per_epoch=3, verbose=0)
        trainer.optimizer.gradient_accumulation_steps = 2
        with pytest.raises(ValueError, match="must be None under.*received 2"):
            on_tensorflow.fit(trainer, data)
        trainer.optimizer.gradient_accumulation_steps = None
        history = on_tensorflow.fit(
            trainer, data, epochs=2, validation_data=data, verbose=0
        ).history
        assert len(history["loss"]) == len(history["val_loss"]) == 2
        results = on_tensorflow.evaluate(trainer, data, return_dict=True)
        assert results["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
