"""From a TOML file and a folder of pictures to a preset."""

import csv
import os
import pathlib
import tomllib

import numpy as np
import pytest
from PIL import Image

from keras_muse import cli, data
from keras_muse.models import MuseTextToImage
from keras_muse.recipes import config, vqgans
from keras_muse.recipes.progress import CSVLog
from tests.tools import only_on

ROOT = pathlib.Path(__file__).parents[2]
CAPTIONS = ("a red circle", "a blue square", "a green cross")

# The VQGAN of any stage.
MODEL = """
[stages.image_tokenizer.model]
base_channels = 4
channel_multipliers = [1, 2]
strides = [4]
num_residual_blocks = [0, 1]
groups = 2
"""

CONFIG = (
    """
seed = 1
[data]
source = "pictures"
validation = 0.3
[text]
vocabulary_size = 64
sequence_length = 16
encoder = {num_layers = 1, num_heads = 2, hidden_dim = 16, intermediate_dim = 32}
[[stages]]
image_size = 16
[stages.image_tokenizer]
steps = 2
batch_size = 2
steps_per_epoch = 1
perceptual = "none"
quantizer = {codebook_size = 32, embedding_dim = 8}
[stages.transformer]
num_layers = 1
hidden_dim = 16
num_heads = 2
[stages.training]
steps = 3
batch_size = 2
steps_per_epoch = 1
train_text_encoder = true
keep_every = 1
optimizer = {name = "small", ema_momentum = 0.9}
[stages.sampler]
num_steps = 2
"""
    + MODEL
)

# Of the last stage of a config.
DECODER = """
[stages.decoder]
steps = 1
batch_size = 2
base_channels = 8
num_residual_blocks = 1
perceptual = "none"
"""

SECOND_STAGE = (
    """
[[stages]]
image_size = 32
[stages.image_tokenizer]
steps = 1
batch_size = 2
perceptual = "none"
quantizer = {kind = "lookup_free", codebook_size = 16}
discriminator = {base_channels = 4, num_layers = 1, groups = 2}
lecam_weight = 0.1
[stages.transformer]
num_layers = 1
hidden_dim = 16
num_heads = 2
num_low_res_layers = 1
[stages.training]
steps = 1
batch_size = 2
[stages.sampler]
num_steps = 1
"""
    + MODEL
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with nine pictures, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        image = rng.integers(0, 256, (32, 32, 3), "uint8")
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
        caption = CAPTIONS[number % 3]
        (tmp_path / "pictures" / f"{number}.txt").write_text(caption)
    (tmp_path / "muse.toml").write_text(CONFIG)
    return tmp_path


def table(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_from_pictures_to_a_preset(here, capsys, monkeypatch):
    command = ["train", "muse.toml", "--folder", "run"]

    class Killed(BaseException):
        pass

    # Killed after the first epoch of the base, before it was written into the log.
    write = CSVLog.on_epoch_end

    def killed(log, epoch, logs=None):
        if log.path.parent.name == "stage_0":
            raise Killed
        write(log, epoch, logs)

    monkeypatch.setattr(CSVLog, "on_epoch_end", killed)
    with pytest.raises(Killed):
        cli.main(command)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert not (here / "run" / "stage_0" / "log.csv").exists()
    before = (here / "run" / "image_tokenizer_0" / "log.csv").read_bytes()
    assert cli.main(command) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/preset"
    run = here / "run"
    assert (run / "image_tokenizer_0" / "log.csv").read_bytes() == before
    rows = table(run / "stage_0" / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    # An untrained model has the loss of a guess.
    assert abs(float(rows[0]["loss"]) - np.log(32)) < 0.5
    assert float(rows[0]["tokens_per_second"]) > 0 and "val_loss" in rows[0]
    for part in ("image_tokenizer_0", "stage_0"):
        assert list((run / part / "samples").glob("epoch-*.png"))
        assert list((run / part / "tensorboard").iterdir())
        assert len(list((run / part / "checkpoints").glob("*.h5"))) <= 3
    if os.environ.get("KERAS_BACKEND") == "torch":
        # As if it had not been stopped.
        config.train("muse.toml", "unbroken", verbose=0)
        for left, right in zip(rows, table(here / "unbroken" / "stage_0" / "log.csv")):
            left.pop("tokens_per_second"), right.pop("tokens_per_second")
            assert left == right
        found = MuseTextToImage.from_preset("unbroken/preset").get_weights()
        for left, right in zip(
            MuseTextToImage.from_preset("run/preset").get_weights(), found
        ):
            np.testing.assert_array_equal(left, right)
    muse = MuseTextToImage.from_preset("run/preset")
    assert muse.samplers[0].num_steps == 2
    assert muse.generate("a red circle", seed=1).shape == (16, 16, 3)
    # The average over the checkpoints of the base.
    status = cli.main(["average", "run/stage_0", "averaged"])
    assert status == 0, capsys.readouterr().err
    assert "the average of the epochs [1, 2, 3]" in capsys.readouterr().out
    averaged = MuseTextToImage.from_preset("averaged").get_weights()
    assert any(np.any(a != b) for a, b in zip(averaged, muse.get_weights()))
    assert cli.main(["average", "run/stage_0", "averaged"]) == 1
    assert "'averaged' exists" in capsys.readouterr().err
    assert cli.main(["average", "pictures", "other"]) == 1
    assert "not that of a trained stage" in capsys.readouterr().err
    # Done is done, and another config belongs into another folder.
    assert cli.main([*command, "--resume"]) == 0
    (here / "muse.toml").write_text(CONFIG.replace("seed = 1", "seed = 2"))
    assert cli.main([*command, "--resume"]) == 1
    assert "was begun with another config" in capsys.readouterr().err


@pytest.mark.slow
@only_on("torch", "each part trains elsewhere")
def test_two_stages_and_a_larger_decoder(here):
    (here / "muse.toml").write_text(CONFIG + DECODER + SECOND_STAGE)
    muse = MuseTextToImage.from_preset(config.train("muse.toml", "run", verbose=0))
    assert muse.generate("a blue square", seed=1).shape == (32, 32, 3)
    assert muse.backbone.transformers[1].low_res_grid_size == (4, 4)
    with open("run/image_tokenizer_1/log.csv") as file:
        assert "lecam" in next(csv.DictReader(file))
    decoders = [t.get_config() for t in muse.backbone.image_tokenizers]
    assert [d["decoder_base_channels"] for d in decoders] == [8, None]


def test_the_guide_can_be_read():
    found = config.read_config(ROOT / "guides" / "emoji.toml")
    assert found["data"]["source"] == "emoji128"


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("seed = 1", "sede = 1", "'sede' is no key of the config. There are data,"),
        ("[text]", "[words]", "'words' is no key of the config"),
        ("source =", "folder =", r"'folder' is no key of \[data\]. There are source"),
        ('source = "pictures"', "", r"\[data\] must have 'source'"),
        ("steps = 2", "step = 2", "'step' is no key of image_tokenizer of .*steps"),
        ("steps = 2\n", "", "image_tokenizer of .* must have 'steps'"),
        ("[stages.training]", "[stages.train]", "'train' is no key of"),
        ("num_steps = 2", "num_step = 2", "num_step"),
        ("hidden_dim = 16\nnum_heads", "width = 16\nnum_heads", "'width' is no key of"),
        ('name = "small"', 'name = "big"', "`name` must be one of"),
        ("groups = 2", "group = 2", "'group' is no key of model of"),
        ("quantizer = {", 'quantizer = {kind = "x", ', "must be one of .*received 'x'"),
        ("steps_per_epoch = 1", "steps_per_epoch = 0", "a multiple of `steps_per_"),
        ("seed = 1", "seed = ", "muse.toml' is no TOML"),
        ("seed = 1", 'devices = {kinds = "data"}', r"'kinds' is no key of \[devices\]"),
        ("seed = 1", 'devices = {kind = "all"}', "`kind` must be .*received 'all'"),
    ],
)
def test_a_config_with_a_mistake(here, before, after, message):
    (here / "muse.toml").write_text(CONFIG.replace(before, after, 1))
    with pytest.raises((ValueError, TypeError), match=message):
        config.train("muse.toml", "run")
    assert not (here / "run").exists()


def test_no_config(here):
    with pytest.raises(FileNotFoundError, match="there is no nowhere.toml"):
        config.train("nowhere.toml", "run")


def test_weights_of_vgg16_that_cannot_be_had(monkeypatch):
    import keras

    def offline(**settings):
        raise OSError("no network")

    monkeypatch.setattr(keras.applications, "VGG16", offline)
    with pytest.warns(UserWarning, match="VGG16 cannot be had .no network."):
        assert vqgans._perceptual("vgg16") is None
    assert vqgans._perceptual("none") is None


def test_a_perceptual_loss_of_vgg16(monkeypatch):
    import keras

    make = keras.applications.VGG16
    monkeypatch.setattr(
        keras.applications,
        "VGG16",
        lambda weights, **settings: make(weights=None, **settings),
    )
    loss = vqgans._perceptual("vgg16")
    assert len(loss.feature_model.outputs) == 4
    images = np.random.default_rng(0).random((2, 1, 16, 16, 3), "float32")
    assert float(loss(images[0], images[0])) == 0.0
    assert float(loss(images[0], images[1])) > 0.0


def test_too_many_bad_pictures(here):
    for number in range(4):
        (here / "pictures" / f"{number}.png").write_text("no picture")
    records = data.read_folder("pictures", image_size=16)
    settings = {"steps": 2, "batch_size": 2, "perceptual": "none"}
    settings["model"] = tomllib.loads(MODEL)["stages"]["image_tokenizer"]["model"]
    with pytest.raises(data.TooManyBadRecords, match="Mend them and remove the list"):
        vqgans.train_image_tokenizer("run", records, **settings, verbose=0)
    settings["max_bad_fraction"] = 0.5
    vqgan = vqgans.train_image_tokenizer("run", records, **settings, verbose=0)
    assert vqgan.codebook_size == 1024
