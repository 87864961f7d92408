"""Which image tokenizer to train: quantizers, and what an adversary adds.

    python benchmarks/image_tokenizers.py runs/image_tokenizers --data emoji128

Each variant has the same network, seed, pictures, order and steps, on the shapes world
and, with `--data`, on pictures of one's own (a folder, or a tar of it, as
`keras_muse.data.read_pictures` reads them); 1 in 10 of those is kept for the measures.
What is finished is not trained again, and what was stopped goes on. `--report` writes
the table of what is finished and trains nothing.

The Frechet distance between the kept pictures and their reconstructions is that of
`keras_muse.evaluation.untrained_features`: it sees edges, textures and colours, and
can be compared with no rFID on Inception features. The cost of a step is that of the
fastest of three epochs behind the first, which compiles; leave the machine idle for it.
It is measured last, and again if `cost.json` of a variant is deleted.
"""

import argparse
import csv
import json
import os
import pathlib
import tarfile
import tempfile

import keras
import numpy as np
from PIL import Image
from tables import RESULTS

from keras_muse.data import read_pictures
from keras_muse.evaluation import (
    ReconstructionQuality,
    ShapesSource,
    untrained_features,
)
from keras_muse.evaluation.reconstruction import make_reconstruct, to_uint8
from keras_muse.evaluation.sheets import contact_sheet
from keras_muse.recipes.vqgans import train_image_tokenizer

SIZE, BATCH, SHOWN, CODES = 64, 16, 8, 1024
VECTOR = {"codebook_size": CODES, "embedding_dim": 32, "revival_threshold": 0.02}
ADVERSARY = {
    "discriminator": {"base_channels": 8, "num_layers": 3, "groups": 8},
    "adversarial_weight": 0.05,
}
LECAM = {"lecam_weight": 0.1}
VARIANTS = {
    "VQ": {"quantizer": VECTOR},
    "FSQ": {"quantizer": {"kind": "finite_scalar", "levels": (4, 4, 4, 4, 4)}},
    "LFQ": {"quantizer": {"kind": "lookup_free", "codebook_size": CODES}},
    "VQ + GAN": {"quantizer": VECTOR, **ADVERSARY},
    "VQ + GAN + LeCAM": {"quantizer": VECTOR, **ADVERSARY, **LECAM},
    "VQ + GAN + LeCAM + EMA": {
        "quantizer": VECTOR,
        **ADVERSARY,
        **LECAM,
        "optimizer": {"ema_momentum": 0.98},
    },
}
MODEL = {
    "base_channels": 16,
    "channel_multipliers": (1, 2, 4),
    "strides": (4, 2),
    "num_residual_blocks": (0, 0, 1),
    "groups": 8,
    "upsampling": "depth_to_space",
}
PAIRS = (
    ("VQ", "FSQ"),
    ("VQ", "LFQ"),
    ("VQ", "VQ + GAN"),
    ("VQ + GAN", "VQ + GAN + LeCAM"),
    ("VQ + GAN + LeCAM", "VQ + GAN + LeCAM + EMA"),
)
COLUMNS = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "frechet_distance": ("Frechet distance", 5),
    "codebook_usage": ("codes in use", 3),
    "codebook_perplexity": ("perplexity", 0),
    "step": ("ms a step", 0),
}


class ShapeRecords(ShapesSource):
    """Scenes of the shapes world, as a training reads records."""

    captions = False
    signature = {"images": ((SIZE, SIZE, 3), "uint8")}

    def key(self, index):
        """The name of a record."""
        return str(index)

    def without_captions(self):
        """It has none."""
        return self

    def load(self, index, random):
        """As it is trained on."""
        return {"images": self.load_picture(index, random)}

    def load_picture(self, index, random):
        """(64, 64, 3) uint8."""
        return super().load(index)[0]


def worlds(source, folder):
    """{name: (records to train on, records to measure with)}."""
    found = {}
    if source is not None:
        if source.suffix == ".tar":
            with tarfile.open(source) as tar:
                tar.extractall(folder / "pictures", filter="data")
            (source,) = (folder / "pictures").iterdir()
        records = read_pictures(source, image_size=SIZE, captions=False)
        found[source.name] = records.split(0.1)
    found["shapes"] = (ShapeRecords(20_000, split="train"), ShapeRecords(400, seed=1))
    return found


def folder_of(folder, world, name):
    """Of a variant."""
    return folder / world / name.replace(" + ", "_")


def train(folder, records, variant, steps, **settings):
    """`VQGAN` of a variant."""
    variant = {**variant, "adversarial_start_step": steps // 4}
    optimizer = {"name": "small", "learning_rate": 2e-3, "warmup_steps": 100}
    variant["optimizer"] = {**optimizer, **variant.get("optimizer", {})}
    return train_image_tokenizer(
        folder,
        records,
        steps,
        batch_size=BATCH,
        steps_per_epoch=steps // 4,
        model=MODEL,
        reconstruction_weight=10.0,
        perceptual="none",
        **settings,
        **variant,
    )


def measure(vqgan, records):
    """(dict of numbers, the first reconstructions)."""
    random = np.random.default_rng(0)
    images = np.stack([records.load_picture(i, random) for i in range(len(records))])
    quality = ReconstructionQuality(vqgan.codebook_size, untrained_features())
    reconstruct, shown = make_reconstruct(vqgan), []
    # One size of batches, so that nothing is compiled twice.
    for start in range(0, len(images) - len(images) % 20, 20):
        rows = images[start : start + 20]
        tokens, pixels = reconstruct(rows)
        quality.update(rows, pixels, tokens)
        shown.append(to_uint8(pixels))
    return quality.result(), np.concatenate(shown)[:SHOWN], images[:SHOWN]


def cost(records, variant):
    """Milliseconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        train(folder, records, variant, 32, verbose=0)
        with (pathlib.Path(folder) / "log.csv").open() as log:
            epochs = list(csv.DictReader(log))[1:]
    return 1000.0 * BATCH / max(float(row["pictures_per_second"]) for row in epochs)


def verdicts(rows):
    """What each addition changed, in words; one seed, so small changes are chance."""
    lines = []
    for before, after in PAIRS:
        if before in rows and after in rows:
            decibels = rows[after]["psnr"] - rows[before]["psnr"]
            share = rows[after]["frechet_distance"] / rows[before]["frechet_distance"]
            better = (decibels > 0) + (share < 1)
            word = ("worse in both", "better in one", "better in both")[better]
            lines.append(
                f"- {after} against {before}: {word}, {decibels:+.2f} dB, "
                f"{share:.2f} times the Frechet distance."
            )
    return lines


def markdown(results):
    """A table for each world."""
    lines = []
    for world, rows in results["worlds"].items():
        lines += [
            f"## {world}: {results['steps']:,} steps of {BATCH} pictures of {SIZE} x "
            f"{SIZE}, {CODES} codes, {results['backend']}",
            "",
            "| | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
            "|---" * (len(COLUMNS) + 1) + "|",
        ]
        for name, row in rows.items():
            cells = [f"{row[key]:.{digits}f}" for key, (_, digits) in COLUMNS.items()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", *verdicts(rows), ""]
    lines.append(
        "![originals above, then the variants in the order of the table]"
        "(image_tokenizers.png)\n\n"
        "One seed. Made by `python benchmarks/image_tokenizers.py FOLDER --data "
        "emoji128`, "
        "which tells what the columns are.\n"
    )
    return "\n".join(lines)


def report(folder, steps, sources):
    """Writes the table and the pictures of what is finished."""
    results = {
        "steps": steps,
        "backend": keras.config.backend(),
        "cpus": len(os.sched_getaffinity(0)),
        "variants": VARIANTS,
        "worlds": {},
    }
    sheets = []
    for world in sources:
        rows, sheet = {}, []
        for name in VARIANTS:
            done = folder_of(folder, world, name)
            if (done / "cost.json").exists():
                rows[name] = json.loads((done / "result.json").read_text())
                rows[name] |= json.loads((done / "cost.json").read_text())
                shown = np.load(done / "shown.npz")
                sheet = sheet or [shown["originals"]]
                sheet.append(shown["reconstructions"])
        if rows:
            results["worlds"][world] = rows
            sheets.append(contact_sheet(np.concatenate(sheet), SHOWN))
    (RESULTS / "image_tokenizers.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "image_tokenizers.md").write_text(markdown(results))
    height = max(sheet.shape[0] for sheet in sheets)
    sheets = [
        np.pad(s, ((0, height - len(s)), (0, 8), (0, 0)), constant_values=255)
        for s in sheets
    ]
    Image.fromarray(np.concatenate(sheets, axis=1)).save(
        RESULTS / "image_tokenizers.png"
    )


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    sources = worlds(arguments.data, arguments.folder)
    variants = {} if arguments.report else VARIANTS
    for world, (records, kept) in sources.items():
        for name, variant in variants.items():
            folder = folder_of(arguments.folder, world, name)
            if (folder / "result.json").exists():
                continue
            vqgan = train(folder, records, variant, arguments.steps)
            result, shown, originals = measure(vqgan, kept)
            np.savez(folder / "shown.npz", reconstructions=shown, originals=originals)
            (folder / "result.json").write_text(json.dumps(result) + "\n")
            print(world, name, result, flush=True)
    for world, (records, _) in sources.items():
        for name, variant in variants.items():
            path = folder_of(arguments.folder, world, name) / "cost.json"
            if not path.exists():
                path.write_text(json.dumps({"step": cost(records, variant)}) + "\n")
    report(arguments.folder, arguments.steps, sources)


if __name__ == "__main__":
    main()
