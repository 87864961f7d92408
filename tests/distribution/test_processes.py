"""Trainings on many devices, in processes of their own, equal that on one."""

import csv

import keras
import numpy as np
import pytest
from PIL import Image

from keras_muse import cli
from keras_muse.models import MuseTextToImage
from tests.distribution.processes import launch
from tests.recipes.test_config import CAPTIONS, CONFIG

BACKEND = keras.config.backend()
pytestmark = pytest.mark.slow


def run(output, kind, devices, processes=1, model_shards=1, parts="muse,vqgan"):
    """What each process of a training wrote, a list of dicts of arrays."""
    arguments = [str(output), kind, str(devices), str(model_shards), parts]
    launch("tests.distribution.worker", arguments, processes)
    return [dict(np.load(f"{output}-{index}.npz")) for index in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same training on one device."""
    return run(tmp_path_factory.mktemp("one") / "one", "one", 1)[0]


CASES = {
    "jax": {
        "two_processes_of_two": {"kind": "data", "devices": 2, "processes": 2},
        "model_parallel": {
            "kind": "model",
            "devices": 2,
            "processes": 2,
            "model_shards": 2,
            "parts": "muse",
        },
    },
    "tensorflow": {
        "mirrored": {"kind": "data", "devices": 2, "parts": "muse"},
        "two_workers": {"kind": "data", "devices": 1, "processes": 2},
    },
    "torch": {"two_processes": {"kind": "data", "devices": 1, "processes": 2}},
}[BACKEND]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_one_device(case, one, tmp_path):
    found = run(tmp_path / "many", **case)
    assert set(found[0]) <= set(one) and "muse/loss" in found[0]
    for name, value in found[0].items():
        if name.endswith("/loss"):
            # The noise of a step, what it divides by, its averages: all of the batch.
            np.testing.assert_allclose(value[0], one[name][0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(value, one[name], rtol=5e-4, atol=5e-4, err_msg=name)
        for other in found[1:]:
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_the_training_moves(one):
    for part in ("muse", "vqgan"):
        assert one[f"{part}/loss"][0] > one[f"{part}/loss"][-1] + 0.01


def test_a_config_on_two_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        path = tmp_path / "pictures" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), "uint8")).save(path)
        path.with_suffix(".txt").write_text(CAPTIONS[number % 3])
    text = CONFIG
    for before, after in (
        # Which embeddings revive a code is drawn from the part of each replica.
        (
            "{codebook_size = 32, embedding_dim = 8}",
            '{kind = "finite_scalar", levels = [4, 4]}',
        ),
        # Averages of weights and what is not trained on: `worker.py` has them.
        ("validation = 0.3\n", ""),
        ("keep_every = 1\n", ""),
        (", ema_momentum = 0.9", ""),
    ):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text(text + '[devices]\nkind = "data"\n')
    assert cli.main(["train", "one.toml", "--folder", "one"]) == 0
    launch("keras_muse", ["train", "two.toml", "--folder", "two"], 2, tmp_path)
    for part in ("image_tokenizer_0", "stage_0"):
        logs = []
        for name in ("one", "two"):
            with open(tmp_path / name / part / "log.csv") as file:
                logs.append(list(csv.DictReader(file)))
        assert len(logs[0]) == len(logs[1]) > 1
        for a, b in zip(*logs):
            np.testing.assert_allclose(float(a["loss"]), float(b["loss"]), rtol=1e-4)
        assert sorted((tmp_path / "two" / part / "samples").iterdir())
    muse = MuseTextToImage.from_preset(str(tmp_path / "two" / "preset"))
    assert muse.generate("a red circle", seed=1).shape == (16, 16, 3)
