"""The command line: `keras-muse COMMAND`, one module for each kind of command."""

import argparse
import sys

import keras_muse
from keras_muse.cli import (
    editing,
    evaluate,
    export,
    generate,
    prepare,
    presets,
    train,
)
from keras_muse.cli.options import LAYOUT

__all__ = ["main", "make_parser"]

EXAMPLES = """examples:
  keras-muse generate "three small red circles on a black background"
  keras-muse inpaint out.png mask.png "a large blue square" --output painted.png
  keras-muse prepare pictures tokens --preset my_muse
  keras-muse train emoji.toml --folder runs/emoji
  keras-muse evaluate muse_shapes shapes --count 200 --output shapes.json
  keras-muse export my_muse served/muse --version 1
  keras-muse presets
  keras-muse train-shapes --folder runs/muse_shapes

KERAS_BACKEND chooses between jax, tensorflow and torch. On jax and torch
KERAS_MUSE_WITHOUT_TENSORFLOW=1 makes pictures without TensorFlow, which starts faster.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


def main(argv=None):
    """Runs a command.

    Args:
        argv: optional list of str. Defaults to the arguments of the process.

    Returns:
        int, the exit code: 0, 1 for an error (one line on stderr), 2 for a wrong
        command line, 130 for Ctrl-C.
    """
    parser = make_parser()
    try:
        options = parser.parse_args(argv)
        options.run(options)
    except SystemExit as stop:
        return stop.code or 0
    except KeyboardInterrupt:
        print("keras-muse: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"keras-muse: error: {message}", file=sys.stderr)
        return 1
    return 0


def make_parser():
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="keras-muse",
        description="Muse: pictures from prompts, in Keras 3.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    parser.add_argument(
        "--version", action="version", version=f"keras-muse {keras_muse.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (generate, editing, prepare, train, evaluate, export, presets):
        module.add_commands(commands)
    return parser
