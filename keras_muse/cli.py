"""The command line: `keras-muse generate | presets | train-shapes`."""

import argparse
import contextlib
import json
import math
import os
import pathlib
import random
import sys

import keras
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import keras_muse
from keras_muse.recipes import muse_shapes

__all__ = ["main"]

EXAMPLES = """examples:
  keras-muse generate "three small red circles on a black background"
  keras-muse presets
  keras-muse train-shapes --folder runs/muse_shapes

KERAS_BACKEND chooses between jax, tensorflow and torch. Exit codes: 0 done, 1 failed,
2 wrong usage, 130 interrupted."""

GENERATE_EXAMPLES = """examples:
  keras-muse generate "three small red circles above a large blue square" --seed 7
  keras-muse generate "a red circle" --steps 24 --guidance 2 --negative "on white"
  keras-muse generate "a green cross" "two pink squares" --output shapes/out.png
      writes shapes/out_0.png and shapes/out_1.png
  keras-muse generate "a green cross" "two pink squares" --grid --output sheet.png

The same prompt, seed and settings make the same picture on every backend. The PNG
holds them as text, so that the picture can be made again."""


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
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="keras-muse",
        description="Muse: pictures from prompts, in Keras 3.",
        epilog=EXAMPLES,
        **layout,
    )
    parser.add_argument(
        "--version", action="version", version=f"keras-muse {keras_muse.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="make pictures from prompts",
        description="Makes one picture for every prompt and prints where it is. What "
        "is not set here falls back to what the preset stores.",
        epilog=GENERATE_EXAMPLES,
        **layout,
    )
    generate.set_defaults(run=run_generate)
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate.add_argument(
        "--preset", default="muse_shapes", help="name, folder or handle (%(default)s)"
    )
    generate.add_argument(
        "--seed", type=int, help="of the first picture, one more for each next (random)"
    )
    generate.add_argument("--steps", type=int, help="decoding steps")
    generate.add_argument("--guidance", type=float, help="guidance scale, 1 is none")
    generate.add_argument("--temperature", type=float, help="of tokens; 0 is greedy")
    generate.add_argument("--negative", metavar="PROMPT", help="what to lead away from")
    generate.add_argument(
        "--output",
        "-o",
        type=output_path,
        default="out.png",
        help="PNG file (%(default)s); of several prompts out_0.png, out_1.png, ...",
    )
    generate.add_argument("--grid", action="store_true", help="pictures in one file")
    generate.add_argument(
        "--batch-size",
        type=positive,
        default=16,
        help="pictures at a time (%(default)s)",
    )

    presets = commands.add_parser(
        "presets",
        help="list the built-in presets, or describe and check one",
        epilog="examples:\n  keras-muse presets\n  keras-muse presets muse_shapes\n",
        **layout,
    )
    presets.set_defaults(run=run_presets)
    presets.add_argument("name", nargs="?", metavar="NAME")

    train = commands.add_parser(
        "train-shapes",
        help="train the embedded preset from nothing",
        description="Trains muse_shapes. The same command resumes a stopped training.",
        epilog="example:\n  keras-muse train-shapes --folder runs/muse_shapes\n",
        **layout,
    )
    train.set_defaults(run=run_train_shapes)
    train.add_argument("--folder", default="runs/muse_shapes", help="(%(default)s)")
    train.add_argument("--tokenizer-steps", type=positive, help="of 32 pictures")
    train.add_argument("--pictures", type=positive, help="to train the base on")
    train.add_argument("--precision", help="dtype policy of the base")
    train.add_argument(
        "--initial-preset", help="preset whose base is to learn on (none)"
    )
    train.add_argument(
        "--seed", type=int, help="with --initial-preset: of its new pictures (7)"
    )
    return parser


def positive(text):
    """An int of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def output_path(text):
    """The path of a PNG, for argparse."""
    path = pathlib.Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return path


def say_backend():
    """Says on stderr what computes."""
    backend = keras.config.backend()
    print(f"keras-muse: using the {backend} backend", file=sys.stderr)


def run_generate(options):
    """`keras-muse generate`."""
    prompts, count = options.prompts, len(options.prompts)
    paths = output_paths(options.output, 1 if options.grid else count)
    say_backend()
    muse = keras_muse.presets.load(options.preset)
    # A random seed has to be known as well, or nobody could make the picture again.
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**31 - count)
    pictures, notes = [], []
    for start in range(0, count, options.batch_size):
        batch = prompts[start : start + options.batch_size]
        seeds = [seed + start + row for row in range(len(batch))]
        # The bar is for the terminal; stdout holds paths alone.
        with contextlib.redirect_stdout(sys.stderr):
            images = muse.generate(
                {"prompts": batch, "negative_prompts": options.negative},
                num_steps=options.steps,
                guidance_scale=options.guidance,
                temperature=options.temperature,
                seed=seeds,
                verbose=int(sys.stderr.isatty()),
            )
        for row, image in enumerate(images):
            note = make_note(options, muse.samplers, batch[row], seeds[row])
            if options.grid:
                pictures.append(image)
                notes.append(note)
            else:
                write_png(paths[start + row], image, note)
    if options.grid:
        note = {"pictures": json.dumps(notes)}
        write_png(paths[0], contact_sheet(np.stack(pictures)), note)


def output_paths(path, count):
    """Where pictures go; an error now is better than one after the work."""
    paths = [path]
    if count > 1:
        digits = len(str(count - 1))
        paths = [path.with_stem(f"{path.stem}_{i:0{digits}d}") for i in range(count)]
    for path in paths:
        if not path.parent.is_dir():
            raise ValueError(f"--output: there is no folder {str(path.parent)!r}.")
        if path.is_dir():
            raise ValueError(f"--output: {str(path)!r} is a folder.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"--output: cannot write to {str(path)!r}.")
    return paths


def make_note(options, samplers, prompt, seed):
    """What makes a picture again, the settings of the preset included."""

    def setting(given, name):
        values = [getattr(sampler, name) for sampler in samplers]
        return " ".join(map(str, values if given is None else [given] * len(values)))

    return {
        "prompt": prompt,
        "negative_prompt": options.negative or "",
        "seed": str(seed),
        "preset": options.preset,
        "num_steps": setting(options.steps, "num_steps"),
        "guidance_scale": setting(options.guidance, "guidance_scale"),
        "temperature": setting(options.temperature, "temperature"),
        "Software": f"keras-muse {keras_muse.__version__}",
    }


def contact_sheet(pictures):
    """Pictures (B, H, W, 3) as one, about as wide as high."""
    count, height, width, channels = pictures.shape
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, channels), 255, "uint8")
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, channels)
    return sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)


def write_png(path, picture, note):
    """Writes a PNG that tells how it was made, and prints its path."""
    info = PngInfo()
    for name, value in note.items():
        info.add_text(name, value)
    Image.fromarray(picture).save(path, pnginfo=info)
    print(path, flush=True)


def run_presets(options):
    """`keras-muse presets [NAME]`."""
    presets = keras_muse.presets
    if options.name is None:
        for name in presets.names():
            print(f"{name}: {presets.describe(name)['description']}")
        return
    entry = presets.describe(options.name)
    parts = presets.parts(options.name)
    for key, value in entry.items():
        print(f"{key}: {value}")
    print("parts:")
    for part in parts:
        count = f"{part['parameters']:,} parameters"
        print(f"  {part['name']}: {part['class']}, {part['size']}, {count}")


def run_train_shapes(options):
    """`keras-muse train-shapes`."""
    say_backend()
    names = ("tokenizer_steps", "pictures", "precision", "initial_preset", "seed")
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    print(muse_shapes.train(options.folder, **given))


if __name__ == "__main__":
    sys.exit(main())
