"""`keras-muse export`."""

import pathlib

import pytest

from keras_muse import cli
from tests.tools import only_on


@pytest.mark.slow
@only_on("torch", "is run on PyTorch")
def test_it_exports(preset, here, capsys):
    arguments = ["export", preset, "served/tiny", "--version", "3", "--steps", "2"]
    arguments += ["--stages", "1", "--max-batch", "3", "--label", "canary"]
    assert cli.main([*arguments, "--no-warm-up"]) == 0
    printed = capsys.readouterr()
    path = pathlib.Path(printed.out.strip())
    assert path == here / "served/tiny/3" and (path / "saved_model.pb").exists()
    assert "exporting with tensorflow" in printed.err
    assert not (path / "assets.extra").exists()
    assert "| 0 | 16 | 2 |" in (path / "model_card.md").read_text()
    config = (path.parent / "models.config").read_text()
    assert 'key: "canary"' in config
    # Not over what is there.
    assert cli.main(arguments) == 1
    assert "export the next version" in capsys.readouterr().err


def test_what_is_wrong_is_said(preset, here, capsys):
    assert cli.main(["export", preset, "served", "--version", "0"]) == 2
    assert cli.main(["export", preset, "served", "--backend", "torch"]) == 2
    assert cli.main(["export", "no_such", "served", "--no-warm-up"]) == 1
    assert "`preset` must be one of" in capsys.readouterr().err
