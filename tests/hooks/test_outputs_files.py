import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import noether
from noether import (
    Callback,
    ConfigurationError,
    TrainState,
    each_session,
    every,
    hooks,
    once_at_end,
)
from noether.config.entries import read_entry
from tests.strategies import net, samples, sgd, squared_error


class Named(torch.nn.Module):
    """A model that gives a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net(dropout=0.5)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        outputs = self.inner(inputs)
        return {"mean": outputs.mean(-1), "both": outputs}


def named_loss(model: Any, batch: Any) -> Tensor:
    outputs = model(batch[0])
    found: Tensor = outputs["both"] if isinstance(outputs, dict) else outputs
    loss: Tensor = (found - batch[1]).pow(2).mean()
    return loss


def train(*callbacks: Any, model: Any = None, val: Any = None, **options: Any) -> TrainState:
    given = {"loss": named_loss, "optimizer": sgd, "until": {"epochs": 1}, "batch_size": 4}
    given |= {"datasets": {"val": samples(5, seed=3) if val is None else val}, "defaults": False}
    module = model or net(dropout=0.5)
    return noether.train(module, samples(8), callbacks=list(callbacks), **{**given, **options})


def written(run_dir: Path) -> dict[str, Path]:
    folder = run_dir / "1" / "outputs"
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}


def outputs_of(model: Any, data: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(data.inputs)


# ---------------------------------------------------------------- predictions


@settings(max_examples=10)
@given(n=st.integers(1, 7), size=st.none() | st.integers(1, 8))
def test_predictions_are_a_row_for_each_sample_in_order(
    tmp_path_factory: pytest.TempPathFactory, n: int, size: int | None
) -> None:
    run_dir = tmp_path_factory.mktemp("runs")
    model, val = net(dropout=0.5), samples(n, seed=3)
    made = hooks.predictions(dataset="val", batch_size=size, targets=True)
    train(every(epochs=1)(made), model=model, val=val, run_dir=run_dir)
    found = torch.load(written(run_dir)["predictions.val_E1_U2_S8.pt"], weights_only=True)
    assert found.keys() == {"prediction", "target"}
    assert torch.allclose(found["prediction"], outputs_of(model, val), atol=1e-6)
    assert torch.equal(found["target"], val.targets)


def test_a_csv_has_a_column_for_each_number_of_a_row(tmp_path: Path) -> None:
    model, val = Named(), samples(5, seed=3)
    made = hooks.predictions(dataset="val", format="csv", batch_size=2, targets=True)
    train(every(epochs=1)(made), model=model, val=val, run_dir=tmp_path)
    with open(written(tmp_path)["predictions.val_E1_U2_S8.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    outputs = outputs_of(model, val)
    assert list(rows[0]) == ["mean", "both/0", "both/1", "target/0", "target/1"]
    assert [float(row["mean"]) for row in rows] == pytest.approx(outputs["mean"].tolist(), rel=1e-5)
    assert [float(row["both/1"]) for row in rows] == pytest.approx(outputs["both"][:, 1].tolist())
    assert [float(row["target/0"]) for row in rows] == pytest.approx(val.targets[:, 0].tolist())


def test_a_json_has_an_entry_for_each_sample(tmp_path: Path) -> None:
    model, val = Named(), samples(3, seed=3)
    made = hooks.predictions(dataset="val", keys=["both"], format="json", batch_size=2)
    train(every(epochs=1)(made), model=model, val=val, run_dir=tmp_path)
    rows = json.loads(written(tmp_path)["predictions.val_E1_U2_S8.json"].read_text())
    assert [list(row) for row in rows] == [["both"]] * 3
    expected = outputs_of(model, val)["both"].tolist()
    assert [row["both"] for row in rows] == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("format", ["pt", "csv", "json"])
def test_an_empty_set_gives_no_file_and_texts_go_into_every_format(
    tmp_path: Path, format: Any
) -> None:
    class Worded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, inputs: Tensor) -> Any:
            if self.training:
                return self.inner(inputs)
            return {"word": [f"w{len(str(float(x)))}" for x in inputs[:, 0]]}

    for n, files in ((0, 0), (3, 1)):
        made = every(epochs=1)(hooks.predictions(dataset="val", format=format, batch_size=2))
        train(made, model=Worded(), val=samples(n), run_dir=tmp_path / str(n))
        assert len(written(tmp_path / str(n))) == files


def test_predictions_of_averaged_weights_are_a_file_of_their_own(tmp_path: Path) -> None:
    made = [hooks.predictions(dataset="val", weights=weights) for weights in ("live", "ema")]
    train(hooks.ema(decay=0.5), *map(every(epochs=1), made), run_dir=tmp_path)
    files = written(tmp_path)
    live, mean = "predictions.val_E1_U2_S8.pt", "ema.predictions.val_E1_U2_S8.pt"
    assert files.keys() == {live, mean}
    one, other = (torch.load(files[name], weights_only=True)["prediction"] for name in files)
    assert not torch.equal(one, other)


class Flat(torch.nn.Module):
    """Gives one number for a whole batch beside a row for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, inputs: Tensor) -> Any:
        outputs = self.inner(inputs)
        return {"both": outputs, "one": outputs.mean(), "twice": torch.cat([outputs, outputs])}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["meen"], ["'meen'", "both", "one"]),
        (["both", "one"], ["one has none", "both has 2"]),
        (["both", "twice"], ["twice has 4", "both has 2"]),
    ],
)
def test_keys_that_are_not_there_and_rows_that_are_no_samples_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: list[str], told: list[str]
) -> None:
    made = every(epochs=1)(hooks.predictions(dataset="val", keys=keys, batch_size=2))
    final = train(made, model=Flat(), run_dir=tmp_path)
    assert final.now.update == 2
    assert written(tmp_path) == {}
    said = capsys.readouterr().err
    assert all(word in said for word in ("'predictions/val'", *told)), said


def test_predictions_are_made_in_an_evaluation_too(tmp_path: Path) -> None:
    made = every(epochs=1)(hooks.predictions(dataset="val", format="json"))
    train(hooks.checkpoint(), run_dir=tmp_path)
    noether.evaluate(
        net(),
        loss=named_loss,
        datasets={"val": samples(5, seed=3)},
        callbacks=made,
        run=tmp_path,
        batch_size=2,
    )
    assert list(written(tmp_path)) == ["predictions.val_E1_U2_S8.json"]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"format": "xml"}, "format"), ({"keys": "both"}, "keys"), ({"batch_size": 0}, "batch_size")],
)
def test_bad_options_of_predictions_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        hooks.predictions(**{"dataset": "val", **options})


# ---------------------------------------------------------------- images


def test_images_are_of_the_first_samples_in_evaluation_mode(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def plot(model: Any, batch: Any) -> Tensor:
        seen.append((batch[0], model(batch[0])))
        return torch.linspace(0, 1, 12).reshape(1, 3, 4)

    model, val = net(dropout=0.5), samples(5, seed=3)
    made = every(updates=1)(hooks.images(dataset="val", plot=plot, count=2))
    train(made, model=model, val=val, run_dir=tmp_path)
    assert sorted(written(tmp_path)) == ["images.val_E0_U1_S4.png", "images.val_E1_U2_S8.png"]
    assert [inputs.tolist() for inputs, _ in seen] == [val.inputs[:2].tolist()] * 2
    assert torch.allclose(seen[-1][1], outputs_of(model, val)[:2], atol=1e-6)
    with Image.open(written(tmp_path)["images.val_E1_U2_S8.png"]) as image:
        assert image.size == (4, 3)
        assert image.getpixel((3, 2)) == 255


def test_a_figure_is_an_image_and_none_is_no_file(tmp_path: Path) -> None:
    def figure(model: Any, batch: Any) -> Figure:
        made = Figure(figsize=(2, 1))
        made.subplots().plot(model(batch[0])[:, 0].tolist())
        return made

    pictures = every(epochs=1)(hooks.images(dataset="val", plot=figure))
    nothing = every(epochs=1)(hooks.images(dataset="val", plot=lambda m, b: None).named("nothing"))
    train(pictures, nothing, run_dir=tmp_path)
    (path,) = written(tmp_path).values()
    assert path.read_bytes().startswith(b"\x89PNG")


def test_fewer_samples_than_asked_for_are_drawn_and_none_of_an_empty_set(tmp_path: Path) -> None:
    counts: list[int] = []

    def plot(model: Any, batch: Any) -> Tensor:
        counts.append(len(batch[0]))
        return torch.zeros(1, 2, 2)

    for n in (3, 0):
        made = every(epochs=1)(hooks.images(dataset="val", plot=plot, count=4))
        train(made, val=samples(n), run_dir=tmp_path / str(n))
        assert len(written(tmp_path / str(n))) == (n > 0)
    assert counts == [3]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dataset": "val", "plot": print, "count": 0}, "count is 0"),
        ({"plot": print}, "found nothing; expected one of dataset, source"),
        ({"dataset": "val", "source": "x"}, "'source': 'x'}; expected one of dataset, source"),
        ({"dataset": "val"}, "dataset 'val' has no plot"),
        ({"source": "x", "weights": "ema"}, "weights 'ema' are for a dataset"),
    ],
)
def test_bad_options_of_images_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"images: .*{told}"):
        hooks.images(**options)


SHAPES = {"coloured": (3, 2, 1), "grey": (1, 2, 3), "flat": (2, 3)}


def drawing(seen: list[dict[str, Tensor]]) -> Any:
    """A loss that gives pictures of each shape beside it, and notes them."""

    def loss(model: Any, batch: Any) -> Any:
        error = named_loss(model, batch)
        drawn = {name: torch.rand(4, *shape) * error for name, shape in SHAPES.items()}
        seen.append({name: image.detach().clone() for name, image in drawn.items()})
        return error, {**drawn, "size": error, "row": torch.ones(4, 5)}

    return loss


@pytest.mark.parametrize("shape", SHAPES)
def test_a_source_is_drawn_as_the_first_samples_side_by_side(tmp_path: Path, shape: str) -> None:
    seen: list[dict[str, Tensor]] = []
    schedule = each_session | every(updates=1) | once_at_end
    made = schedule(hooks.images(source=shape, count=2))
    options: Any = {"loss": drawing(seen), "accumulate": 2, "batch_size": 8, "strict": True}
    train(made, run_dir=tmp_path, until={"updates": 2}, **options)
    assert sorted(written(tmp_path)) == [f"images.{shape}_E{n}_U{n}_S{8 * n}.png" for n in (1, 2)]
    first, second, *_ = seen[-1][shape].clamp(0, 1)  # of the last micro-batch
    expected = (torch.cat([first, second], dim=-1) * 255).round().to(torch.uint8)
    with Image.open(written(tmp_path)[f"images.{shape}_E2_U2_S16.png"]) as image:
        found = torch.tensor(list(image.tobytes())).reshape(*reversed(image.size), -1)
    expected = expected if expected.ndim == 3 else expected[None]
    assert torch.equal(found, expected.permute(1, 2, 0))


def test_a_source_is_drawn_by_the_plot_that_is_given(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    got: list[Tensor] = []

    def plot(samples: Tensor) -> Tensor | None:
        got.append(samples)
        return samples[0] if len(got) > 1 else None

    made = every(updates=1)(hooks.images(source="grey", plot=plot, count=3))
    train(made, run_dir=tmp_path, loss=drawing(seen))
    assert len(got) == len(seen) == 2
    assert all(torch.equal(one, each["grey"][:3]) for one, each in zip(got, seen, strict=True))
    (path,) = written(tmp_path).values()
    with Image.open(path) as image:
        assert image.size == (3, 2)


def test_a_source_needs_nothing_else_in_yaml() -> None:
    entry = {"kind": "images", "source": "grey", "every_n_epochs": 1}
    assert read_entry(entry, ()) == (every(epochs=1)(hooks.images(source="grey")), [])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("gray", "no output 'gray'; there are: coloured, grey, flat, size, row"),
        ("size", "output 'size' is tensor.*expected a tensor with a row for each sample"),
        ("row", r"samples of shape \(5,\) are no images; expected \(channels, height, width\)"),
    ],
)
def test_a_source_that_cannot_be_drawn_is_told(
    capsys: pytest.CaptureFixture[str], source: str, told: str
) -> None:
    train(every(updates=1)(hooks.images(source=source)), loss=drawing([]))
    assert re.search(told, capsys.readouterr().err)


# ---------------------------------------------------------------- texts


def dreamt(model: Any, prompt: str, max_new_tokens: int) -> str:
    """Draws from every generator, and from the model."""
    import numpy

    drawn = [random.random(), float(torch.rand(())), float(numpy.random.rand())]
    size = float(model(torch.ones(1, 3)).sum())
    return f"{prompt} {max_new_tokens} {size:.4f} {drawn}"


def texts_of(run_dir: Path) -> dict[str, list[dict[str, str]]]:
    return {name: json.loads(path.read_text()) for name, path in written(run_dir).items()}


def test_texts_are_a_table_of_prompts_made_in_evaluation_mode(tmp_path: Path) -> None:
    model = net(dropout=0.5)
    made = hooks.text_samples(
        dataset="val", prompts=["Once", "upon"], generate=dreamt, max_new_tokens=3
    )
    train(every(updates=1)(made), model=model, run_dir=tmp_path)
    tables = texts_of(tmp_path)
    assert tables.keys() == {"text_samples_E0_U1_S4.json", "text_samples_E1_U2_S8.json"}
    last = tables["text_samples_E1_U2_S8.json"]
    assert [row["prompt"] for row in last] == ["Once", "upon"]
    with torch.no_grad():
        size = float(model.eval()(torch.ones(1, 3)).sum())
    assert all(row["text"].startswith(f"{row['prompt']} 3 {size:.4f}") for row in last)


def test_the_seed_decides_what_is_drawn_whichever_prompts_come_before(tmp_path: Path) -> None:
    def drawn(folder: Path, **options: Any) -> dict[str, str]:
        given = {"dataset": "val", "generate": dreamt, **options}
        train(every(epochs=1)(hooks.text_samples(**given)), run_dir=folder)
        (table,) = texts_of(folder).values()
        return {row["prompt"]: row["text"] for row in table}

    one = drawn(tmp_path / "1", prompts=["a", "b"])
    same = drawn(tmp_path / "2", prompts=["b"])
    other = drawn(tmp_path / "3", prompts=["b"], seed=1)
    assert one["b"] == same["b"] != other["b"]


def test_training_goes_on_as_without_them_and_so_do_all_generators(tmp_path: Path) -> None:
    import numpy

    def run(*callbacks: Callback) -> tuple[list[Tensor], list[list[float]]]:
        drawn: list[list[float]] = []

        def loss(model: Any, batch: Any) -> Tensor:
            if model.training:
                drawn.append([random.random(), float(torch.rand(())), float(numpy.random.rand())])
            return named_loss(model, batch)

        model = net(dropout=0.5)
        train(*callbacks, model=model, loss=loss, run_dir=tmp_path, until={"epochs": 2})
        return list(model.parameters()), drawn

    def plot(model: Any, batch: Any) -> Tensor:
        return torch.rand(1, 2, 2) + random.random()

    made = [
        hooks.text_samples(dataset="val", prompts=["a"], generate=dreamt),
        hooks.images(dataset="val", plot=plot),
        hooks.predictions(dataset="val"),
    ]
    (plain, before), (watched, after) = run(), run(*map(every(updates=1), made))
    assert len(before) == 4
    assert before == after
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))


def test_what_is_no_text_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(model: Any, prompt: str, max_new_tokens: int) -> Any:
        return 7

    train(every(epochs=1)(hooks.text_samples(dataset="val", prompts=["a"], generate=wrong)))
    assert "generate gave 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"prompts": []}, {"prompts": "Once"}, {"max_new_tokens": 0}, {"seed": -1}]
)
def test_bad_options_of_texts_are_refused(options: dict[str, Any]) -> None:
    given = {"dataset": "val", "prompts": ["a"], "generate": dreamt, **options}
    with pytest.raises(ValueError, match=next(iter(options))):
        hooks.text_samples(**given)


@pytest.mark.parametrize(
    "made",
    [
        hooks.predictions(dataset="vla"),
        hooks.images(dataset="vla", plot=print),
        hooks.text_samples(dataset="vla", prompts=["a"], generate=dreamt),
        hooks.evaluate(dataset="vla", process=print, finish=print),
    ],
    ids=lambda made: made.name,
)
def test_an_unknown_data_set_is_refused_before_training_with_those_there_are(
    made: Callback,
) -> None:
    with pytest.raises(ConfigurationError, match=r"'vla'.*Did you mean val\?"):
        train(made, loss=squared_error)
