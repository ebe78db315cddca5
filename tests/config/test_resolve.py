import subprocess
import sys

import pytest
import torch

from noether import examples, hooks
from noether.callback import is_factory
from noether.config.resolve import resolve
from tests import sample_project

ALLOW = ["tests.sample_project"]


def refusal(kind: object, allow: list[str] | None = None) -> str:
    with pytest.raises(LookupError) as caught:
        resolve(kind, allow or [])
    return str(caught.value)


@pytest.mark.parametrize("name", hooks.__all__)
def test_built_in_callbacks_have_a_short_and_a_long_name(name: str) -> None:
    assert resolve(name) is resolve(f"noether.hooks.{name}") is getattr(hooks, name)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("torch.optim.AdamW", torch.optim.AdamW),
        ("torch.optim.lr_scheduler.StepLR", torch.optim.lr_scheduler.StepLR),
        ("noether.examples.mlp", examples.mlp),
    ],
)
def test_dotted_names_of_what_is_trusted(kind: str, found: object) -> None:
    assert resolve(kind) is found


def test_allowed_packages_give_their_factories() -> None:
    assert resolve("tests.sample_project.writer", ALLOW) is sample_project.writer
    assert resolve("tests.sample_project.writer", ["tests"]) is sample_project.writer


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("os.system", "the module os is not allowed"),
        ("builtins.eval", "the module builtins is not allowed"),
        ("logging.os.system", "the module logging.os is not allowed"),
        ("subprocess.Popen", "the module subprocess is not allowed"),
        ("noetherx.hooks.progress", "the module noetherx.hooks is not allowed"),
        ("torch.hub.load", "the module torch.hub is not allowed"),
        ("torch.load", "the module torch is not allowed"),
        ("torch.nn.Linear", "the module torch.nn is not allowed"),
        ("torch.optim.adamw.AdamW", "Did you mean torch.optim.AdamW?"),
        ("noether.config.os.system", "'noether.config.os.system' does not exist"),
        ("noether.rundir.os", "is not declared with @noether.factory"),
        ("noether.callback.rebuild", "is not declared with @noether.factory"),
        ("noether.train", "is not declared with @noether.factory"),
        ("noether.callback.importlib.import_module", "does not exist"),
        ("torch.optim.Optimizer", "is not declared"),
        ("torch.optim.lr_scheduler.LRScheduler", "is not declared"),
        ("torch.optim.lr_scheduler.partial", "is not declared"),
        ("torch.optim.lr_scheduler.Optimizer", "is not declared"),
        ("torch.optim.lr_scheduler.ReduceLROnPlateau", "use the callback reduce_on_plateau"),
        ("noether.hooks.progress.__globals__", "is no public dotted name"),
        ("noether.__main__.run", "is no public dotted name"),
        ("noether._x", "is no public dotted name"),
        ("noether..hooks", "is no public dotted name"),
        ("", "is no public dotted name"),
        ("noether.hooks.progress()", "is no public dotted name"),
        (3, "expected the name of a factory, found 3"),
        (None, "expected the name of a factory, found None"),
        ("noether.hooks.best_chekpoint", "Did you mean noether.hooks.best_checkpoint?"),
        ("best_chekpoint", "Did you mean best_checkpoint?"),
        ("exec", "Known here: accuracy, "),
        ("torch.optim.AdmaW", "Did you mean torch.optim.AdamW?"),
        ("tests.sample_project.writer", "--allow tests"),
    ],
)
def test_everything_else_is_refused(kind: object, said: str) -> None:
    assert said in refusal(kind)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("undeclared", "is not declared with @noether.factory"),
        ("ALIAS", "is not declared with @noether.factory"),
        ("os.system", "does not exist"),
        ("MADE", "is not declared"),
        ("wirter", "Did you mean tests.sample_project.writer?"),
    ],
)
def test_trust_in_a_package_is_not_trust_in_all_that_it_reaches(name: str, said: str) -> None:
    assert said in refusal(f"tests.sample_project.{name}", ALLOW)


def test_a_module_that_breaks_on_import_is_named(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "broken_one.py").write_text("import no_such_module_anywhere")
    (folder / "broken_two.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(folder)
    assert refusal("broken_one.x", ["broken_one"]) == (
        "broken_one cannot be imported: No module named 'no_such_module_anywhere'"
    )
    assert refusal("broken_two.x", ["broken_two"]) == (
        "broken_two cannot be imported: ZeroDivisionError: division by zero"
    )
    assert "does not exist" in refusal("missing_one.x", ["missing_one"])


def test_nothing_is_imported_by_the_wish_of_a_name() -> None:
    script = """
import sys
import noether.hooks
from noether.config.resolve import resolve
before = set(sys.modules)
for kind in ("antigravity.fly", "this.s", "xmlrpc.client.ServerProxy", "noether.hooks.this.s"):
    try:
        resolve(kind)
    except LookupError:
        print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]"] * 4


def test_factories_are_known_by_identity() -> None:
    assert is_factory(sample_project.writer)
    assert not is_factory(sample_project.ALIAS)
