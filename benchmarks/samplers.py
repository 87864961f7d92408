"""What each setting of the sampler is worth, on the base of `muse_shapes`.

    python benchmarks/samplers.py

Tokens of one step are drawn without knowing each other: that is what parallel decoding
costs. One token a step shows what the model itself can do; the other rows, all of 24
steps, show how much of it is lost, from the order by confidence to the settings of the
preset. The same captions and seeds for all rows.
"""

import argparse

from shapes_agreement import SEED, about, base_of, generate, markdown, scores, write

import keras_muse
from keras_muse.data import shapes
from keras_muse.decoding import Sampler
from keras_muse.models import MuseTextToImage

GUIDED = {"guidance_scale": 1.4, "guidance_schedule": "constant", "temperature": 0.8}
TOGETHER = {"order": "random", "draw": "systematic"}
CUTOFF = {"epsilon_cutoff": 0.01}
ROWS = {
    "by confidence, guided": {"choice_temperature": 4.5, **GUIDED},
    "random order, guided": {"order": "random", **GUIDED},
    "+ systematic": {**TOGETHER, **GUIDED},
    "+ spacing 2": {**TOGETHER, **GUIDED, "spacing": 2},
    "cutoff in place of guidance": {**TOGETHER, **CUTOFF, "spacing": 2},
    "the same, Halton order": {**TOGETHER, **CUTOFF, "order": "halton"},
    "the same, drawn apart": {"order": "random", **CUTOFF, "spacing": 2},
    "one token a step": {"num_steps": 64, "order": "random", **CUTOFF},
}
SCORES = ("exact", "count", "colors", "shapes", "sizes", "relation")


def main():
    """Reads the command line, writes samplers.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    base = base_of(keras_muse.presets.load(options.preset))
    _, captions = shapes.examples("held_out_captions", 0, options.count, SEED)
    table = {}
    for name, settings in ROWS.items():
        sampler = Sampler(**{"num_steps": 24, **settings})
        muse = MuseTextToImage(base.backbone, base.preprocessor, sampler)
        rows = scores(generate(muse, captions), captions)
        table[name] = {score: rows["all"][score] for score in SCORES}
        for groups in ("1 group", "2 groups"):
            table[name][f"exact, {groups}"] = rows[groups]["exact"]
        print(name, table[name], flush=True)
    title = f"The base alone, {options.count} held-out captions, by sampler"
    text = markdown(title, table)
    text += "\nMade by `python benchmarks/samplers.py`, which tells what it is.\n"
    write("samplers", {"about": about(base), "rows": ROWS, "table": table}, text)


if __name__ == "__main__":
    main()
