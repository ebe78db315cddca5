from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import noether
from noether import every, hooks
from noether.hooks.outputs import compared as drawing
from noether.hooks.outputs.compared import compared
from tests.strategies import net, samples, sgd, squared_error

CLASSES = st.integers(2, 5)


@settings(max_examples=20)
@given(data=st.data(), classes=CLASSES)
def test_counts_are_those_of_pairs_of_classes(data: st.DataObject, classes: int) -> None:
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1))
    predicted, true = (torch.tensor([pair[place] for pair in pairs]) for place in (0, 1))
    ignored = data.draw(st.integers(0, 2))
    true = torch.cat([true, torch.full((ignored,), -100)])
    predicted = torch.cat([predicted, torch.zeros(ignored, dtype=torch.int64)])
    scores = torch.nn.functional.one_hot(predicted, classes).float()
    (axes,) = compared(scores, true, "prediction").axes
    drawn = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert drawn == Counter(pairs)
    right = sum(one == other for one, other in pairs)
    assert axes.get_title() == f"prediction, {right} of {len(pairs)} right"
    assert [*axes.get_xticks()] == [*range(classes)]


@settings(max_examples=20)
@given(rows=st.integers(1, 6), shape=st.sampled_from([(), (1,), (2, 2), (12,)]))
def test_points_are_what_is_true_and_what_was_predicted(rows: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(rows)
    predicted, true = torch.randn(2, rows, *shape).unbind()
    panels = compared(predicted, true, "mean").axes
    found = [torch.tensor(axes.collections[0].get_offsets().data) for axes in panels]
    wanted = [each.reshape(rows, -1).double()[:, :9] for each in (true, predicted)]
    assert torch.equal(torch.stack(found, 1), torch.stack(wanted, -1))


def test_of_many_samples_some_are_drawn_from_first_to_last() -> None:
    numbers = torch.arange(12_001.0)
    (axes,) = compared(numbers, numbers, "mean").axes
    drawn = axes.collections[0].get_offsets()[:, 0]
    assert 2_500 <= len(drawn) <= drawing.POINTS
    assert (drawn[0], drawn[-1]) == (0, 12_000)


def test_what_is_not_finite_does_not_keep_a_figure_from_being_drawn(tmp_path: Path) -> None:
    for numbers in ([float("nan")], [float("inf"), 1.0, float("nan")]):
        values = torch.tensor(numbers)
        compared(values, values, "mean").savefig(tmp_path / "it.png")
    with Image.open(tmp_path / "it.png") as picture:
        assert min(picture.size) > 100


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match=r"it has shape \(3, 2\), the targets \(3,\)"):
        compared(torch.zeros(3, 2), torch.zeros(3), "mean")


@pytest.mark.parametrize(
    ("predicted", "true", "told"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.tensor([0, 5_000]), "classes from 0 to 999"),
        (torch.tensor([-1, 0]), torch.tensor([0, 1]), "classes from 0 to 999"),
        (torch.zeros(2, 0), torch.zeros(2, 0), "no numbers"),
        (torch.zeros(2), ["a", "b"], "takes tensors"),
        (torch.zeros(2, dtype=torch.complex64), torch.zeros(2), "complex"),
    ],
)
def test_what_cannot_be_drawn_is_told(predicted: Any, true: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        compared(predicted, true, "mean")


@pytest.mark.parametrize("true", [torch.tensor([50, 20]), torch.tensor([True, False])])
def test_a_column_of_numbers_is_no_score_of_a_class(true: torch.Tensor) -> None:
    (axes,) = compared(true.float()[:, None], true, "mean").axes
    assert axes.get_title() == "mean, off by 0 on average"


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, inputs: torch.Tensor) -> Any:
        found = self.inner(inputs)
        return found if self.training else {"a": found, "b": 2 * found}


@pytest.mark.parametrize(
    ("model", "files"), [(net, ["_E1_U2_S8.png"]), (Two, ["_E1_U2_S8_a.png", "_E1_U2_S8_b.png"])]
)
def test_pictures_lie_beside_the_predictions(model: Any, files: list[str], tmp_path: Path) -> None:
    made = every(epochs=1)(hooks.predictions(dataset="val", plot=True))
    given: dict[str, Any] = {"optimizer": sgd, "until": {"epochs": 1}, "batch_size": 4}
    given |= {"datasets": {"val": samples(5, seed=3)}, "defaults": False, "loss": squared_error}
    noether.train(model(), samples(8), callbacks=[made], run_dir=tmp_path, **given)
    folder = tmp_path / "1" / "outputs"
    names = ["_E1_U2_S8.pt", *files]
    assert {path.name for path in folder.iterdir()} == {f"predictions.val{n}" for n in names}
    held = torch.load(folder / "predictions.val_E1_U2_S8.pt", weights_only=True)
    assert "target" not in held
    for name in files:
        with Image.open(folder / f"predictions.val{name}") as picture:
            assert len(set(picture.convert("L").resize((50, 50)).get_flattened_data())) > 2


def test_what_no_target_fits_is_said_and_all_else_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wide(Two):
        def forward(self, inputs: torch.Tensor) -> Any:
            found = super().forward(inputs)
            return found if self.training else {**found, "wide": inputs.repeat(1, 5)}

    made = every(epochs=1)(hooks.predictions(dataset="val", plot=True))
    given: dict[str, Any] = {"optimizer": sgd, "until": {"epochs": 1}, "batch_size": 4}
    given |= {"datasets": {"val": samples(5, seed=3)}, "defaults": False, "loss": squared_error}
    noether.train(Wide(), samples(8), callbacks=[made], run_dir=tmp_path, **given)
    names = {path.name for path in (tmp_path / "1" / "outputs").iterdir()}
    assert names == {f"predictions.val_E1_U2_S8{n}" for n in (".pt", "_a.png", "_b.png")}
    assert "predictions: wide is not drawn: it has shape (5, " in capsys.readouterr().out


def test_without_matplotlib_a_plot_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"plot needs matplotlib: pip install"):
        hooks.predictions(dataset="val", plot=True)
