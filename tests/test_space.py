from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, every, hooks, once_at_end
from noether.callback import stateful
from noether.checkpoint.manifest import candidates
from noether.lines import told
from noether.storage import STORAGE
from tests.strategies import net, samples, squared_error


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let the disk have room for so many bytes."""
    monkeypatch.setattr("noether.store.STORAGE", replace(STORAGE, free=lambda path: free))


def train(series: Path, *callbacks: Callback, optimizer: Any = None, **options: Any) -> None:
    given: dict[str, Any] = {"until": {"updates": 3}, "batch_size": 4, "defaults": False, **options}
    noether.train(
        net(),
        samples(12),
        loss=squared_error,
        optimizer=optimizer or (lambda parameters: torch.optim.AdamW(parameters)),
        callbacks=callbacks,
        run_dir=series,
        **given,
    )


def stored(run: Path) -> int:
    """Bytes of tensors in the newest checkpoint."""
    newest = candidates(run / "checkpoints").manifests[0]
    trees = [torch.load(newest.directory / n, weights_only=True) for n in newest.files]
    leaves = torch.utils._pytree.tree_leaves(trees)
    held = [t for t in leaves if isinstance(t, torch.Tensor) and t.dtype == torch.float32]
    return sum(t.numel() * 4 for t in held)


SAVING = hooks.checkpoint(keep_last=3, schedule=every(updates=1) | once_at_end)


def optimizers() -> dict[str, Any]:
    made: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.1),
        "adagrad": torch.optim.Adagrad,
        "adadelta": torch.optim.Adadelta,
    }
    return made


@pytest.mark.parametrize("name", optimizers())
def test_the_estimate_before_the_first_update_is_what_a_checkpoint_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = optimizers()[name]
    train(tmp_path, SAVING, optimizer=optimizer)
    size = stored(tmp_path / "1")
    assert "room for" not in capsys.readouterr().err
    room(monkeypatch, 2 * size)
    train(tmp_path, SAVING, optimizer=optimizer)
    warned = capsys.readouterr().err
    assert "room for" in warned
    assert "3 checkpoints of about" in warned
    assert _near(warned.split("of about ")[1].split(" will")[0], size)


def _near(said: str, size: int) -> bool:
    """Whether it says about so many bytes; steps and other small tensors aside."""
    number, unit = said.split()
    return abs(float(number) * {"bytes": 1, "kB": 1000}[unit] - size) < 0.15 * size


def test_room_for_all_that_is_kept_and_one_more_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room(monkeypatch, 100_000)
    train(tmp_path, SAVING)
    assert "room for" not in capsys.readouterr().err


def test_what_a_resumed_run_holds_already_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, SAVING)
    (tmp_path / "1" / "status.json").unlink()  # as if it were to go on
    room(monkeypatch, 3000)
    train(tmp_path, SAVING, resume="auto", until={"updates": 4})
    assert "will be kept" not in capsys.readouterr().err


def test_memories_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @stateful(init=lambda state: torch.zeros(10_000))
    def remember(state: Any, memory: Any) -> Any:
        return memory, None

    room(monkeypatch, 20_000)
    train(tmp_path, SAVING, every(updates=1)(remember))
    assert "of about 40." in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_is_told_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room(monkeypatch, 100)
    train(tmp_path, SAVING)
    warned = capsys.readouterr().err
    assert "room for 100 bytes, the checkpoint takes" in warned


def test_a_disk_that_does_not_tell_its_room_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(path: Path) -> int:
        raise OSError("no such call")

    monkeypatch.setattr("noether.store.STORAGE", replace(STORAGE, free=unknown))
    train(tmp_path, SAVING)
    assert candidates(tmp_path / "1" / "checkpoints").manifests


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2e15, "2000.0 TB")]
)
def test_sizes_are_told_in_units(size: float, said: str) -> None:
    assert told(size) == said
