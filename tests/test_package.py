"""The rules of the house that can be read off the source."""

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_muse"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(
    path
    for folder in ("keras_muse", "tests", "guides", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
TEXTS = SOURCES + sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*.toml"))

# What sits on top: nobody below imports it.
TOP = {"data", "evaluation", "serving", "recipes", "cli", "__main__"}
# `presets` knows folders and names and imports no other room.
SHARED = {"layers", "losses", "presets"}
# What a class refers to by a method, which imports it when it is called: a name of a
# preset becomes a model, `export` of a model is that of `serving`.
ON_CALL = {("presets", "models"), ("models", "serving")}
# The rooms along the way from a prompt to a picture, and what each may import.
MAY_IMPORT = {
    "backend": set(),
    "layers": set(),
    "losses": {"layers"},
    "distribution": set(),
    "decoding": {"layers"},
    "text": SHARED,
    "image_tokenizer": SHARED | {"distribution"},
    "transformer": SHARED,
    "presets": set(),
    "models": SHARED
    | {"text", "image_tokenizer", "transformer", "decoding", "distribution"},
}


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def room_of(path):
    """`decoding/noise.py` is in `decoding`, `losses.py` is its own."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """(module, is it inside a function) of each import of a file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            found += [(alias.name, lazy) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            # `from keras_muse import data` imports a room, too.
            found.append((node.module, lazy))
            found += [(f"{node.module}.{alias.name}", lazy) for alias in node.names]
    return found


def rooms_imported(path):
    rooms = {p.stem for p in PACKAGE.iterdir() if p.stem[0] not in "._"}
    return {
        (name.split(".")[1], lazy)
        for name, lazy in imports(path)
        if name.startswith("keras_muse.") and name.split(".")[1] in rooms
    }


def test_the_reader_of_imports_reads(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "import keras_muse.data\n"
        "from keras_muse import text\n"
        "def f():\n    from keras_muse.models.inputs import x\n    import jax.numpy\n"
    )
    assert rooms_imported(path) == {("data", False), ("text", False), ("models", True)}
    assert ("jax.numpy", True) in imports(path)


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_run_down_the_way_of_the_data(path):
    room = room_of(path)
    if room == "__init__" or room in TOP:
        return
    for other, lazy in rooms_imported(path):
        on_call = lazy and (room, other) in ON_CALL
        allowed = other in MAY_IMPORT[room] | {room} or on_call
        assert allowed, f"{room} must not import {other}"


def test_every_room_has_its_rule():
    known = set(MAY_IMPORT) | TOP | {"__init__"}
    assert {room_of(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_backends_are_imported_where_they_must_be(path):
    place = path.relative_to(PACKAGE).as_posix()
    if place == "models/compilation.py":
        return
    if place.startswith(("distribution/", "serving/")):
        return
    for name, lazy in imports(path):
        backend = name.split(".")[0]
        if backend not in ("jax", "torch", "tensorflow", "tensorflow_text"):
            continue
        in_data = place.startswith("data/") and backend.startswith("tensorflow")
        # SentencePiece in graphs, files for TensorBoard, the graph of the FID.
        places = (
            "text/tokenizer.py",
            "recipes/progress.py",
            "evaluation/inception.py",
        )
        in_place = place in places and backend == "tensorflow" and lazy
        assert in_data or in_place, f"{place} imports {backend}"


def test_only_public_api():
    private = ".src" + "."
    for path in TEXTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert private not in line, f"{path.relative_to(ROOT)}:{number}: {line}"
    for path in SOURCES:
        for name, _ in imports(path):
            assert ".src" not in f"{name}.", f"{path} imports {name}"


def test_no_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.\-])(/(work|home|root|Users)/\w|[A-Z]:\\\w)")
    assert pattern.search("a '/" + "home/me/x'")
    for path in TEXTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not pattern.search(line), (
                f"{path.relative_to(ROOT)}:{number}: {line}"
            )


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_every_module_lists_its_names(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    module = importlib.import_module(".".join(parts))
    listed = module.__all__
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert hasattr(module, name), f"{module.__name__} has no {name}"
    assert (module.__doc__ or "").strip()


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_public_classes_and_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    listed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    for node in tree.body:
        if getattr(node, "name", None) in listed:
            assert ast.get_docstring(node), f"{node.name} has no docstring"
