"""What the tests of the command line share."""

import pytest

from tests.tools import tiny_muse


@pytest.fixture(scope="session")
def muse():
    return tiny_muse()


@pytest.fixture(scope="session")
def preset(muse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    muse.save_to_preset(str(folder))
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
