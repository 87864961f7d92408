"""What may be passed as pictures and masks, and what is refused in which words."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_muse.models.pictures import as_masks, as_output, as_pictures

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype("uint8")
OTHER = PICTURE[:4, ::-1]
MASK = np.random.default_rng(1).random((6, 8)) > 0.5
MODES = "1 L P RGB CMYK YCbCr HSV I F LA PA RGBX RGBA RGBa La I;16 I;16B".split()


def torch_tensor(value):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(value)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


TENSORS = {
    "numpy": np.array,
    "keras": keras.ops.convert_to_tensor,
    "variable": lambda value: keras.Variable(
        value, dtype=value.dtype.name, trainable=False
    ),
    "tf": tf.constant,
    "torch": torch_tensor,
    "jax": lambda value: pytest.importorskip("jax").numpy.asarray(value),
}
tensors = pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def check(images, expected, single):
    pictures, is_single = as_pictures(images)
    assert is_single == single
    assert len(pictures) == len(expected)
    for picture, right in zip(pictures, expected):
        assert picture.dtype == np.uint8
        assert picture.flags.writeable and picture.flags.c_contiguous
        np.testing.assert_array_equal(picture, right)


@tensors
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_arrays_and_tensors(tensor, dtype):
    value = PICTURE if dtype == "uint8" else (PICTURE / 255).astype(dtype)
    check(tensor(value), [PICTURE], True)
    check([tensor(value)], [PICTURE], False)
    check(tensor(value[None]), [PICTURE], False)
    check(tensor(np.stack([value, value[::-1]])), [PICTURE, PICTURE[::-1]], False)


def test_all_levels_survive_every_float():
    levels = np.arange(256, dtype="uint8").reshape(16, 16)
    levels = np.stack([levels] * 3, axis=-1)
    for dtype in ("float16", "float32", "float64", ">f4"):
        check((levels / 255).astype(dtype), [levels], True)


def test_a_mixed_list(tmp_path):
    path = save(tmp_path / "a.png", OTHER)
    images = (
        path,
        str(path),
        Image.fromarray(PICTURE),
        PICTURE,
        (OTHER / 255).astype("float16"),
        tf.constant(PICTURE),
        keras.ops.convert_to_tensor(OTHER),
    )
    expected = [OTHER, OTHER, PICTURE, PICTURE, OTHER, PICTURE, OTHER]
    check(images, expected, False)
    check(list(images), expected, False)


def test_one_file_is_single(tmp_path):
    path = save(tmp_path / "a.png", PICTURE)
    check(path, [PICTURE], True)
    check(os.fspath(path), [PICTURE], True)
    check(Image.open(path), [PICTURE], True)
    check([path], [PICTURE], False)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_caller_keeps_its_pictures_and_masks(dtype):
    image = PICTURE if dtype == "uint8" else (PICTURE / 255).astype(dtype)
    image, mask, drawn = image.copy(), MASK.copy(), Image.fromarray(PICTURE)
    before = image.copy()
    pictures, _ = as_pictures([image, image, drawn])
    masks = as_masks(mask, pictures)
    for array in (*pictures, *masks):
        array[:] = 1 - array
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(drawn, PICTURE)
    # Nor do the copies share memory with each other.
    for array in masks:
        np.testing.assert_array_equal(array, ~MASK)


@pytest.mark.parametrize("mode", MODES)
def test_pil_modes(mode):
    """White, grey and black come out as such from every mode."""
    for level in (0, 128, 255):
        if mode == "1" and level == 128:
            continue
        if mode.startswith("I;16"):
            image = Image.new(mode, (8, 6), level * 257)
        elif mode == "F":
            image = Image.new(mode, (8, 6), level / 255)
        elif mode in ("La", "RGBa", "PA"):
            image = Image.new("LA", (8, 6), (level, 255))
            image = image.convert("RGBA") if mode != "La" else image
            image = image.convert(mode) if mode != "PA" else image.quantize()
        else:
            image = Image.new("L", (8, 6), level).convert(mode)
        (picture,), _ = as_pictures(image)
        assert picture.shape == (6, 8, 3)
        assert np.abs(picture.astype(int) - level).max() <= 2
        (mask,) = as_masks(image, [PICTURE])
        assert mask.shape == (6, 8)
        assert mask.all() if level >= 128 else not mask.any()


def test_transparency_is_white_in_pictures_and_black_in_masks(tmp_path):
    alpha = np.full((6, 8, 1), 255, "uint8")
    alpha[:, 4:] = 0
    white = np.full_like(PICTURE, 255)
    path = save(tmp_path / "a.png", np.concatenate([PICTURE, alpha], axis=-1))
    check(path, [np.where(alpha == 255, PICTURE, 255)], True)
    layer = Image.fromarray(np.concatenate([white, alpha], axis=-1))
    np.testing.assert_array_equal(as_masks(layer, [PICTURE])[0], alpha[..., 0] == 255)

    half = np.concatenate([PICTURE, np.full((6, 8, 1), 127, "uint8")], axis=-1)
    (picture,), _ = as_pictures(Image.fromarray(half))
    blend = (127 * PICTURE.astype(float) + 128 * 255) / 255
    assert np.abs(picture - blend).max() <= 1

    palette = Image.fromarray(np.tile(np.arange(8, dtype="uint8"), (6, 1)), "P")
    palette.putpalette([10] * 24)
    palette.save(tmp_path / "p.png", transparency=2)
    (picture,), _ = as_pictures(tmp_path / "p.png")
    assert (picture[:, 2] == 255).all()
    assert (np.delete(picture, 2, axis=1) == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    turned = [
        lambda x: x,
        lambda x: x[:, ::-1],
        lambda x: x[::-1, ::-1],
        lambda x: x[::-1],
        lambda x: x.transpose(1, 0, 2),
        lambda x: np.rot90(x, -1),
        lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        lambda x: np.rot90(x),
    ][orientation - 1]
    stored = np.zeros((16, 32, 3), "uint8")
    stored[:8, :16] = 255
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "a.jpg", stored, exif=exif, quality=100)
    expected = turned(stored)
    for image in (path, Image.open(path)):
        (picture,), _ = as_pictures(image)
        assert picture.shape == expected.shape
        assert np.abs(picture.astype(int) - expected).max() <= 2
        (mask,) = as_masks(image, [picture])
        np.testing.assert_array_equal(mask, expected[..., 0] == 255)


def fraction(low, high):
    return np.linspace(low, high, PICTURE.size).reshape(PICTURE.shape)


def with_value(value):
    array = PICTURE / 255
    array[2, 3, 1] = value
    return array


BAD = [
    ([], ValueError, "`images` must hold at least one image: received none"),
    ((), ValueError, "at least one"),
    (np.zeros((0, 6, 8, 3), "uint8"), ValueError, "at least one"),
    (PICTURE[0], ValueError, r"`images` must have the shape \(H, W, 3\): .*\(8, 3\)"),
    (PICTURE[..., :1], ValueError, r"\(H, W, 3\): received \(6, 8, 1\)"),
    (PICTURE.transpose(2, 0, 1), ValueError, r"received \(3, 6, 8\)"),
    (PICTURE[None, None], ValueError, r"`images\[0\]` .*received \(1, 6, 8, 3\)"),
    ([PICTURE, PICTURE[None]], ValueError, r"`images\[1\]` .*\(1, 6, 8, 3\)"),
    (np.concatenate([PICTURE] * 2, -1)[None], ValueError, r"received \(6, 8, 6\)"),
    (np.float32(0.5), ValueError, r"received \(\)"),
    (PICTURE[:0], ValueError, r"at least one pixel: received \(0, 8, 3\)"),
    ([PICTURE, PICTURE[:, :0]], ValueError, r"`images\[1\]` .*one pixel.*\(6, 0, 3\)"),
    (Image.new("RGB", (0, 5)), ValueError, r"`images` .* no pixels.*\(0, 5\)"),
    (with_value(np.nan), ValueError, "`images` must be finite: received NaN or inf"),
    ([with_value(-np.inf)], ValueError, r"`images\[0\]` must be finite"),
    (
        fraction(-1.0, 1.0),
        ValueError,
        r"`images` must lie in \[0, 1\] .*from -1.0 to 1.0.*\(x \+ 1\) / 2.*x / 255",
    ),
    (fraction(0.0, 255.0), ValueError, "values from 0.0 to 255.0"),
    (np.stack([with_value(0), with_value(1.5)]), ValueError, r"`images\[1\]`.*to 1.5"),
    (PICTURE.astype("int64"), TypeError, "`images` must have one .*received int64"),
    (PICTURE.astype("uint16"), TypeError, "uint8, float16, float32, float64: .*uint16"),
    (PICTURE > 5, TypeError, "received bool in an object of type ndarray"),
    (PICTURE.astype(object), TypeError, "received object"),
    (PICTURE.astype("complex64"), TypeError, "received complex64"),
    (tf.constant(PICTURE, "int32"), TypeError, "received int32"),
    (tf.cast(PICTURE, "bfloat16"), TypeError, "received bfloat16"),
    (tf.constant("a.png"), TypeError, "received"),
    (keras.KerasTensor((6, 8, 3)), TypeError, "received float32 in an .* KerasTensor"),
    (None, TypeError, "`images` must be an array, .*received None of type NoneType"),
    (3, TypeError, "received 3 of type int"),
    (b"a.png", TypeError, "of type bytes"),
    ({"images": PICTURE}, TypeError, "of type dict"),
    ([PICTURE, PICTURE.tolist()], TypeError, r"`images\[1\]` must be .* of type list"),
    (Image.new("I", (8, 6), 256), ValueError, r"mode 'I' must lie in \[0, 255\]"),
    (Image.new("F", (8, 6), 2.0), ValueError, r"must lie in \[0, 1\].*from 2.0"),
]


@pytest.mark.parametrize("images, error, message", BAD)
def test_bad_pictures(images, error, message):
    with pytest.raises(error, match=message):
        as_pictures(images)


def test_torch_bfloat16_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="received torch.bfloat16"):
        as_pictures(torch.zeros((6, 8, 3), dtype=torch.bfloat16))


def bad_files(folder):
    """(name, path, error, words) of files that cannot be read."""
    whole = save(folder / "whole.png", np.tile(PICTURE, (20, 20, 1))).read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bytes.png").write_bytes(whole[:60] + b"\0" * 80 + whole[140:])
    (folder / "text.png").write_text("a picture of a cat")
    (folder / "empty.png").touch()
    (folder / "program.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n{} loop\n"
    )
    os.mkfifo(folder / "pipe.png")
    return [
        ("half.png", ValueError, "must be a picture that PIL can read"),
        ("bytes.png", ValueError, "must be a picture that PIL can read"),
        ("text.png", ValueError, "must be a picture that PIL can read"),
        ("empty.png", ValueError, "must be a picture that PIL can read"),
        ("program.eps", ValueError, "EPS is not supported"),
        ("pipe.png", ValueError, "is not a file"),
        ("", ValueError, "is not a file"),
        ("none.png", FileNotFoundError, "there is no"),
    ]


@pytest.mark.parametrize("form", [str, pathlib.Path])
def test_bad_files(tmp_path, form):
    for name, error, words in bad_files(tmp_path):
        path = form(tmp_path / name)
        for argument, read in (
            ("images", as_pictures),
            ("masks", lambda masks: as_masks(masks, [PICTURE])),
        ):
            with pytest.raises(error) as caught:
                read(path)
            message = str(caught.value)
            assert message.startswith(f"`{argument}` must be "), message
            assert words in message and name in message, message
            with pytest.raises(error, match=rf"`{argument}\[0\]` must be "):
                read([path])


def test_a_truncated_file_that_pil_opened(tmp_path):
    bad_files(tmp_path)
    with Image.open(tmp_path / "half.png") as image:
        with pytest.raises(ValueError, match="`images` .*PngImageFile.*failed with"):
            as_pictures(image)


def test_a_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", PICTURE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="`images` .*bomb.png.*exceeds limit"):
        as_pictures(path)


@tensors
def test_masks_of_arrays_and_tensors(tensor):
    pictures = [PICTURE, PICTURE]
    for white in (
        MASK,
        MASK.astype("float32"),
        MASK.astype("float16"),
        MASK.astype("uint8") * 255,
    ):
        two = np.stack([white, ~white if white.dtype == bool else white.max() - white])
        for masks in (two, two[..., None]):
            found = as_masks(tensor(masks), pictures)
            np.testing.assert_array_equal(found, [MASK, ~MASK])
            found = as_masks([tensor(mask) for mask in masks], pictures)
            np.testing.assert_array_equal(found, [MASK, ~MASK])
        for mask in (white, white[..., None]):
            for count in (1, 2):
                found = as_masks(tensor(mask), pictures[:count])
                np.testing.assert_array_equal(found, [MASK] * count)
        assert all(mask.dtype == bool for mask in found)


def test_the_edge_between_black_and_white():
    levels = np.arange(256, dtype="uint8").reshape(16, 16)
    picture = np.zeros((16, 16, 3), "uint8")
    np.testing.assert_array_equal(as_masks(levels, [picture])[0], levels >= 128)
    for dtype in ("float16", "float32", "float64"):
        mask = np.full((16, 16), 0.5, dtype)
        assert as_masks(mask, [picture])[0].all()
        assert not as_masks(np.nextafter(mask, mask * 0), [picture])[0].any()


def test_a_mixed_list_of_masks(tmp_path):
    path = save(tmp_path / "mask.png", MASK)
    grey = Image.fromarray(MASK[:4].astype("uint8") * 255)
    masks = [path, grey, MASK, (~MASK)[..., None], tf.constant(MASK)]
    pictures = [PICTURE, OTHER, PICTURE, PICTURE, PICTURE]
    expected = [MASK, MASK[:4], MASK, ~MASK, MASK]
    for found, right in zip(as_masks(masks, pictures), expected, strict=True):
        np.testing.assert_array_equal(found, right)


def test_black_masks_are_fine():
    for dtype in ("bool", "uint8", "float32"):
        assert not as_masks(np.zeros((6, 8), dtype), [PICTURE])[0].any()


@pytest.mark.parametrize(
    "masks, error, message",
    [
        ([], ValueError, "`masks` must hold at least one mask: received none"),
        ([MASK], ValueError, "`masks` must be one .* of the 2 images: received 1"),
        ([MASK] * 3, ValueError, "received 3"),
        (np.stack([MASK] * 3), ValueError, "received 3"),
        (PICTURE, ValueError, r"received 6. A mask has one channel.*\(H, W, 1\)"),
        (MASK[:5], ValueError, r"`masks` .*of `images\[0\]`, 6 x 8 .*received 5 x 8"),
        (
            [MASK, MASK.T],
            ValueError,
            r"`masks\[1\]` must have the size of its image, 6 x 8 \(height x width\): "
            "received 8 x 6",
        ),
        ([MASK, PICTURE], ValueError, r"`masks\[1\]` .*\(H, W, 1\): .*\(6, 8, 3\)"),
        (PICTURE[None], ValueError, r"`masks\[0\]` .*received \(6, 8, 3\)"),
        ([MASK, MASK[0]], ValueError, r"`masks\[1\]` .*received \(8,\)"),
        (MASK[:0], ValueError, r"at least one pixel.*\(0, 8"),
        ([MASK, MASK * np.nan], ValueError, r"`masks\[1\]` must be finite"),
        (MASK * 255.0, ValueError, r"`masks` must lie in \[0, 1\] .*from 0.0 to 255.0"),
        (MASK - 0.5, ValueError, "from -0.5 to 0.5"),
        (MASK.astype("uint8"), ValueError, "`masks` .*255.* bool or float"),
        (MASK.astype("int64"), TypeError, "dtypes bool, uint8, .*received int64"),
        (None, TypeError, "`masks` must be an array.*received None"),
        ([MASK, MASK.tolist()], TypeError, r"`masks\[1\]` .*of type list"),
    ],
)
def test_bad_masks(masks, error, message):
    with pytest.raises(error, match=message):
        as_masks(masks, [PICTURE, PICTURE])


def test_masks_of_the_wrong_size():
    pictures, _ = as_pictures([PICTURE, OTHER])
    with pytest.raises(ValueError, match=r"`masks` .*`images\[1\]`, 4 x 8 .*6 x 8"):
        as_masks(MASK, pictures)
    with pytest.raises(ValueError, match="`masks` must have the size of its image, 4"):
        as_masks(MASK, pictures[1:])


def test_output():
    assert as_output([PICTURE], True) is PICTURE
    stacked = as_output([PICTURE, PICTURE[::-1]], False)
    np.testing.assert_array_equal(stacked, np.stack([PICTURE, PICTURE[::-1]]))
    assert as_output([PICTURE], False).shape == (1, 6, 8, 3)
    several = as_output([PICTURE, OTHER], False)
    assert isinstance(several, list)
    assert several[0] is PICTURE and several[1] is OTHER
    for images in (PICTURE, PICTURE[None], np.stack([PICTURE, PICTURE])):
        np.testing.assert_array_equal(as_output(*as_pictures(images)), images)
