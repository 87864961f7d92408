"""Which low-res tokens a super-resolution stage should learn from.

    python benchmarks/low_res_tokens.py

The paper does not tell whether its second stage was trained on the tokens of true
pictures or on what the base model draws. Three trainings go on from the weights of the
preset, with the same pictures, noise and schedule: on clean tokens, on tokens of which
up to `--share` are random (`low_res_corruption`), and on tokens of which up to
`--share` are masked and drawn anew by the base (`low_res_resampling`). Each is then
measured on true low-res tokens, and on those that the base draws from held-out
captions, the same for all. The Frechet distance is that of benchmarks/cascade.py.
"""

import argparse

import keras
import numpy as np
from cascade import batches, frechet_distance
from tables import markdown, write

import keras_muse
from keras_muse.data import shapes, shapes_checker
from keras_muse.evaluation import untrained_features
from keras_muse.models import MuseMaskedImageModel
from keras_muse.recipes.fitting import muon
from keras_muse.recipes.measures import Translation

SEED, BATCH = 31, 32
NOTE = """
On clean tokens the stage stays a faithful translator. Where low-res tokens may be wrong
it learns to overrule them, and right ones suffer: so `low_res_corruption` and
`low_res_resampling` are 0 by default. This is fine-tuning of a stage that converged on
clean tokens, with few pictures and one seed; from the start it may differ. The Frechet
distance does not see what the checker sees.

Made by `python benchmarks/low_res_tokens.py`, which tells what it is.
"""


def train(muse, steps, **low_res):
    """Trains the second stage a little more."""
    keras.utils.set_random_seed(SEED)
    trainer = MuseMaskedImageModel(
        muse.backbone, muse.preprocessor, stage=1, seed=SEED, **low_res
    )
    trainer.compile(muon(steps, decay=0.9, peak=1e-3))
    pictures = shapes.dataset("train", SEED, scale=2, batch_size=BATCH)
    trainer.fit(pictures, epochs=1, steps_per_epoch=steps, verbose=0)


class Measure:
    """What the second stage makes of true tokens and of drawn ones."""

    def __init__(self, muse, count):
        """Draws the base tokens of `count` captions."""
        self.muse, self.extractor = muse, untrained_features()
        self.true = Translation(
            muse.backbone, muse.preprocessor, muse.samplers, SEED + 1, count=64
        )
        images, self.captions = shapes.examples(
            "held_out_captions", 0, count, SEED + 2, 2
        )
        self.wanted = images
        self.seeds = np.arange(count, dtype="int32")
        self.base = np.concatenate(
            [
                muse.generate_tokens(captions, None, seeds)[0]
                for captions, seeds in zip(batches(self.captions), batches(self.seeds))
            ]
        )

    def __call__(self):
        """A row of the table."""
        images = []
        for captions, seeds, base in zip(
            batches(self.captions), batches(self.seeds), batches(self.base)
        ):
            tokens = self.muse.generate_tokens(
                captions, None, seeds, start_tokens=[base, None]
            )
            images.append(self.muse.decode_images(tokens[-1]))
        images = np.concatenate(images)
        exact = shapes_checker.agreement(images, self.captions)["exact"]
        distance = frechet_distance(self.extractor, images, self.wanted)
        true = self.true()
        return {
            "true tokens: high-res tokens right": true["test_tokens"],
            "PSNR": true["test_psnr"],
            "agreement": true["test_agreement"],
            "drawn tokens: agreement": round(float(exact.mean()), 4),
            "Frechet distance": round(distance, 5),
        }

    def of_base(self):
        """The row of the base alone."""
        pictures = self.muse.decode_images(self.base, stage=0)
        exact = shapes_checker.agreement(pictures, self.captions)["exact"]
        return {"drawn tokens: agreement": round(float(exact.mean()), 4)}


def main():
    """Reads the command line, writes low_res_tokens.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    muse = keras_muse.presets.load(options.preset)
    transformer = muse.backbone.stages[1].transformer
    start = transformer.get_weights()
    measure = Measure(muse, options.count)
    table = {"base alone": measure.of_base(), "before": measure()}
    print(table, flush=True)
    for name, low_res in (
        ("clean", {}),
        ("corrupted", {"low_res_corruption": options.share}),
        ("resampled", {"low_res_resampling": options.share}),
    ):
        transformer.set_weights(start)
        train(muse, options.steps, **low_res)
        table[name] = measure()
        print(name, table[name], flush=True)
    pictures = options.steps * BATCH
    title = (
        f"Low-res tokens of training: {pictures} pictures more, share up to "
        f"{options.share}, {options.count} held-out captions"
    )
    report = {
        "backend": keras.config.backend(),
        "keras": keras.__version__,
        "keras_muse": keras_muse.__version__,
        **vars(options),
        "table": table,
    }
    write("low_res_tokens", report, markdown(title, table) + NOTE)


if __name__ == "__main__":
    main()
