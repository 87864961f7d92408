"""What each part of the cascade is worth: base, super-resolution, larger decoder.

    python benchmarks/cascade.py runs/cascade

The preset has the larger decoder. A plain one, as wide and as deep as the encoder, is
trained first on the same frozen encoder and codebook, with as many steps as the
recipe's high-res tokenizer; the folder keeps its checkpoints and its log. The same
captions and seeds make the same base tokens for (a) base, its 64 x 64 pictures resized,
(b) base and super-resolution, (c) the same tokens through the larger decoder. PSNR is
that of true 128 x 128 pictures after the way there and back through the tokens of each.

The Frechet distance compares generated pictures with the true ones of the same
captions, on `keras_muse.evaluation.untrained_features`: it sees edges, textures and
colours, and it is not comparable with any FID on Inception features.
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from keras import ops
from PIL import Image
from tables import markdown

import keras_muse
from keras_muse.data import shapes, shapes_checker
from keras_muse.evaluation import FrechetDistance, psnr, untrained_features
from keras_muse.evaluation.reconstruction import make_reconstruct, to_uint8
from keras_muse.image_tokenizer import downscale
from keras_muse.recipes.tokenizers import fit_tokenizer

RESULTS = pathlib.Path(__file__).parent / "results"
SEED, BATCH = 11, 50


def batches(rows):
    """`BATCH` rows at a time."""
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def resize(images, side):
    """Bicubic, as a person would enlarge a picture."""
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC))
            for image in images
        ]
    )


def coder(vqgan):
    """uint8 pictures to uint8 pictures through the tokens of `vqgan`."""
    reconstruct = make_reconstruct(vqgan)

    def function(images):
        return np.concatenate(
            [to_uint8(reconstruct(rows)[1]) for rows in batches(images)]
        )

    return function


def frechet_distance(extractor, images, originals):
    """Of two sets of uint8 pictures."""
    distance = FrechetDistance(extractor)
    for pictures, real in ((images, False), (originals, True)):
        for rows in batches(pictures):
            distance.update(rows, real)
    return distance.result()["frechet_distance"]


def plain_decoder(vqgan, folder, steps):
    """The VQGAN with a decoder like its encoder."""

    def make():
        blocks = vqgan.get_config()["num_residual_blocks"]
        return vqgan.with_decoder(base_channels=16, num_residual_blocks=blocks)

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    settings = {"steps_per_epoch": 100, "batch_size": 16, "stage": 1}
    return fit_tokenizer(folder, "plain_decoder", make, steps, **settings)


def measure(muse, folder, steps, count):
    """The table: a dict of dicts, and the pictures of each row."""
    low, high = (stage.image_tokenizer for stage in muse.backbone.stages)
    plain = muse.backbone.replace_image_tokenizer(1, plain_decoder(high, folder, steps))
    plain_muse = type(muse)(plain, muse.preprocessor, muse.samplers)
    originals, captions = shapes.examples("held_out_captions", 0, count, SEED, 2)
    others, _ = shapes.examples("held_out_captions", 0, count, SEED + 1, 2)

    pictures = {"a": [], "b": [], "c": []}
    for start in range(0, count, BATCH):
        prompts = captions[start : start + BATCH]
        seeds = np.arange(start, start + len(prompts), dtype="int32")
        base, fine = muse.generate_tokens(prompts, None, seeds)
        pictures["a"].append(resize(muse.decode_images(base, stage=0), 128))
        pictures["b"].append(plain_muse.decode_images(fine))
        pictures["c"].append(muse.decode_images(fine))
    pictures = {name: np.concatenate(rows) for name, rows in pictures.items()}

    small = to_uint8(ops.convert_to_numpy(downscale(originals, 64, 64)))
    rebuilt = {
        "a": resize(coder(low)(small), 128),
        "b": coder(plain.stages[1].image_tokenizer)(originals),
        "c": coder(high)(originals),
    }
    extractor = untrained_features()
    titles = {
        "a": "(a) base, resized",
        "b": "(b) base + super-resolution",
        "c": "(c) + larger decoder",
    }
    table = {}
    for name, title in titles.items():
        agreement = shapes_checker.agreement(pictures[name], captions)
        distance = frechet_distance(extractor, pictures[name], originals)
        table[title] = {
            "exact": round(float(agreement["exact"].mean()), 4),
            "Frechet distance": round(distance, 5),
            "reconstruction PSNR": round(
                float(np.mean(psnr(rebuilt[name], originals))), 2
            ),
        }
    # What nothing but other scenes amounts to.
    table["true pictures of other captions"] = {
        "Frechet distance": round(frechet_distance(extractor, others, originals), 5)
    }
    return table, pictures


def main():
    """Reads the command line, writes cascade.{json,md,png}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    muse = keras_muse.presets.load(options.preset)
    table, pictures = measure(muse, options.folder, options.steps, options.count)
    title = f"The cascade, {options.count} held-out captions, the preset's settings"
    text = markdown(title, table)
    text += "\nMade by `python benchmarks/cascade.py FOLDER`, which tells what it is.\n"
    report = {
        "backend": keras.config.backend(),
        "keras": keras.__version__,
        "keras_muse": keras_muse.__version__,
        "captions": options.count,
        "steps of the plain decoder": options.steps,
        "table": table,
    }
    (RESULTS / "cascade.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "cascade.md").write_text(text)
    # The first eight captions: a row of each way.
    rows = [np.concatenate(list(pictures[name][:8]), axis=1) for name in "abc"]
    Image.fromarray(np.concatenate(rows)).save(RESULTS / "cascade.png")
    print(text)


if __name__ == "__main__":
    main()
