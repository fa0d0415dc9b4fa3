"""The rules of the house: imports flow one way, and heavy libraries have one room each."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qmgen"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Which rooms a room may import; modules beside the rooms count as rooms.
ALLOWED = {
    "errors": set(),
    "units": set(),
    "configuration": {"errors"},
    "integer_coding": {"errors"},
    "efficiency": {"errors", "units", "integer_coding"},
    "molecules": {"errors", "units"},
    "dft": {"errors", "units"},
    "dataset": {"errors", "units", "integer_coding"},
    "generate": {"errors", "units", "configuration", "efficiency", "molecules", "dft", "dataset"},
    "training": {"errors", "units", "configuration", "efficiency", "molecules", "dft", "dataset"},
    "knowledge": {"errors", "units", "molecules", "dataset"},
    "inspection": {"errors", "units", "molecules", "dataset"},
    "cli": {
        "errors",
        "units",
        "molecules",
        "dft",
        "dataset",
        "generate",
        "training",
        "inspection",
        "knowledge",
    },
    "__init__": set(),
}
# Distributions that only some rooms may import.
CONFINED = {
    "rdkit": {"molecules"},
    "torch": {"training"},
    "torch_geometric": {"training"},
    "schnetpack": {"training"},
    "pytorch_lightning": {"training"},
    "lightning": {"training"},
    "torchmetrics": {"training"},
    "ase": {"training"},
    "matplotlib": {"training"},
    "dask": {"generate"},
    "distributed": {"generate"},
    "dask_jobqueue": {"generate"},
    "zarr": {"dataset"},
    "fsspec": {"dataset"},
    "pyarrow": {"dataset", "knowledge"},
    "pyoxigraph": {"knowledge"},
    "pykeen": {"knowledge"},
    "sklearn": {"knowledge"},
    "networkx": {"knowledge"},
    "typer": {"cli"},
    "jinja2": {"inspection"},
    "markupsafe": {"inspection"},
    "http": {"inspection"},
    "pyscf": {"dft", "generate"},
    "e3nn": {"training"},
    "constriction": {"integer_coding"},
    "jax": {"dft", "generate", "training", "efficiency", "knowledge"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@lru_cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of everything that a module imports, also inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}, line {node.lineno}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_is_something_to_check() -> None:
    assert {room_of(path) for path in MODULES} <= set(ALLOWED)
    assert {"molecules", "dft", "dataset", "generate", "training", "inspection", "cli"} <= {
        room_of(path) for path in MODULES
    }
    everything = {name.split(".")[0] for path in MODULES for name in imports_of(path)}
    assert {"rdkit", "torch", "distributed", "zarr", "typer", "jax", "jinja2"} <= everything


def test_the_rules_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {room for room, below in ALLOWED.items() if room not in done and below <= done}
        assert free
        done |= free


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_flow_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "qmgen" and rest and rest[0] != room:
            assert rest[0] in ALLOWED[room], f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports_of(path):
        rooms = CONFINED.get(name.split(".")[0])
        assert rooms is None or room_of(path) in rooms, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_module_sets_the_precision(path: Path) -> None:
    names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
    names |= {
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    sets_it = bool(names & {"enable_x64", "jax_enable_x64", "JAX_ENABLE_X64"})
    assert sets_it == (name_of(path) == "qmgen/dft/precision.py")


def test_modules_stay_short() -> None:
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 400, f"{name_of(path)} has {lines} lines"


@pytest.mark.parametrize("module", ["qmgen", "qmgen.errors", "qmgen.units"])
def test_importing_has_no_side_effects(module: str) -> None:
    code = f"""
import os, sys
before, environment = set(sys.modules), dict(os.environ)
import {module}
assert dict(os.environ) == environment
heavy = {{"jax", "torch", "pyscf", "rdkit", "zarr", "distributed", "dask"}}
print(sorted(heavy & ({{name.split(".")[0] for name in sys.modules}} - before)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_importing_the_engine_leaves_jax_as_it_was() -> None:
    code = """
import jax, qmgen.dft, qmgen.generate
print(jax.config.jax_enable_x64, jax.numpy.zeros(1).dtype, jax.config.jax_compilation_cache_dir)
"""
    # Tests share a folder of programs, which this variable names.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "float32", "None"]
