"""The evaluation of a Muse: from captions to one JSON file and a sheet of pictures."""

import json
import os
import pathlib
import time

import keras
import numpy as np
from PIL import Image

from keras_muse.data import BadRecords, files
from keras_muse.evaluation import progress_file
from keras_muse.evaluation.captions import CaptionAgreement
from keras_muse.evaluation.distances import FrechetDistance
from keras_muse.evaluation.kernel import KernelDistance
from keras_muse.evaluation.manifolds import PrecisionRecall
from keras_muse.evaluation.reconstruction import ReconstructionQuality
from keras_muse.evaluation.run import Run
from keras_muse.evaluation.settings import settings_of
from keras_muse.evaluation.sheets import pair_sheet
from keras_muse.evaluation.sources import ShapesSource

__all__ = ["evaluate"]


def evaluate(
    muse,
    source,
    output,
    preset=None,
    seed=0,
    batch_size=16,
    num_steps=None,
    guidance_scale=None,
    temperature=None,
    extractor=None,
    clip=None,
    tokenizer=False,
    max_bad_fraction=0.01,
    save_every=50,
    resume=False,
    verbose=1,
):
    """Makes a picture for each caption and holds them against the true ones.

    Writes `output`, a JSON file with every result and whatever decides it, and beside
    it `OUTPUT.png`, the first 32 true pictures and to the right of each the one made of
    its caption. Row i of the source has the seed `seed + i`, so a picture depends on
    nothing but its row. While it runs, its progress is in `OUTPUT.state.npz`: with
    `resume` a run that was stopped ends with the numbers of one that was not.

    Args:
        muse: `keras_muse.models.MuseTextToImage`.
        source: `RecordSource` or `ShapesSource`. Pictures that are made have another
            size if those of the source do, and are then scaled as true ones are.
        output: str or path that ends in `.json`.
        preset: optional str. Where `muse` comes from, for the report.
        seed: int. Of the first picture. Defaults to 0.
        batch_size: int. Defaults to 16.
        num_steps: int, or one a stage. Defaults to the preset's.
        guidance_scale: float, or one a stage. Defaults to the preset's.
        temperature: float, or one a stage. Defaults to the preset's.
        extractor: optional feature extractor, for Frechet and kernel distance,
            precision and recall.
        clip: optional `CLIPScore` that has seen nothing yet.
        tokenizer: bool. Whether to measure the image tokenizer of the last stage on the
            true pictures, too. Defaults to `False`.
        max_bad_fraction: float in [0, 1]. The run stops if more of the records than
            this share cannot be used. Defaults to 0.01.
        save_every: int. Batches between two files of progress. Defaults to 50.
        resume: bool. Whether to go on with what was begun; nothing is done again if it
            was done. Defaults to `False`.
        verbose: int. 1 shows a progress bar. Defaults to 1.

    Returns:
        dict, what the JSON says.

    Raises:
        FileExistsError: if a run to `output` was begun and `resume` is `False`.
        ValueError: if an argument is out of range, there is nothing to measure, or the
            run was begun with other settings, naming them.
        TooManyBadRecords, OSError: what stopped it.

    Example:
    ```python
    evaluation = keras_muse.evaluation
    muse = keras_muse.presets.load("muse_shapes")
    source = evaluation.ShapesSource(count=64, image_size=128)
    report = evaluation.evaluate(
        muse, source, "shapes.json", extractor=evaluation.untrained_features()
    )
    print(report["results"]["caption_agreement"]["exact"])
    ```
    """
    paths = _Paths(output)
    _check(source, seed, batch_size, save_every, extractor)
    samplers = muse.samplers_for(num_steps, guidance_scale, temperature)
    metrics = _metrics(muse, source, extractor, clip, tokenizer)
    settings = settings_of(
        muse,
        source,
        preset=preset,
        samplers=samplers,
        seed=seed,
        batch_size=batch_size,
        tokenizer=tokenizer,
        extractor=extractor,
        clip=clip,
    )
    if resume and paths.report.exists() and not paths.state.exists():
        return _finished(paths.report, settings)
    if not resume:
        if paths.state.exists():
            raise FileExistsError(
                f"An evaluation to {str(paths.report)!r} was begun: go on with "
                f"`resume`, or remove {str(paths.state)!r}."
            )
        progress_file.remove(paths.bad)
    bad = BadRecords(paths.bad, len(source), max_bad_fraction)
    run = Run(muse, source, samplers, seed, metrics, extractor)
    found = progress_file.load_progress(paths.state, settings)
    if found is not None:
        run.load_state(found)
    began = time.perf_counter() - run.seconds
    bar = keras.utils.Progbar(len(source), unit_name="picture", verbose=verbose)
    bar.update(run.next)
    while run.next < len(source):
        run.step(batch_size, bad)
        bar.update(run.next)
        if run.batches % save_every == 0 and run.next < len(source):
            run.seconds = time.perf_counter() - began
            progress_file.save_progress(paths.state, settings, run.state())
    run.seconds = time.perf_counter() - began
    report = {
        **settings,
        **run.report(),
        "bad": [{"key": key, "reason": why} for key, why in bad.reasons.items()],
        "sheet": paths.sheet.name,
    }
    _write(paths, report, pair_sheet(*run.shown))
    progress_file.remove(paths.state, paths.bad)
    return report


class _Paths:
    """The files of a run."""

    def __init__(self, output):
        self.report = pathlib.Path(output)
        if self.report.suffix != ".json":
            raise ValueError(f"`output` must end in .json: received {str(output)!r}.")
        if not self.report.parent.is_dir():
            raise ValueError(
                "`output` must lie in a folder that is there: received "
                f"{str(output)!r}."
            )
        if not os.access(self.report.parent, os.W_OK):
            raise ValueError(
                "`output` must lie in a folder that can be written to: received "
                f"{str(output)!r}."
            )
        self.sheet = self.report.with_suffix(".png")
        self.state = self.report.with_suffix(".state.npz")
        self.bad = self.report.with_suffix(".bad.jsonl")


def _check(source, seed, batch_size, save_every, extractor):
    for name, value in (("batch_size", batch_size), ("save_every", save_every)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1: received {value}.")
    if not -(2**31) <= seed <= 2**31 - len(source):
        raise ValueError(
            f"`seed` must leave room for {len(source)} more in int32: received {seed}."
        )
    if extractor is not None and len(source) < 4:
        raise ValueError(
            "`source` must have at least 4 pictures for the distances of `extractor`: "
            f"received {len(source)}."
        )


def _metrics(muse, source, extractor, clip, tokenizer):
    """{name in the report: metric}."""
    metrics = {}
    if extractor is not None:
        metrics["frechet_distance"] = FrechetDistance(extractor)
        metrics["kernel_distance"] = KernelDistance(extractor)
        metrics["precision_recall"] = PrecisionRecall(extractor)
    if clip is not None:
        if clip.count:
            raise ValueError(
                f"`clip` must have seen nothing yet: received one of {clip.count} "
                "pictures."
            )
        metrics["clip_score"] = clip
    if isinstance(source, ShapesSource):
        metrics["caption_agreement"] = CaptionAgreement()
    if tokenizer:
        vqgan = muse.backbone.stages[-1].image_tokenizer
        vqgan.grid_size(*source.image_size)
        metrics["reconstruction"] = ReconstructionQuality(
            vqgan.codebook_size, extractor
        )
    if not metrics:
        raise ValueError(
            "There must be something to measure: received neither `extractor` nor "
            "`clip`, `tokenizer` or a source of the shapes world."
        )
    return metrics


def _finished(path, settings):
    """The report of a run that was done."""
    try:
        report = json.loads(path.read_text())
        found = {name: report.get(name) for name in settings}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"`output` {str(path)!r} must be a report to go on with: it is none."
        ) from error
    progress_file.check_settings(path, found, settings)
    return report


def _write(paths, report, sheet):
    """The sheet first: where the report is, all is."""
    with files.replace(paths.sheet) as beside:
        Image.fromarray(np.asarray(sheet)).save(beside, format="PNG")
    with files.replace(paths.report) as beside:
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        pathlib.Path(beside).write_text(text, encoding="utf-8")
