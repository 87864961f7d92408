"""The backbone: all parts in one model, saved and loaded as one."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_muse.models import MuseBackbone, MuseTextToImage, Stage
from tests.tools import set_weights, tiny_backbone, tiny_muse


@pytest.fixture(scope="module")
def muse():
    return tiny_muse(num_stages=2)


@pytest.fixture(scope="module")
def folder(muse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    muse.save_to_preset(str(folder))
    return str(folder)


def some_inputs(backbone, preprocessor, seed=0):
    rng = np.random.default_rng(seed)
    rows = preprocessor.generate_preprocess(["a red circle", ""])
    rows = {name: ops.convert_to_numpy(value) for name, value in rows.items()}
    ids = {
        f"image_ids_{i}": rng.integers(0, 33, (2, stage.transformer.num_tokens))
        for i, stage in enumerate(backbone.stages)
    }
    return {**rows, **{name: value.astype("int32") for name, value in ids.items()}}


def outputs(backbone, inputs):
    logits = backbone(inputs)
    return {name: ops.convert_to_numpy(value) for name, value in logits.items()}


def parts(backbone):
    encoder = [backbone.text_encoder] if backbone.text_encoder else []
    return [*encoder, *backbone.image_tokenizers, *backbone.transformers]


def test_outputs_are_the_logits_of_every_stage(muse):
    inputs = some_inputs(muse.backbone, muse.preprocessor)
    logits = outputs(muse.backbone, inputs)
    assert {name: x.shape for name, x in logits.items()} == {
        "logits_0": (2, 16, 32),
        "logits_1": (2, 64, 32),
    }
    embeddings = muse.backbone.text_encoder(
        {name: inputs[name] for name in ("token_ids", "padding_mask")}
    )
    for i, transformer in enumerate(muse.backbone.transformers):
        rows = {
            "image_ids": ops.convert_to_tensor(inputs[f"image_ids_{i}"]),
            "text_embeddings": embeddings,
            "padding_mask": ops.convert_to_tensor(inputs["padding_mask"]),
        }
        if i:
            rows["low_res_ids"] = ops.convert_to_tensor(inputs[f"image_ids_{i - 1}"])
        alone = transformer(rows)
        np.testing.assert_allclose(
            logits[f"logits_{i}"], ops.convert_to_numpy(alone), rtol=1e-5, atol=1e-5
        )


def test_outputs_are_the_same_on_every_backend(muse, parity):
    logits = outputs(muse.backbone, some_inputs(muse.backbone, muse.preprocessor))
    for name, value in logits.items():
        parity(f"backbone_{name}", value, atol=1e-4)


def test_stages_and_shape(muse):
    stages = muse.backbone.stages
    assert all(isinstance(stage, Stage) for stage in stages)
    assert [s.image_tokenizer.downsampling_factor for s in stages] == [8, 4]
    assert [s.transformer.grid_size for s in stages] == [(4, 4), (8, 8)]
    assert muse.backbone.image_shape == (32, 32, 3)


def test_every_weight_is_tracked(muse):
    count = sum(part.count_params() for part in parts(muse.backbone))
    for model in (muse.backbone, muse):
        assert model.count_params() == count
        assert len(model.variables) == sum(
            len(part.variables) for part in parts(muse.backbone)
        )


def test_config_round_trip(muse):
    config = json.dumps(muse.backbone.get_config())
    copy = MuseBackbone.from_config(json.loads(config))
    assert json.dumps(copy.get_config()) == config
    copy.set_weights(muse.backbone.get_weights())
    inputs = some_inputs(muse.backbone, muse.preprocessor)
    for name, expected in outputs(muse.backbone, inputs).items():
        np.testing.assert_array_equal(outputs(copy, inputs)[name], expected)


def test_task_config_round_trip(muse):
    config = muse.get_config()
    copy = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(muse)))
    )
    assert copy.samplers == muse.samplers
    assert json.dumps(copy.get_config()) == json.dumps(config)


@pytest.mark.parametrize(
    "load",
    [
        keras_hub.models.Backbone.from_preset,
        MuseBackbone.from_preset,
        lambda folder: keras_hub.models.TextToImage.from_preset(folder).backbone,
        lambda folder: MuseTextToImage.from_preset(folder).backbone,
    ],
    ids=["hub_backbone", "backbone", "hub_task", "task"],
)
def test_a_preset_gives_equal_outputs(muse, folder, load):
    loaded = load(folder)
    assert isinstance(loaded, MuseBackbone)
    inputs = some_inputs(muse.backbone, muse.preprocessor)
    for name, expected in outputs(muse.backbone, inputs).items():
        np.testing.assert_array_equal(outputs(loaded, inputs)[name], expected)
    for ours, theirs in zip(muse.backbone.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_a_preset_without_weights(muse, folder):
    loaded = MuseBackbone.from_preset(folder, load_weights=False)
    configs = [json.dumps(b.get_config()) for b in (loaded, muse.backbone)]
    assert configs[0] == configs[1]
    kernels = [
        backbone.transformers[0].head.kernel for backbone in (loaded, muse.backbone)
    ]
    assert np.any(ops.convert_to_numpy(kernels[0] != kernels[1]))


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_a_preset_in_another_precision(muse, folder, dtype):
    loaded = MuseTextToImage.from_preset(folder, dtype=dtype)
    backbone = loaded.backbone
    for part in parts(backbone):
        assert part.dtype_policy.name == dtype
    assert backbone.transformers[0].head.dtype_policy.name == "float32"
    weights = "bfloat16" if dtype == "bfloat16" else "float32"
    block = backbone.transformers[0].blocks[0]
    assert block.mlp.up.kernel.dtype == weights
    quantizer = backbone.image_tokenizers[0].quantizer
    assert quantizer.codebook.dtype == "float32"
    inputs = some_inputs(backbone, muse.preprocessor)
    expected = outputs(muse.backbone, inputs)
    for name, logits in outputs(backbone, inputs).items():
        assert logits.dtype == np.float32
        assert 0 < np.abs(logits - expected[name]).mean() < 0.1
    images = loaded.generate("a red circle", num_steps=2, guidance_scale=2.0, seed=1)
    assert images.shape == (32, 32, 3)


def test_labels_and_no_condition_at_all():
    labelled = tiny_backbone(text=False, num_classes=3)
    ids = np.zeros((2, 16), "int32")
    logits = outputs(labelled, {"labels": np.array([0, 2]), "image_ids_0": ids})
    assert np.any(logits["logits_0"][0] != logits["logits_0"][1])
    free = tiny_backbone(text=False)
    assert outputs(free, {"image_ids_0": ids})["logits_0"].shape == (2, 16, 32)
    for backbone in (labelled, free):
        copy = MuseBackbone.from_config(backbone.get_config())
        assert copy.get_config() == backbone.get_config()


def test_parts_that_do_not_fit(muse):
    backbone = muse.backbone
    encoder, (stage, _) = backbone.text_encoder, backbone.stages
    config = stage.transformer.get_config()

    def transformer(**changes):
        kind = type(stage.transformer)
        return kind.from_config({**config, **changes})

    with pytest.raises(ValueError, match="`stages` must hold at least one stage"):
        MuseBackbone(encoder, [])
    with pytest.raises(ValueError, match="one `codebook_size`: received 32.* and 16"):
        MuseBackbone(encoder, [(stage.image_tokenizer, transformer(codebook_size=16))])
    with pytest.raises(ValueError, match="width of the text encoder, 16: received 24"):
        MuseBackbone(encoder, [(stage.image_tokenizer, transformer(text_dim=24))])
    with pytest.raises(ValueError, match="received text_dim=None, text_encoder=<T5"):
        MuseBackbone(encoder, [(stage.image_tokenizer, transformer(text_dim=None))])
    with pytest.raises(ValueError, match="text_dim=16, text_encoder=None"):
        MuseBackbone(None, [stage])


def test_a_whole_task_in_one_keras_file(muse, tmp_path):
    path = str(tmp_path / "muse.keras")
    muse.save(path)
    loaded = keras.saving.load_model(path, compile=False)
    expected = muse.generate("a red circle", num_steps=2, seed=1)
    np.testing.assert_array_equal(
        loaded.generate("a red circle", num_steps=2, seed=1), expected
    )


def test_set_weights_reaches_every_part():
    backbone = tiny_backbone(seed=0)
    before = [part.get_weights() for part in parts(backbone)]
    set_weights(backbone, seed=1)
    for part, weights in zip(parts(backbone), before):
        assert any(np.any(a != b) for a, b in zip(part.get_weights(), weights))
