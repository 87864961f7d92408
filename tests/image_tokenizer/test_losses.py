import keras
import numpy as np
import pytest
from keras import ops

from keras_muse import image_tokenizer
from keras_muse.image_tokenizer.losses import frozen_call
from keras_muse.losses import Average
from tests.image_tokenizer.probes import gradient, images
from tests.tools import set_weights


def value(loss, y_true, y_pred):
    return float(loss(np.asarray(y_true, "float32"), np.asarray(y_pred, "float32")))


LOGITS = np.array([-2.0, -0.5, 0.5, 3.0])


def test_hinge():
    generator = image_tokenizer.HingeGeneratorLoss()
    discriminator = image_tokenizer.HingeDiscriminatorLoss()
    assert value(generator, LOGITS, LOGITS) == pytest.approx(-LOGITS.mean())
    real = np.maximum(0, 1 - LOGITS).mean()
    fake = np.maximum(0, 1 + LOGITS).mean()
    assert value(discriminator, np.ones(4), LOGITS) == pytest.approx(real)
    assert value(discriminator, np.zeros(4), LOGITS) == pytest.approx(fake)


def test_non_saturating():
    generator = image_tokenizer.NonSaturatingGeneratorLoss()
    discriminator = image_tokenizer.NonSaturatingDiscriminatorLoss()
    p = 1 / (1 + np.exp(-LOGITS))
    real, fake = -np.log(p).mean(), -np.log(1 - p).mean()
    assert value(generator, LOGITS, LOGITS) == pytest.approx(real, rel=1e-5)
    assert value(discriminator, np.ones(4), LOGITS) == pytest.approx(real, rel=1e-5)
    assert value(discriminator, np.zeros(4), LOGITS) == pytest.approx(fake, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "HingeDiscriminatorLoss",
        "HingeGeneratorLoss",
        "NonSaturatingDiscriminatorLoss",
        "NonSaturatingGeneratorLoss",
    ],
)
def test_losses_are_restored_from_their_config(name):
    loss = getattr(image_tokenizer, name)()
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is type(loss)
    assert copy.get_config() == loss.get_config()


def test_average():
    assert value(Average(), LOGITS, LOGITS) == pytest.approx(LOGITS.mean())


def features():
    x = inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="one")(x)
    x = keras.layers.Conv2D(5, 3, strides=2, name="two")(x)
    model = keras.Model(inputs, x)
    set_weights(model, scale=0.5)
    return model


def slow_distance(model, layers, x, y):
    total = np.zeros(len(x))
    for layer in layers:
        part = keras.Model(model.input, model.get_layer(layer).output)
        a, b = (ops.convert_to_numpy(part(v)).astype("float64") for v in (x, y))
        a = a / np.sqrt((a**2).sum(-1, keepdims=True) + 1e-10)
        b = b / np.sqrt((b**2).sum(-1, keepdims=True) + 1e-10)
        total += ((a - b) ** 2).sum(-1).mean((1, 2))
    return total.mean()


def test_perceptual_loss_equals_its_formula():
    model = features()
    x, y = images(2, 12, seed=1), images(2, 12, seed=2)
    loss = image_tokenizer.PerceptualLoss(model)
    assert value(loss, x, y) == pytest.approx(
        slow_distance(model, ["two"], x, y), rel=1e-4
    )
    loss = image_tokenizer.PerceptualLoss(model, layers=["one", "two"])
    assert value(loss, x, y) == pytest.approx(
        slow_distance(model, ["one", "two"], x, y), rel=1e-4
    )
    assert value(loss, x, x) == pytest.approx(0.0, abs=1e-6)


def test_preprocessing_comes_first():
    model = features()
    x, y = images(2, 12, seed=1), images(2, 12, seed=2)
    loss = image_tokenizer.PerceptualLoss(model, preprocess=lambda x: x * 2.0 - 1.0)
    expected = slow_distance(model, ["two"], 2 * x - 1, 2 * y - 1)
    assert value(loss, x, y) == pytest.approx(expected, rel=1e-4)


def test_features_may_be_vectors():
    model = keras.Sequential([features(), keras.layers.GlobalAveragePooling2D()])
    loss = image_tokenizer.PerceptualLoss(model)
    assert value(loss, images(2, 12, seed=1), images(2, 12, seed=2)) > 0


def test_the_gradient_reaches_the_second_image_only():
    loss = image_tokenizer.PerceptualLoss(features())
    x, y = images(1, 8, seed=1), images(1, 8, seed=2)
    assert np.abs(gradient(lambda v: loss(x, v), y)).max() > 0
    assert np.abs(gradient(lambda v: loss(v, y), x)).max() == 0


def test_a_frozen_call_trains_nothing():
    model = features()
    before = [w.copy() for w in model.get_weights()]

    class Probe(keras.Model):
        def __init__(self, call):
            super().__init__()
            self.features, self.function = model, call
            # Keras refuses a step in which nothing has a gradient.
            self.other = self.add_weight(shape=(), name="other")

        def call(self, x):
            return x

        def compute_loss(
            self, x=None, y=None, y_pred=None, sample_weight=None, training=True
        ):
            return ops.sum(self.function(self.features, y_pred)) + self.other

    x = images(1, 8)
    for function, stays in ((frozen_call, True), (lambda m, v: m(v), False)):
        probe = Probe(function)
        probe.compile(optimizer=keras.optimizers.SGD(1.0))
        probe.train_on_batch(x)
        same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
        assert all(same) == stays
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(
        ops.convert_to_numpy(frozen_call(model, ops.convert_to_tensor(x))),
        expected,
        atol=1e-5,
    )


def test_bad_feature_models_are_named():
    with pytest.raises(ValueError, match="`feature_model`.*unbuilt"):
        image_tokenizer.PerceptualLoss(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="three"):
        image_tokenizer.PerceptualLoss(features(), layers=["three"])
