"""`keras-muse presets` and `train-shapes`: what there is, and where it comes from."""

import keras_muse
from keras_muse.cli.options import LAYOUT, positive
from keras_muse.cli.output import say_backend
from keras_muse.recipes import muse_shapes

__all__ = ["add_commands"]


def add_commands(commands):
    """Adds the commands to the subparsers."""
    presets = commands.add_parser(
        "presets",
        help="list the built-in presets, or describe and check one",
        epilog="examples:\n  keras-muse presets\n  keras-muse presets muse_shapes\n",
        **LAYOUT,
    )
    presets.set_defaults(run=run_presets)
    presets.add_argument("name", nargs="?", metavar="NAME")

    train = commands.add_parser(
        "train-shapes",
        help="train the embedded preset from nothing",
        description="Trains muse_shapes. The same command resumes a stopped training.",
        epilog="example:\n  keras-muse train-shapes --folder runs/muse_shapes\n",
        **LAYOUT,
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
