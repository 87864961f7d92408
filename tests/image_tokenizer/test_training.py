import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import (
    FiniteScalarQuantizer,
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    LookupFreeQuantizer,
    PatchDiscriminator,
    PerceptualLoss,
    VectorQuantizer,
    VQGANTrainer,
)
from tests.image_tokenizer.probes import images, set_tokenizer_weights, tiny_vqgan
from tests.tools import set_weights


def parts(**quantizer):
    quantizer = {"revival_threshold": 0.0, **quantizer}
    vqgan = tiny_vqgan(VectorQuantizer(16, 4, **quantizer))
    set_tokenizer_weights(vqgan)
    discriminator = PatchDiscriminator(8, num_layers=1, groups=4)
    set_weights(discriminator, seed=1)
    return vqgan, discriminator


def weights(model):
    return [ops.convert_to_numpy(v).copy() for v in model.trainable_variables]


def assert_equal(actual, expected, atol=1e-6):
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected):
        np.testing.assert_allclose(a, b, atol=atol)


class Reference(keras.Model):
    """The two usual alternating losses, the frozen half frozen by `trainable`."""

    def __init__(self, vqgan, discriminator, half, weight, lecam=0.0):
        super().__init__()
        self.lecam = lecam
        self.vqgan, self.discriminator = vqgan, discriminator
        self.half, self.weight = half, weight
        vqgan.trainable = half == "generator"
        discriminator.trainable = half == "discriminator"

    def call(self, x, training=False):
        return x

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        embeddings = self.vqgan.encoder(y_pred)
        codes, ids = self.vqgan.quantizer(embeddings, training=False)
        fake = self.vqgan.decoder(codes)
        if self.half == "discriminator":
            real = self.discriminator(y_pred)
            fake = self.discriminator(fake)
            loss = HingeDiscriminatorLoss()
            # In the first step the running means are those of the batch.
            near_fake = ops.square(real - ops.stop_gradient(ops.mean(fake)))
            near_real = ops.square(fake - ops.stop_gradient(ops.mean(real)))
            return (
                0.5 * loss(ops.ones_like(real), real)
                + 0.5 * loss(ops.zeros_like(fake), fake)
                + self.lecam * (ops.mean(near_fake) + ops.mean(near_real))
            )
        logits = self.discriminator(fake)
        penalties = self.vqgan.quantizer.penalties(embeddings, codes, ids)
        return (
            ops.mean(ops.square(fake - y_pred))
            + sum(ops.mean(penalty) for penalty in penalties.values())
            + self.weight * HingeGeneratorLoss()(logits, logits)
        )


@pytest.mark.parametrize("update, lecam", [("ema", 0.0), ("loss", 0.3)])
def test_one_step_equals_two_alternating_passes(update, lecam):
    x = images(4, 8)
    expected = {}
    for half in ("generator", "discriminator"):
        vqgan, discriminator = parts(update=update)
        model = Reference(vqgan, discriminator, half, 0.7, lecam)
        model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
        model.train_on_batch(x)
        trained = vqgan if half == "generator" else discriminator
        expected[half] = weights(trained)
    vqgan, discriminator = parts(update=update)
    trainer = VQGANTrainer(vqgan, discriminator)
    trainer.compile(
        keras.optimizers.SGD(0.1),
        run_eagerly=True,
        adversarial_weight=0.7,
        lecam_weight=lecam,
    )
    trainer.train_on_batch(x)
    assert_equal(weights(vqgan), expected["generator"])
    assert_equal(weights(discriminator), expected["discriminator"])


def test_the_generator_term_leaves_the_discriminator_alone():
    x = images(4, 8)
    after = []
    for adversarial_weight in (0.0, 100.0):
        vqgan, discriminator = parts()
        before = weights(vqgan)
        trainer = VQGANTrainer(vqgan, discriminator)
        trainer.compile(
            keras.optimizers.SGD(0.1),
            run_eagerly=True,
            adversarial_weight=adversarial_weight,
        )
        trainer.train_on_batch(x)
        after.append((weights(vqgan), weights(discriminator)))
        assert any(np.abs(a - b).max() > 0 for a, b in zip(before, after[-1][0]))
    assert_equal(after[0][1], after[1][1])
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(after[0][0], after[1][0]))


def test_nothing_adversarial_happens_before_its_start():
    x = images(4, 8)
    vqgan, discriminator = parts()
    start = weights(discriminator)
    trainer = VQGANTrainer(vqgan, discriminator)
    trainer.compile(
        keras.optimizers.SGD(0.1), run_eagerly=True, adversarial_start_step=2
    )
    plain_vqgan, _ = parts()
    plain = VQGANTrainer(plain_vqgan)
    plain.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    for _ in range(2):
        trainer.train_on_batch(x)
        plain.train_on_batch(x)
        assert_equal(weights(discriminator), start)
        assert_equal(weights(vqgan), weights(plain_vqgan))
    trainer.evaluate(x, verbose=0)
    assert int(trainer.steps) == 2
    trainer.train_on_batch(x)
    moved = [np.abs(a - b).max() for a, b in zip(weights(discriminator), start)]
    assert max(moved) > 1e-5


def test_lecam_keeps_running_means_of_logits():
    start, decay = 2, 0.6
    vqgan = tiny_vqgan(FiniteScalarQuantizer((5, 5, 5)))
    _, discriminator = parts()
    set_weights(vqgan, scale=0.3)
    trainer = VQGANTrainer(vqgan, discriminator)
    # Nothing moves, so logits can be computed again.
    trainer.compile(
        keras.optimizers.SGD(0.0),
        adversarial_start_step=start,
        lecam_weight=0.5,
        lecam_decay=decay,
    )
    mean_real = mean_fake = 0.0
    for step in range(5):
        x = images(4, 8, seed=step)
        real = ops.convert_to_numpy(discriminator(x))
        fake = ops.convert_to_numpy(discriminator(vqgan(x)))
        if step == start:
            mean_real, mean_fake = real.mean(), fake.mean()
        if step > start:
            mean_real = decay * mean_real + (1 - decay) * real.mean()
            mean_fake = decay * mean_fake + (1 - decay) * fake.mean()
        logs = trainer.fit(x, verbose=0).history
        expected = ((real - mean_fake) ** 2).mean() + ((fake - mean_real) ** 2).mean()
        assert logs["lecam"][0] == pytest.approx(expected, rel=1e-4)
        assert logs["loss"][0] == pytest.approx(
            logs["reconstruction"][0]
            + (step >= start) * (0.1 * logs["generator"][0] + logs["discriminator"][0])
            + (step >= start) * 0.5 * expected,
            rel=1e-4,
        )
    # A look at other pictures leaves the means alone.
    for _ in range(2):
        found = trainer.evaluate(images(4, 8, seed=9), verbose=0, return_dict=True)
        real = ops.convert_to_numpy(discriminator(images(4, 8, seed=9)))
        fake = ops.convert_to_numpy(discriminator(vqgan(images(4, 8, seed=9))))
        expected = ((real - mean_fake) ** 2).mean() + ((fake - mean_real) ** 2).mean()
        assert found["lecam"] == pytest.approx(expected, rel=1e-4)


def feature_model():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, name="conv")]
    )
    set_weights(model)
    return model


def test_histories_agree_between_backends(parity):
    vqgan, discriminator = parts()
    trainer = VQGANTrainer(vqgan, discriminator)
    trainer.compile(
        keras.optimizers.Adam(1e-3),
        perceptual=PerceptualLoss(feature_model()),
        adversarial="non_saturating",
        adversarial_start_step=3,
    )
    history = trainer.fit(
        images(8, 8), batch_size=4, epochs=3, shuffle=False, verbose=0
    ).history
    assert set(history) == {
        "loss", "reconstruction", "commitment", "perceptual", "generator",
        "discriminator", "psnr", "codebook_usage", "codebook_perplexity",
    }  # fmt: skip
    for name, values in history.items():
        values = [float(value) for value in values]
        assert len(set(values)) > 1 or name == "codebook_usage"
        parity(f"tokenizer_history_{name}", values, atol=1e-3)


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizer(32, 4, gradient="rotation", decay=0.9),
        VectorQuantizer(32, 4, update="loss", entropy_weight=0.1),
        FiniteScalarQuantizer((5, 5, 5)),
        LookupFreeQuantizer(64),
    ],
)
def test_training_learns_random_pictures(quantizer):
    x = (images(64, 8) * 255).astype("uint8")
    trainer = VQGANTrainer(tiny_vqgan(quantizer))
    trainer.compile(keras.optimizers.Adam(5e-3))
    history = trainer.fit(x, batch_size=16, epochs=20, verbose=0).history
    before, after = history["reconstruction"][0], history["reconstruction"][-1]
    assert after < 0.75 * before
    assert history["psnr"][-1] > history["psnr"][0]
    logs = trainer.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    assert logs["reconstruction"] < before
    assert logs["codebook_perplexity"] > 3


def test_dicts_and_floats_and_uint8_are_the_same():
    pixels = (images(4, 8) * 255).astype("uint8")
    floats = pixels.astype("float32") / 255.0
    vqgan, _ = parts()
    trainer = VQGANTrainer(vqgan)
    trainer.compile(reconstruction="l1", run_eagerly=True)
    results = [
        trainer.evaluate(x, verbose=0, return_dict=True)
        for x in (pixels, floats, {"images": floats})
    ]
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    assert results[0] == pytest.approx(results[2], abs=1e-5)
    expected = np.abs(ops.convert_to_numpy(vqgan(floats)) - floats).mean()
    assert results[0]["reconstruction"] == pytest.approx(expected, abs=1e-5)


def test_only_the_decoder_of_a_fine_tuning_moves():
    vqgan, _ = parts()
    larger = vqgan.with_decoder(base_channels=8, num_residual_blocks=(0, 1))
    trainer = VQGANTrainer(larger)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = weights(larger.decoder)
    trainer.fit(images(4, 8), verbose=0)
    for part in ("encoder", "quantizer"):
        old, new = getattr(vqgan, part), getattr(larger, part)
        for a, b in zip(old.get_weights(), new.get_weights()):
            np.testing.assert_array_equal(a, b)
    after = weights(larger.decoder)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before[:2], after[:2]))


def test_half_precision_trains():
    vqgan = tiny_vqgan(VectorQuantizer(16, 4), dtype="mixed_bfloat16")
    trainer = VQGANTrainer(vqgan)
    trainer.compile(keras.optimizers.Adam(1e-3))
    history = trainer.fit(images(8, 8), batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_trained_tokenizer_is_saved(tmp_path):
    vqgan, discriminator = parts()
    trainer = VQGANTrainer(vqgan, discriminator)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    x = images(4, 8)
    trainer.fit(x, verbose=0)
    vqgan.save_to_preset(str(tmp_path))
    copy = type(vqgan).from_preset(str(tmp_path))
    np.testing.assert_allclose(
        ops.convert_to_numpy(copy(x)), ops.convert_to_numpy(vqgan(x)), atol=1e-6
    )
    names = " ".join(v.path for v in copy.weights)
    assert "logits" not in names


def test_bad_arguments_are_named():
    vqgan, discriminator = parts()
    with pytest.raises(ValueError, match="You must call `compile"):
        VQGANTrainer(vqgan).fit(images(4, 8), verbose=0)
    with pytest.raises(ValueError, match="`reconstruction`.*l3"):
        VQGANTrainer(vqgan).compile(reconstruction="l3")
    with pytest.raises(ValueError, match="`adversarial`.*wasserstein"):
        VQGANTrainer(vqgan, discriminator).compile(adversarial="wasserstein")
    with pytest.raises(ValueError, match="discriminator=None"):
        VQGANTrainer(vqgan).compile(adversarial="hinge")
    with pytest.raises(ValueError, match="`lecam_weight=0.1`.*discriminator=None"):
        VQGANTrainer(vqgan).compile(lecam_weight=0.1)
    with pytest.raises(ValueError, match="`lecam_weight`.*-1"):
        VQGANTrainer(vqgan, discriminator).compile(lecam_weight=-1)
    with pytest.raises(ValueError, match="`lecam_decay`.*1.5"):
        VQGANTrainer(vqgan, discriminator).compile(lecam_decay=1.5)
    with pytest.raises(ValueError, match="`discriminator`.*unbuilt"):
        VQGANTrainer(vqgan, keras.Sequential([keras.layers.Dense(1)]))
