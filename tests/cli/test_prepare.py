"""`keras-muse prepare`."""

import numpy as np
import pytest
from PIL import Image

from keras_muse import cli, data


@pytest.fixture
def pictures(here):
    (here / "pictures").mkdir()
    for number in range(3):
        image = np.full((40, 40, 3), 80 * number, "uint8")
        Image.fromarray(image).save(here / "pictures" / f"{number}.png")
        (here / "pictures" / f"{number}.txt").write_text("a red circle")
    return here / "pictures"


def test_it_makes_tokens(muse, preset, pictures, capsys):
    arguments = ["prepare", "pictures", "tokens", "--preset", preset]
    arguments += ["--shard-size", "2", "--batch-size", "2"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out == "3 records in 2 shards of tokens, 0 left out\n"
    assert len(data.read_tokens("tokens", muse.backbone, muse.preprocessor)) == 3
    # Again: it is done.
    assert cli.main(arguments) == 0
    # Other settings belong into another folder.
    assert cli.main([*arguments, "--text", "ids"]) == 1
    assert "was begun with other settings, text: " in capsys.readouterr().err


def test_too_many_bad_records(preset, pictures, capsys):
    (pictures / "1.txt").unlink()
    arguments = ["prepare", "pictures", "tokens", "--preset", preset]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "1 of 3 records cannot be used" in error and "'1.png'" in error
    assert cli.main([*arguments, "--max-bad", "0.4"]) == 0
    assert "2 records in 1 shards of tokens, 1 left out" in capsys.readouterr().out


def test_wrong_usage(preset, pictures, capsys):
    assert cli.main(["prepare", "pictures", "tokens"]) == 2
    assert "--preset" in capsys.readouterr().err
    arguments = ["prepare", "nowhere", "tokens", "--preset", preset]
    assert cli.main(arguments) == 1
    assert "there is no 'nowhere'" in capsys.readouterr().err
    arguments[1] = "pictures"
    assert cli.main([*arguments, "--beam", "", "--workers", "2"]) == 1
    assert "--workers: the runner of --beam" in capsys.readouterr().err
