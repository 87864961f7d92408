"""`keras-muse inpaint`, `outpaint` and `edit`: pictures from pictures."""

import contextlib
import os
import sys

import numpy as np

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
from keras_muse.models import MuseEdit, MuseInpaint, MuseOutpaint
from keras_muse.models.edit import METHODS
from keras_muse.models.frames import FITS
from keras_muse.models.pictures import as_masks, as_pictures

__all__ = ["add_commands"]

INPAINT_EXAMPLES = """examples:
  keras-muse inpaint in.png mask.png "a large red circle" --seed 7
  keras-muse inpaint in.png mask.png "a green cross" --dilation 1 --feather 4 --grid

The mask is a picture of the same size: white is made anew, black is kept."""

OUTPAINT_EXAMPLES = """examples:
  keras-muse outpaint in.png "two red circles" --extend 0 64 0 64
      adds 64 pixels on the right and 64 on the left
  keras-muse outpaint in.png "on a black background" --extend 64 64 64 64 --grid"""

EDIT_EXAMPLES = """examples:
  keras-muse edit in.png "a large blue circle" --seed 7
  keras-muse edit in.png "a large blue circle" --method contrast \\
      --negative "a large red circle"
  keras-muse edit in.png "a red circle" --variations 4 --output like.png
      writes like_0.png to like_3.png"""

AGAIN = """

The same picture, prompt, seed and settings make the same result on every backend. The
PNG holds them as text, so that it can be made again."""

OUTPUT = "PNG file (%(default)s)"
BEFORE_AND_AFTER = "before and after side by side"


def add_commands(commands):
    """Adds the commands to the subparsers."""
    inpaint = _command(
        commands,
        "inpaint",
        run_inpaint,
        help="make a part of a picture anew",
        description="Fills the white part of a mask and prints where the picture is.",
        epilog=INPAINT_EXAMPLES + AGAIN,
    )
    inpaint.add_argument("mask", metavar="MASK", help="white is made anew")
    inpaint.add_argument("prompt", metavar="PROMPT", help="what the whole shall show")
    add_settings(
        inpaint,
        seed="(random)",
        steps="decoding steps of a whole picture",
        output=OUTPUT,
        grid="before, mask and after side by side",
    )
    inpaint.add_argument(
        "--strength", type=float, default=1.0, help="share to make anew (%(default)s)"
    )
    inpaint.add_argument(
        "--dilation", type=int, default=0, help="cells to grow the mask by (0)"
    )
    inpaint.add_argument(
        "--feather", type=int, default=0, help="pixels of a soft edge (0)"
    )
    _add_composite(inpaint)
    _add_fit(inpaint)

    outpaint = _command(
        commands,
        "outpaint",
        run_outpaint,
        help="continue a picture beyond its edges",
        description="Continues a picture and prints where the larger one is.",
        epilog=OUTPAINT_EXAMPLES + AGAIN,
    )
    outpaint.add_argument("prompt", metavar="PROMPT", help="what each part shall show")
    outpaint.add_argument(
        "--extend",
        nargs=4,
        type=int,
        required=True,
        metavar=("TOP", "RIGHT", "BOTTOM", "LEFT"),
        help="pixels to add on each side",
    )
    add_settings(
        outpaint,
        seed="(random)",
        steps="decoding steps of a whole picture",
        output=OUTPUT,
        grid=BEFORE_AND_AFTER,
    )
    _add_composite(outpaint)

    edit = _command(
        commands,
        "edit",
        run_edit,
        help="change a picture by a prompt",
        description="Changes a picture without a mask and prints where the result is.",
        epilog=EDIT_EXAMPLES + AGAIN,
    )
    edit.add_argument("prompt", metavar="PROMPT", help="what it shall show then")
    add_settings(
        edit,
        seed="of the first variation, one more for each next (random)",
        steps="of the first stage: how often to draw anew, or decoding steps",
        output=f"{OUTPUT}; of several variations out_0.png, out_1.png, ...",
        grid=BEFORE_AND_AFTER,
    )
    ways = edit.add_mutually_exclusive_group()
    ways.add_argument("--method", choices=METHODS, help="what is drawn anew (resample)")
    ways.add_argument(
        "--strength", type=float, help="share to make anew, in place of a method"
    )
    edit.add_argument(
        "--mask-rate", type=float, help="of resample: share that a step draws anew"
    )
    edit.add_argument(
        "--threshold", type=float, help="of contrast: nats from which tokens change (1)"
    )
    _add_fit(edit)
    edit.add_argument(
        "--variations",
        type=positive,
        metavar="N",
        help="N pictures, of --strength 0.5 if neither it nor --method is set",
    )
    edit.add_argument(
        "--batch-size",
        type=positive,
        default=16,
        help="variations at a time (%(default)s)",
    )


def _command(commands, name, run, **texts):
    command = commands.add_parser(name, **texts, **LAYOUT)
    command.set_defaults(run=run, command=name, batch_size=1)
    command.add_argument("image", metavar="IMAGE", help="picture file of any format")
    return command


def _add_composite(command):
    command.add_argument(
        "--no-composite",
        dest="composite",
        action="store_false",
        help="known pixels, too, come from the model",
    )


def _add_fit(command):
    command.add_argument(
        "--fit",
        choices=FITS,
        default="letterbox",
        help="how pictures of another size are fitted (%(default)s)",
    )


def run_inpaint(options):
    """Fills the mask of a picture."""
    sources = [options.image, options.mask]
    output = Output(options.output, 1, options.grid, sources)
    [picture], _ = as_pictures(options.image)
    [mask] = as_masks(options.mask, [picture])
    settings = {
        "strength": options.strength,
        "mask_dilation": options.dilation,
        "feather": options.feather,
        "composite": options.composite,
        "fit": options.fit,
    }
    task = _load(MuseInpaint, options.preset)
    samplers = [used(options, sampler) for sampler in task.samplers]
    inputs = {"images": [picture], "masks": [mask]}
    _make(options, output, task, samplers, inputs, settings)
    shown = np.repeat(np.where(mask, 255, 0).astype("uint8")[..., None], 3, axis=-1)
    output.finish(before=[picture, shown], columns=3)


def run_outpaint(options):
    """Continues a picture."""
    output = Output(options.output, 1, options.grid, [options.image])
    [picture], _ = as_pictures(options.image)
    settings = {"extend": tuple(options.extend), "composite": options.composite}
    task = _load(MuseOutpaint, options.preset)
    samplers = [used(options, sampler) for sampler in task.samplers]
    _make(options, output, task, samplers, {"images": [picture]}, settings)
    top, right, bottom, left = options.extend
    sides = [(top, bottom), (left, right), (0, 0)]
    output.finish(before=[np.pad(picture, sides, constant_values=255)])


def run_edit(options):
    """Changes a picture, or makes variations of it."""
    count = options.variations or 1
    output = Output(options.output, count, options.grid, [options.image])
    [picture], _ = as_pictures(options.image)
    method, strength = options.method, options.strength
    if method is None and strength is None:
        if options.variations is None:
            method = "resample"
        else:
            strength = 0.5
    task = _load(MuseEdit, options.preset)
    # What the command line sets is for the first stage alone.
    first = task.resampler if method == "resample" else task.samplers[0]
    samplers = [used(options, first), *task.samplers[1:]]
    mask_rate = options.mask_rate
    if method == "resample" and mask_rate is None:
        mask_rate = task.resampler.mask_rate
    settings = {
        "method": method,
        "strength": strength,
        "mask_rate": mask_rate,
        "threshold": options.threshold,
        "fit": options.fit,
    }
    inputs = {"images": [picture] * count}
    _make(options, output, task, samplers, inputs, settings)
    output.finish(before=[picture])


def _load(task_class, preset):
    """A task with the parts and the settings of a preset."""
    say_backend()
    muse = keras_muse.presets.load(preset)
    return task_class(muse.backbone, muse.preprocessor, muse.samplers)


def _make(options, output, task, samplers, inputs, settings):
    """Makes the pictures and hands them out with their notes.

    Args:
        options: the command line.
        output: `Output`.
        task: the task.
        samplers: list of the settings that it will use, for the notes.
        inputs: dict of lists of pictures (and masks).
        settings: dict of the arguments of `generate` that only this task has.
    """
    count = len(inputs["images"])
    seed = choose_seed(options.seed, count)
    more = {"command": options.command, "image": os.path.basename(options.image)}
    if "masks" in inputs:
        more["mask"] = os.path.basename(options.mask)
    for name, value in settings.items():
        is_tuple = isinstance(value, tuple)
        more[name] = " ".join(map(str, value)) if is_tuple else value
    for start in range(0, count, options.batch_size):
        rows = slice(start, start + options.batch_size)
        batch = {name: value[rows] for name, value in inputs.items()}
        seeds = range(seed, seed + count)[rows]
        # The bar is for the terminal; stdout holds paths alone.
        with contextlib.redirect_stdout(sys.stderr):
            images = task.generate(
                {
                    **batch,
                    "prompts": options.prompt,
                    "negative_prompts": options.negative,
                },
                seed=list(seeds),
                **settings_of(options),
                **settings,
            )
        for image, row_seed in zip(images, seeds):
            note = make_note(options, samplers, options.prompt, row_seed, **more)
            output.add(image, note)
