"""`keras-muse generate`."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_muse
from keras_muse import cli
from keras_muse.cli import output

QUICK = ["--steps", "2", "--guidance", "2", "--seed", "5"]
SETTINGS = {"num_steps": 2, "guidance_scale": 2.0}


def pixels(path):
    return np.asarray(Image.open(path))


def generate(preset, *arguments):
    return cli.main(["generate", *arguments, *QUICK, "--preset", preset])


def test_one_prompt(muse, preset, here, capsys):
    assert generate(preset, "a red circle") == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert err == f"keras-muse: using the {keras.config.backend()} backend\n"
    expected = muse.generate("a red circle", seed=5, **SETTINGS)
    np.testing.assert_array_equal(pixels("out.png"), expected)


def test_a_picture_says_how_it_was_made(muse, preset, here):
    prompt = "a red circle “çà”"
    arguments = ["--negative", "white", "--temperature", "0.5", "-o", "a.png"]
    assert generate(preset, prompt, *arguments) == 0
    text = Image.open("a.png").text
    assert text == {
        "prompt": prompt,
        "negative_prompt": "white",
        "seed": "5",
        "preset": preset,
        "num_steps": "2",
        "guidance_scale": "2.0",
        "temperature": "0.5",
        "Software": f"keras-muse {keras_muse.__version__}",
    }
    again = muse.generate(
        {"prompts": text["prompt"], "negative_prompts": text["negative_prompt"]},
        seed=int(text["seed"]),
        num_steps=int(text["num_steps"]),
        guidance_scale=float(text["guidance_scale"]),
        temperature=float(text["temperature"]),
    )
    np.testing.assert_array_equal(pixels("a.png"), again)


def test_a_random_seed_and_the_settings_of_the_preset_are_written_down(
    muse, preset, here
):
    for name in ("a.png", "b.png"):
        assert cli.main(["generate", "a", "--preset", preset, "-o", name]) == 0
    texts = [Image.open(name).text for name in ("a.png", "b.png")]
    assert texts[0]["seed"] != texts[1]["seed"]
    sampler = muse.samplers[0]
    assert texts[0]["num_steps"] == str(sampler.num_steps)
    assert texts[0]["guidance_scale"] == str(sampler.guidance_scale)
    expected = muse.generate("a", seed=int(texts[0]["seed"]))
    np.testing.assert_array_equal(pixels("a.png"), expected)


def test_several_prompts(muse, preset, here, capsys):
    prompts = ["a red circle", "a blue square", "green"]
    arguments = ["--batch-size", "2", "-o", "some.png"]
    assert generate(preset, *prompts, *arguments) == 0
    names = ["some_0.png", "some_1.png", "some_2.png"]
    assert capsys.readouterr().out.split() == names
    expected = muse.generate(prompts, seed=5, **SETTINGS)
    for row, name in enumerate(names):
        np.testing.assert_array_equal(pixels(name), expected[row])
        text = Image.open(name).text
        assert (text["prompt"], text["seed"]) == (prompts[row], str(5 + row))


def test_a_contact_sheet(muse, preset, here, capsys):
    prompts = ["a red circle", "a blue square", "green"]
    assert generate(preset, *prompts, "--grid") == 0
    assert capsys.readouterr().out == "out.png\n"
    sheet = pixels("out.png")
    assert sheet.shape == (64, 64, 3)
    expected = muse.generate(prompts, seed=5, **SETTINGS)
    np.testing.assert_array_equal(sheet[:32, :32], expected[0])
    np.testing.assert_array_equal(sheet[:32, 32:], expected[1])
    np.testing.assert_array_equal(sheet[32:, :32], expected[2])
    assert np.all(sheet[32:, 32:] == 255)
    texts = json.loads(Image.open("out.png").text["pictures"])
    assert [text["prompt"] for text in texts] == prompts
    assert [text["seed"] for text in texts] == ["5", "6", "7"]


def test_many_numbers_sort_as_names():
    paths = [str(path) for path in output.output_paths(pathlib.Path("b.png"), 11)]
    assert paths[0] == "b_00.png" and paths[10] == "b_10.png"
    assert paths == sorted(paths)


def test_a_bar_for_a_terminal_and_none_for_a_pipe(preset, here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert generate(preset, "a red circle") == 0
    out, err = capsys.readouterr()
    assert out == "out.png\n"
    assert "2/2" in err


def test_what_was_there_is_overwritten(preset, here):
    pathlib.Path("out.png").write_text("old")
    assert generate(preset, "a red circle") == 0
    assert pixels("out.png").shape == (32, 32, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "nowhere/out.png"], "--output: there is no folder 'nowhere'"),
        (["-o", "folder.png"], "--output: 'folder.png' is a folder"),
        (["--preset", "muse_shape"], "`preset` must be one of"),
        (["--steps", "17"], "`num_steps` must lie in [1, 16]"),
        (["--guidance", "-1"], "`guidance_scale` must be finite and at least 0"),
        (["--temperature", "nan"], "`temperature` must be finite"),
        (["--seed", str(2**31)], "`seed` must lie in"),
    ],
)
def test_errors_are_one_line(preset, here, capsys, arguments, message):
    (here / "folder.png").mkdir()
    assert cli.main(["generate", "a", "--preset", preset, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [x for x in err.splitlines() if "using the" not in x]
    assert line.startswith("keras-muse: error: ") and message in line
    assert not list(here.glob("*out*"))


def test_an_output_that_cannot_be_written_is_found_first(here, monkeypatch, capsys):
    def load(preset):
        raise AssertionError("too late")

    monkeypatch.setattr(keras_muse.presets, "load", load)
    monkeypatch.setattr(output.os, "access", lambda path, mode: False)
    assert cli.main(["generate", "a"]) == 1
    assert "cannot write to 'out.png'" in capsys.readouterr().err
