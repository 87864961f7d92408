"""`keras-muse generate`: pictures from prompts."""

import contextlib
import sys

import keras_muse
from keras_muse.cli.options import (
    LAYOUT,
    add_settings,
    choose_seed,
    positive,
    settings_of,
    used,
)
from keras_muse.cli.output import Output, make_note, say_backend

__all__ = ["add_commands"]

EXAMPLES = """examples:
  keras-muse generate "three small red circles above a large blue square" --seed 7
  keras-muse generate "a red circle" --steps 24 --guidance 2 --negative "on white"
  keras-muse generate "a green cross" "two pink squares" --output shapes/out.png
      writes shapes/out_0.png and shapes/out_1.png
  keras-muse generate "a green cross" "two pink squares" --grid --output sheet.png

The same prompt, seed and settings make the same picture on every backend. The PNG
holds them as text, so that the picture can be made again."""


def add_commands(commands):
    """Adds the command to the subparsers."""
    generate = commands.add_parser(
        "generate",
        help="make pictures from prompts",
        description="Makes one picture for every prompt and prints where it is. What "
        "is not set here falls back to what the preset stores.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    generate.set_defaults(run=run_generate)
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    add_settings(
        generate,
        seed="of the first picture, one more for each next (random)",
        steps="decoding steps",
        output="PNG file (%(default)s); of several prompts out_0.png, out_1.png, ...",
        grid="pictures in one file",
    )
    generate.add_argument(
        "--batch-size",
        type=positive,
        default=16,
        help="pictures at a time (%(default)s)",
    )


def run_generate(options):
    """Makes a picture for each prompt."""
    prompts, count = options.prompts, len(options.prompts)
    output = Output(options.output, count, options.grid)
    say_backend()
    muse = keras_muse.presets.load(options.preset)
    seed = choose_seed(options.seed, count)
    for start in range(0, count, options.batch_size):
        batch = prompts[start : start + options.batch_size]
        seeds = [seed + start + row for row in range(len(batch))]
        # The bar is for the terminal; stdout holds paths alone.
        with contextlib.redirect_stdout(sys.stderr):
            images = muse.generate(
                {"prompts": batch, "negative_prompts": options.negative},
                seed=seeds,
                **settings_of(options),
            )
        samplers = [used(options, sampler) for sampler in muse.samplers]
        for image, prompt, row_seed in zip(images, batch, seeds):
            output.add(image, make_note(options, samplers, prompt, row_seed))
    output.finish()
