import json

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from keras_muse.image_tokenizer import (
    VQGAN,
    FiniteScalarQuantizer,
    VectorQuantizer,
)
from tests.image_tokenizer.probes import images, set_tokenizer_weights, tiny_vqgan

BLOCKS = {"num_residual_blocks": 1}


@pytest.mark.parametrize(
    "kwargs, factor",
    [
        ({}, 4),
        ({"strides": (2, 3), "channel_multipliers": (1, 1, 2)} | BLOCKS, 6),
        ({"strides": (5,), "num_residual_blocks": 1}, 5),
        ({"strides": (), "channel_multipliers": (1,)} | BLOCKS, 1),
        ({"downsampling": "average", "upsampling": "depth_to_space"}, 4),
        ({"num_residual_blocks": (1, 2)}, 4),
        ({"local_encoder": True}, 4),
        ({"quantizer": FiniteScalarQuantizer((3, 5, 4))}, 4),
    ],
)
def test_any_downsampling_factor_and_any_size(kwargs, factor):
    vqgan = tiny_vqgan(**kwargs)
    assert vqgan.downsampling_factor == factor
    for grid in ((1, 1), (2, 3)):
        size = (grid[0] * factor, grid[1] * factor)
        x = images(2, size)
        tokens = vqgan.encode(x)
        assert vqgan.grid_size(*size) == grid
        assert tuple(tokens.shape) == (2, grid[0] * grid[1])
        assert keras.backend.standardize_dtype(tokens.dtype) == "int32"
        tokens_np = ops.convert_to_numpy(tokens)
        assert tokens_np.min() >= 0 and tokens_np.max() < vqgan.codebook_size
        decoded = ops.convert_to_numpy(vqgan.decode(tokens, grid=grid))
        assert decoded.shape == x.shape and decoded.dtype == "float32"
        np.testing.assert_allclose(
            decoded, ops.convert_to_numpy(vqgan.reconstruct(x)), atol=1e-5
        )


def test_tokens_and_images_are_the_same_on_every_backend(parity):
    vqgan = tiny_vqgan()
    set_tokenizer_weights(vqgan)
    x = images(3, 16)
    tokens = ops.convert_to_numpy(vqgan.encode(x))
    assert len(np.unique(tokens)) > 3
    parity("vqgan_tokens", tokens)
    parity("vqgan_images", ops.convert_to_numpy(vqgan.decode(tokens)), atol=1e-4)


def test_the_graph_is_the_unclipped_reconstruction():
    vqgan = tiny_vqgan()
    set_tokenizer_weights(vqgan, scale=0.5)
    x = images(2, 16)
    raw = ops.convert_to_numpy(vqgan(x))
    assert raw.min() < 0.0 or raw.max() > 1.0
    np.testing.assert_allclose(
        np.clip(raw, 0.0, 1.0), ops.convert_to_numpy(vqgan.reconstruct(x)), atol=1e-4
    )
    assert vqgan.output_shape == (None, None, None, 3)


def test_tokens_are_row_by_row():
    vqgan = tiny_vqgan()
    set_tokenizer_weights(vqgan)
    x = images(2, (8, 12))
    grid = ops.convert_to_numpy(vqgan.quantizer.encode(vqgan.encoder(x)))
    assert grid.shape == (2, 2, 3) and len(np.unique(grid)) > 2
    tokens = ops.convert_to_numpy(vqgan.encode(x))
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(
                tokens[:, row * 3 + column], grid[:, row, column]
            )
    np.testing.assert_allclose(
        ops.convert_to_numpy(vqgan.decode(tokens, grid=(2, 3))),
        ops.convert_to_numpy(vqgan.decode_embeddings(vqgan.quantizer.decode(grid))),
        atol=1e-6,
    )


@pytest.mark.parametrize("local", [True, False])
def test_a_local_encoder_sees_one_patch_at_a_time(local):
    vqgan = tiny_vqgan(local_encoder=local, num_residual_blocks=1)
    set_tokenizer_weights(vqgan)
    x = images(1, 12)
    x[0, 8:, 4:8] = x[0, :4, 8:]
    before = ops.convert_to_numpy(vqgan.encoder(x))
    changed = x.copy()
    changed[0, :4, :4] = 1.0 - changed[0, :4, :4]
    moved = np.abs(ops.convert_to_numpy(vqgan.encoder(changed)) - before).max((0, 3))
    assert moved[0, 0] > 1e-3
    moved[0, 0] = 0.0
    assert (moved.max() < 1e-6) == local
    equal = np.abs(before[0, 2, 1] - before[0, 0, 2]).max() < 1e-5
    assert equal == local


def test_uint8_images_are_scaled():
    vqgan = tiny_vqgan()
    set_tokenizer_weights(vqgan)
    pixels = (images(2, 16) * 255).astype("uint8")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(vqgan.encode(pixels)),
        ops.convert_to_numpy(vqgan.encode(pixels.astype("float32") / 255.0)),
    )


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_quantizer_and_decoder_stay_float32(policy):
    def check(vqgan):
        assert vqgan.dtype_policy.name == policy
        assert vqgan.encoder.get_layer("conv_in").compute_dtype == "bfloat16"
        assert vqgan.quantizer.compute_dtype == "float32"
        parts = [vqgan.quantizer, vqgan.decoder]
        for variable in [v for part in parts for v in part.weights]:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            assert dtype == "float32" or "seed" in variable.path
        x = images(2, 16)
        assert keras.backend.standardize_dtype(vqgan(x).dtype) == "float32"
        decoded = vqgan.decode(vqgan.encode(x))
        assert keras.backend.standardize_dtype(decoded.dtype) == "float32"
        # A value that bfloat16 does not hold survives.
        codes = vqgan.quantizer.decode(np.array([1], "int32"))
        rounded = ops.cast(ops.cast(codes, "bfloat16"), "float32")
        assert np.abs(ops.convert_to_numpy(codes - rounded)).max() > 0

    check(tiny_vqgan(dtype=policy))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        check(tiny_vqgan())
    finally:
        keras.config.set_dtype_policy(before)


def test_a_channel_list_of_the_paper():
    vqgan = VQGAN(VectorQuantizer(8, 4), base_channels=4, groups=4)
    assert vqgan.downsampling_factor == 16
    levels = [f"level_{level}_block_1" for level in range(5)]
    filters = [vqgan.encoder.get_layer(level).filters for level in levels]
    assert filters == [4, 4, 8, 8, 16]


def test_a_larger_decoder_keeps_the_tokens():
    vqgan = tiny_vqgan()
    set_tokenizer_weights(vqgan)
    larger = vqgan.with_decoder(base_channels=16, num_residual_blocks=2)
    x = images(2, 16)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(vqgan.encode(x)), ops.convert_to_numpy(larger.encode(x))
    )
    assert larger.decoder.count_params() > 2 * vqgan.decoder.count_params()
    trained = {id(v) for v in larger.trainable_variables}
    assert trained == {id(v) for v in larger.decoder.trainable_variables}
    before = ops.convert_to_numpy(larger.quantizer.codebook)
    larger.quantizer(np.random.normal(size=(1, 4, 4, 4)), training=True)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(larger.quantizer.codebook), before
    )


def test_config_round_trip():
    vqgan = tiny_vqgan(
        decoder_base_channels=16, num_residual_blocks=(0, 1), downsampling="average"
    )
    config = vqgan.get_config()
    config = json.loads(json.dumps(config))
    copy = VQGAN.from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == config
    copy.set_weights(vqgan.get_weights())
    x = images(1, 8)
    np.testing.assert_allclose(
        ops.convert_to_numpy(copy(x)), ops.convert_to_numpy(vqgan(x)), atol=1e-6
    )


@pytest.mark.parametrize("cls", [VQGAN, keras_hub.models.Backbone])
def test_preset_round_trip(cls, tmp_path):
    vqgan = tiny_vqgan(VectorQuantizer(16, 4))
    set_tokenizer_weights(vqgan)
    vqgan.save_to_preset(str(tmp_path))
    copy = cls.from_preset(str(tmp_path))
    x = images(2, 16)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(copy.encode(x)), ops.convert_to_numpy(vqgan.encode(x))
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(copy(x)), ops.convert_to_numpy(vqgan(x))
    )


def test_all_weights_are_tracked():
    vqgan = tiny_vqgan()
    parts = (vqgan.encoder, vqgan.quantizer, vqgan.decoder)
    assert vqgan.count_params() == sum(part.count_params() for part in parts)


def test_bad_input_is_named():
    vqgan = tiny_vqgan()
    with pytest.raises(ValueError, match="`width`.*factor 4.*10"):
        vqgan.grid_size(8, 10)
    with pytest.raises(ValueError, match="`height`.*factor 4.*6"):
        vqgan.encode(images(1, (6, 8)))
    with pytest.raises(ValueError, match=r"\(1, 6\).*no square.*grid"):
        vqgan.decode(np.zeros((1, 6), "int32"))
    with pytest.raises(ValueError, match=r"grid=\(2, 2\).*4 tokens.*\(1, 6\)"):
        vqgan.decode(np.zeros((1, 6), "int32"), grid=(2, 2))
    with pytest.raises(ValueError, match="`channel_multipliers`.*`strides`"):
        tiny_vqgan(strides=(2, 2, 2))
    with pytest.raises(ValueError, match="`strides`.*0"):
        tiny_vqgan(strides=(2, 0))
    with pytest.raises(ValueError, match="groups=3"):
        tiny_vqgan(groups=3)
    with pytest.raises(ValueError, match="`num_residual_blocks`.*2 levels"):
        tiny_vqgan(num_residual_blocks=(1, 1, 1))
