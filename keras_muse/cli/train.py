"""`keras-muse train`: a Muse from pictures and captions of one's own."""

from keras_muse.cli.options import LAYOUT
from keras_muse.cli.output import say_backend
from keras_muse.recipes import config, stages

__all__ = ["add_commands"]

EXAMPLES = """examples:
  keras-muse train emoji.toml --folder runs/emoji
  keras-muse train emoji.toml --folder runs/emoji --resume

guides/emoji.toml is a config to begin with; keras_muse/recipes/config.py tells which
function takes the keys of each table. Kill it whenever you like: with --resume it goes
on from the last checkpoint, to the same numbers."""


def add_commands(commands):
    """Adds the command to the subparsers."""
    train = commands.add_parser(
        "train",
        help="train a Muse on pictures and captions",
        description="Trains image tokenizers, text encoder, base, super-resolution and "
        "larger decoder, and writes a preset.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    train.set_defaults(run=run_train)
    train.add_argument("config", metavar="CONFIG", help="TOML file")
    train.add_argument("--folder", required=True, help="what is written goes there")
    train.add_argument(
        "--resume", action="store_true", help="go on with what is in the folder"
    )
    add_average(commands)


def add_average(commands):
    """Adds `keras-muse average`."""
    average = commands.add_parser(
        "average",
        help="average the checkpoints of a stage, as the paper does",
        description="Writes a preset whose trained weights are a moving average over "
        "the checkpoints of a stage, which `keep_every` in the config keeps.",
        epilog="example:\n  keras-muse average runs/emoji/stage_0 averaged\n",
        **LAYOUT,
    )
    average.set_defaults(run=run_average)
    average.add_argument("folder", metavar="FOLDER", help="of a trained stage")
    average.add_argument("preset", metavar="PRESET", help="folder that is written")
    average.add_argument("--decay", type=float, default=0.7, help="(%(default)s)")


def run_average(options):
    """Averages, and prints which epochs are in it."""
    say_backend()
    epochs = stages.average_stage(options.folder, options.preset, options.decay)
    print(f"{options.preset}: the average of the epochs {epochs}")


def run_train(options):
    """Trains, and prints the path of the preset."""
    if config.is_begun(options.folder) and not options.resume:
        raise ValueError(
            f"--folder: a training was begun in {options.folder!r}; go on with "
            "--resume, or name an empty folder."
        )
    say_backend()
    print(config.train(options.config, options.folder))
