"""What benchmarks/README.md lists is there, and tells how it is run."""

import ast
import pathlib
import re
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
# What several benchmarks import.
SHARED = {"ours", "peers", "processes", "tables"}
FILES = {path.stem: path for path in FOLDER.glob("*.py")}
COMMANDS = sorted(FILES.keys() - SHARED)


def test_the_page_lists_every_benchmark_and_no_other():
    page = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"`python benchmarks/(\w+)\.py", page)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_tells_its_command(name):
    told = ast.get_docstring(ast.parse(FILES[name].read_text()))
    assert re.search(rf"^    .*python benchmarks/{name}\.py", told, re.M)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_is_shared_loads_no_library(name):
    """The process that starts the rows stays small, a row imports what it measures."""
    tree = ast.parse(FILES[name].read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in top:
        names = [getattr(node, "module", None) or alias.name for alias in node.names]
        for found in names:
            room = found.split(".")[0]
            assert room in SHARED or room in sys.stdlib_module_names


def test_a_table_has_a_column_for_every_key(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import tables

    text = tables.markdown("T", {"a": {"x": 1}, "b": {"y": 2}})
    assert text == "## T\n\n| | x | y |\n|---|---|---|\n| a | 1 |  |\n| b |  | 2 |\n"
