"""`keras-muse inpaint`, `outpaint` and `edit`, with the embedded preset."""

import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

import keras_muse
from keras_muse import cli
from keras_muse.models import MuseEdit, MuseInpaint, MuseOutpaint
from tests.tools import only_on

# What the tasks compute is tested on all backends, without the command line.
pytestmark = only_on("torch", "is run on PyTorch")
QUICK = ["--steps", "2", "--guidance", "2", "--seed", "5"]
SETTINGS = {"num_steps": 2, "guidance_scale": 2.0, "seed": 5}
PROMPT = "a large red circle on a white background"
SHORT = "a red circle"  # all that the smaller model reads


@pytest.fixture(scope="module")
def shapes_muse():
    return keras_muse.presets.load("muse_shapes")


@pytest.fixture
def work(here, monkeypatch, shapes_muse):
    """A folder with a picture and a mask; the preset is loaded once for all tests."""
    monkeypatch.setattr(keras_muse.presets, "load", lambda preset: shapes_muse)
    picture = np.full((128, 128, 3), 250, "uint8")
    picture[32:64, 16:48] = (50, 80, 220)
    Image.fromarray(picture).save("in.png")
    mask = np.zeros((128, 128), "uint8")
    mask[:, 64:] = 255
    Image.fromarray(mask).save("mask.png")
    return here


@pytest.fixture
def tiny_work(work, monkeypatch, muse):
    """The same with a smaller model, where it does not matter which."""
    monkeypatch.setattr(keras_muse.presets, "load", lambda preset: muse)
    return work


def pixels(path):
    return np.asarray(Image.open(path))


def task(task_class, muse):
    return task_class(muse.backbone, muse.preprocessor, muse.samplers)


def assert_same(image, expected):
    """Equal up to the rounding of a pixel, which the size of a batch may turn."""
    assert np.abs(image.astype(int) - expected).max() <= 1


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_inpaint(work, shapes_muse, capsys):
    options = ["--strength", "0.9", "--dilation", "1", "--feather", "3"]
    arguments = ["in.png", "mask.png", PROMPT, *options, *QUICK]
    assert cli.main(["inpaint", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert err.count("\n") == 1 and err.startswith("keras-muse: using the ")
    image = pixels("out.png")
    expected = task(MuseInpaint, shapes_muse).generate(
        {"images": "in.png", "masks": "mask.png", "prompts": PROMPT},
        strength=0.9,
        mask_dilation=1,
        feather=3,
        **SETTINGS,
    )
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(image[:, :48], pixels("in.png")[:, :48])
    assert Image.open("out.png").text == {
        "command": "inpaint",
        "image": "in.png",
        "mask": "mask.png",
        "prompt": PROMPT,
        "negative_prompt": "",
        "seed": "5",
        "preset": "muse_shapes",
        "num_steps": "2 2",
        "guidance_scale": "2.0 2.0",
        "temperature": "0.8 0.0",
        "strength": "0.9",
        "mask_dilation": "1",
        "feather": "3",
        "composite": "True",
        "fit": "letterbox",
        "Software": f"keras-muse {keras_muse.__version__}",
    }


def test_a_grid_of_an_inpainting(work, shapes_muse, capsys):
    options = ["--grid", "--no-composite", "--negative", "a blue square"]
    arguments = ["in.png", "mask.png", PROMPT, *options, *QUICK, "-o", "grid.png"]
    assert cli.main(["inpaint", *arguments]) == 0
    assert capsys.readouterr().out == "grid.png\n"
    sheet = pixels("grid.png")
    assert sheet.shape == (128, 3 * 128, 3)
    np.testing.assert_array_equal(sheet[:, :128], pixels("in.png"))
    mask = np.repeat(pixels("mask.png")[..., None], 3, axis=-1)
    np.testing.assert_array_equal(sheet[:, 128:256], mask)
    expected = task(MuseInpaint, shapes_muse).generate(
        {
            "images": "in.png",
            "masks": "mask.png",
            "prompts": PROMPT,
            "negative_prompts": "a blue square",
        },
        composite=False,
        **SETTINGS,
    )
    np.testing.assert_array_equal(sheet[:, 256:], expected)
    [note] = json.loads(Image.open("grid.png").text["pictures"])
    assert (note["command"], note["seed"], note["composite"]) == (
        "inpaint",
        "5",
        "False",
    )
    assert note["negative_prompt"] == "a blue square"


def test_outpaint(work, shapes_muse, capsys):
    """The grid shows the picture on its place; its right half is the picture alone."""
    command = ["outpaint", "in.png", PROMPT, "--extend", "16", "32", "0", "48"]
    assert cli.main([*command, *QUICK, "--grid"]) == 0
    assert capsys.readouterr().out == "out.png\n"
    sheet, picture = pixels("out.png"), pixels("in.png")
    assert sheet.shape == (144, 2 * 208, 3)
    before = np.full((144, 208, 3), 255, "uint8")
    before[16:, 48:176] = picture
    np.testing.assert_array_equal(sheet[:, :208], before)
    expected = task(MuseOutpaint, shapes_muse).generate(
        {"images": "in.png", "prompts": PROMPT}, extend=(16, 32, 0, 48), **SETTINGS
    )
    np.testing.assert_array_equal(sheet[:, 208:], expected)
    [note] = json.loads(Image.open("out.png").text["pictures"])
    assert (note["command"], note["extend"]) == ("outpaint", "16 32 0 48")


def test_edit_by_resampling(work, shapes_muse):
    arguments = ["in.png", PROMPT, "--mask-rate", "0.2", "--fit", "crop", *QUICK]
    assert cli.main(["edit", *arguments]) == 0
    expected = task(MuseEdit, shapes_muse).generate(
        {"images": "in.png", "prompts": PROMPT}, mask_rate=0.2, fit="crop", **SETTINGS
    )
    np.testing.assert_array_equal(pixels("out.png"), expected)
    text = Image.open("out.png").text
    assert (text["method"], text["mask_rate"], text["fit"]) == (
        "resample",
        "0.2",
        "crop",
    )
    # What the command line sets is for the first stage alone.
    assert text["num_steps"] == f"2 {shapes_muse.samplers[1].num_steps}"
    assert text["guidance_scale"] == f"2.0 {shapes_muse.samplers[1].guidance_scale}"
    assert text["temperature"].split()[0] == "1.0"
    assert "strength" not in text and "threshold" not in text


def test_edit_by_contrast(work, shapes_muse):
    arguments = ["in.png", PROMPT, "--method", "contrast", "--threshold", "0.5"]
    assert cli.main(["edit", *arguments, *QUICK, "--grid"]) == 0
    expected = task(MuseEdit, shapes_muse).generate(
        {"images": "in.png", "prompts": PROMPT},
        method="contrast",
        threshold=0.5,
        **SETTINGS,
    )
    both = np.concatenate([pixels("in.png"), expected], axis=1)
    np.testing.assert_array_equal(pixels("out.png"), both)
    [note] = json.loads(Image.open("out.png").text["pictures"])
    assert (note["method"], note["threshold"]) == ("contrast", "0.5")
    assert note["temperature"].split()[0] == "0.8"


def test_variations(work, shapes_muse, capsys):
    command = ["edit", "in.png", PROMPT, "--variations", "3", *QUICK]
    assert cli.main([*command, "-o", "some.png"]) == 0
    names = ["some_0.png", "some_1.png", "some_2.png"]
    assert capsys.readouterr().out.split() == names
    expected = task(MuseEdit, shapes_muse).variations(
        "in.png", PROMPT, strength=0.5, count=3, **SETTINGS
    )
    for row, name in enumerate(names):
        np.testing.assert_array_equal(pixels(name), expected[row])
        text = Image.open(name).text
        assert (text["seed"], text["strength"]) == (str(5 + row), "0.5")
        assert "method" not in text
    # The note of one makes it again, alone.
    alone = ["edit", "in.png", PROMPT, "--strength", "0.5", *QUICK, "--seed", "7"]
    assert cli.main([*alone, "-o", "alone.png"]) == 0
    assert_same(pixels("alone.png"), expected[2])
    # Some at a time, in one file.
    some = [*command, "--batch-size", "2", "--grid", "-o", "sheet.png"]
    assert cli.main(some) == 0
    sheet = pixels("sheet.png")
    assert sheet.shape == (256, 256, 3)
    np.testing.assert_array_equal(sheet[:128, :128], pixels("in.png"))
    assert_same(sheet[:128, 128:], expected[0])
    assert_same(sheet[128:, :128], expected[1])
    assert_same(sheet[128:, 128:], expected[2])
    notes = json.loads(Image.open("sheet.png").text["pictures"])
    assert [note["seed"] for note in notes] == ["5", "6", "7"]


def test_a_random_seed_is_written_down(tiny_work):
    command = ["edit", "in.png", SHORT, "--strength", "1", "--steps", "2"]
    assert cli.main([*command, "-o", "a.png"]) == 0
    seed = Image.open("a.png").text["seed"]
    assert cli.main([*command, "--seed", seed, "-o", "b.png"]) == 0
    np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))


def test_a_picture_of_another_size_and_format(tiny_work):
    picture = Image.open("in.png").resize((100, 70))
    picture.save("photo.jpg")
    picture = np.asarray(Image.open("photo.jpg"))
    mask = np.zeros((70, 100), "uint8")
    mask[20:50, 60:90] = 255
    Image.fromarray(mask).save("small.png")
    assert cli.main(["inpaint", "photo.jpg", "small.png", SHORT, *QUICK]) == 0
    image = pixels("out.png")
    assert image.shape == (70, 100, 3)
    np.testing.assert_array_equal(image[mask == 0], picture[mask == 0])


def test_a_bar_for_a_terminal(tiny_work, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["edit", "in.png", SHORT, "--strength", "1", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert "2/2" in err


@pytest.mark.parametrize(
    "command, message",
    [
        (["inpaint", "text.png", "mask.png", "a"], "received 'text.png', which failed"),
        (["inpaint", "in.png", "no.png", "a"], "there is no 'no.png'"),
        (["inpaint", "in.png", "wide.png", "a"], "128 x 128 (height x width)"),
        (["inpaint", "in.png", "mask.png", "a", "--strength", "2"], "`strength` must"),
        (["inpaint", "in.png", "mask.png", "a", "--feather", "-1"], "`feather` must"),
        (["inpaint", "in.png", "mask.png", "a", "-o", "in.png"], "'in.png' is what to"),
        (["inpaint", "in.png", "mask.png", "a", "-o", "./mask.png"], "'mask.png' is"),
        (["inpaint", "in.png", "mask.png", "a", "-o", "no/out.png"], "no folder 'no'"),
        (["outpaint", "no.png", "a", "--extend", "0", "1", "0", "0"], "no 'no.png'"),
        (
            ["outpaint", "in.png", "a", "--extend", "0", "999", "0", "0"],
            "at most 4 times as wide",
        ),
        (
            ["outpaint", "in.png", "a", "--extend", "0", "-8", "0", "0"],
            "`extend` must be at least 0",
        ),
        (["edit", "folder", "a"], "'folder' is not a file"),
        (["edit", "in.png", "a", "--mask-rate", "0"], "`mask_rate` must lie in (0, 1]"),
        (
            ["edit", "in.png", "a", "--threshold", "1"],
            "`threshold` belongs to the method 'contrast'",
        ),
        (["edit", "in.png", "a", "--steps", "0"], "`num_steps` must"),
        (["edit", "in.png", "a", "--guidance", "nan"], "`guidance_scale` must"),
        (
            ["edit", "in.png", "a", "--variations", "2", "--seed", str(2**31 - 1)],
            "`seed` must lie in",
        ),
    ],
)
def test_errors_are_one_line_and_write_nothing(work, capsys, command, message):
    pathlib.Path("text.png").write_text("no picture")
    Image.new("L", (64, 128), "white").save("wide.png")
    pathlib.Path("folder").mkdir()
    before = {
        name: pathlib.Path(name).read_bytes() for name in files(work) if "." in name
    }
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [x for x in err.splitlines() if "using the" not in x]
    assert line.startswith("keras-muse: error: ") and message in line
    assert files(work) == sorted([*before, "folder"])
    assert all(pathlib.Path(n).read_bytes() == kept for n, kept in before.items())


def test_what_cannot_be_read_is_found_before_the_preset(work, monkeypatch, capsys):
    def load(preset):
        raise AssertionError("too late")

    monkeypatch.setattr(keras_muse.presets, "load", load)
    assert cli.main(["edit", "no.png", "a"]) == 1
    assert "there is no 'no.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inpaint", "in.png", "mask.png"], "required: PROMPT"),
        (["inpaint", "a", "b", "c", "--fit", "stretch"], "invalid choice: 'stretch'"),
        (["outpaint", "in.png", "a"], "required: --extend"),
        (["outpaint", "in.png", "a", "--extend", "1"], "expected 4 arguments"),
        (["edit", "in.png", "a", "--method", "magic"], "invalid choice: 'magic'"),
        (
            ["edit", "a", "b", "--method", "contrast", "--strength", "1"],
            "not allowed with",
        ),
        (["edit", "in.png", "a", "--variations", "0"], "must be at least 1, got 0"),
        (["edit", "in.png", "a", "-o", "a.jpg"], "must end in .png"),
    ],
)
def test_wrong_usage(here, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not files(here)
