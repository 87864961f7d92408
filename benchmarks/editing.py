"""How often an edit of the shapes world is what was asked for, and what it costs.

    python benchmarks/editing.py    # 500 cases of each kind, 100 of resampling

The target of each case is a scene of a caption that training never showed; the picture
to edit is made from it, and the prompt is its caption.

- inpaint: one object, the only one of its group, was another one. The mask is its box
  and one cell around it. Right is a picture that is exactly what the caption says, with
  every pixel outside the mask as it was.
- outpaint: the group on one side of the scene is not there; the picture ends 4 columns
  of cells before the scene does and is extended by as many. Right is a scene that is
  exactly what the caption says, with every pixel of the picture as it was.
- edit: the objects of one group had another colour; nothing tells where they are. Right
  is a picture with exactly the objects of the target, each in its place.

For each kind the same cases are judged once more at points on the way, which tells
where the loss is: the targets through the image tokenizer, and the base's tokens drawn
by the base's own decoder. Results go to benchmarks/results/.
"""

import argparse
import dataclasses
import pathlib
import random
import time

import numpy as np
from PIL import Image
from shapes_agreement import about, base_of
from tables import markdown, write

import keras_muse
from keras_muse.data import shapes, shapes_checker
from keras_muse.data.shapes_world import pick
from keras_muse.models import MuseEdit, MuseInpaint, MuseOutpaint

RESULTS = pathlib.Path(__file__).parent / "results"
SEED, BATCH, CELL, ADDED = 21, 50, 16, 4


@dataclasses.dataclass
class Case:
    """A picture to edit.

    Attributes:
        before: `Scene` to begin with.
        after: `Scene` of the caption.
        caption: str.
        box: (top, left, bottom, right) of the mask, in cells; `None` without one.
    """

    before: object
    after: object
    caption: str
    box: tuple | None = None


def cases(make, count, two_groups=0.5):
    """The first `count` cases that `make(rng, scene, caption)` can make of scenes."""
    found, index = [], 0
    while len(found) < count:
        scenes = shapes.captioned_scenes(
            "held_out_captions", index, 1, SEED, two_groups
        )
        for scene, caption in scenes:
            case = make(random.Random((SEED << 64) | index), scene, caption)
            if case is not None:
                found.append(case)
        index += 1
    return found


def with_group(scene, index, **changes):
    """A scene with one of its groups changed."""
    groups = list(scene.groups)
    groups[index] = dataclasses.replace(groups[index], **changes)
    return dataclasses.replace(scene, groups=tuple(groups))


def another(rng, scene, colors=tuple(shapes.COLORS), names=tuple(shapes.SHAPES)):
    """A (shape, color) that the scene has not, of those that training showed."""
    taken = {(g.shape, g.color) for g in scene.groups}
    kinds = [
        (name, color)
        for name in names
        for color in colors
        if (name, color) not in taken and (color, name) not in shapes.HELD_OUT_PAIRS
    ]
    return pick(rng, kinds)


def replaced_object(rng, scene, caption):
    """The object of a group of one was another one."""
    alone = [i for i, group in enumerate(scene.groups) if group.count == 1]
    if not alone:
        return None
    index = pick(rng, alone)
    group = scene.groups[index]
    name, color = another(rng, scene)
    (row, column), side = group.cells[0], shapes.SIZES[group.size]
    box = (row - 1, column - 1, row + side + 1, column + side + 1)
    box = tuple(min(max(edge, 0), shapes.GRID) for edge in box)
    before = with_group(scene, index, shape=name, color=color)
    return Case(before, scene, caption, box)


def missing_group(rng, scene, caption):
    """The group in the last columns is not there, and neither are they."""
    if scene.relation not in ("left of", "right of"):
        return None
    left, right = scene.groups[:: 1 if scene.relation == "left of" else -1]
    known = shapes.GRID - ADDED
    if max(column + shapes.SIZES[left.size] for _, column in left.cells) > known:
        return None
    if min(column for _, column in right.cells) < known:
        return None
    # What is there lies in the right half of the picture.
    cells = tuple((row, column + ADDED) for row, column in left.cells)
    left = dataclasses.replace(left, cells=cells)
    before = dataclasses.replace(scene, groups=(left,), relation=None)
    return Case(before, scene, caption)


def other_color(rng, scene, caption):
    """The objects of a group had another colour."""
    index = int(rng.random() * len(scene.groups))
    group = scene.groups[index]
    colors = tuple(color for color in shapes.COLORS if color != group.color)
    _, color = another(rng, scene, colors, (group.shape,))
    return Case(with_group(scene, index, color=color), scene, caption)


def pictures(rows):
    """(B, 128, 128, 3) uint8 of scenes."""
    return np.stack([shapes.render(scene, 2) for scene in rows])


def exact(images, captions):
    """(B,) bool."""
    return shapes_checker.agreement(images, captions)["exact"]


def as_target(images, scenes):
    """(B,) bool: all objects in their places, nothing else."""
    wanted = shapes_checker.parse_images(pictures(scenes))
    seen = shapes_checker.parse_images(images)
    return np.array(
        [
            not one.unknown
            and one.background == other.background
            and sorted(map(repr, one.objects)) == sorted(map(repr, other.objects))
            for one, other in zip(seen, wanted)
        ]
    )


def task_of(task_class, muse):
    """Another task of the same parts and settings."""
    return task_class(muse.backbone, muse.preprocessor, muse.samplers)


def in_batches(task, inputs, **settings):
    """The pictures of `task.generate`, and the seconds that they took.

    The first batch runs once before, which compiles and is not timed.
    """
    images, count = [], len(inputs["prompts"])

    def run(start):
        batch = {key: value[start : start + BATCH] for key, value in inputs.items()}
        seeds = list(range(start, start + len(batch["prompts"])))
        return task.generate(batch, seed=seeds, **settings)

    run(0)
    began = time.time()
    images = [run(start) for start in range(0, count, BATCH)]
    return np.concatenate(images), time.time() - began


def measure_inpaint(muse, count, made=False):
    """Rows of the table, and pictures to look at."""
    task = task_of(MuseInpaint, muse)
    found = cases(replaced_object, count)
    before, captions = first_pictures(task, found, made), [c.caption for c in found]
    masks = np.zeros((count, 128, 128), "bool")
    for mask, case in zip(masks, found):
        top, left, bottom, right = (edge * CELL for edge in case.box)
        mask[top:bottom, left:right] = True
    inputs = {"images": before, "masks": masks, "prompts": captions}
    images, seconds = in_batches(task, inputs)
    kept = np.all((images == before) | masks[..., None], axis=(1, 2, 3))
    right = exact(images, captions) & kept
    small, _ = in_batches(task_of(MuseInpaint, base_of(muse)), shrunk(inputs))
    ceiling = exact(round_trip(task, [c.after for c in found]), captions)
    row = {
        "cases": count,
        "right": share(right),
        "untouched outside": share(kept),
        "base alone": share(exact(small, captions)),
        "tokenizer alone": share(ceiling),
        "s a picture": round(seconds / count, 3),
    }
    white = np.repeat(masks[..., None], 3, axis=-1) * np.uint8(255)
    return row, (before, white, images), right


def first_pictures(task, found, made):
    """The pictures to edit: drawn, or as a preset makes them of the same tokens."""
    scenes = [case.before for case in found]
    return round_trip(task, scenes) if made else pictures(scenes)


def shrunk(inputs):
    """Pictures and masks of the base."""
    small = {**inputs, "images": halved(inputs["images"])}
    if "masks" in inputs:
        small["masks"] = inputs["masks"][:, ::2, ::2]
    return small


def halved(images):
    """Means of 2 x 2 pixels."""
    count, height, width, _ = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, 3)
    return np.rint(blocks.mean((2, 4))).astype("uint8")


def round_trip(task, scenes):
    """Pictures after nothing but the tokens of the last stage."""
    made = []
    for start in range(0, len(scenes), BATCH):
        tokens = task.encode_images(pictures(scenes[start : start + BATCH]))
        made.append(task.decode_images(tokens[-1]))
    return np.concatenate(made)


def measure_outpaint(muse, count):
    """Rows of the table, and pictures to look at."""
    task = task_of(MuseOutpaint, muse)
    found = cases(missing_group, count, two_groups=1.0)
    before, captions = pictures([c.before for c in found]), [c.caption for c in found]
    inputs = {"images": before, "prompts": captions}
    extend = (0, ADDED * CELL, 0, 0)
    images, seconds = in_batches(task, inputs, extend=extend)
    kept = np.all(images[:, :, :128] == before, axis=(1, 2, 3))
    right = exact(images[:, :, ADDED * CELL :], captions) & kept
    base = task_of(MuseOutpaint, base_of(muse))
    half = tuple(pixels // 2 for pixels in extend)
    small, _ = in_batches(base, shrunk(inputs), extend=half)
    ceiling = exact(round_trip(task, [c.after for c in found]), captions)
    seam, true_seam = 127, 127 - ADDED * CELL
    energy = gradient_energy(images)
    row = {
        "cases": count,
        "right": share(right),
        "untouched outside": share(kept),
        "gradient energy at the seam": round(float(energy[seam]), 1),
        # Objects begin at the seam, in the true scenes as well.
        "there in the true scenes": round(
            float(gradient_energy(pictures([c.after for c in found]))[true_seam]), 1
        ),
        "elsewhere": round(float(np.delete(energy, seam).mean()), 1),
        "base alone": share(exact(small[:, :, ADDED * CELL // 2 :], captions)),
        "tokenizer alone": share(ceiling),
        "s a picture": round(seconds / count, 3),
    }
    return row, (before, images), right


def gradient_energy(images):
    """Mean squares of the steps from each column of pixels to the next."""
    return (np.diff(images.astype("float32"), axis=2) ** 2).mean((0, 1, 3))


def measure_edit(muse, count, made=False, **settings):
    """Rows of the table, and pictures to look at."""
    task = task_of(MuseEdit, muse)
    found = cases(other_color, count)
    before, captions = first_pictures(task, found, made), [c.caption for c in found]
    after = [c.after for c in found]
    inputs = {"images": before, "prompts": captions}
    images, seconds = in_batches(task, inputs, **settings)
    right = as_target(images, after)
    base = task_of(MuseEdit, base_of(muse))
    small, _ = in_batches(base, shrunk(inputs), **settings)
    row = {
        "cases": count,
        "right": share(right),
        "what the caption says, anywhere": share(exact(images, captions)),
        "base alone": share(as_target(small, after)),
        "tokenizer alone": share(as_target(round_trip(task, after), after)),
        "s a picture": round(seconds / count, 3),
    }
    return row, (before, images), right


def share(values):
    """Mean, rounded."""
    return round(float(np.mean(values)), 4)


def measure_time(muse):
    """Seconds of a quarter of the picture against those of all of it, batch of 8."""
    task = task_of(MuseInpaint, muse)
    images = np.full((8, 128, 128, 3), 250, "uint8")
    table = {}
    for name, side in (("a quarter", 64), ("all, as text-to-image", 128)):
        masks = np.zeros((8, 128, 128), "bool")
        masks[:, :side, :side] = True
        inputs = {"images": images, "masks": masks, "prompts": "a red circle"}
        steps = []
        task.generate(inputs, seed=0, callback=lambda *step: steps.append(step[0]))
        task.generate(inputs, seed=0)
        times = []
        for _ in range(5):
            began = time.time()
            task.generate(inputs, seed=0)
            times.append(time.time() - began)
        table[name] = {
            "steps": " + ".join(str(steps.count(stage)) for stage in (0, 1)),
            "s a picture": round(float(np.median(times)) / 8, 3),
        }
    return table


def sheet(path, groups):
    """The first eight cases of each kind, right ones under a green line."""
    rows = []
    for columns, right in groups:
        tall = [
            np.concatenate(list(images[:8]), axis=1)
            if images.shape[2] == 128
            else np.concatenate([image[:, 64:] for image in images[:8]], axis=1)
            for images in columns
        ]
        width = 128 * len(right[:8])
        bar = np.zeros((6, width, 3), "uint8")
        for index, good in enumerate(right[:8]):
            color = (40, 170, 60) if good else (220, 40, 40)
            bar[:, index * 128 : (index + 1) * 128] = color
        rows += [np.full((10, width, 3), 255, "uint8"), bar, *tall]
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    """Reads the command line, writes editing.{json,md,png}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    muse = keras_muse.presets.load(options.preset)
    # Each with the share of right pictures that was set as its aim.
    kinds = {
        "inpaint: replace the object in the box": (
            0.85,
            lambda: measure_inpaint(muse, options.count),
        ),
        "outpaint: a group to the right": (
            0.75,
            lambda: measure_outpaint(muse, options.count),
        ),
        "edit: another colour, contrast": (
            0.60,
            lambda: measure_edit(muse, options.count, method="contrast"),
        ),
        "inpaint, of a picture that the decoder made": (
            0.85,
            lambda: measure_inpaint(muse, options.count, made=True),
        ),
        "edit: another colour, contrast, of such a picture": (
            0.60,
            lambda: measure_edit(muse, options.count, made=True, method="contrast"),
        ),
        # A hundred steps instead of a dozen: fewer cases.
        "edit: another colour, resampling": (
            0.60,
            lambda: measure_edit(muse, min(options.count, 100)),
        ),
    }
    table, groups = {}, []
    for name, (aim, run) in kinds.items():
        row, columns, right = run()
        table[name] = {"cases": row.pop("cases"), "aim": aim, **row}
        groups.append((columns, right))
        print(name, table[name], flush=True)
    times = measure_time(muse)
    text = markdown("Edits of held-out captions", table)
    text += "\n" + markdown("Time of an inpainting", times)
    text += "\nMade by `python benchmarks/editing.py`, which tells what it is.\n"
    report = {"about": about(muse), "cases": table, "time": times}
    write("editing", report, text)
    sheet(RESULTS / "editing.png", groups)


if __name__ == "__main__":
    main()
