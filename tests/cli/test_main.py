"""All commands: usage, help, exit codes; those that list and train presets."""

import os
import pathlib
import subprocess
import sys

import pytest

import keras_muse
from keras_muse import cli
from keras_muse.cli import presets
from tests.tools import on_one_backend


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


@pytest.mark.parametrize(
    "command",
    [
        "",
        "generate",
        "inpaint",
        "outpaint",
        "edit",
        "average",
        "evaluate",
        "prepare",
        "presets",
        "train",
        "train-shapes",
    ],
)
def test_help_has_examples(capsys, command):
    assert cli.main([*command.split(), "--help"]) == 0
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

    monkeypatch.setattr(presets.muse_shapes, "train", train)
    arguments = ["--folder", "here", "--tokenizer-steps", "4", "--precision", "float32"]
    assert cli.main(["train-shapes", *arguments]) == 0
    assert cli.main(["train-shapes", "--initial-preset", "x", "--seed", "0"]) == 0
    assert seen == [
        ("here", {"tokenizer_steps": 4, "precision": "float32"}),
        ("runs/muse_shapes", {"initial_preset": "x", "seed": 0}),
    ]
    assert capsys.readouterr().out == "the preset\nthe preset\n"


@on_one_backend
def test_the_backend_is_an_installed_one(tmp_path):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n: None if n == 'jax' else find(n)\n"
        "from keras_muse.cli import main\n"
        "from keras_muse.cli.output import say_backend\n"
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
