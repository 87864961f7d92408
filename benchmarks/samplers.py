"""What each setting of the sampler is worth, on the base of `muse_shapes`.

    python benchmarks/samplers.py

Tokens of one step are drawn without knowing each other: that is what parallel decoding
costs. One token a step shows what the model itself can do; the other rows show how much
of it is lost, from the order by confidence to the settings of the preset. The same
captions and seeds for all rows.
"""

import argparse

from shapes_agreement import SEED, about, base_of, generate, scores
from tables import markdown, write

import keras_muse
from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.models import MuseTextToImage

COMMON = {
    "num_steps": 24,
    "guidance_scale": 1.4,
    "guidance_schedule": "constant",
    "temperature": 0.8,
}
TOGETHER = {"order": "random", "draw": "systematic"}
ROWS = {
    "24 steps, by confidence": {"choice_temperature": 4.5},
    "24 steps, random order": {"order": "random"},
    "+ systematic": TOGETHER,
    "+ spacing 2": {**TOGETHER, "spacing": 2},
    "+ 48 steps: the preset": {**TOGETHER, "spacing": 2, "num_steps": 48},
    "48 steps, Halton order": {**TOGETHER, "order": "halton", "num_steps": 48},
    "48 steps, random order": {"order": "random", "num_steps": 48},
    "one token a step": {"num_steps": 64, "order": "random"},
    "24 steps, cutoff, no guidance": {
        **TOGETHER,
        "spacing": 2,
        "guidance_scale": 1.0,
        "temperature": 1.0,
        "epsilon_cutoff": 0.01,
    },
}
SCORES = ("exact", "count", "colors", "shapes", "sizes", "relation")


def main():
    """Reads the command line, writes samplers.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    base = base_of(keras_muse.presets.load(options.preset))
    _, captions = shapes.examples("held_out_captions", 0, options.count, SEED)
    table = {}
    for name, settings in ROWS.items():
        sampler = Sampler(**{**COMMON, **settings})
        muse = MuseTextToImage(base.backbone, base.preprocessor, sampler)
        rows = scores(generate(muse, captions), captions)
        table[name] = {score: rows["all"][score] for score in SCORES}
        for groups in ("1 group", "2 groups"):
            table[name][f"exact, {groups}"] = rows[groups]["exact"]
        print(name, table[name], flush=True)
    title = f"The base alone, {options.count} held-out captions, by sampler"
    text = markdown(title, table)
    text += "\nMade by `python benchmarks/samplers.py`, which tells what it is.\n"
    write(
        "samplers",
        {"about": about(base), "common": COMMON, "rows": ROWS, "table": table},
        text,
    )


if __name__ == "__main__":
    main()
