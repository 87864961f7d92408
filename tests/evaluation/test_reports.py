"""One evaluation from captions to a report, stopped and not."""

import json
import os

import keras
import numpy as np
import pytest
from PIL import Image

import keras_muse
from keras_muse import data, evaluation
from keras_muse.evaluation import reports
from keras_muse.evaluation.sheets import contact_sheet, pair_sheet
from tests.evaluation.extractors import MeanPixels
from tests.evaluation.given import pictures
from tests.evaluation.test_captions import tiny_clip
from tests.tools import on_one_backend, tiny_muse

QUICK = {"num_steps": 2, "guidance_scale": 2.0, "batch_size": 3, "verbose": 0}


@pytest.fixture(scope="module")
def muse():
    return tiny_muse()


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(pictures(11, 40, 40)):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
        caption = ("a red circle", "a blue square on white")[number % 2]
        (folder / f"{number:02d}.txt").write_text(caption)
    return data.read_folder(folder, image_size=32)


def run(muse, records, path, **settings):
    """Everything there is, on all records."""
    source = evaluation.RecordSource(records, seed=1)
    settings = {"extractor": MeanPixels(), "seed": 5, **QUICK, **settings}
    return evaluation.evaluate(muse, source, path, tokenizer=True, **settings)


@on_one_backend
def test_a_report_has_every_number_and_what_decides_it(muse, records, tmp_path):
    path = tmp_path / "report.json"
    clip = evaluation.CLIPScore(*tiny_clip(), "tiny")
    report = run(muse, records, path, preset="mine", clip=clip)
    assert json.loads(path.read_text()) == report
    assert report["preset"] == "mine" and len(report["weights_sha256"]) == 64
    (sampler,) = report["samplers"]
    used = muse.samplers[0].replace(num_steps=2, guidance_scale=2.0)
    assert sampler == used.get_config()
    assert (report["seed"], report["pictures"], report["bad"]) == (5, 11, [])
    assert report["data"]["source"].endswith("pictures")
    versions = report["versions"]
    assert versions["backend"] == keras.config.backend()
    assert versions["keras_muse"] == keras_muse.__version__
    assert versions[versions["backend"]] and versions["keras"] == keras.__version__
    assert report["extractor"] == {"name": "mean pixels", "fingerprint": "0" * 64}
    # The same numbers by hand.
    source = evaluation.RecordSource(records, seed=1)
    true, captions = zip(*(source.load(row) for row in range(11)))
    made = muse.generate(list(captions), num_steps=2, guidance_scale=2.0, seed=5)
    distance = evaluation.FrechetDistance(MeanPixels())
    distance.update(np.stack(true), real=True)
    distance.update(made, real=False)
    results = report["results"]
    assert results["frechet_distance"]["frechet_distance"] == pytest.approx(
        distance.result()["frechet_distance"], rel=1e-3
    )
    expected = evaluation.CLIPScore(*tiny_clip()).scores(made, captions).mean()
    assert results["clip_score"]["clip_score"] == pytest.approx(expected, rel=1e-3)
    assert results["kernel_distance"]["real"] == 11
    assert 0.0 <= results["precision_recall"]["precision"] <= 1.0
    assert results["reconstruction"]["pictures"] == 11
    assert "caption_agreement" not in results
    # The sheet: true pictures and to the right of each the one that was made.
    sheet = np.asarray(Image.open(tmp_path / "report.png"))
    np.testing.assert_array_equal(sheet, pair_sheet(np.stack(true), made))
    assert report["captions_of_sheet"] == list(captions)
    # Nothing else is left.
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["pictures", "report.json", "report.png"]


@pytest.mark.filterwarnings("ignore:A prompt has")
def test_the_world_of_shapes_checks_captions(muse, tmp_path):
    source = evaluation.ShapesSource(count=6, image_size=64)
    extractor = evaluation.untrained_features()
    settings = {"extractor": extractor, "seed": 2, **QUICK}
    report = evaluation.evaluate(muse, source, tmp_path / "r.json", **settings)
    assert list(report["results"])[-1] == "caption_agreement"
    captions = [source.load(row)[1] for row in range(6)]
    made = [
        muse.generate(
            captions[row : row + 3], num_steps=2, guidance_scale=2.0, seed=2 + row
        )
        for row in (0, 3)
    ]
    # Pictures of 32 pixels are compared at the size of the source.
    larger = [
        np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS))
        for image in np.concatenate(made)
    ]
    agreement = evaluation.CaptionAgreement()
    agreement.update(np.stack(larger), captions)
    assert report["results"]["caption_agreement"] == agreement.result()
    distance = evaluation.FrechetDistance(extractor)
    for rows in (slice(0, 3), slice(3, 6)):
        true = np.stack([source.load(row)[0] for row in range(6)[rows]])
        distance.update(true, real=True)
        distance.update(np.stack(larger[rows]), real=False)
    assert report["results"]["frechet_distance"] == distance.result()


class Stop(Exception):
    """As good as a power cut."""


def stop_after(monkeypatch, batches):
    """The run breaks off in the middle of a batch."""
    step, done = reports.Run.step, []

    def stopping(self, *args):
        if len(done) == batches:
            raise Stop
        done.append(step(self, *args))

    monkeypatch.setattr(reports.Run, "step", stopping)


@on_one_backend
@pytest.mark.parametrize("stopped_after, save_every", [(1, 1), (3, 2), (0, 1)])
def test_a_stopped_run_ends_with_the_same_numbers(
    muse, records, tmp_path, monkeypatch, stopped_after, save_every
):
    whole = run(muse, records, tmp_path / "whole.json")
    path = tmp_path / "stopped.json"
    settings = {"save_every": save_every}
    with monkeypatch.context() as patch:
        stop_after(patch, stopped_after)
        with pytest.raises(Stop):
            run(muse, records, path, **settings)
    assert not path.exists()
    begun = stopped_after >= save_every
    assert (tmp_path / "stopped.state.npz").exists() == begun
    if begun:
        with pytest.raises(FileExistsError, match="was begun: go on with `resume`"):
            run(muse, records, path, **settings)
        with pytest.raises(ValueError, match="other settings, seed: 5 there and 6 now"):
            run(muse, records, path, resume=True, seed=6, **settings)
    extractor = MeanPixels()
    resumed = run(muse, records, path, resume=True, extractor=extractor, **settings)
    # Of 4 batches, only those were computed that were not written down.
    kept = stopped_after // save_every * save_every
    assert extractor.calls == 3 * (4 - kept)
    for report in (whole, resumed):
        del report["seconds"], report["sheet"]
    assert resumed == whole
    sheets = [(tmp_path / f"{n}.png").read_bytes() for n in ("whole", "stopped")]
    assert sheets[0] == sheets[1]
    assert not (tmp_path / "stopped.state.npz").exists()


@on_one_backend
def test_what_is_done_is_not_done_again(muse, records, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    report = run(muse, records, path)
    stop_after(monkeypatch, 0)
    assert run(muse, records, path, resume=True) == report
    with pytest.raises(ValueError, match="other settings, batch_size: 3 there and 4"):
        run(muse, records, path, resume=True, batch_size=4)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must be a report to go on with"):
        run(muse, records, path, resume=True)


@on_one_backend
def test_a_damaged_file_of_progress(muse, records, tmp_path):
    (tmp_path / "report.state.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="cannot be read.*Remove it to begin anew"):
        run(muse, records, tmp_path / "report.json", resume=True)


@on_one_backend
def test_bad_records_are_named(muse, records, tmp_path):
    good = run(muse, records, tmp_path / "report.json")
    (tmp_path / "pictures" / "04.png").write_bytes(b"no picture")
    with pytest.raises(data.TooManyBadRecords, match="04.png"):
        run(muse, records, tmp_path / "report.json")
    report = run(muse, records, tmp_path / "report.json", max_bad_fraction=0.1)
    assert report["pictures"] == 10
    (bad,) = report["bad"]
    assert bad["key"] == "04.png" and "cannot be read" in bad["reason"]
    assert report["results"]["kernel_distance"]["generated"] == 10
    assert report["sha256"]["true"] != good["sha256"]["true"]
    assert not (tmp_path / "report.bad.jsonl").exists()


@on_one_backend
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1: received 0"),
        ({"save_every": 0}, "`save_every` must be at least 1: received 0"),
        ({"seed": 2**31 - 5}, "leave room for 11 more in int32: received 2147483643"),
        ({"num_steps": 17}, r"`num_steps` must lie in \[1, 16\]"),
        ({"guidance_scale": -1.0}, "`guidance_scale` must be finite and at least 0"),
    ],
)
def test_errors(muse, records, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(muse, records, tmp_path / "report.json", **settings)
    assert os.listdir(tmp_path) == ["pictures"]


@on_one_backend
def test_errors_of_what_is_asked(muse, records, tmp_path):
    source = evaluation.RecordSource(records, count=3)
    with pytest.raises(ValueError, match="must end in .json: received 'r.txt'"):
        evaluation.evaluate(muse, source, "r.txt")
    with pytest.raises(ValueError, match="must lie in a folder that is there"):
        evaluation.evaluate(muse, source, tmp_path / "nowhere" / "r.json")
    with pytest.raises(ValueError, match="must be something to measure: received"):
        evaluation.evaluate(muse, source, tmp_path / "r.json")
    with pytest.raises(ValueError, match="at least 4 pictures .*: received 3"):
        evaluation.evaluate(muse, source, tmp_path / "r.json", extractor=MeanPixels())
    clip = evaluation.CLIPScore(*tiny_clip())
    clip.update(pictures(1), ["a"])
    with pytest.raises(ValueError, match="seen nothing yet: received one of 1"):
        evaluation.evaluate(muse, source, tmp_path / "r.json", clip=clip)


@on_one_backend
def test_sheets():
    images = pictures(5, 16, 16)
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (48, 32, 3)
    np.testing.assert_array_equal(sheet[16:32, 16:], images[3])
    assert np.all(sheet[32:, 16:] == 255)
    pairs = pair_sheet(images, images[::-1], columns=1)
    assert pairs.shape == (5 * 20, 36, 3)
    np.testing.assert_array_equal(pairs[2:18, 2:18], images[0])
    np.testing.assert_array_equal(pairs[2:18, 18:34], images[4])
