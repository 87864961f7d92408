"""Options that several commands have, and what they mean for a call."""

import argparse
import pathlib
import random
import sys

__all__ = [
    "LAYOUT",
    "add_settings",
    "choose_seed",
    "png_path",
    "positive",
    "settings_of",
    "used",
]

LAYOUT = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def add_settings(parser, seed, steps, output, grid):
    """Adds the options of every command that makes pictures; the texts are help."""
    parser.add_argument(
        "--preset", default="muse_shapes", help="name, folder or handle (%(default)s)"
    )
    parser.add_argument("--seed", type=int, help=seed)
    parser.add_argument("--steps", type=int, help=steps)
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 is none")
    parser.add_argument("--temperature", type=float, help="of tokens; 0 is greedy")
    parser.add_argument("--negative", metavar="PROMPT", help="what to lead away from")
    parser.add_argument("--output", "-o", type=png_path, default="out.png", help=output)
    parser.add_argument("--grid", action="store_true", help=grid)


def positive(text):
    """An int of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def png_path(text):
    """The path of a PNG, for argparse."""
    path = pathlib.Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return path


def choose_seed(seed, count):
    """The seed of the first of `count` pictures, a random one if there is none."""
    # A random seed has to be known as well, or nobody could make the picture again.
    return random.SystemRandom().randrange(2**31 - count) if seed is None else seed


def settings_of(options):
    """The arguments of `generate` that every task has."""
    return {
        "num_steps": options.steps,
        "guidance_scale": options.guidance,
        "temperature": options.temperature,
        "verbose": int(sys.stderr.isatty()),
    }


def used(options, sampler):
    """A sampler with the settings of the command line in place of its own."""
    return sampler.replace(
        num_steps=options.steps,
        guidance_scale=options.guidance,
        temperature=options.temperature,
    )
