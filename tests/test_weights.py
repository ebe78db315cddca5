"""Weights out of a run and into another: exported, renamed, chosen, loaded, refused, reported."""

import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import noether
from noether import Callback, CheckpointError, ConfigurationError, chain, every, hooks
from noether.checkpoint.commit import commit
from noether.cli import main
from noether.config import load
from noether.storage import STORAGE, Storage
from noether.weights.export import separated
from noether.weights.files import write_safetensors
from noether.weights.fitting import fitted, report
from noether.weights.names import begins, chosen, moved, renamed, renaming_mistakes
from noether.weights.request import InitFrom
from tests.command import ALLOW, ROOT, placed
from tests.group import Group, groups
from tests.strategies import net, samples, sgd, squared_error

DATA = samples(8)

# ---------------------------------------------------------------- what is trained


class Tied(nn.Module):
    """Two names of one weight, a view of another one, and a buffer that no checkpoint has."""

    def __init__(self, *, apart: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 3, bias=False)
        self.last = nn.Linear(3, 2)
        if not apart:
            self.head.weight = self.embed.weight
        self.register_buffer("piece", self.last.weight.detach()[:1])
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(self.head(self.embed(inputs).tanh()))
        return out


def fresh(make: Callable[[], nn.Module], seed: int = 3) -> nn.Module:
    """A model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def other(seed: int = 11, inner: int = 5) -> nn.Module:
    """A network like `net`, without dropout, with other weights."""
    return fresh(
        lambda: nn.Sequential(nn.Linear(3, inner), nn.Tanh(), nn.Dropout(0.0), nn.Linear(inner, 2)),
        seed,
    )


def trained(module: nn.Module, init_from: Any = None, **options: Any) -> list[float]:
    """Train on all samples at once, in their order; gives the loss of each update."""
    seen: list[float] = []

    def note(state: noether.TrainState) -> None:
        seen.extend(float(loss) for name, loss in state.losses.items() if name == "total")

    usual = {"until": {"updates": 1}, "batch_size": len(DATA), "defaults": False}
    callbacks = chain(Callback("seen", after_update=note), *options.pop("callbacks", ()))
    parts: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "shuffle": False}
    noether.train(
        module, DATA, callbacks=callbacks, init_from=init_from, **{**parts, **usual, **options}
    )
    return seen


def interrupted(*, at: int) -> Callable[[Any, Any], Tensor]:
    """The loss, in whose `at`-th call the process is asked to end after the update."""
    calls = iter(range(1, 10))

    def loss(model: Any, batch: Any) -> Tensor:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return squared_error(model, batch)

    return loss


def oracle(module: nn.Module, weights: Mapping[str, Tensor]) -> float:
    """The first loss of a model into which somebody has loaded the weights by hand."""
    module.load_state_dict(dict(weights), strict=False)
    return float(squared_error(module, (DATA.inputs, DATA.targets)).detach())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A series with a run of two epochs, its average and a best checkpoint."""
    trained(
        other(),
        until={"updates": 3},
        run_dir=tmp_path / "runs",
        callbacks=[hooks.ema(decay=0.5), every(updates=1)(hooks.checkpoint(keep_last=9))],
    )
    return tmp_path / "runs"


def live(run: Path, name: str = "step-3") -> dict[str, Tensor]:
    path = run / "1" / "checkpoints" / name / "weights.pt"
    return dict(torch.load(path, weights_only=True))


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        trained(*args, **options)
    return str(caught.value)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in found
    )


# ---------------------------------------------------------------- renaming and choosing: laws

parts = st.sampled_from(["a", "ab", "b", "c", "module"])
dotted = st.lists(parts, min_size=1, max_size=4).map(".".join)
names = st.lists(dotted, unique=True, max_size=8)
prefixes = st.one_of(st.just(""), dotted)
renames = st.dictionaries(prefixes, prefixes, max_size=3)
globs = st.lists(st.one_of(dotted, dotted.map("{}.*".format), st.just("*")), max_size=3)


@given(names)
def test_no_move_leaves_every_name(given: list[str]) -> None:
    assert renamed(given, {}) == {name: name for name in given}


@given(dotted, dotted)
def test_what_is_added_can_be_stripped(name: str, prefix: str) -> None:
    assert moved(moved(name, "", prefix), prefix, "") == name


@given(names, dotted, dotted)
def test_a_move_is_undone_by_its_reverse_where_nothing_was_there(
    given: list[str], old: str, new: str
) -> None:
    free = [name for name in given if not begins(name, new)]
    there = renamed(free, {old: new})
    assert [renamed([now], {new: old})[now] for now in there.values()] == free


@given(names, renames, renames)
def test_moves_in_one_mapping_are_those_of_two_one_after_the_other(
    given: list[str], first: dict[str, str], second: dict[str, str]
) -> None:
    second = {old: new for old, new in second.items() if old not in first}
    after = renamed(given, first)
    both = {name: renamed([now], second)[now] for name, now in after.items()}
    assert renamed(given, {**first, **second}) == both


@given(dotted, dotted, prefixes)
@example("encoder2.weight", "encoder", "x")
def test_only_whole_parts_of_a_name_are_moved(name: str, old: str, new: str) -> None:
    whole = name.split(".")[: len(old.split("."))] == old.split(".")
    rest = name.split(".")[len(old.split(".")) :]
    expected = ".".join([*filter(None, new.split(".")), *rest]) if whole else name
    assert moved(name, old, new) == expected


@given(names, renames)
def test_a_renaming_without_mistakes_loses_no_name(
    given: list[str], rename: dict[str, str]
) -> None:
    final = list(renamed(given, rename).values())
    lossless = len(set(final)) == len(given) and "" not in final
    useless = [text for text in renaming_mistakes(given, rename) if "no name begins" in text]
    assert (len([*renaming_mistakes(given, rename)]) == len(useless)) is lossless


@given(dotted, globs, globs)
def test_exclusion_wins_and_nothing_included_means_all(
    name: str, include: list[str], exclude: list[str]
) -> None:
    assert chosen(name, (), ())
    assert not chosen(name, include, ["*"])
    assert chosen(name, include, exclude) is (
        chosen(name, include, ()) and chosen(name, (), exclude)
    )
    if include:
        assert chosen(name, include, ()) is any(chosen(name, [glob], ()) for glob in include)


# ---------------------------------------------------------------- fitting: laws and refusals


def tensors(given: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.rand(shape) for name, shape in given.items()}


shaped = st.dictionaries(dotted, st.sampled_from([(2,), (3,), (2, 3)]), max_size=8)
ALLOWED: dict[str, Any] = dict.fromkeys(("missing", "unexpected", "mismatched"), "allow")


@given(shaped, shaped, globs, globs)
def test_every_name_on_either_side_is_loaded_or_said_not_to_be(
    there: dict[str, tuple[int, ...]],
    here: dict[str, tuple[int, ...]],
    include: list[str],
    exclude: list[str],
) -> None:
    source, model = tensors(there), tensors(here)
    request = InitFrom("it", include=tuple(include), exclude=tuple(exclude), **ALLOWED)
    fits = {n for n in there if here.get(n) == there[n] and chosen(n, include, exclude)}
    known = {*there, *here}
    senseless = [g for g in (*include, *exclude) if not any(chosen(n, [g], ()) for n in known)]
    if senseless or not fits:
        with pytest.raises(ConfigurationError):
            fitted(source, model, request)
        return
    fit = fitted(source, model, request)
    assert set(fit.loaded) == fits
    assert all(fit.loaded[name] is source[name] for name in fits)
    assert {*fit.loaded, *fit.left} == set(here)
    assert {*fit.loaded, *fit.unused} == set(there)
    assert f"{len(fits)} tensor" in report(fit, "it")


@given(st.one_of(st.tuples(shaped, shaped), shaped.map(lambda shapes: (shapes, shapes))))
def test_without_leave_only_a_perfect_fit_is_loaded(
    pair: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]],
) -> None:
    there, here = pair
    perfect = there == here and len(there) > 0
    if perfect:
        fit = fitted(tensors(there), tensors(here), InitFrom("it"))
        assert (set(fit.loaded), fit.left, fit.unused) == (set(here), (), ())
    else:
        with pytest.raises(ConfigurationError):
            fitted(tensors(there), tensors(here), InitFrom("it"))


def fit_error(there: Mapping[str, Any], here: Mapping[str, Any], **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fitted(tensors(there), tensors(here), InitFrom("a.pt", **options))
    return str(caught.value)


def test_what_does_not_fit_is_listed_with_the_nearest_names_and_the_ways_out() -> None:
    here = {"layers.0.weight": (2, 3), "layers.1.weight": (2,), "norm.weight": (2,)}
    there = {"layer.0.weight": (2, 3), "layers.1.weight": (3,), "norm.weight": (2,)}
    missing, unexpected, mismatched = fit_error(there, here).splitlines()
    assert "1 of the model's tensors are not in it: layers.0.weight (like layer.0.weight?)" in (
        missing
    )
    assert "missing: allow" in missing
    assert "layer.0.weight (like layers.0.weight?)" in unexpected
    assert "unexpected: allow" in unexpected
    assert "layers.1.weight [3] instead of [2]" in mismatched
    assert "mismatched: allow" in mismatched


def test_many_names_are_counted_not_listed() -> None:
    here = {f"a{i}": (2,) for i in range(100)}
    (line,) = fit_error({"a1": (2,)}, here).splitlines()
    assert line.count("a") < 40
    assert "and 94 more" in line


@pytest.mark.parametrize("prefix", ["module", "_orig_mod", "model", "module._orig_mod", "student"])
def test_a_prefix_that_could_be_stripped_or_added_is_named(prefix: str) -> None:
    here = {"0.weight": (2,), "0.bias": (3,)}
    there = {f"{prefix}.{name}": shape for name, shape in here.items()}
    told = fit_error(there, here)
    assert f'With rename: {{"{prefix}": ""}} 2 of the names fit' in told
    assert fitted(tensors(there), tensors(here), InitFrom("x", rename={prefix: ""})).left == ()
    told = fit_error(here, there)
    assert f'With rename: {{"": "{prefix.partition(".")[0]}' in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rename": {"encodr": "x"}}, "no name begins with encodr. Did you mean encoder?"),
        ({"rename": {"encoder.weight": ""}}, "leaves nothing of encoder.weight"),
        ({"rename": {"encoder": "head"}}, "makes head.weight of 2 tensors: encoder.weight, head"),
        ({"exclude": ("heda.*",)}, "exclude: heda.* fits no name, in it or in the model. Did you"),
        ({"include": ("x.*",)}, "include: x.* fits no name"),
        ({"exclude": ("*",)}, "nothing of it is in the model"),
    ],
)
def test_a_renaming_or_a_choice_without_sense_is_refused(options: Any, said: str) -> None:
    both = {"encoder.weight": (2,), "head.weight": (2,)}
    assert said in fit_error(both, both, **options)


def test_a_type_that_cannot_be_converted_does_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="complex64 instead of float32"):
        fitted({"a": torch.ones(2, dtype=torch.complex64)}, tensors({"a": (2,)}), InitFrom("x"))


def test_one_tensor_under_two_names_may_stand_there_once_but_not_as_two() -> None:
    shared = torch.rand(2)
    model = {"embed": shared, "head": shared}
    fit = fitted({"head": torch.ones(2)}, model, InitFrom("x"))
    assert (fit.tied, fit.left) == (("embed",), ())
    assert "2 tensors loaded" in report(fit, "x")
    two = {"embed": torch.ones(2), "head": torch.zeros(2)}
    with pytest.raises(ConfigurationError, match="embed and head are one tensor in the model"):
        fitted(two, model, InitFrom("x"))
    assert fitted(two, model, InitFrom("x", exclude=("head",))).tied == ("head",)


# ---------------------------------------------------------------- export


def test_the_file_holds_the_checkpoint_and_says_what_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = noether.export_weights(run, run / "a.safetensors")
    assert same(load_file(path), live(run))
    with safetensors.safe_open(path, framework="pt") as file:
        about = file.metadata()
    assert about == {
        **{"update": "3", "epoch": "3", "sample": "24", "tag": "last", "weights": "live"},
        **{"noether": noether.cli.installed(), "format": "pt"},
    }
    assert f"{path}: 4 tensors of step-3" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", torch.float16])
def test_floating_tensors_take_the_type_that_is_asked_for(tmp_path: Path, dtype: Any) -> None:
    module = net(norm=True)
    trained(module, run_dir=tmp_path, callbacks=[hooks.checkpoint()])
    path = noether.export_weights(tmp_path, tmp_path / "a.safetensors", dtype=dtype)
    kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    expected = {
        name: value.to(kind) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    assert torch.int64 in {value.dtype for value in expected.values()}
    assert same(load_file(path), expected)


def test_numbers_too_large_for_the_type_are_refused(tmp_path: Path) -> None:
    module = other()
    with torch.no_grad():
        module[0].weight[0, 0] = 1e6  # type: ignore[index]
    still = partial(torch.optim.SGD, lr=0.0)
    trained(module, run_dir=tmp_path, callbacks=[hooks.checkpoint()], optimizer=still)
    with pytest.raises(ConfigurationError, match=r"0\.weight are too large for torch\.float16"):
        noether.export_weights(tmp_path, tmp_path / "a.safetensors", dtype="float16")
    assert not list(tmp_path.glob("a.*"))
    noether.export_weights(tmp_path, tmp_path / "a.safetensors", dtype="bfloat16")


def test_an_average_is_exported_by_the_callback_that_keeps_it(tmp_path: Path) -> None:
    module, ema = fresh(Tied), hooks.ema(decay=0.5)
    final = noether.train(
        module,
        DATA,
        loss=squared_error,
        optimizer=sgd,
        until={"epochs": 2},
        callbacks=chain(ema, hooks.checkpoint()),
        run_dir=tmp_path,
    )
    kept = final.memories["ema"].weights["ema=0.5"]
    for name in ("ema", "ema=0.5"):
        path = noether.export_weights(tmp_path, weights=name, callbacks=ema)
        assert path == tmp_path / "1" / f"step-2-{name}.safetensors"
        expected = {name: kept[name] for name in ("embed.weight", "last.weight", "last.bias")}
        assert same(load_file(path), {**expected, "piece": kept["piece"]})
    assert not torch.equal(kept["last.bias"], module.state_dict()["last.bias"])


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ((), "'ema' are kept by no callback; give those of the run"),
        (hooks.ema(decay=[0.9, 0.8]), "kept by no callback. Did you mean ema=0.8?"),
        (hooks.ema(decay=0.9), "'ema' finds no weights 'ema=0.9' in the memory"),
    ],
)
def test_an_average_that_cannot_be_found_is_refused(run: Path, callbacks: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        noether.export_weights(run, run / "a.safetensors", weights="ema", callbacks=callbacks)
    assert not (run / "a.safetensors").exists()


def test_an_average_that_the_run_did_not_keep_is_refused(tmp_path: Path) -> None:
    trained(other(), run_dir=tmp_path, callbacks=[hooks.checkpoint()])
    with pytest.raises(CheckpointError, match="holds no memory of callback 'ema'"):
        noether.export_weights(tmp_path, weights="ema", callbacks=hooks.ema(decay=0.5))


def test_tied_weights_are_stored_once_and_restored_under_all_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = fresh(Tied)
    trained(module, run_dir=tmp_path, callbacks=[hooks.checkpoint()])
    path = noether.export_weights(tmp_path, tmp_path / "a.safetensors")
    assert sorted(load_file(path)) == ["embed.weight", "last.bias", "last.weight", "piece"]
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["aliases"]) == {"head.weight": "embed.weight"}
    assert "4 tensors of step-1, tied to them head.weight" in capsys.readouterr().out
    again, apart = fresh(Tied, 5), fresh(partial(Tied, apart=True), 6)
    trained(again, path, optimizer=partial(torch.optim.SGD, lr=0.0))
    trained(apart, path, optimizer=partial(torch.optim.SGD, lr=0.0))
    for made in (again, apart):
        assert same(made.state_dict(), module.state_dict())


@given(st.lists(st.sampled_from(["a", "a.T", "b", "b[1:]", "empty", "zero"]), max_size=6))
def test_what_is_written_shares_no_memory_and_loses_no_number(drawn: list[str]) -> None:
    a, b = torch.rand(2, 3), torch.rand(4)
    made = {"a": a, "a.T": a.T, "b": b, "b[1:]": b[1:], "empty": b[:0], "zero": a.sum()}
    kept = {f"{i}": made[what] for i, what in enumerate(drawn)}
    apart, aliases, beside = separated(kept)
    spots = [t.untyped_storage().data_ptr() for t in apart.values() if t.numel()]
    assert len(spots) == len(set(spots))
    assert all(tensor.is_contiguous() for tensor in apart.values())
    assert beside == ()
    restored = {**apart, **{name: apart[first] for name, first in aliases.items()}}
    assert same(dict(sorted(restored.items())), kept)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float64])
def test_the_library_reads_what_was_written_without_it(tmp_path: Path, dtype: torch.dtype) -> None:
    written = {
        "x": torch.arange(7).to(dtype),
        "ü.0": torch.rand(2, 3),
        "empty": torch.empty(0, 4),
        "number": torch.tensor(2.5, dtype=torch.bfloat16),
        "eight": torch.rand(3).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "a.safetensors"
    write_safetensors(path, written, {"a": "b"})
    assert same(dict(sorted(load_file(path).items())), dict(sorted(written.items())))


def test_no_file_is_overwritten_but_by_force(run: Path) -> None:
    path = run / "a.safetensors"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=r"is there already.*--force"):
        noether.export_weights(run, path)
    assert path.read_text() == "precious"
    noether.export_weights(run, path, force=True)
    assert same(load_file(path), live(run))


def broken(name: str) -> Storage:
    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    failing: dict[str, Any] = {name: fail}
    return replace(STORAGE, **failing)


@pytest.mark.parametrize("step", ["create", "write", "fsync", "close", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, step: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("precious")
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(path, tensors({"a": (2,)}), {}, force=True, storage=broken(step))
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("a.pt", {}, r"ends with \.safetensors"),
        ("nowhere/a.safetensors", {}, "make it first"),
        ("a.safetensors", {"dtype": "float61"}, "Did you mean float16?"),
        ("a.safetensors", {"checkpoint": "bset"}, "'bset'; known tags: last"),
        ("d.safetensors", {"force": True}, "give another name"),
    ],
)
def test_bad_options_of_an_export_write_nothing(
    run: Path, path: str, options: Any, said: str
) -> None:
    (run / "d.safetensors").mkdir()
    with pytest.raises(ConfigurationError, match=said):
        noether.export_weights(run, run / path, **options)
    assert not [p for p in run.rglob("*.safetensors") if p.is_file()]


def test_without_the_library_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noether.export_weights(run)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigurationError, match=r"noether-callbacks\[safetensors\]"):
        noether.export_weights(run, run / "b.safetensors")
    assert "noether-callbacks[safetensors]" in refusal(other(), path)


def test_extra_state_is_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"scale": 2}

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError("it was loaded")

    trained(Extra(3, 2), run_dir=tmp_path, callbacks=[hooks.checkpoint()])
    path = noether.export_weights(tmp_path)
    assert "left out, as no tensors: _extra_state" in capsys.readouterr().out
    for start in (path, tmp_path):
        trained(Extra(3, 2), start)
    assert "2 tensors loaded, 1 not used (_extra_state)" in capsys.readouterr().out


# ---------------------------------------------------------------- starting from each source


def sources(run: Path) -> Iterator[tuple[str, Any, dict[str, Tensor]]]:
    """What a run may start from, and the weights that are in it."""
    weights, checkpoint = live(run), run / "1" / "checkpoints" / "step-2"
    yield "export", noether.export_weights(run), weights
    yield "series", run, weights
    yield "run", str(run / "1"), weights
    yield "checkpoint", checkpoint, live(run, "step-2")
    yield "tag", {"path": run, "checkpoint": "last"}, weights
    for suffix in (".pt", ".pth", ".bin"):
        torch.save(weights, run / f"plain{suffix}")
        yield suffix, run / f"plain{suffix}", weights
    for nest in ("state_dict", "model", "model_state_dict"):
        torch.save({nest: weights, "epoch": 3, "optimizer": {}}, run / f"{nest}.pt")
        yield nest, run / f"{nest}.pt", weights
    save_file({f"module.{name}": value for name, value in weights.items()}, run / "hf.safetensors")
    yield "renamed", {"path": run / "hf.safetensors", "rename": {"module.": ""}}, weights


def test_the_first_loss_is_that_of_weights_loaded_by_hand(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, start, weights in sources(run):
        module = other(seed=5)
        expected = oracle(other(seed=6), weights)
        assert oracle(other(seed=5), {}) != expected
        assert trained(module, start) == [expected], what
        said = capsys.readouterr().out.splitlines()
        (line,) = [line for line in said if line.startswith("init_from")]
        assert line.endswith(": 4 tensors loaded")


def test_a_fresh_start_counts_from_nothing(run: Path, tmp_path: Path) -> None:
    trained(other(), run, run_dir=tmp_path / "tuned", callbacks=[hooks.checkpoint()])
    status = json.loads((tmp_path / "tuned" / "1" / "status.json").read_text())
    assert (status["state"], status["update"]) == ("done", 1)


def test_an_average_of_a_run_is_a_start_where_this_one_keeps_it_too(run: Path) -> None:
    ema = hooks.ema(decay=0.5)
    exported = noether.export_weights(run, weights="ema", callbacks=ema)
    expected = oracle(other(), load_file(exported))
    assert trained(other(5), {"path": run, "weights": "ema"}, callbacks=[ema]) == [expected]
    assert trained(other(5), exported) == [expected]
    assert expected != oracle(other(), live(run))
    told = refusal(other(), {"path": run, "weights": "ema"})
    assert "noether export RUN --weights ema" in told


def test_the_optimizer_and_averages_begin_with_the_loaded_weights(run: Path) -> None:
    held: list[dict[str, Tensor]] = []

    def note(parameters: Any) -> torch.optim.Optimizer:
        given = list(parameters)
        held.append({f"{i}": value.detach().clone() for i, value in enumerate(given)})
        return torch.optim.SGD(given, lr=0.0)

    trained(other(5), run, optimizer=note)
    assert all(map(torch.equal, held[0].values(), live(run).values()))


def test_a_new_head_is_left_at_its_start_and_the_rest_is_reported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "old.pt"
    state = {f"backbone.{name}": value.double() for name, value in live(run).items()}
    torch.save({**state, "classifier.weight": torch.rand(2, 2)}, path)
    start = {
        "path": path,
        "rename": {"backbone": ""},
        "exclude": ["3.*", "classifier.*"],
    }
    module = other(5)
    before = module.state_dict()["3.weight"].clone()
    trained(module, start, optimizer=partial(torch.optim.SGD, lr=0.0))
    assert torch.equal(module.state_dict()["3.weight"], before)
    assert torch.equal(module.state_dict()["0.weight"], live(run)["0.weight"])
    assert (
        f"init_from {path}: 2 tensors loaded, 2 left at their start (3.weight, 3.bias), 3 not used "
        "(backbone.3.weight, backbone.3.bias, classifier.weight), 2 converted from float64 to "
        "float32"
    ) in capsys.readouterr().out


def test_what_is_allowed_to_differ_is_reported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(other(inner=4), run)
    assert "3 tensors of another shape or type: 0.weight [5, 3] instead of [4, 3]" in told
    trained(other(inner=4), {"path": run, "mismatched": "allow"})
    said = capsys.readouterr().out
    assert "1 tensor loaded, 3 left at their start (0.weight [5, 3] instead of [4, 3]" in said


def test_a_tied_file_of_others_lacks_nothing(tmp_path: Path) -> None:
    module = fresh(Tied)
    state = {n: t.clone() for n, t in module.state_dict().items() if n != "head.weight"}
    save_file(state, tmp_path / "a.safetensors")
    expected = oracle(fresh(Tied, 9), module.state_dict())
    assert trained(fresh(Tied, 8), tmp_path / "a.safetensors") == [expected]


# ---------------------------------------------------------------- resumed, or not begun at all


def test_a_resumed_run_takes_its_checkpoint_even_if_the_file_is_gone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = noether.export_weights(run)
    options: dict[str, Any] = {"run_dir": tmp_path / "b", "callbacks": [hooks.checkpoint()]}
    unbroken = trained(other(5), path, until={"updates": 3})
    with pytest.raises(KeyboardInterrupt):
        trained(other(5), path, until={"updates": 3}, loss=interrupted(at=2), **options)
    path.unlink()
    capsys.readouterr()
    more = trained(other(6), path, until={"updates": 3}, resume="auto", **options)
    assert more == unbroken[2:]
    said = capsys.readouterr().out
    assert f"init_from {path} is not used: the run goes on from a checkpoint" in said
    assert "changed since" not in said


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_file_again(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "b" / "1" / "checkpoints").mkdir(parents=True)
    path = noether.export_weights(run)
    found = trained(other(5), path, run_dir=tmp_path / "b", resume="auto")
    assert found == [oracle(other(), live(run))]
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["1"]


def test_a_checkpoint_that_is_resumed_from_wins(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(other(77).state_dict(), path)
    checkpoint = run / "1" / "checkpoints" / "step-1"
    options: dict[str, Any] = {"resume": checkpoint, "run_dir": tmp_path / "b"}
    assert trained(other(5), path, until={"updates": 2}, **options) == [
        oracle(other(), live(run, "step-1"))
    ]


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("nowhere.pt", "there is no such file"),
        ("", "expected a path"),
        (5, "expected a path, or a mapping of path, rename"),
        (["a.pt"], "expected a path"),
        ({}, "path is missing"),
        ({"path": 3}, "path is 3"),
        (net().state_dict(), "unknown option '0.weight'"),
        ({"path": "a.pt", "exlude": []}, "unknown option 'exlude'. Did you mean exclude?"),
        ({"path": "a.pt", "exclude": "head.*"}, "exclude is 'head.*'; expected a list of globs"),
        ({"path": "a.pt", "rename": {"a": 1}}, "rename is"),
        ({"path": "a.pt", "missing": "alow"}, "missing is 'alow'; expected 'error' or 'allow'"),
        ({"path": "a.pt", "missing": ["allow"]}, "missing is"),
        ({"path": "a.pt", "weights": None}, "weights is None"),
        ({"path": "a.pt", "checkpoint": 3}, "checkpoint is 3"),
        ({"path": "w.pt", "checkpoint": "best"}, "checkpoint 'best' are a run's"),
        ("w.txt", "its name ends with '.txt'; expected .safetensors, .pt"),
        (".", "no run directory"),
        ("\0", "no such file"),
    ],
    ids=repr,
)
def test_a_bad_start_is_told_before_a_run_directory_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("w.pt", "w.txt"):
        torch.save(other().state_dict(), name)
    assert said in refusal(other(), start, run_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_config_yaml_says_what_a_run_from_python_started_from(run: Path, tmp_path: Path) -> None:
    rename, path = {"": "", "0": "0"}, str(run)
    given: list[tuple[Any, Any]] = [
        (run, path),
        ({"path": run, "rename": rename, "exclude": ("3.*",)},) * 2,
    ]
    for number, (start, said) in enumerate(given, 1):
        trained(other(), start, run_dir=tmp_path / "b", callbacks=[hooks.checkpoint()])
        found = yaml.safe_load((tmp_path / "b" / str(number) / "config.yaml").read_text())
        plain = {"path": path, "rename": rename, "exclude": ["3.*"]}
        assert found["init_from"] == (said if number == 1 else plain)


# ---------------------------------------------------------------- hostile and damaged files


@dataclass
class Payload:
    """What would leave a file behind if it were unpickled."""

    touched: str

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.touched}",)


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(name: str, shape: str = "[1]", end: int = 4, kind: str = "F32") -> str:
    return f'"{name}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[0,{end}]}}'


HEADERS = {
    "a key twice": raw(f"{{{entry('w')},{entry('w', kind='I32')}}}".encode(), bytes(4)),
    "a key twice inside": raw(b'{"w":{"dtype":"F32","dtype":"F32","shape":[1]}}', bytes(4)),
    "metadata twice": raw(b'{"__metadata__":{"a":"b","a":"c"}}'),
    "a huge header": raw(b"{}", length=2**63),
    "a header longer than the file": raw(b"{}", length=3),
    "a shape that lies": raw(f"{{{entry('w', '[100]')}}}".encode(), bytes(4)),
    "data that is not there": raw(f"{{{entry('w', '[100]', 400)}}}".encode(), bytes(4)),
    "data that nothing names": raw(f"{{{entry('w')}}}".encode(), bytes(8)),
    "a negative shape": raw(f"{{{entry('w', '[-1]')}}}".encode(), bytes(4)),
    "an overflow": raw(f"{{{entry('w', '[4294967296,4294967296,16]')}}}".encode(), bytes(4)),
    "an unknown type": raw(f"{{{entry('w', kind='X99')}}}".encode(), bytes(4)),
    "deep nesting": raw(b"[" * 100_000),
    "no JSON": raw(b"{'w': 1}"),
    "a long number": raw(b'{"w":' + b"9" * 10_000 + b"}"),
    "a name with an escape": raw(b'{"\\u001b[2J\\n":{"dtype":"F32"}}'),
    "metadata that is no text": raw(b'{"__metadata__":{"a":1}}'),
    "bytes that are no text": raw(b'{"\xff":1}'),
    "false aliases": raw(
        b'{"__metadata__":{"noether":"1","aliases":"{\\"a\\":\\"b\\"}"},'
        + entry("w").encode()
        + b"}",
        bytes(4),
    ),
    "nothing": b"",
    "a few bytes": b"abc",
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_safetensors_file_that_lies_ends_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[what])
    told = refusal(other(), path, run_dir=tmp_path / "runs")
    assert told.isprintable()
    assert told.startswith(f"init_from: {path} can't be read: ")
    assert not (tmp_path / "runs").exists()


def torch_files(folder: Path) -> Iterator[tuple[str, Callable[[Path], Any], str]]:
    evil, state = Payload(str(folder / "touched")), other().state_dict()
    yield "payload", lambda path: torch.save({**state, "x": evil}, path), "system"
    yield "nested", lambda path: torch.save({"state_dict": {"x": evil}}, path), "system"
    yield "pickled", lambda path: path.write_bytes(pickle.dumps({"x": evil})), "cannot be loaded"
    yield "protocol 2", lambda path: path.write_bytes(pickle.dumps(evil, 2)), "cannot be loaded"
    old = {"_use_new_zipfile_serialization": False}
    yield "legacy", lambda path: torch.save({"x": evil}, path, **old), "system"
    yield "module", lambda path: torch.save(other(), path), "Sequential"
    yield "junk", lambda path: path.write_bytes(b"junk"), "cannot be loaded"
    yield "empty", lambda path: path.write_bytes(b""), "cannot be loaded"
    yield "cut", lambda path: _cut(state, path), "cannot be loaded"
    yield "list", lambda path: torch.save([1, 2], path), "a list instead of a state dict"
    yield "number", lambda path: torch.save({**state, "step": 3}, path), "step is a int"
    yield "key", lambda path: torch.save({3: torch.ones(2)}, path), "a int for a name"
    sparse, meta = torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")
    yield "sparse", lambda path: torch.save({"x": sparse}, path), "no dense tensor"
    yield "meta", lambda path: torch.save({"x": meta}, path), "no dense tensor"
    wide = torch.ones(1).expand(10**12)
    yield "expanded", lambda path: torch.save({**state, "0.weight": wide}, path), "[1000000000000]"
    name = {"\x1b[2J\n": torch.ones(1)}
    yield "escape", lambda path: torch.save({**state, **name}, path), "not in the model"


def _cut(state: Any, path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-100])


def test_a_torch_file_runs_nothing_and_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for what, write, said in torch_files(tmp_path):
        write(path)
        told = refusal(other(), path, run_dir=tmp_path / "runs")
        assert told.isprintable(), what
        assert said in told, what
        assert "weights_only" not in told, what
        assert os.listdir(tmp_path) == ["a.pt"], what


@pytest.mark.parametrize(
    ("make", "said"), [(Path.mkdir, "no run directory"), (os.mkfifo, "it is no file")]
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "a.pt"
    make(path)
    assert said in refusal(other(), path)


def test_a_damaged_checkpoint_is_named_by_its_digest(run: Path) -> None:
    checkpoint = run / "1" / "checkpoints" / "step-3"
    content = bytearray((checkpoint / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt is damaged: its sha256"):
        trained(other(), checkpoint)
    expected = oracle(other(), live(run, "step-2"))
    assert trained(other(5), run) == [expected]


def test_a_checkpoint_with_true_digests_of_a_payload_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    trees = {"weights.pt": {"x": Payload(str(tmp_path / "touched"))}}
    commit(tmp_path / "1" / "checkpoints", trees, {"update": 1})
    for start in (tmp_path, tmp_path / "1" / "checkpoints" / "step-1"):
        with pytest.raises(CheckpointError, match=r"posix\.system") as caught:
            trained(other(), start)
        assert str(caught.value).isprintable()
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        noether.export_weights(tmp_path)
    assert not (tmp_path / "touched").exists()


# ---------------------------------------------------------------- several ranks


@pytest.fixture(scope="module", name="pair")
def _pair() -> Iterator[Group]:
    with groups(2) as made:
        yield made[2]


def tuned(start: Any, parallel: str, run_dir: Path) -> dict[str, Any]:
    """Train an update, each rank's model begun otherwise; what it ends with, in whole."""
    rank = torch.distributed.get_rank()
    module = other(seed=100 + rank)
    try:
        found = trained(
            module,
            start,
            parallel=parallel,
            run_dir=run_dir,
            callbacks=[hooks.checkpoint()],
        )
    except ConfigurationError as error:
        return {"refused": str(error)}
    return {"losses": found}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_start_as_one_does(pair: Group, run: Path, tmp_path: Path, parallel: str) -> None:
    path = noether.export_weights(run)
    alone = other()
    expected = trained(alone, path)
    answers = pair.call(tuned, path, parallel, tmp_path / "two")
    for answer in answers:
        assert answer["losses"] == pytest.approx(expected, rel=1e-6)
    exported = load_file(noether.export_weights(tmp_path / "two"))
    for name, value in alone.state_dict().items():
        assert torch.allclose(exported[name], value, atol=1e-6), name


def test_an_error_of_the_rank_that_reads_reaches_all(pair: Group, tmp_path: Path) -> None:
    answers = pair.call(tuned, tmp_path / "nowhere.pt", "ddp", tmp_path / "two")
    assert len(answers) == 2
    for answer in answers:
        assert "there is no such file" in answer["refused"]
    assert not (tmp_path / "two").exists()


# ---------------------------------------------------------------- command line and YAML

CONFIG = """\
run:
  dir: runs
  until: {epochs: 2}
  batch_size: 4
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
callbacks:
- {kind: ema, decay: 0.5}
- {kind: checkpoint, every_n_updates: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration and a run of it."""
    made = placed(CONFIG, tmp_path, monkeypatch)
    assert main(["train", "c.yaml", *ALLOW]) == 0
    return made


def test_the_command_writes_and_tells_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["export", "runs"]) == 0
    told = capsys.readouterr()
    assert told.out == "runs/1/step-4.safetensors: 2 tensors of step-4\n"
    assert same(load_file("runs/1/step-4.safetensors"), live(folder / "runs", "step-4"))
    assert main(["export", "runs"]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["export", "runs", "--force", "--dtype", "bfloat16"]) == 0
    assert load_file("runs/1/step-4.safetensors")["weight"].dtype is torch.bfloat16


def test_the_command_finds_an_average_by_the_runs_own_configuration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "runs/1", "--weights", "ema", "-o", "e.safetensors", *ALLOW]) == 0
    expected = noether.export_weights(
        "runs", weights="ema", callbacks=load("runs/1/config.yaml", allow=[ALLOW[1]]).callbacks
    )
    assert same(load_file("e.safetensors"), load_file(expected))
    assert not same(load_file("e.safetensors"), live(folder / "runs", "step-4"))
    capsys.readouterr()
    assert main(["export", "runs/1", "--weights", "emaa", "-o", "f.safetensors", *ALLOW]) == 2
    assert "Did you mean ema?" in capsys.readouterr().err


def test_a_run_from_python_is_exported_by_the_command_but_for_averages(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "-o", str(run / "a.safetensors")]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--weights", "ema"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "noether.export_weights(callbacks=...," in line


@pytest.mark.parametrize(
    "arguments",
    [["nowhere"], ["runs", "--checkpoint", "bset"], ["runs", "-o", "a.pt"], ["runs", "-o", "."]],
)
def test_the_command_refuses_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    capsys.readouterr()
    assert main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[-1] in line


def test_a_full_disk_is_one_line_and_exit_code_1(folder: Path) -> None:
    # A limit on the size of files is to a process what a full disk is.
    code = (
        "import resource, signal, sys; from noether.cli import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); "
        "sys.exit(main(['export', 'runs', '-o', 'a.safetensors']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line == "error: a.safetensors cannot be written: File too large"
    assert not list(folder.glob("a.*"))


def test_a_file_says_what_to_start_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = live(folder / "runs", "step-4")
    torch.save({f"net.{name}": value for name, value in weights.items()}, "old.pt")
    start = "  init_from: {path: old.pt, rename: {net: ''}}\nmodel"
    Path("d.yaml").write_text(CONFIG.replace("model", start, 1).replace("0.01", "1e-30"))
    capsys.readouterr()
    assert main(["check", "d.yaml", *ALLOW]) == 0
    assert main(["train", "d.yaml", "run.dir=tuned", *ALLOW]) == 0
    told = capsys.readouterr().out
    assert told.count("init_from old.pt: 2 tensors loaded\n") == 2
    assert same(live(Path("tuned"), "step-4"), weights)
    resolved = yaml.safe_load(Path("tuned/1/config.yaml").read_text())
    assert resolved["run"]["init_from"] == {"path": "old.pt", "rename": {"net": ""}}


def test_yaml_and_python_say_the_same(folder: Path) -> None:
    text = "run.init_from={path: a.pt, rename: {b: c, '': d}, exclude: ['e.*'], missing: allow}"
    found = load("c.yaml", [text], [ALLOW[1]]).arguments["init_from"]
    moves = {"b": "c", "": "d"}
    assert found == InitFrom("a.pt", rename=moves, exclude=("e.*",), missing="allow")
    assert list(found.rename) == list(moves)


def test_mistakes_in_a_file_are_told_at_their_lines(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = """\
  init_from:
    path: x.pt
    rename: {a: 1}
    include: head.*
    missing: alow
    exlude: [x]
model"""
    Path("d.yaml").write_text(CONFIG.replace("model", start, 1))
    capsys.readouterr()
    assert main(["check", "d.yaml", *ALLOW]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "d.yaml:7: run.init_from.rename.a: expected text, found 1",
        "d.yaml:8: run.init_from.include: expected a list, found 'head.*'",
        "d.yaml:9: run.init_from.missing: expected 'error' or 'allow', found 'alow'; "
        "Did you mean allow?",
        "d.yaml:10: run.init_from.exlude: unknown option; Did you mean exclude?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "expected text or a mapping of path, rename"),
        ("[a.pt]", "expected text or a mapping of path, rename"),
        ("{rename: {}}", "run.init_from.path: missing"),
        ("{path: a.pt, weights: emaa}", "weights 'emaa' are kept by no callback"),
        ("a.pt", "a.pt can't be read: there is no such file"),
    ],
)
def test_an_override_is_checked_as_the_file_is(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    before = sorted(os.listdir("runs"))
    capsys.readouterr()
    for command in ("check", "train"):
        assert main([command, "c.yaml", f"run.init_from={text}", *ALLOW]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert re.match(r"override 'run|init_from: ", line)
    assert sorted(os.listdir("runs")) == before
