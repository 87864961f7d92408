import keras
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import VectorQuantizer, vector_quantizer
from tests.image_tokenizer.probes import gradient

V, D = 7, 3


def built(codebook=None, **kwargs):
    kwargs = {"revival_threshold": 0.0, **kwargs}
    quantizer = VectorQuantizer(V, D, **kwargs)
    quantizer.build((None, None, None, D))
    if codebook is None:
        codebook = np.random.default_rng(0).normal(size=(V, D))
    quantizer.codebook.assign(codebook.astype("float32"))
    return quantizer


def embeddings(count=40, seed=1):
    values = np.random.default_rng(seed).normal(size=(2, count // 2, 1, D))
    return values.astype("float32")


def slow_ids(z, codebook):
    distances = ((z[..., None, :] - codebook) ** 2).sum(-1)
    return distances.argmin(-1)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("l2_normalize", [False, True])
def test_ids_and_codes_equal_a_slow_search(l2_normalize, parity):
    quantizer = built(l2_normalize=l2_normalize)
    codebook, z = ops.convert_to_numpy(quantizer.codebook), embeddings()
    if l2_normalize:
        codebook, z = unit(codebook), unit(z)
    expected = slow_ids(z, codebook)
    codes, ids = quantizer(embeddings())
    assert keras.backend.standardize_dtype(ids.dtype) == "int32"
    np.testing.assert_array_equal(ops.convert_to_numpy(ids), expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.encode(z)), expected)
    np.testing.assert_allclose(
        ops.convert_to_numpy(codes), codebook[expected], atol=1e-5
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(quantizer.decode(ids)), codebook[expected], atol=1e-6
    )
    parity(f"quantizer_ids_{l2_normalize}", ops.convert_to_numpy(ids))


def test_encode_undoes_decode():
    quantizer = built()
    ids = np.arange(V, dtype="int32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(quantizer.encode(quantizer.decode(ids))), ids
    )


def test_ema_update_equals_sums_over_counts():
    decay = 0.8
    quantizer = built(decay=decay)
    codebook = ops.convert_to_numpy(quantizer.codebook).astype("float64")
    usage = np.linspace(0.0, 2.0, V)
    quantizer.usage.assign(usage.astype("float32"))
    counts, sums = usage.copy(), codebook * usage[:, None]
    for step in range(3):
        z = embeddings(seed=step)
        ids = slow_ids(z, codebook).reshape(-1)
        flat = z.reshape(-1, D)
        scale = V / len(flat)
        for code in range(V):
            mine = flat[ids == code]
            counts[code] = decay * counts[code] + (1 - decay) * scale * len(mine)
            sums[code] = decay * sums[code] + (1 - decay) * scale * mine.sum(0)
        seen = counts > 1e-8
        codebook[seen] = sums[seen] / counts[seen, None]
        quantizer(z, training=True)
        np.testing.assert_allclose(
            ops.convert_to_numpy(quantizer.usage), counts, atol=1e-5
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(quantizer.codebook), codebook, atol=1e-4
        )


@pytest.mark.parametrize("how", ["inference", "frozen", "loss"])
def test_the_codebook_stays_where_it_should(how):
    quantizer = built(update="loss" if how == "loss" else "ema")
    before = ops.convert_to_numpy(quantizer.codebook)
    quantizer.trainable = how != "frozen"
    quantizer(embeddings(), training=how != "inference")
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.codebook), before)


def test_revival_brings_dead_codes_back():
    far = np.full((V, D), 100.0)
    far[0] = 0.0
    z = embeddings(400)
    for threshold, expect_all in ((0.0, False), (0.1, True)):
        quantizer = built(far, decay=0.9, revival_threshold=threshold)
        quantizer.usage.assign(np.ones(V, "float32"))
        for _ in range(60):
            _, ids = quantizer(z, training=True)
        seen = len(np.unique(ops.convert_to_numpy(ids)))
        assert (seen == V) == expect_all
        assert expect_all or seen == 1


def test_a_revived_code_is_an_embedding_of_the_batch():
    quantizer = built(revival_threshold=0.4)
    usage = np.ones(V, "float32")
    usage[[2, 5]] = 0.1
    quantizer.usage.assign(usage)
    z = embeddings()
    quantizer(z, training=True)
    codebook = ops.convert_to_numpy(quantizer.codebook)
    for code in range(V):
        distance = np.abs(z.reshape(-1, D) - codebook[code]).max(-1).min()
        assert (distance < 1e-6) == (code in (2, 5))
    np.testing.assert_allclose(
        ops.convert_to_numpy(quantizer.usage)[[2, 5]], 0.8, atol=1e-6
    )


def test_the_first_batch_initialises_the_codebook():
    quantizer = built(np.full((V, D), 50.0), revival_threshold=0.03)
    z = embeddings()
    quantizer(z, training=True)
    codebook = ops.convert_to_numpy(quantizer.codebook)
    distances = np.abs(z.reshape(1, -1, D) - codebook[:, None]).max(-1).min(-1)
    np.testing.assert_allclose(distances, 0.0, atol=1e-6)


@pytest.mark.parametrize("mode", ["straight_through", "rotation"])
def test_the_gradient_reaches_the_embeddings(mode):
    quantizer = built(gradient=mode)
    z, upstream = embeddings(), embeddings(seed=5)
    actual = gradient(lambda x: ops.multiply(quantizer(x)[0], upstream), z)
    is_identity = np.allclose(actual, upstream, atol=1e-5)
    assert is_identity == (mode == "straight_through")
    assert np.abs(actual).min(-1).max() > 0


def penalties(quantizer, z):
    codes, ids = quantizer(z)
    return quantizer.penalties(ops.convert_to_tensor(z), codes, ids)


def test_penalties_equal_their_formulas():
    quantizer = built(update="loss", commitment_weight=0.5, entropy_weight=2.0,
                      entropy_temperature=0.7)  # fmt: skip
    z, codebook = embeddings(), ops.convert_to_numpy(quantizer.codebook)
    terms = penalties(quantizer, z)
    assert tuple(terms) == quantizer.penalty_names
    squares = ((z - codebook[slow_ids(z, codebook)]) ** 2).mean(-1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(terms["commitment"]), 0.5 * squares, atol=1e-5
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(terms["codebook"]), squares, atol=1e-5
    )
    logits = -((z[..., None, :] - codebook) ** 2).sum(-1) / 0.7
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = -(p * np.log(p)).sum(-1)
    mean = p.reshape(-1, V).mean(0)
    expected = 2.0 * (each + (mean * np.log(mean)).sum())
    np.testing.assert_allclose(
        ops.convert_to_numpy(terms["entropy"]), expected, atol=1e-4
    )


def test_commitment_moves_embeddings_and_codebook_loss_moves_codes():
    quantizer = built(update="loss")
    z = embeddings()
    pull = gradient(lambda x: penalties(quantizer, x)["commitment"], z)
    quantizer = built(update="loss")
    codebook = ops.convert_to_numpy(quantizer.codebook)
    residual = z - codebook[slow_ids(z, codebook)]
    np.testing.assert_allclose(pull, 0.25 * 2.0 * residual / D, atol=1e-5)
    stays = gradient(lambda x: penalties(quantizer, x)["codebook"], z)
    np.testing.assert_array_equal(stays, np.zeros_like(z))


def test_codebook_gradient_sums_repeated_ids():
    quantizer = built(update="loss")
    codebook, z = ops.convert_to_numpy(quantizer.codebook), embeddings()
    ids = slow_ids(z, codebook)

    class Probe(keras.Model):
        def __init__(self):
            super().__init__()
            self.quantizer = quantizer

        def call(self, x):
            return x

        def compute_loss(
            self, x=None, y=None, y_pred=None, sample_weight=None, training=True
        ):
            return ops.sum(penalties(self.quantizer, y_pred)["codebook"])

    probe = Probe()
    # Adam's first step shows the sign of a summed gradient, whatever its size.
    probe.compile(optimizer=keras.optimizers.Adam(0.1))
    probe.train_on_batch(z)
    step = ops.convert_to_numpy(quantizer.codebook) - codebook
    used = np.unique(ids)
    np.testing.assert_allclose(np.abs(step[used]), 0.1, atol=1e-3)


def test_config_round_trip():
    quantizer = VectorQuantizer(
        V, D, update="loss", gradient="rotation", l2_normalize=True, seed=3
    )
    copy = keras.layers.deserialize(keras.layers.serialize(quantizer))
    assert copy.get_config() == quantizer.get_config()


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"update": "kmeans"}, "`update`.*kmeans"),
        ({"gradient": "gumbel"}, "`gradient`.*gumbel"),
        ({"decay": 1.0}, "`decay`.*1.0"),
        ({"revival_threshold": -1.0}, "`revival_threshold`.*-1.0"),
        ({"update": "loss", "revival_threshold": 0.1}, "`revival_threshold`.*0.1"),
        ({"entropy_temperature": 0.0}, "`entropy_temperature`.*0.0"),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        VectorQuantizer(V, D, **kwargs)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="`codebook_size`.*0"):
        VectorQuantizer(0, D)
    with pytest.raises(ValueError, match="width 3.*5"):
        VectorQuantizer(V, D).build((None, None, None, 5))


def test_each_dead_code_is_revived_by_one_of_two_replicas(monkeypatch):
    # The mean of an embedding of each would be an embedding of none.
    seen, parts = [], [embeddings(seed=1), embeddings(seed=2)]
    for index, z in enumerate(parts):
        monkeypatch.setattr(vector_quantizer, "replica", lambda index=index: (index, 2))
        own = []
        monkeypatch.setattr(
            vector_quantizer,
            "mean",
            lambda x, own=own: own.append(ops.convert_to_numpy(x)) or x,
        )
        # As at the start of a training, no code was used before.
        built(revival_threshold=0.4)(z, training=True)
        seen.append(own)
    usage, sums = (np.mean(both, axis=0) for both in zip(*seen))
    codes, sources = sums / usage[:, None], set()
    for code in codes:
        distances = [np.abs(z.reshape(-1, D) - code).max(-1).min() for z in parts]
        assert min(distances) < 1e-5
        sources.add(int(np.argmin(distances)))
    assert sources == {0, 1}


def test_statistics_are_those_of_the_whole_batch(monkeypatch):
    z = embeddings()
    whole = built(decay=0.5)
    whole.usage.assign(np.ones(V, "float32"))
    whole(z, training=True)
    means = [[], []]
    for index in range(2):
        own = built(decay=0.5)
        own.usage.assign(np.ones(V, "float32"))
        monkeypatch.setattr(
            vector_quantizer,
            "mean",
            lambda x, i=index: means[i].append(ops.convert_to_numpy(x)) or x,
        )
        own(z[index : index + 1], training=True)
    usage, sums = (np.mean(both, axis=0) for both in zip(*means))
    np.testing.assert_allclose(usage, ops.convert_to_numpy(whole.usage), rtol=1e-5)
    np.testing.assert_allclose(
        sums / usage[:, None],
        ops.convert_to_numpy(whole.codebook),
        rtol=1e-4,
        atol=1e-6,
    )
