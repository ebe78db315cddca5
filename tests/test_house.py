"""The rules of the house: no inheritance, imports point down, exports agree with what is there."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, get_type_hints

import pytest

import noether
import noether.hooks
import noether.schedules
import noether.testing
from noether.callback import is_factory
from noether.schedules.terms import CONSTANTS, FACTORIES

ROOT = Path(noether.__file__).parent
NAMES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "noether.", onerror=None)
)
FACADE = "noether"
"""Gives every floor's names under one, late; it stands on none."""

FLOORS = {
    1: "progress state effects callback dataflow errors lines plain schedules",
    2: "actions agenda arguments averages batchnorm checkpoint console contents defaults digests "
    "distributed elsewhere evaluation feed fold forecast hooks hyper journal live loop losses "
    "machine metrics outputs parallel passes perform purity randomness reductions remote "
    "resuming rundir running saving session settings signals space storage store trackers "
    "tracking training turn weights world",
    3: "config examples inspection plan report testing",
    4: "cli commands __main__",
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts.split()}

MAY_HOOKS_IMPORT = {"callback", "effects", "state", "progress", "schedules", "hooks"}


def part(module: str) -> str:
    """The file or folder right under `noether` that a module belongs to."""
    return module.split(".")[1]


def source(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """The modules of noether that a module imports anywhere in it, for types too."""
    for node in ast.walk(source(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("noether."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            origin = node.module or ""
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                if inner in NAMES:
                    yield inner
                elif origin == "noether" or origin.startswith("noether."):
                    yield origin


# ---------------------------------------------------------------- no inheritance


def own_classes(module: ModuleType) -> list[type]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_class_derives_from_another(name: str) -> None:
    for owned in own_classes(importlib.import_module(name)):
        protocol = Protocol in owned.__bases__
        derived = owned.__bases__ != (object,)
        assert issubclass(owned, BaseException) or protocol or not derived, owned


def test_no_nested_class_derives_from_another_either() -> None:
    classes = [
        node for n in NAMES for node in ast.walk(source(n)) if isinstance(node, ast.ClassDef)
    ]
    assert classes
    strange = {
        node.name: ast.unparse(base)
        for node in classes
        for base in node.bases
        if not ast.unparse(base).endswith(("Error", "Exception", "Protocol", "Exit", "Interrupt"))
    }
    assert strange == {}


# ---------------------------------------------------------------- floors


def test_every_module_has_a_floor_and_every_floor_its_modules() -> None:
    assert {part(name) for name in NAMES} == set(FLOOR)


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name: str) -> None:
    here = FLOOR[part(name)]
    up = [other for other in imports(name) if other != FACADE and FLOOR[part(other)] > here]
    assert up == []


@pytest.mark.parametrize("name", NAMES)
def test_no_module_takes_names_from_the_facade(name: str) -> None:
    assert FACADE not in set(imports(name))


@pytest.mark.parametrize("name", [name for name in NAMES if part(name) == "hooks"])
def test_hooks_import_values_and_schedules_only(name: str) -> None:
    assert {part(other) for other in imports(name)} <= MAY_HOOKS_IMPORT


# ---------------------------------------------------------------- exports

PUBLIC = [noether, noether.hooks, noether.schedules, noether.testing]


def undocumented(module: ModuleType) -> list[str]:
    values = {name: getattr(module, name) for name in module.__all__}
    return [name for name, value in values.items() if not (value.__doc__ or "").strip()]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_exports_are_sorted_resolvable_and_documented(module: Any) -> None:
    assert module.__all__ == sorted(set(module.__all__))
    assert undocumented(module) == []
    assert set(module.__all__) <= set(dir(module))


def modules_of(package: str) -> list[ModuleType]:
    return [importlib.import_module(n) for n in NAMES if n.startswith(f"{package}.")]


def test_every_built_in_factory_is_exported_and_nothing_else() -> None:
    made = {
        name
        for module in modules_of("noether.hooks")
        for name, value in vars(module).items()
        if is_factory(value) and value.__module__ == module.__name__
    }
    assert made == set(noether.hooks.__all__)


def test_every_term_of_the_schedule_language_is_exported_at_both_doors() -> None:
    terms = set(CONSTANTS) | set(FACTORIES)
    assert terms == set(noether.schedules.__all__) - {"Schedule", "Tick", "parse"}
    assert terms <= set(noether.__all__)


def test_every_effect_error_and_decorator_is_exported() -> None:
    from noether import callback, effects, errors

    public = {c.__name__ for m in (effects, errors) for c in own_classes(m)} - {"Problem"}
    public |= {f.__name__ for f in (callback.chain, callback.factory, callback.hook)}
    public |= {"stateful", "train", "load", "Callback", "DataPass", "Progress", "TrainState"}
    assert public <= set(noether.__all__)


@pytest.mark.parametrize("name", noether.hooks.__all__)
def test_a_built_in_takes_keyword_options_only_each_with_a_type(name: str) -> None:
    built_in = getattr(noether.hooks, name)
    parameters = inspect.signature(built_in).parameters.values()
    assert {p.kind for p in parameters} <= {inspect.Parameter.KEYWORD_ONLY}
    assert {p.name for p in parameters} <= set(get_type_hints(inspect.unwrap(built_in)))
    assert ">>>" in (inspect.getdoc(built_in) or "")


@pytest.mark.parametrize("name", NAMES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(source(name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="evry"):
        noether.evry  # noqa: B018


# ---------------------------------------------------------------- start-up

SLOW = ("torch", "numpy", "hypothesis", "sklearn")
SAY = f"import sys; print(sorted(set(sys.modules) & set({SLOW!r})), file=sys.stderr)"


def loaded(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, which tells the slow packages that it loaded, at last."""
    whole = f"import atexit\n\ndef say():\n    {SAY}\n\natexit.register(say)\n{code}"
    command = [sys.executable, "-c", whole]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import noether",
        "import noether.schedules as s; s.parse('every(updates=5) & after(epochs=2)')",
        "import noether; noether.every(updates=3); noether.Progress(); noether.Log({})",
    ],
)
def test_importing_noether_is_light(code: str) -> None:
    told = loaded(code)
    assert (told.returncode, told.stderr.strip()) == (0, "[]")


def test_the_commands_help_is_light() -> None:
    told = loaded(
        "import runpy, sys; sys.argv = ['noether', '--help']; "
        "runpy.run_module('noether', run_name='__main__')"
    )
    assert told.returncode == 0, told.stderr
    assert "train" in told.stdout
    assert told.stderr.strip() == "[]"
