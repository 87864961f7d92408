"""`keras-muse export`: a preset as a model of TF Serving."""

import pathlib
import sys

from keras_muse import serving
from keras_muse.cli.options import LAYOUT, positive

__all__ = ["add_commands"]

EXAMPLES = """examples:
  keras-muse export muse_shapes served/muse --version 1
      tensorflow_model_server --model_name=muse --model_base_path=$PWD/served/muse
  keras-muse export muse_shapes served/muse --version 2 --steps 16 4 --label canary
  keras-muse export muse_shapes served/small --stages 1 --precision int8

BASE_DIR then has the version, models.config and batching_parameters.txt; the version
has a model_card.md with its signatures."""


def add_commands(commands):
    """Adds the command to the subparsers."""
    export = commands.add_parser(
        "export",
        help="write a SavedModel for TF Serving",
        description="Writes BASE_DIR/VERSION beside its place, renames it, and prints "
        "where it is.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    export.set_defaults(run=run_export)
    export.add_argument("preset", metavar="PRESET", help="name, folder or handle")
    export.add_argument(
        "folder", metavar="BASE_DIR", type=pathlib.Path, help="its name is the model's"
    )
    export.add_argument(
        "--version", type=positive, default=1, help="(%(default)s), a new one"
    )
    export.add_argument(
        "--stages", type=positive, help="how many, from the base on (all)"
    )
    export.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        help="decoding steps, one for all stages or one each (the preset's)",
    )
    export.add_argument(
        "--max-batch", type=positive, default=8, help="rows (%(default)s)"
    )
    export.add_argument(
        "--precision", choices=serving.PRECISIONS, help="(what the preset has)"
    )
    export.add_argument(
        "--label", default="stable", help="of the version, in models.config (stable)"
    )
    export.add_argument(
        "--no-warm-up", action="store_true", help="write no warm-up requests"
    )
    export.add_argument(
        "--backend",
        choices=serving.BACKENDS,
        default="tensorflow",
        help="what computes in the SavedModel (%(default)s); jax needs a flag of the "
        "server",
    )


def run_export(options):
    """Exports the preset."""
    steps = options.steps
    print(f"exporting with {options.backend}: a minute or so", file=sys.stderr)
    path = serving.export_preset(
        options.preset,
        options.folder / str(options.version),
        num_steps=steps[0] if steps and len(steps) == 1 else steps,
        stages=options.stages,
        max_batch=options.max_batch,
        precision=options.precision,
        label=options.label,
        warm_up=not options.no_warm_up,
        backend=options.backend,
    )
    print(path)
