"""`keras-muse prepare`: pictures and captions to shards of tokens."""

import shlex
import sys

from keras_muse import data, models
from keras_muse.cli.options import LAYOUT, positive
from keras_muse.cli.output import say_backend

__all__ = ["add_commands"]

EXAMPLES = """examples:
  keras-muse prepare pictures tokens --preset my_muse
      a folder, captions in metadata.jsonl, metadata.csv or NAME.txt beside NAME.png
  keras-muse prepare "cc3m/*.tar" tokens --preset my_muse --text ids --workers 4
      tars of img2dataset or WebDataset
  keras-muse prepare captions_train2017.json tokens --images train2017 --preset my_muse
      COCO captions
  keras-muse prepare pictures tokens --preset my_muse --beam "--runner=DirectRunner"
      on Apache Beam, with the options of any of its runners

The same command goes on after it was stopped. What cannot be read is listed in
bad.jsonl of the folder and left out."""


def add_commands(commands):
    """Adds the command to the subparsers."""
    prepare = commands.add_parser(
        "prepare",
        help="make shards of image tokens and text from pictures and captions",
        description="Encodes every picture and caption once, for all trainings.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    prepare.set_defaults(run=run_prepare)
    prepare.add_argument("source", metavar="SOURCE", help="folder, tars or COCO JSON")
    prepare.add_argument("folder", metavar="FOLDER", help="where the shards go")
    prepare.add_argument(
        "--preset",
        required=True,
        help="Muse with the tokenizers",
    )
    prepare.add_argument("--images", help="folder of the pictures of a COCO JSON")
    prepare.add_argument("--caption-key", help="column of metadata, or key of JSON")
    prepare.add_argument(
        "--crop", choices=data.CROPS, default="centre", help="(%(default)s)"
    )
    prepare.add_argument(
        "--text", choices=data.TEXTS, default="embeddings", help="(%(default)s)"
    )
    prepare.add_argument(
        "--format", choices=data.FORMATS, default="tfrecord", help="(%(default)s)"
    )
    prepare.add_argument(
        "--shard-size", type=positive, default=1024, help="records (%(default)s)"
    )
    prepare.add_argument(
        "--batch-size", type=positive, default=32, help="pictures (%(default)s)"
    )
    prepare.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="of the records, at which to stop (%(default)s)",
    )
    prepare.add_argument(
        "--workers", type=positive, default=1, help="processes (%(default)s)"
    )
    prepare.add_argument(
        "--beam", metavar="OPTIONS", help="run on Apache Beam, with these options"
    )


def run_prepare(options):
    """Writes the shards; says on stdout how many records are in them."""
    if options.beam is not None and options.workers != 1:
        raise ValueError("--workers: the runner of --beam has its own, leave it out.")
    say_backend()
    backbone = models.MuseBackbone.from_preset(options.preset, load_weights=False)
    records = data.read_pictures(
        options.source,
        images=options.images,
        caption_key=options.caption_key,
        image_size=backbone.image_shape[:2],
        crop=options.crop,
        captions=options.text != "none",
    )
    settings = {
        "text": options.text,
        "file_format": options.format,
        "shard_size": options.shard_size,
        "batch_size": options.batch_size,
        "max_bad_fraction": options.max_bad,
    }
    where = (records, options.preset, options.folder)
    if options.beam is None:
        info = data.prepare(
            *where,
            **settings,
            num_workers=options.workers,
            verbose=int(sys.stderr.isatty()),
        )
    else:
        info = data.prepare_with_beam(*where, shlex.split(options.beam), **settings)
    print(
        f"{info['records']} records in {len(info['shards'])} shards of "
        f"{options.folder}, {info['bad']} left out"
    )
