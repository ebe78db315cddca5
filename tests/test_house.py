"""What holds of the package as a whole: no inheritance, imports that point down, honest exports."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import noether

ROOT = Path(noether.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = {
    1: "progress state effects callback dataflow errors plain schedules",
    2: "fold loop machine feed passes metrics randomness checkpoint storage store rundir journal "
    "console signals hooks defaults arguments perform session training examples",
    3: "config",
    4: "cli __main__",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
VALUES = {"callback", "effects", "state", "progress", "schedules", "errors", "hooks"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The file or folder of the package's top level that a module stands in."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path, *, late: bool = True) -> Iterator[str]:
    """Modules of ours that a file imports; with `late` also those within functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree) if late else tree.body:
        if id(node) in typing_only or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("noether"))
        elif node.module == "noether":
            yield from (f"noether.{name.name}" for name in node.names)
        elif node.module is not None and node.module.startswith("noether."):
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_class_derives_from_another(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            kind = getattr(importlib.import_module(module_of(path)), node.name, None)
            error = isinstance(kind, type) and issubclass(kind, BaseException)
            bases = {ast.unparse(base).split("[")[0] for base in node.bases}
            assert error or bases <= {"Protocol"}, f"{path}:{node.lineno} {node.name}"


def test_every_file_stands_on_a_floor() -> None:
    rooms = {room(module_of(path)) for path in FILES} - {""}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    here = room(module_of(path))
    for module in imported(path):
        if here and room(module):
            assert FLOOR[room(module)] <= FLOOR[here], f"{here} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "hooks").glob("*.py")), ids=module_of)
def test_hooks_know_values_and_schedules_only(path: Path) -> None:
    assert {room(module) for module in imported(path)} <= VALUES


@pytest.mark.parametrize("name", ["noether", "noether.hooks", "noether.schedules"])
def test_exports_are_sorted_documented_and_there(name: str) -> None:
    module = importlib.import_module(name)
    exports = module.__all__
    assert exports == sorted(exports)
    for export in exports:
        value = getattr(module, export)
        assert isinstance(value, noether.Schedule) or value.__doc__, f"{export} has no docstring"
    assert set(exports) <= set(dir(module))


def test_every_public_factory_of_hooks_is_exported() -> None:
    from noether import hooks
    from noether.callback import is_factory

    found = {
        name
        for path in (ROOT / "hooks").glob("*.py")
        for name, value in vars(importlib.import_module(module_of(path))).items()
        if is_factory(value)
    }
    assert found == set(hooks.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evry'"):
        noether.evry  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import noether",
        "import noether.schedules, noether.callback, noether.effects, noether.state",
        "from noether import every, chain, Progress, Log",
    ],
)
def test_values_come_without_torch(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
