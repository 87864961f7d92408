"""The command line, in this process, and once in its own for the backend."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_muse
from keras_muse import cli
from tests.tools import tiny_muse

QUICK = ["--steps", "2", "--guidance", "2", "--seed", "5"]
SETTINGS = {"num_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def muse():
    return tiny_muse()


@pytest.fixture(scope="module")
def preset(muse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    muse.save_to_preset(str(folder))
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    paths = [str(path) for path in cli.output_paths(pathlib.Path("b.png"), 11)]
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
    monkeypatch.setattr(cli.os, "access", lambda path, mode: False)
    assert cli.main(["generate", "a"]) == 1
    assert "cannot write to 'out.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate"], "required: PROMPT"),
        (["generate", "a", "--seed", "x"], "invalid int value"),
        (["generate", "a", "-o", "a.jpg"], "argument --output/-o: must end in .png"),
        (
            ["generate", "a", "--batch-size", "0"],
            "--batch-size: must be at least 1, got 0",
        ),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interruption(monkeypatch, capsys):
    def load(preset):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_muse.presets, "load", load)
    assert cli.main(["generate", "a"]) == 130
    assert capsys.readouterr().err.endswith("keras-muse: interrupted\n")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"keras-muse {keras_muse.__version__}\n"


@pytest.mark.parametrize("command", [[], ["generate"], ["presets"], ["train-shapes"]])
def test_help_has_examples(capsys, command):
    assert cli.main([*command, "--help"]) == 0
    assert "keras-muse " in capsys.readouterr().out.split("example")[1]


def test_presets(capsys, monkeypatch, preset):
    assert cli.main(["presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in keras_muse.presets.names())
    assert cli.main(["presets", "muse_shape"]) == 1
    assert (
        "`name` must be one of ['muse_shapes', 'muse_268m'" in capsys.readouterr().err
    )
    table = keras_muse.presets.table.PRESETS
    entry = {**table["muse_shapes"], "folder": pathlib.Path(preset)}
    monkeypatch.setitem(table, "muse_shapes", entry)
    assert cli.main(["presets", "muse_shapes"]) == 0
    out = capsys.readouterr().out
    assert f"path: {preset}\n" in out
    entry["folder"] = pathlib.Path(preset) / "nowhere"
    assert cli.main(["presets", "muse_shapes"]) == 1
    assert "no preset folder" in capsys.readouterr().err


def test_training_runs_the_recipe(monkeypatch, capsys):
    seen = []

    def train(folder, **settings):
        seen.append((folder, settings))
        return "the preset"

    monkeypatch.setattr(cli.muse_shapes, "train", train)
    arguments = ["--folder", "here", "--tokenizer-steps", "4", "--precision", "float32"]
    assert cli.main(["train-shapes", *arguments]) == 0
    assert cli.main(["train-shapes", "--initial-preset", "x", "--seed", "0"]) == 0
    assert seen == [
        ("here", {"tokenizer_steps": 4, "precision": "float32"}),
        ("runs/muse_shapes", {"initial_preset": "x", "seed": 0}),
    ]
    assert capsys.readouterr().out == "the preset\nthe preset\n"


def test_the_backend_is_an_installed_one(tmp_path):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n: None if n == 'jax' else find(n)\n"
        "from keras_muse.cli import main, say_backend\n"
        "say_backend()\n"
        "sys.exit(main(['presets']))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "KERAS_HOME": str(tmp_path)},
        cwd=pathlib.Path(keras_muse.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0
    assert "keras-muse: using the tensorflow backend\n" in done.stderr
    assert done.stdout.startswith("muse_shapes: ")
