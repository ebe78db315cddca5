"""What `Write`, `Export` and `Do` leave in the run directory."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

import noether
from noether import (
    Callback,
    ConfigurationError,
    Do,
    Export,
    TrainState,
    Write,
    at,
    hook,
    hooks,
)
from noether.effects import Effect
from noether.outputs import write
from tests.strategies import net, samples, sgd, squared_error


def asking(*effects: Effect, update: int = 3) -> Callback:
    def ask(state: TrainState) -> tuple[Effect, ...]:
        return effects

    asked: Callback = at(updates=update)(hook(ask))
    return asked


def train(folder: Path | None, *callbacks: Any, **options: Any) -> Any:
    module = options.pop("module", None) or net()
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 4}, "batch_size": 4}
    given |= {"defaults": False, "callbacks": callbacks, "run_dir": folder}
    return module, noether.train(module, samples(12), **{**given, **options})


# ---------------------------------------------------------------- Write


def test_a_tree_of_tensors_is_torchs(tmp_path: Path) -> None:
    payload = {"a": torch.arange(3), "b": [1.5, None]}
    path = write(tmp_path, "tables/first", payload)
    assert path == tmp_path / "tables.first.pt"
    found = torch.load(path, weights_only=True)
    assert torch.equal(found["a"], torch.arange(3))
    assert found["b"] == [1.5, None]


def test_json_has_lists_for_tensors_and_words_for_what_is_no_number(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", {"x": torch.tensor([[1.0], [torch.inf]]), "ä": (1, "b")})
    assert json.loads(path.read_text("utf-8")) == {"x": [[1.0], ["inf"]], "ä": [1, "b"]}


def test_csv_has_a_row_for_each_place_of_the_columns(tmp_path: Path) -> None:
    columns = {"n": torch.arange(2), "text": ['with "quotes"', "a\nb,c"], "pair": torch.ones(2, 2)}
    path = write(tmp_path, "a.csv", columns)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["n"] for row in rows] == ["0", "1"]
    assert [row["text"] for row in rows] == columns["text"]
    assert [json.loads(row["pair"]) for row in rows] == [[1.0, 1.0]] * 2


def test_an_image_is_what_the_tensor_was(tmp_path: Path) -> None:
    image = torch.rand(3, 4, 5)
    with Image.open(write(tmp_path, "a.png", image)) as found:
        pixels = torch.tensor(list(found.get_flattened_data())).reshape(4, 5, 3)
    assert torch.equal(pixels, (image * 255).round().long().permute(1, 2, 0))


@pytest.mark.parametrize("name", ["f.png", "f.svg"])
def test_a_figure_is_drawn(tmp_path: Path, name: str) -> None:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([1, 2])
    begin = write(tmp_path, name, figure).read_bytes()[:5]
    assert begin == (b"\x89PNG\r" if name == "f.png" else b"<?xml")


def test_what_is_written_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "first, and longer")
    assert write(tmp_path, "a.txt", "second").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("a.txt", 3),
        ("a.csv", {"a": [1], "b": [1, 2]}),
        ("a.csv", [1, 2]),
        ("a.svg", torch.ones(3)),
        ("a.png", torch.ones(3)),
        ("a.json", object()),
        ("a", object()),
    ],
)
def test_what_a_format_cannot_hold_leaves_nothing(tmp_path: Path, name: str, payload: Any) -> None:
    with pytest.raises(TypeError):
        write(tmp_path, name, payload)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_told_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, final = train(tmp_path, asking(Write("a.txt", 3)))
    assert final.now.update == 4
    assert "a.txt is not written: a .txt takes a string, not a int" in capsys.readouterr().err


def test_a_resumed_run_writes_the_same_again(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def fail(state: TrainState) -> None:
        raise Broken

    steps = (hooks.checkpoint(schedule=at(updates=2)), asking(Write("a.txt", "words")))
    failing = at(updates=3)(hook(fail))
    with pytest.raises(noether.HookError):
        train(tmp_path, *steps, Callback("stop", after_update=failing.on_schedule))
    train(tmp_path, *steps, resume="auto")
    assert (tmp_path / "1" / "outputs" / "a.txt").read_text() == "words"


# ---------------------------------------------------------------- Export


def test_an_export_holds_the_weights_of_its_tick(tmp_path: Path) -> None:
    kept: dict[str, torch.Tensor] = {}

    def keep(state: TrainState) -> None:
        held = {**state.model.parameters, **state.model.buffers}
        kept.update({name: tensor.detach().clone() for name, tensor in held.items()})

    train(tmp_path, at(updates=3)(hook(keep)), asking(Export("some/name")), module=net(norm=True))
    found = load_file(tmp_path / "1" / "weights" / "some.name.safetensors")
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_an_export_of_parts_leaves_out_the_rest_and_what_is_frozen(tmp_path: Path) -> None:
    module = net(norm=True)
    module[0].bias.requires_grad_(False)  # type: ignore[index]
    exports = Export("all"), Export("parts", models=("0", "1")), Export("learned", frozen=False)
    train(tmp_path, asking(*exports), module=module)
    found = {path.stem: set(load_file(path)) for path in (tmp_path / "1" / "weights").iterdir()}
    assert found["all"] == set(module.state_dict())
    assert found["parts"] == {n for n in module.state_dict() if n.startswith(("0.", "1."))}
    assert found["learned"] == set(module.state_dict()) - {"0.bias"}


def test_an_export_of_an_average_holds_it(tmp_path: Path) -> None:
    ema = hooks.ema(decay=0.5)
    _, final = train(tmp_path, ema, asking(Export("mean", weights="ema"), update=4))
    found = load_file(tmp_path / "1" / "weights" / "mean.safetensors")
    kept = ema.averages["ema=0.5"](final.memories["ema"])
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_an_export_of_a_part_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, asking(Export("x", models=("encoder",))))
    assert "x is not written: the model has no part 'encoder'" in capsys.readouterr().err


def test_without_a_run_directory_nothing_is_written_and_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(None, asking(Export("x"), Write("y", 1)))
    said = capsys.readouterr().err
    assert "x is not written: the run has no run directory" in said
    assert "y is not written" in said


# ---------------------------------------------------------------- Do


def test_a_profile_is_a_trace_of_what_ran_between(tmp_path: Path) -> None:
    begin = asking(Do("start_profile", {"with_stack": False}), update=1)
    end = asking(Do("stop_profile", {"name": "one/two"}), update=3).named("end")
    train(tmp_path, begin.named("begin"), end)
    (path,) = (tmp_path / "1" / "outputs").iterdir()
    assert path.name == "one.two.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert any("mse_loss" in str(name) for name in names)


def test_a_users_action_is_done_with_its_options_and_takes_the_place_of_ours() -> None:
    done: list[Any] = []

    def note(**options: Any) -> None:
        done.append(options)

    ask = asking(Do("note", {"a": 1}), Do("empty_cache"))
    train(None, ask, actions={"note": note, "empty_cache": note})
    assert done == [{"a": 1}, {}]


def test_an_action_that_nobody_has_is_named() -> None:
    with pytest.raises(LookupError, match=r"'ask' asks to do 'colect_garbage'.*collect_garbage"):
        train(None, asking(Do("colect_garbage")))


@pytest.mark.parametrize("given", [{"a": 1}, {3: print}, [print]])
def test_what_is_no_table_of_actions_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="actions"):
        train(None, actions=given)
