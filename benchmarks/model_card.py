"""Writes the model card of `muse_shapes` from what was measured.

    python benchmarks/model_card.py

Reads benchmarks/results/shapes_agreement.json and the preset, writes the README.md of
the preset. Run benchmarks/shapes_agreement.py first.
"""

import json
import pathlib
import textwrap

import keras_muse
from keras_muse import presets

RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = {
    "pictures": "pictures",
    "exact": "exact",
    "count": "number of objects",
    "colors": "colours",
    "shapes": "shapes",
    "sizes": "sizes",
    "relation": "relation",
    "background": "background",
}
SPLITS = ("held_out_captions", "held_out_pairs")
CARD = """# muse_shapes

A small Muse (arXiv 2301.00704) for one procedural world, embedded in the package
keras_muse {version}. It makes pictures of one or two groups of coloured shapes: one
to four circles, squares, triangles or crosses in eight colours and two sizes, left
of, right of, above or below each other, on white, black or gray. A base draws 64 x 64
pixels, a super-resolution stage 128 x 128. It knows nothing
else, and it was trained briefly: look at the table before you rely on it.

{parts}

## How often it is right

The default settings. `held_out_captions` were never trained on; `held_out_pairs`
contain a colour-shape pair that was never trained on. Exact means: every object asked
for, no other, right places, right background.

{scores}

The image tokenizer of the last stage alone, given the true pictures of held-out
captions: exact for {ceiling[agreement]:.1%}, PSNR {ceiling[psnr]:.1f} dB,
{ceiling[codebook_usage]:.0%} of its codes used; of pictures with never-seen pairs
exact for {unseen[agreement]:.1%}. Those pairs are out of this preset's reach all the
same: a token of the base is a whole cell of the world, and a cell that was never
trained on has none.

## Settings

{settings}

## Training

`guides/train_muse_shapes.py`; its log and curves are in
benchmarks/results/train_muse_shapes/ of the repository. Weights are stored in
float16. `checksums.json` holds the size and SHA-256 of every file, and loading checks
them. Codes that no picture of the world has are out of reach of the encoders, so that a
generated picture is read as the tokens that it was made of, and can be edited.

Licence: Apache 2.0. No pictures of people or of anybody's making were used.
"""


def table(header, rows):
    """Markdown of a header and rows of strings."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def parts(backbone):
    """Every trained part and its parameters."""
    rows = [("text encoder", backbone.text_encoder)]
    for index, stage in enumerate(backbone.stages):
        rows.append((f"image tokenizer, stage {index}", stage.image_tokenizer))
        rows.append((f"transformer, stage {index}", stage.transformer))
    rows = [
        (name, type(part).__name__, f"{part.count_params() / 1e6:.2f} M")
        for name, part in rows
    ]
    return table(("part", "class", "parameters"), rows)


def scores(report):
    """The main rows of the agreement report."""
    rows = []
    for split in SPLITS:
        for name in ("all", "1 group", "2 groups"):
            row = report[split][name]
            cells = [str(row["pictures"])] + [
                f"{row[key]:.1%}" if key in row else "" for key in list(COLUMNS)[1:]
            ]
            rows.append((f"{split}, {name}", *cells))
    return table(("captions", *COLUMNS.values()), rows)


def settings(samplers):
    """The sampler of every stage."""
    names = list(samplers[0])
    rows = [
        (f"stage {index}", *(str(sampler[name]) for name in names))
        for index, sampler in enumerate(samplers)
    ]
    return table(("", *names), rows)


def wrapped(paragraph):
    """Text in lines of one length; headings and tables as they are."""
    if paragraph.startswith(("#", "|")):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), 88, break_on_hyphens=False)


def main():
    """Writes the card."""
    report = json.loads((RESULTS / "shapes_agreement.json").read_text())
    muse = presets.load("muse_shapes")
    card = CARD.format(
        version=keras_muse.__version__,
        parts=parts(muse.backbone),
        scores=scores(report),
        ceiling=report["held_out_captions_tokenizer"],
        unseen=report["held_out_pairs_tokenizer"],
        settings=settings(report["about"]["sampler"]),
    )
    folder = pathlib.Path(presets.describe("muse_shapes")["path"])
    paragraphs = [wrapped(paragraph) for paragraph in card.split("\n\n")]
    (folder / "README.md").write_text("\n\n".join(paragraphs).rstrip() + "\n")


if __name__ == "__main__":
    main()
