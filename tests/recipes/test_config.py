"""From a TOML file and a folder of pictures to a preset."""

import csv
import functools
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_muse import cli
from keras_muse.models import MuseTextToImage
from keras_muse.recipes import config, pictures

ROOT = pathlib.Path(__file__).parents[2]
CAPTIONS = ("a red circle", "a blue square", "a green cross")

CONFIG = """
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
model = {base_channels = 4, channel_multipliers = [1, 2], strides = [4], groups = 2}
[stages.transformer]
num_layers = 1
hidden_dim = 16
num_heads = 2
[stages.training]
steps = 2
batch_size = 2
steps_per_epoch = 1
train_text_encoder = true
optimizer = {name = "small", ema_momentum = 0.9}
[stages.decoder]
steps = 1
batch_size = 2
base_channels = 8
num_residual_blocks = 1
perceptual = "none"
[stages.sampler]
num_steps = 2
"""

SECOND_STAGE = """
[[stages]]
image_size = 32
[stages.image_tokenizer]
steps = 1
batch_size = 2
perceptual = "none"
quantizer = {kind = "finite_scalar", levels = [4, 4]}
discriminator = {base_channels = 4, num_layers = 1, groups = 2}
model = {base_channels = 4, channel_multipliers = [1, 2], strides = [4], groups = 2}
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

    # Killed within the base; everything before it is done.
    train_stage = pictures.train_stage

    # Its arguments are the keys of a table.
    @functools.wraps(train_stage)
    def killed(*args, **settings):
        raise Killed

    monkeypatch.setattr(pictures, "train_stage", killed)
    with pytest.raises(Killed):
        cli.main(command)
    monkeypatch.setattr(pictures, "train_stage", train_stage)
    before = (here / "run" / "image_tokenizer_0" / "log.csv").read_bytes()
    assert cli.main(command) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/preset"
    run = here / "run"
    assert (run / "image_tokenizer_0" / "log.csv").read_bytes() == before
    rows = table(run / "stage_0" / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    # An untrained model has the loss of a guess.
    assert abs(float(rows[0]["loss"]) - np.log(32)) < 0.5
    assert float(rows[0]["tokens_per_second"]) > 0 and "val_loss" in rows[0]
    for part in ("image_tokenizer_0", "stage_0", "decoder_0"):
        assert list((run / part / "samples").glob("epoch-*.png"))
        assert list((run / part / "tensorboard").iterdir())
        assert len(list((run / part / "checkpoints").glob("*.h5"))) <= 2
    muse = MuseTextToImage.from_preset("run/preset")
    assert muse.samplers[0].num_steps == 2
    assert muse.generate("a red circle", seed=1).shape == (16, 16, 3)
    # The larger decoder is in it.
    decoder = muse.backbone.image_tokenizers[0].get_config()
    assert decoder["decoder_base_channels"] == 8
    # The average over the checkpoints of the base.
    assert cli.main(["average", "run/stage_0", "averaged"]) == 0
    assert "the average of the epochs [1, 2]" in capsys.readouterr().out
    averaged = MuseTextToImage.from_preset("averaged")
    assert averaged.generate("a red circle", seed=1).shape == (16, 16, 3)
    assert cli.main(["average", "run/stage_0", "averaged"]) == 1
    assert "'averaged' exists" in capsys.readouterr().err
    assert cli.main(["average", "pictures", "other"]) == 1
    assert "not that of a trained stage" in capsys.readouterr().err
    # Done is done, and another config belongs into another folder.
    assert cli.main([*command, "--resume"]) == 0
    (run / "preset").rename(run / "elsewhere")
    (here / "muse.toml").write_text(CONFIG.replace("seed = 1", "seed = 2"))
    assert cli.main([*command, "--resume"]) == 1
    assert "was begun with another config" in capsys.readouterr().err


@pytest.mark.slow
def test_two_stages(here):
    (here / "muse.toml").write_text(CONFIG + SECOND_STAGE)
    muse = MuseTextToImage.from_preset(config.train("muse.toml", "run", verbose=0))
    assert muse.generate("a blue square", seed=1).shape == (32, 32, 3)
    assert muse.backbone.transformers[1].low_res_grid_size == (4, 4)


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
        ("seed = 1", "seed = ", "muse.toml' is no TOML"),
    ],
)
def test_a_config_with_a_mistake(here, before, after, message):
    (here / "muse.toml").write_text(CONFIG.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
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
        assert pictures._perceptual("vgg16") is None
    assert pictures._perceptual("none") is None
    network = keras.applications.vgg16.VGG16
    assert network is not None


def test_steps_that_are_no_whole_number_of_epochs(here):
    text = CONFIG.replace("steps_per_epoch = 1", "steps_per_epoch = 3", 1)
    (here / "muse.toml").write_text(text.replace("steps = 2", "steps = 4", 1))
    with pytest.raises(ValueError, match="a multiple of `steps_per_epoch`: .* 4 and 3"):
        config.train("muse.toml", "run", verbose=0)
