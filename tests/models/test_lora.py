"""Adapters: trained alone, saved alone, merged in a preset."""

import keras
import numpy as np
from keras import ops

from keras_muse.models import MuseBackbone, MuseMaskedImageModel
from tests.models.test_masked_training import data
from tests.tools import tiny_backbone, tiny_preprocessor


def logits(backbone):
    ids = np.arange(16, dtype="int32")[None] % 32
    tokens = {
        "token_ids": np.array([[3, 4, 1, 0]], "int32"),
        "padding_mask": np.array([[True, True, True, False]]),
    }
    inputs = {**tokens, "image_ids_0": ids}
    return ops.convert_to_numpy(backbone(inputs)["logits_0"])


def test_adapters_are_trained_alone_and_saved_alone(tmp_path):
    backbone, untouched = tiny_backbone(), tiny_backbone()
    transformer = backbone.transformers[0]
    transformer.enable_lora(2)
    np.testing.assert_array_equal(logits(backbone), logits(untouched))
    trainer = MuseMaskedImageModel(backbone, tiny_preprocessor())
    trainer.compile(keras.optimizers.Adam(0.05, weight_decay=0.1))
    assert {v.name for v in trainer.trainable_variables} == {
        "lora_kernel_a",
        "lora_kernel_b",
    }
    frozen = [v for v in trainer.backbone.variables if not v.name.startswith("lora")]
    before = [ops.convert_to_numpy(v) for v in frozen]
    trainer.fit(data(4), batch_size=4, verbose=0)
    for variable, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert np.abs(logits(backbone) - logits(untouched)).max() > 1e-3
    # Alone, on top of the same model.
    path = str(tmp_path / "adapters.lora.h5")
    transformer.save_lora_weights(path)
    untouched.transformers[0].load_lora_weights(path)
    np.testing.assert_allclose(logits(untouched), logits(backbone), atol=1e-5)
    # In a preset they are merged.
    backbone.save_to_preset(str(tmp_path / "preset"))
    merged = MuseBackbone.from_preset(str(tmp_path / "preset"))
    assert not any(v.name.startswith("lora") for v in merged.variables)
    np.testing.assert_allclose(logits(merged), logits(backbone), atol=1e-4)


def test_a_second_trainer_trains_them_again():
    backbone = tiny_backbone(num_stages=2)
    backbone.transformers[0].enable_lora(2)
    MuseMaskedImageModel(backbone, tiny_preprocessor(), stage=1)
    assert not backbone.transformers[0].trainable_variables
    trainer = MuseMaskedImageModel(backbone, tiny_preprocessor(), stage=0)
    names = {v.name for v in trainer.trainable_variables}
    assert names == {"lora_kernel_a", "lora_kernel_b"}
