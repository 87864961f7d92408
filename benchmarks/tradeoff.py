"""Quality against time: every sampler, steps and guidance, and the front of them.

    python benchmarks/tradeoff.py

Pictures of held-out captions by the base of `muse_shapes`, from the prompt to 64 x 64
pixels. A cell is one setting: its exact agreement, on the same captions and seeds as
all others, and the CPU seconds of one picture in batches of 50 on one core, compilation
left out. The grid is each order of revealing tokens with 1 to 24 steps and guidance 1
to 8; below it stand the options that trade one for the other, around the settings of
the preset. A setting is on the front if none is both faster and as good. Captions are
others than those of `shapes_agreement.py`: the preset's defaults are chosen here.

What is measured goes to the JSON file at once: a run that was stopped goes on. To
measure anew, delete it.
"""

import argparse
import json
import os
import platform
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
# Before a backend is loaded: one thread, whose seconds are the process's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
)
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})

import keras  # noqa: E402
import numpy as np  # noqa: E402
from shapes_agreement import base_of  # noqa: E402
from tables import RESULTS, markdown, write  # noqa: E402

import keras_muse  # noqa: E402
from keras_muse.data import shapes, shapes_checker  # noqa: E402
from keras_muse.decoding import Sampler  # noqa: E402

SEED, BATCH = 12, 50
STEPS = (1, 2, 4, 8, 16, 24)
# Of the preset's order once more.
MANY_STEPS = 48
SCALES = (1.0, 1.4, 2.0, 4.0, 8.0)
COMMON = {"guidance_schedule": "constant", "temperature": 0.8}
TOGETHER = {"draw": "systematic"}
ORDERS = {
    # As the paper has it: confidence, a ramp of guidance.
    "confidence": {"guidance_schedule": "linear"},
    "random": {"order": "random"},
    "halton": {"order": "halton"},
    "spaced, systematic": {"order": "random", "spacing": 2, **TOGETHER},
}
PRESET = {**ORDERS["spaced, systematic"], "guidance_scale": 1.4}
# Options, each with as many steps as these.
OPTION_STEPS = (12, 24)
OPTIONS = {
    "the preset's": {},
    "guidance 1.4 in the first half": {"guidance_interval": (0.0, 0.5)},
    "guidance 1.4 in the last half": {"guidance_interval": (0.5, 1.0)},
    "guidance 2 in the first half": {
        "guidance_interval": (0.0, 0.5),
        "guidance_scale": 2.0,
    },
    "guidance 2 in the last half": {
        "guidance_interval": (0.5, 1.0),
        "guidance_scale": 2.0,
    },
    "ramp to guidance 2": {"guidance_schedule": "linear", "guidance_scale": 2.0},
    "remask 2 %": {"remask_rate": 0.02},
    "remask 10 %": {"remask_rate": 0.1},
    "remask 30 %": {"remask_rate": 0.3},
    "refresh every 2": {"refresh_every": 2},
    "refresh every 4": {"refresh_every": 4},
    "temperature .6": {"temperature": 0.6},
    "temperature 1, cutoff .01": {"temperature": 1.0, "epsilon_cutoff": 0.01},
    "linear mask schedule": {"mask_schedule": "linear"},
    "no guidance": {"guidance_scale": 1.0},
}


def steps_of(order):
    """Numbers of steps of an order."""
    return (*STEPS, MANY_STEPS) if order == "spaced, systematic" else STEPS


def cells():
    """Name, order or option, and settings of every cell."""
    for name, settings in ORDERS.items():
        for steps in steps_of(name):
            for scale in SCALES:
                more = {"num_steps": steps, "guidance_scale": scale}
                yield f"{name}, {steps} steps, s={scale:g}", name, {**settings, **more}
    for name, settings in OPTIONS.items():
        for steps in OPTION_STEPS:
            more = {**PRESET, "num_steps": steps, **settings}
            yield f"{name}, {steps} steps", "options", more


def measure(base, settings, captions):
    """Agreement and CPU seconds of a picture."""
    sampler = Sampler(**{**COMMON, **settings})
    # Steps are no part of what is compiled, but for what is refreshed.
    few = sampler if sampler.refresh_every > 1 else sampler.replace(num_steps=1)
    # All of them: the last batch is smaller, and a program of its own.
    draw(base, captions, few)
    started = time.process_time()
    pictures = draw(base, captions, sampler)
    seconds = (time.process_time() - started) / len(captions)
    scores = shapes_checker.agreement(pictures, captions)
    return {
        "exact": round(float(scores["exact"].mean()), 4),
        "seconds": round(seconds, 4),
    }


def draw(base, captions, sampler):
    """Pictures of captions, with seeds 0, 1, 2, ..."""
    pictures = []
    for start in range(0, len(captions), BATCH):
        prompts = captions[start : start + BATCH]
        seeds = np.arange(start, start + len(prompts), dtype="int32")
        tokens = base.generate_tokens(prompts, None, seeds, [sampler])
        pictures.append(base.decode_images(tokens[0]))
    return np.concatenate(pictures)


def front(rows):
    """Names of the rows that none is faster and as good as, fastest first."""
    names, best = [], -1.0
    for name in sorted(rows, key=lambda n: (rows[n]["seconds"], -rows[n]["exact"])):
        if rows[name]["exact"] > best:
            names.append(name)
            best = rows[name]["exact"]
    return names


def plot(rows, best, path):
    """Agreement against seconds, a colour for each order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for order in [*ORDERS, "options"]:
        inside = [row for row in rows.values() if row["order"] == order]
        axes.scatter(
            [row["seconds"] for row in inside],
            [row["exact"] for row in inside],
            s=14,
            alpha=0.6,
            label=order,
        )
    axes.plot(
        [rows[name]["seconds"] for name in best],
        [rows[name]["exact"] for name in best],
        "k.-",
        lw=1,
        label="front",
    )
    axes.set(
        xscale="log",
        xlabel="CPU seconds a picture",
        ylabel="exact agreement",
        ylim=(0, 1),
    )
    axes.set_title("The base of muse_shapes: steps 1 to 48, guidance 1 to 8")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    """Reads the command line, writes tradeoff.{json,md,png}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=80)
    options = parser.parse_args()
    path = RESULTS / "tradeoff.json"
    report = {
        "about": {
            "backend": keras.config.backend(),
            "keras": keras.__version__,
            "keras_muse": keras_muse.__version__,
            "machine": platform.machine(),
            "captions": options.count,
            "seed": SEED,
            "common": COMMON,
        },
        "rows": {},
    }
    if path.exists():
        found = json.loads(path.read_text())
        if found["about"] != report["about"]:
            raise SystemExit(f"{path} is of another run: {found['about']}. Delete it.")
        report = found
    base = base_of(keras_muse.presets.load(options.preset))
    _, captions = shapes.examples("held_out_captions", 0, options.count, SEED)
    for name, order, settings in cells():
        if name in report["rows"]:
            continue
        row = {"order": order, "settings": settings}
        report["rows"][name] = {**row, **measure(base, settings, captions)}
        print(name, report["rows"][name]["exact"], flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    rows = report["rows"]
    best = front(rows)
    plot(rows, best, RESULTS / "tradeoff.png")
    shown = {
        name: {"exact": rows[name]["exact"], "seconds a picture": rows[name]["seconds"]}
        for name in best
    }
    text = markdown(f"The front, {options.count} held-out captions", shown)
    shown = {
        name: {
            f"{steps} steps": "{exact:.2f}, {seconds:.2f} s".format(
                **rows[f"{name}, {steps} steps"]
            )
            for steps in OPTION_STEPS
        }
        for name in OPTIONS
    }
    text += "\n" + markdown("Options, exact agreement and seconds a picture", shown)
    for name in ORDERS:
        shown = {
            f"{steps} steps": {
                f"s={scale:g}": rows[f"{name}, {steps} steps, s={scale:g}"]["exact"]
                for scale in SCALES
            }
            for steps in steps_of(name)
        }
        text += "\n" + markdown(f"Exact agreement, {name}", shown)
    error = float(np.sqrt(0.25 / options.count))
    command = f"KERAS_BACKEND={keras.config.backend()} python benchmarks/tradeoff.py"
    text += f"\nStandard error of a cell at .5: {error:.2f}. Made by `{command}`, "
    text += "which tells what it is; the plot is tradeoff.png.\n"
    write("tradeoff", report, text)


if __name__ == "__main__":
    main()
