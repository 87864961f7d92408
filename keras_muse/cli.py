"""The command line: `keras-muse generate | presets | train-shapes`."""

import argparse
import os
import pathlib
import sys

import keras
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import keras_muse
from keras_muse.models.inputs import as_seeds
from keras_muse.recipes import muse_shapes

__all__ = ["main"]

GENERATE_EXAMPLES = """examples:
  keras-muse generate "three small red circles above a large blue square"
  keras-muse generate "a green cross" "two pink squares" --seed 7 --output out.png
  keras-muse generate "a green cross" "two pink squares" --grid --steps 16
"""


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
    except SystemExit as stop:
        return stop.code or 0
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("keras-muse: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"keras-muse: error: {error}", file=sys.stderr)
        return 1
    return 0


def make_parser():
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="keras-muse", description="Muse: pictures from prompts, in Keras 3."
    )
    parser.add_argument(
        "--version", action="version", version=f"keras-muse {keras_muse.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="make pictures from prompts",
        description="Makes one picture for every prompt and prints where it is. What is "
        "not set here falls back to what the preset stores.",
        epilog=GENERATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    generate.set_defaults(run=run_generate)
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate.add_argument(
        "--preset", default="muse_shapes", help="name, folder or handle (%(default)s)"
    )
    generate.add_argument("--seed", type=int, help="of the first picture")
    generate.add_argument("--steps", type=int, help="decoding steps")
    generate.add_argument("--guidance", type=float, help="guidance scale, 1 is none")
    generate.add_argument("--temperature", type=float, help="of tokens; 0 is greedy")
    generate.add_argument("--negative", metavar="PROMPT", help="what to lead away from")
    generate.add_argument(
        "--output",
        "-o",
        type=pathlib.Path,
        default=pathlib.Path("out.png"),
        help="PNG file (%(default)s); of several prompts out_0.png, out_1.png, ...",
    )
    generate.add_argument("--grid", action="store_true", help="pictures in one file")
    generate.add_argument(
        "--batch-size", type=int, default=16, help="pictures at a time (%(default)s)"
    )

    presets = commands.add_parser(
        "presets",
        help="list the built-in presets, or describe one",
        epilog="examples:\n  keras-muse presets\n  keras-muse presets muse_shapes\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    presets.set_defaults(run=run_presets)
    presets.add_argument("name", nargs="?", metavar="NAME")

    train = commands.add_parser(
        "train-shapes",
        help="train the embedded preset from nothing",
        description="Trains muse_shapes. The same command resumes a stopped training.",
        epilog="example:\n  keras-muse train-shapes --folder runs/muse_shapes\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(run=run_train_shapes)
    train.add_argument("--folder", default="runs/muse_shapes", help="(%(default)s)")
    train.add_argument(
        "--tokenizer-steps", type=int, default=3600, help="(%(default)s)"
    )
    train.add_argument("--pictures", type=int, default=320_000)
    train.add_argument("--precision", default="mixed_bfloat16")
    return parser


def say_backend():
    """Says on stderr what computes."""
    backend = keras.config.backend()
    print(f"keras-muse: using the {backend} backend", file=sys.stderr)


def run_generate(options):
    """`keras-muse generate`."""
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}.")
    paths = output_paths(options.output, len(options.prompts), options.grid)
    say_backend()
    muse = keras_muse.presets.load(options.preset)
    seeds = as_seeds(options.seed, len(options.prompts)).tolist()
    pictures = []
    for start in range(0, len(options.prompts), options.batch_size):
        rows = slice(start, start + options.batch_size)
        inputs = {"prompts": options.prompts[rows]}
        if options.negative is not None:
            inputs["negative_prompts"] = options.negative
        pictures.append(
            muse.generate(
                inputs,
                num_steps=options.steps,
                guidance_scale=options.guidance,
                temperature=options.temperature,
                seed=seeds[rows],
                verbose=int(sys.stdout.isatty()),
            )
        )
    pictures = np.concatenate(pictures)
    notes = {
        "preset": options.preset,
        "steps": options.steps,
        "guidance": options.guidance,
        "temperature": options.temperature,
        "negative": options.negative,
    }
    if options.grid:
        pictures = [contact_sheet(pictures)]
        prompts, seeds = ["; ".join(options.prompts)], [seeds]
    else:
        prompts = options.prompts
    for path, picture, prompt, seed in zip(paths, pictures, prompts, seeds):
        write_png(path, picture, {"prompt": prompt, "seed": seed, **notes})
        print(path)


def output_paths(path, count, grid):
    """Where pictures go; an error now is better than one after the work."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {str(path)!r}.")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--output must be a file in a folder, got {str(path)!r}.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"--output: cannot write to {str(path.parent)!r}.")
    if count == 1 or grid:
        return [path]
    return [path.with_stem(f"{path.stem}_{i}") for i in range(count)]


def contact_sheet(pictures):
    """Pictures (B, H, W, 3) as one, about as wide as high."""
    count, height, width, channels = pictures.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, channels), 255, "uint8")
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, channels)
    return sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)


def write_png(path, picture, notes):
    """A PNG that tells how it was made."""
    info = PngInfo()
    for name, value in notes.items():
        if value is not None:
            info.add_text(name, str(value))
    Image.fromarray(picture).save(path, pnginfo=info)


def run_presets(options):
    """`keras-muse presets [NAME]`."""
    presets = keras_muse.presets
    if options.name is None:
        for name in presets.names():
            print(f"{name}: {presets.describe(name)['description']}")
        return
    for key, value in presets.describe(options.name).items():
        print(f"{key}: {value}")


def run_train_shapes(options):
    """`keras-muse train-shapes`."""
    say_backend()
    preset = muse_shapes.train(
        options.folder,
        tokenizer_steps=options.tokenizer_steps,
        pictures=options.pictures,
        precision=options.precision,
    )
    print(preset)
