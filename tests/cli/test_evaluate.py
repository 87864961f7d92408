"""`keras-muse evaluate`."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_muse import cli
from tests.evaluation.given import pictures
from tests.tools import only_on

# What it calls is tested on all of them.
pytestmark = only_on("torch", "is run on PyTorch")

QUICK = ["--num-steps", "2", "--guidance-scale", "2", "--batch-size", "3"]


@pytest.fixture
def folder(here):
    (here / "pictures").mkdir()
    for number, image in enumerate(pictures(6, 40, 40)):
        Image.fromarray(image).save(here / "pictures" / f"{number}.png")
        (here / "pictures" / f"{number}.txt").write_text("a red circle")
    return here / "pictures"


def evaluate(preset, *arguments):
    return cli.main(["evaluate", preset, *arguments, *QUICK])


def test_a_folder(preset, folder, capsys):
    arguments = ["pictures", "-o", "out.json", "--tokenizer", "--count", "5"]
    assert evaluate(preset, *arguments, "--seed", "4") == 0
    out, err = capsys.readouterr()
    assert out == "out.json\n" and err == "keras-muse: using the torch backend\n"
    report = json.loads((folder.parent / "out.json").read_text())
    assert report["preset"] == preset and report["seed"] == report["data"]["seed"] == 4
    assert (report["pictures"], report["data"]["records"]) == (5, 6)
    sampler = report["samplers"][0]
    assert (sampler["num_steps"], sampler["guidance_scale"]) == (2, 2.0)
    assert report["extractor"]["name"].startswith("untrained network")
    names = "frechet_distance kernel_distance precision_recall reconstruction"
    assert list(report["results"]) == names.split()
    assert (folder.parent / "out.png").exists()
    # Again with --resume: it is done; other settings are refused.
    assert evaluate(preset, *arguments, "--seed", "4", "--resume") == 0
    assert evaluate(preset, *arguments, "--seed", "5", "--resume") == 1
    assert "other settings, data: " in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:A prompt has")
def test_shapes_with_a_model_of_ones_own(preset, here, capsys):
    images = keras.Input((64, 64, 3))
    model = keras.Model(images, keras.layers.AveragePooling2D(32)(images))
    model.save("mine.keras")
    arguments = ["shapes", "--count", "4", "--image-size", "64", "-o", "out.json"]
    assert evaluate(preset, *arguments, "--features", "mine.keras") == 0
    report = json.loads((here / "out.json").read_text())
    assert report["extractor"]["name"] == "mine.keras"
    assert report["results"]["caption_agreement"]["generated"] == 4
    assert report["results"]["frechet_distance"]["features"] == 3
    assert report["data"]["source"] == "shapes world, held_out_captions"
    sheet = np.asarray(Image.open(here / "out.png"))
    assert sheet.shape == (2 * 68, 2 * 132, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pictures", "--features", "fid"], "--features: must be 'untrained', 'fid-"),
        (["pictures", "--features", "fid-inception:no.pb"], "No such file"),
        (["pictures", "--count", "7"], "`count` must lie in [1, 6]"),
        (["nowhere"], "there is no 'nowhere'"),
        (["shapes"], "`image_size` must be 64 x 64 or a multiple"),
        (["shapes", "--caption-key", "x"], "--caption-key: the shapes world has none"),
    ],
)
def test_errors_are_one_line(preset, folder, capsys, arguments, message):
    assert evaluate(preset, *arguments, "-o", "out.json") == 1
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert not list(folder.parent.glob("out*"))


def test_usage(capsys):
    assert cli.main(["evaluate", "muse_shapes", "shapes"]) == 2
    assert "--output" in capsys.readouterr().err
