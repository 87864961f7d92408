"""The configurations of the paper: their sizes, and that they can be built."""

import keras
import numpy as np
import pytest

from keras_muse import presets
from keras_muse.image_tokenizer import VQGAN
from keras_muse.models import MuseBackbone
from keras_muse.presets.architectures import ARCHITECTURES, build_without_weights
from keras_muse.transformer import MaskedTransformer, SuperResolutionTransformer


def parameters(name):
    (part,) = presets.parts(name)
    return part["parameters"]


@pytest.mark.parametrize(
    "name, published", [("muse_632m", 632e6), ("muse_268m", 268e6)]
)
def test_the_sizes_of_the_paper(name, published):
    assert abs(parameters(name) / published - 1) < 0.03


def test_the_3b_base_is_its_table():
    # 48 layers of width 2048 with an MLP of 8192 are 3.22e9 parameters in the layers
    # alone; the paper says "3B".
    count = parameters("muse_base_3b")
    assert round(count / 1e9) == 3
    layers = 48 * (4 + 4 + 8) * 2048**2
    assert 0 < count - layers < 0.02 * layers


def test_the_super_resolution_of_the_3b_is_its_table():
    layers = (32 * (4 + 4 + 8) + 16 * (4 + 8)) * 1024**2
    assert 0 < parameters("muse_super_resolution_3b") - layers < 0.05 * layers


def test_counting_is_right():
    def build():
        return MaskedTransformer(64, 4, 2, 32, 2, text_dim=16)

    counted = build_without_weights(build)
    model = build()
    assert counted.count_params() == model.count_params()
    assert model.count_params() == sum(np.prod(w.shape) for w in model.weights)


def test_the_factors_and_codes_of_the_tokenizers():
    for name, factor in (("vqgan_f16_8192", 16), ("vqgan_f8_8192", 8)):
        vqgan = build_without_weights(ARCHITECTURES[name].build)
        assert vqgan.downsampling_factor == factor
        assert vqgan.codebook_size == 8192


def test_the_larger_decoder_shares_all_but_the_decoder():
    plain, large = (
        build_without_weights(ARCHITECTURES[name].build)
        for name in ("vqgan_f8_8192", "vqgan_f8_8192_large_decoder")
    )
    assert large.encoder.count_params() == plain.encoder.count_params()
    assert large.quantizer.count_params() == plain.quantizer.count_params()
    assert large.decoder.count_params() > 4 * plain.decoder.count_params()


def test_from_preset_takes_other_arguments():
    model = MaskedTransformer.from_preset(
        "muse_632m", load_weights=False, num_layers=1, hidden_dim=32, num_heads=2
    )
    assert model.num_tokens == 256
    assert model.codebook_size == 8192
    assert all(
        np.all(np.isfinite(w)) for w in map(keras.ops.convert_to_numpy, model.weights)
    )


def test_from_preset_refuses():
    with pytest.raises(
        ValueError, match="`load_weights` must be False for 'muse_632m'"
    ):
        MaskedTransformer.from_preset("muse_632m")
    for kind in (VQGAN, MuseBackbone, SuperResolutionTransformer):
        with pytest.raises(ValueError, match="'muse_632m' is one of `MaskedTransf"):
            kind.from_preset("muse_632m", load_weights=False)
    with pytest.raises(ValueError, match="`preset` 'muse_632m' is one of"):
        presets.load("muse_632m")


def test_the_parts_of_a_preset_with_weights():
    kinds = [part["class"] for part in presets.parts("muse_shapes")]
    assert kinds[:3] == ["T5TextEncoder", "VQGAN", "MaskedTransformer"]
    assert all(part["parameters"] > 1e5 for part in presets.parts("muse_shapes"))
