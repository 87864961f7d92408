"""What the README and the guides show is run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.tools import only_on

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "guides").glob("*.md"))]
BLOCKS = {
    f"{page.stem}-{index}": block
    for page in PAGES
    for index, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    )
}


def run(arguments, folder):
    """A command in an empty folder, its backend that of the tests."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def on_this_backend(index):
    """Each page is run, on one backend: what it calls is tested on all of them."""
    backends = ("torch", "tensorflow", "jax")
    return os.environ.get("KERAS_BACKEND") == backends[index % len(backends)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for i, block in enumerate(BLOCKS.values()) if on_this_backend(i)]
)
def test_block(block, tmp_path):
    run(["-c", block], tmp_path)


def test_every_page_has_blocks():
    assert {name.rpartition("-")[0] for name in BLOCKS} == {p.stem for p in PAGES}
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    # Code has brackets of its own.
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_readme_commands_exist(tmp_path):
    text = (ROOT / "README.md").read_text()
    prompt = re.search(r"keras-muse generate (\"[^\"]+\")", text).group(1)
    run(
        ["-m", "keras_muse", "generate", prompt.strip('"'), "--output", "picture.png"],
        tmp_path,
    )
    assert (tmp_path / "picture.png").stat().st_size > 100


@pytest.mark.slow
@only_on("torch", "is run on PyTorch")
def test_quickstart(tmp_path):
    printed = run([str(ROOT / "guides" / "quickstart.py")], tmp_path)
    assert "0 tokens masked" in printed
    assert (tmp_path / "quickstart.png").exists()


@pytest.mark.slow
@only_on("torch", "is run on PyTorch")
def test_edit_guide(tmp_path):
    run([str(ROOT / "guides" / "edit.py")], tmp_path)
    assert (tmp_path / "edit.png").exists()


@pytest.mark.slow
def test_recipe_runs_and_resumes(tmp_path):
    recipe = [str(ROOT / "guides" / "train_muse_shapes.py"), "--folder", "run"]
    small = ["--tokenizer-steps", "4", "--pictures", "64", "--steps-per-epoch", "2"]
    small += ["--batch-size", "8", "--precision", "float32"]
    small += ["--super-resolution-pictures", "8", "--test-pictures", "20"]
    run(recipe + small, tmp_path)
    preset = tmp_path / "run" / "preset"
    assert (preset / "model.weights.h5").exists()
    if os.environ.get("KERAS_BACKEND") != "torch":
        # What follows is about files alone; PyTorch, which traces nothing, is fast.
        return
    # Again: nothing is trained twice, and the result is the same.
    weights = (preset / "model.weights.h5").read_bytes()
    log = (tmp_path / "run" / "base.csv").read_text()
    run(recipe + small, tmp_path)
    assert (tmp_path / "run" / "base.csv").read_text() == log
    assert (preset / "model.weights.h5").read_bytes() == weights
    # The base of a preset goes on.
    more = [*recipe[:-1], "more", "--initial-preset", "run/preset", *small]
    run([*more, "--seed", "9"], tmp_path)
    assert (tmp_path / "more" / "prolonged_9.csv").exists()
    assert (tmp_path / "more" / "preset" / "model.weights.h5").exists()
    # Nothing else of it was trained.
    assert not (tmp_path / "more" / "super_resolution.csv").exists()
