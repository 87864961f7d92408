"""How often a picture of the shapes world is what its caption says.

    python benchmarks/shapes_agreement.py            # the table, 1,200 pictures
    python benchmarks/shapes_agreement.py --sweep    # steps x guidance, and a plot
    python benchmarks/shapes_agreement.py --sheet    # 64 pictures to look at

Captions are those of the splits `held_out_captions` (never trained on) and
`held_out_pairs` (with a colour-shape pair that training never showed). Results go to
benchmarks/results/.
"""

import argparse
import platform
import time

import keras
import numpy as np
from PIL import Image, ImageDraw
from tables import RESULTS, markdown, write

import keras_muse
from keras_muse.data import shapes, shapes_checker
from keras_muse.models import MuseBackbone, MuseTextToImage
from keras_muse.recipes.measures import reconstruction_quality

SCORES = ("exact", "background", "count", "colors", "shapes", "sizes", "relation")
STEPS = (1, 2, 4, 8, 12, 16, 24, 48)
SCALES = (1.0, 1.4, 2.0, 4.0, 8.0)
SEED = 11


def generate(muse, captions, batch_size=50, **settings):
    """Pictures of captions, with seeds 0, 1, 2, ..."""
    pictures = []
    for start in range(0, len(captions), batch_size):
        prompts = captions[start : start + batch_size]
        seeds = list(range(start, start + len(prompts)))
        pictures.append(muse.generate(prompts, seed=seeds, **settings))
    return np.concatenate(pictures)


def base_of(muse):
    """The first stage alone; the weights are shared."""
    backbone = MuseBackbone(muse.backbone.text_encoder, muse.backbone.stages[:1])
    return MuseTextToImage(backbone, muse.preprocessor, muse.samplers[:1])


def scores(pictures, captions):
    """Mean of every score; by number of groups and by number of objects."""
    result = shapes_checker.agreement(pictures, captions)
    groups, counts = result["num_groups"], result["counts"]
    rows = {"all": np.ones(len(captions), bool)}
    rows.update({f"{n} group{'s' * (n > 1)}": groups == n for n in (1, 2)})
    total = np.sum(counts, axis=1) if np.ndim(counts) > 1 else counts
    rows.update({f"{n} objects": total == n for n in sorted(set(total.tolist()))})
    table = {}
    for name, rows_of in rows.items():
        if rows_of.any():
            table[name] = {"pictures": int(rows_of.sum())}
            for score in SCORES:
                inside = rows_of & (groups == 2) if score == "relation" else rows_of
                if inside.any():
                    table[name][score] = round(float(result[score][inside].mean()), 4)
    return table


def ceiling(muse, pictures, captions):
    """The same after nothing but the image tokenizer's round trip."""
    vqgan = muse.backbone.stages[-1].image_tokenizer
    quality = reconstruction_quality(vqgan, pictures, captions)
    return {
        "agreement": quality["test_agreement"],
        "psnr": quality["test_psnr"],
        "codebook_usage": quality["test_usage"],
    }


def about(muse):
    """What makes figures repeatable."""
    return {
        "backend": keras.config.backend(),
        "keras": keras.__version__,
        "keras_muse": keras_muse.__version__,
        "machine": platform.machine(),
        "sampler": [sampler.get_config() for sampler in muse.samplers],
    }


def measure(muse, count):
    """The main table."""
    report, text = {"about": about(muse)}, []
    splits = {"held_out_captions": count, "held_out_pairs": -(-count // 5)}
    for split, count in splits.items():
        scale = muse.backbone.image_shape[0] // 64
        originals, captions = shapes.examples(split, 0, count, SEED, scale)
        started = time.time()
        pictures = generate(muse, captions)
        seconds = time.time() - started
        report[split] = scores(pictures, captions)
        report[split + "_tokenizer"] = ceiling(muse, originals, captions)
        report[split + "_seconds"] = round(seconds, 1)
        text.append(markdown(f"{split}, {count} pictures", report[split]))
        text.append(f"Image tokenizer alone: {report[split + '_tokenizer']}\n")
    write("shapes_agreement", report, "\n".join(text))


def sweep(muse, count):
    """Exact agreement of the base for steps and guidance scales, table and plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    muse = base_of(muse)
    _, captions = shapes.examples("held_out_captions", 0, count, SEED)
    table = {}
    for steps in STEPS:
        table[f"{steps} steps"] = row = {}
        for scale in SCALES:
            pictures = generate(muse, captions, num_steps=steps, guidance_scale=scale)
            exact = shapes_checker.agreement(pictures, captions)["exact"].mean()
            row[f"s={scale:g}"] = round(float(exact), 3)
        print(steps, row, flush=True)
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, row in table.items():
        axes.plot(SCALES, list(row.values()), marker="o", label=name)
    axes.set(xlabel="guidance scale s", ylabel="exact agreement", ylim=(0, 1))
    axes.set_title(f"muse_shapes, {count} held-out captions")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "shapes_sweep.png", dpi=120)
    title = (
        f"Exact agreement of the base, {count} held-out captions, steps and guidance"
    )
    report = {"about": about(muse), "captions": count, "exact": table}
    write("shapes_sweep", report, markdown(title, table))


def sheet(muse):
    """64 pictures with their captions; wrong ones have a red caption."""
    _, captions = shapes.examples("held_out_captions", 0, 64, SEED)
    pictures = generate(muse, captions)
    exact = shapes_checker.agreement(pictures, captions)["exact"]
    side, label = 128, 44
    page = Image.new("RGB", (8 * (side + 8), 8 * (side + label)), "white")
    draw = ImageDraw.Draw(page)
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        x, y = i % 8 * (side + 8) + 4, i // 8 * (side + label) + 4
        page.paste(Image.fromarray(picture).resize((side, side)), (x, y))
        words, lines = caption.split(), [""]
        for word in words:
            if len(lines[-1]) + len(word) > 21:
                lines.append("")
            lines[-1] += word + " "
        color = "black" if exact[i] else "red"
        draw.multiline_text((x, y + side), "\n".join(lines), fill=color, spacing=0)
    page.save(RESULTS / "shapes_contact_sheet.png")


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--sheet", action="store_true")
    options = parser.parse_args()
    muse = keras_muse.presets.load(options.preset)
    if options.sweep:
        sweep(muse, min(options.count, 100))
    elif options.sheet:
        sheet(muse)
    else:
        measure(muse, options.count)


if __name__ == "__main__":
    main()
