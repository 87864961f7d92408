"""Feature extractors of Keras models."""

import hashlib
import inspect

import keras
import numpy as np
import pytest

from keras_muse.evaluation import KerasFeatures, keras_inception, untrained_features
from keras_muse.evaluation.features import fingerprint_of, resize
from tests.evaluation.given import pictures
from tests.tools import on_one_backend, set_weights


def small_model(pooled=True, seed=0):
    images = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, data_format="channels_last")(images)
    if pooled:
        maps = keras.layers.GlobalAveragePooling2D(data_format="channels_last")(maps)
    model = keras.Model(images, maps)
    set_weights(model, seed)
    return model


def test_the_untrained_network_is_the_same_everywhere(parity):
    extractor = untrained_features()
    features = extractor(pictures(3))
    assert features.shape == (3, 128) and features.dtype == np.float32
    assert "not comparable with published FID" in extractor.name
    assert np.all(features[:, :64] >= 0) and np.all(np.isfinite(features))
    assert np.linalg.matrix_rank(features) == 3
    parity("untrained_features", features, atol=1e-5)
    # Though Keras gives other names to its layers.
    again = untrained_features()
    assert again.fingerprint == extractor.fingerprint
    np.testing.assert_array_equal(again(pictures(3)), features)
    digest = np.frombuffer(bytes.fromhex(extractor.fingerprint), "uint8")
    assert len(digest) == 32
    parity("untrained_fingerprint", digest)


def test_the_untrained_network_is_three_convolutions():
    extractor = untrained_features()
    image = pictures(1, 17, 15)
    x = image[0] / 255.0
    for layer in extractor.model.layers:
        if not isinstance(layer, keras.layers.Conv2D):
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
        rows, columns = (x.shape[0] - 1) // 2, (x.shape[1] - 1) // 2
        out = np.empty((rows, columns, kernel.shape[-1]))
        for i in range(rows):
            for j in range(columns):
                patch = x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[i, j] = np.maximum(np.tensordot(patch, kernel, 3), 0.0)
        x = out
    expected = np.concatenate([x.mean((0, 1)), x.std((0, 1))])
    np.testing.assert_allclose(extractor(image)[0], expected, atol=1e-5)


def test_any_model():
    model = small_model()
    extractor = KerasFeatures(model, "mine", scale=2.0, offset=(1.0, 2.0, 3.0))
    images = pictures(5, 8, 8)
    seen = images.astype("float32") * 2.0 + np.float32([1, 2, 3])
    expected = keras.ops.convert_to_numpy(model(seen))
    np.testing.assert_allclose(extractor(images), expected, rtol=1e-4, atol=1e-3)
    # The input has a size of its own, so other pictures are scaled to it.
    assert extractor.size == (8, 8)
    assert extractor(pictures(2, 20, 24)).shape == (2, 4)
    # Of maps, the mean is taken.
    maps = KerasFeatures(small_model(pooled=False), "mine", scale=2.0, offset=(1, 2, 3))
    np.testing.assert_allclose(maps(images), expected, rtol=1e-4, atol=1e-3)


@on_one_backend
def test_the_fingerprint_tells_what_decides_the_features():
    model = small_model()
    settings = [
        {},
        {"size": 9},
        {"size": (9, 8)},
        {"scale": 1.0},
        {"scale": (1.0, 1.0, 2.0)},
        {"offset": -1.0},
    ]
    prints = [KerasFeatures(model, "mine", **s).fingerprint for s in settings]
    prints.append(KerasFeatures(small_model(seed=1), "mine").fingerprint)
    prints.append(KerasFeatures(small_model(pooled=False), "mine").fingerprint)
    assert len(set(prints)) == len(prints)
    # Neither names do, nor where the weights lie.
    assert KerasFeatures(small_model(), "other").fingerprint == prints[0]
    assert KerasFeatures(model, "mine", scale=[1 / 255] * 3).fingerprint == prints[0]


@on_one_backend
def test_a_saved_model_has_the_fingerprint_of_its_own(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    first, second = (KerasFeatures(m, "mine") for m in (model, loaded))
    assert first.fingerprint == second.fingerprint


@on_one_backend
def test_pictures_are_resized_as_clean_fid_has_it():
    # `golden.py`: clean-fid 0.1.35.
    resized = resize(pictures(2), (10, 12))
    places = ((0, 0), (3, 7), (9, 11))
    found = [image[y, x, 1] for image in resized for y, x in places]
    expected = [245.10264587, 76.44808960, 73.15378571]
    expected += [241.25442505, 116.98652649, 86.52960968]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    same = resize(pictures(2), (32, 40))
    np.testing.assert_array_equal(same, pictures(2))


@on_one_backend
def test_errors():
    model = small_model()
    for images in (pictures(2)[0], pictures(2) / 255.0, pictures(2)[..., :1]):
        with pytest.raises(ValueError, match=r"must be \(B, H, W, 3\) uint8: received"):
            KerasFeatures(model, "mine")(images)
    with pytest.raises(ValueError, match="`size` must be an int or .*: received 1.5"):
        KerasFeatures(model, "mine", size=1.5)
    with pytest.raises(ValueError, match="at least 1: received 0"):
        KerasFeatures(model, "mine", size=0)
    with pytest.raises(ValueError, match="`scale` must be a finite float, or one for"):
        KerasFeatures(model, "mine", scale=(1.0, 2.0))
    with pytest.raises(ValueError, match="`offset` must be a finite float"):
        KerasFeatures(model, "mine", offset=float("nan"))
    images = keras.Input((8, 8, 3))
    flat = keras.Model(images, keras.layers.Reshape((64, 3))(images))
    with pytest.raises(ValueError, match=r"must return \(B, D\) or"):
        KerasFeatures(flat, "mine")(pictures(2, 8, 8))


@on_one_backend
def test_fingerprints_are_those_of_hashlib():
    data = b'{"a": 1}(2,)' + np.float32([1, 2]).tobytes()
    both = fingerprint_of({"a": 1}, [np.array([1.0, 2.0])])
    assert both == hashlib.sha256(data).hexdigest()
    assert both == fingerprint_of({"a": 1}, [np.array([1, 2], "int64")])
    assert both != fingerprint_of({"a": 1}, [np.array([[1.0, 2.0]])])


@on_one_backend
def test_the_inception_of_keras(monkeypatch):
    called = []

    def build(**arguments):
        """Stands for 24 million weights."""
        called.append(inspect.signature(inception).bind(**arguments).arguments)
        images = keras.Input(arguments["input_shape"])
        return keras.Model(images, keras.ops.mean(images, (1, 2)))

    inception = keras.applications.InceptionV3
    monkeypatch.setattr(keras.applications, "InceptionV3", build)
    extractor = keras_inception("weights.h5")
    assert called == [
        {
            "include_top": False,
            "weights": "weights.h5",
            "input_shape": (299, 299, 3),
            "pooling": "avg",
        }
    ]
    assert "not comparable with published FID" in extractor.name
    # Its weights know pixels from -1 to 1.
    images = pictures(2)
    seen = resize(images, (299, 299)) / 127.5 - 1.0
    np.testing.assert_allclose(extractor(images), seen.mean((1, 2)), atol=1e-5)
    assert seen.min() < -0.5 and seen.max() > 0.5


@on_one_backend
def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="weights"):
        keras_inception(tmp_path / "nowhere.h5")
