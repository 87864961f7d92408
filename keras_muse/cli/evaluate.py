"""`keras-muse evaluate`: how good the pictures of a Muse are."""

import contextlib
import sys

import keras

import keras_muse
from keras_muse import data, evaluation
from keras_muse.cli.options import LAYOUT, positive
from keras_muse.cli.output import say_backend

__all__ = ["add_commands"]

EXAMPLES = """examples:
  keras-muse evaluate muse_shapes shapes --count 1000 --output shapes.json
      captions of the shapes world that no training has seen
  keras-muse evaluate my_muse pictures --output eval.json --tokenizer
      a folder, captions in metadata.jsonl, metadata.csv or NAME.txt beside NAME.png
  keras-muse evaluate my_muse captions_val2014.json --images val2014 --count 30000 \\
      --image-size 256 --features fid-inception:classify_image_graph_def.pb \\
      --clip clip_vit_large_patch14 --output coco.json
      FID-30K and CLIP score on COCO; guides/evaluation.md tells more

The JSON has every number and whatever decides it, and OUTPUT.png beside it shows true
pictures and those made of their captions. Kill it whenever you like: the same command
with --resume goes on, to the same numbers."""

EXTRACTORS = """untrained (the default); fid-inception:FILE, the graph of published
FIDs, classify_image_graph_def.pb or its .tgz; keras-inception:FILE, weights of
keras.applications.InceptionV3 without the top; or MODEL.keras, which sees [0, 1]"""


def add_commands(commands):
    """Adds the command to the subparsers."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a Muse: FID, KID, precision and recall, CLIP score, ...",
        description="Makes a picture for each caption, holds them against the true "
        "ones, and writes one JSON.",
        epilog=EXAMPLES,
        **LAYOUT,
    )
    evaluate.set_defaults(run=run_evaluate)
    evaluate.add_argument("preset", metavar="PRESET", help="name, folder or handle")
    evaluate.add_argument(
        "data", metavar="DATA", help="folder, tars, COCO JSON, or: shapes"
    )
    evaluate.add_argument("--output", "-o", required=True, help="JSON file")
    evaluate.add_argument("--images", help="folder of the pictures of a COCO JSON")
    evaluate.add_argument("--caption-key", help="column of metadata, or key of JSON")
    evaluate.add_argument(
        "--count", type=positive, help="pictures (all of DATA; 1000 of shapes)"
    )
    evaluate.add_argument(
        "--image-size", type=positive, help="at which to compare (the model's)"
    )
    evaluate.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first picture, one more for each next, and of the choice of "
        "records and captions (%(default)s)",
    )
    evaluate.add_argument(
        "--steps",
        "--num-steps",
        type=positive,
        nargs="+",
        help="decoding steps, one for all stages or one each (the preset's)",
    )
    evaluate.add_argument(
        "--guidance",
        "--guidance-scale",
        type=float,
        nargs="+",
        help="guidance scale, one for all stages or one each (the preset's)",
    )
    evaluate.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        help="of tokens, one for all stages or one each (the preset's)",
    )
    evaluate.add_argument("--features", default="untrained", help=EXTRACTORS)
    evaluate.add_argument(
        "--clip", metavar="CLIP", help="preset of KerasHub's CLIPBackbone (no score)"
    )
    evaluate.add_argument(
        "--tokenizer",
        action="store_true",
        help="measure the image tokenizer of the last stage, too",
    )
    evaluate.add_argument(
        "--batch-size", type=positive, default=16, help="pictures (%(default)s)"
    )
    evaluate.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="of the records, at which to stop (%(default)s)",
    )
    evaluate.add_argument(
        "--save-every",
        type=positive,
        default=50,
        help="batches, after which progress is written down (%(default)s)",
    )
    evaluate.add_argument(
        "--resume", action="store_true", help="go on with what was begun"
    )


def run_evaluate(options):
    """Evaluates, and prints the path of the JSON."""
    extractor = make_extractor(options.features)
    say_backend()
    muse = keras_muse.presets.load(options.preset)
    source = make_source(options, muse)
    clip = options.clip and evaluation.CLIPScore.from_preset(options.clip)
    # The bar is for the terminal; stdout holds the path alone.
    with contextlib.redirect_stdout(sys.stderr):
        evaluation.evaluate(
            muse,
            source,
            options.output,
            preset=options.preset,
            seed=options.seed,
            batch_size=options.batch_size,
            num_steps=one_or_each(options.steps),
            guidance_scale=one_or_each(options.guidance),
            temperature=one_or_each(options.temperature),
            extractor=extractor,
            clip=clip,
            tokenizer=options.tokenizer,
            max_bad_fraction=options.max_bad,
            save_every=options.save_every,
            resume=options.resume,
            verbose=int(sys.stderr.isatty()),
        )
    print(options.output)


def make_source(options, muse):
    """The true pictures and captions of the command line."""
    size = muse.backbone.image_shape[:2]
    if options.image_size is not None:
        size = (options.image_size,) * 2
    if options.data == "shapes":
        for name in ("images", "caption_key"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')}: the shapes world has none, leave it "
                    "out."
                )
        count = 1000 if options.count is None else options.count
        return evaluation.ShapesSource(count, options.seed, size)
    records = data.read_pictures(
        options.data,
        images=options.images,
        caption_key=options.caption_key,
        image_size=size,
    )
    return evaluation.RecordSource(records, options.count, options.seed)


def make_extractor(text):
    """The feature extractor that `--features` names."""
    kind, colon, path = text.partition(":")
    if text == "untrained":
        return evaluation.untrained_features()
    if kind == "fid-inception" and path:
        return evaluation.FIDInception(path)
    if kind == "keras-inception" and path:
        return evaluation.keras_inception(path)
    if text.endswith(".keras"):
        model = keras.models.load_model(text, compile=False)
        return evaluation.KerasFeatures(model, text.rpartition("/")[-1])
    raise ValueError(
        "--features: must be 'untrained', 'fid-inception:FILE', "
        f"'keras-inception:FILE' or a file MODEL.keras: received {text!r}."
    )


def one_or_each(values):
    """A number for all stages, a list of one for each, or `None`."""
    return values[0] if values and len(values) == 1 else values
