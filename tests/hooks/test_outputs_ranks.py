"""Evaluations and outputs on two ranks are those of one. Functions stand at module level."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import noether
from noether import every, hooks
from tests.group import Group, groups
from tests.strategies import Samples, net, samples, sgd

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module", name="two")
def _two() -> Iterator[Group]:
    with groups(2) as made:
        yield made[2]


def loss(model: Any, batch: Any) -> Any:
    """Squared errors, an output for each sample and one for the batch."""
    errors = (model(batch[0]) - batch[1]).pow(2)
    return errors.mean(), {"error": errors.amax(-1), "mean": errors.mean()}


def doubled(n: int, seed: int) -> Samples:
    made = samples(n, seed=seed)
    return Samples(made.inputs.double(), made.targets.double())


def first_target(model: Any, batch: Any) -> Any:
    """A loss that is a number of the data."""
    return batch[1][:, 0].mean() + 0.0 * model(batch[0]).sum()


def train(run_dir: str, made: list[Any], **options: Any) -> dict[str, float]:
    given = {"loss": loss, "optimizer": sgd, "until": {"epochs": 2}, "batch_size": 4}
    given |= {"accumulate": 2, "defaults": False, "run_dir": run_dir, "callbacks": made}
    given |= {"datasets": {"val": doubled(7, seed=3)}}
    final = noether.train(net(dropout=0.0).double(), doubled(8, seed=1), **{**given, **options})
    return dict(final.metrics)


# ---------------------------------------------------------------- losses and functions


def weighed(run_dir: str, size: int | None) -> dict[str, float]:
    data = doubled(3, seed=1)
    data.targets[:, 0] = torch.tensor([5.0, 7.0, 6.0])
    made = every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=size))
    return train(run_dir, [made], loss=first_target, datasets={"val": data})


@pytest.mark.parametrize("size", [1, 2, None])
def test_no_sample_counts_twice_where_ranks_have_different_shares(
    two: Group, tmp_path: Path, size: int | None
) -> None:
    expected = {"loss/val/total": pytest.approx(6.0)}  # the first sample once more: 5.75
    assert two.call(weighed, str(tmp_path), size) == [expected] * 2


def largest(model: Any, batch: Any) -> Any:
    return (model(batch[0]) - batch[1]).abs().amax(-1), len(batch[0])


def told(results: Any) -> dict[str, Any]:
    errors, sizes = results
    weights = torch.arange(1, len(errors) + 1)
    return {"in order": (errors * weights).sum(), "batches": len(sizes), "samples": sizes.sum()}


def evaluated(run_dir: str) -> dict[str, float]:
    made = [
        hooks.evaluate(dataset="val", process=largest, finish=told, batch_size=2),
        hooks.offline_loss(dataset="val", batch_size=2, output_patterns_to_log=["e"]),
    ]
    return train(run_dir, list(map(every(epochs=1), made)))


def test_functions_and_outputs_see_the_whole_set_in_order(two: Group, tmp_path: Path) -> None:
    one = evaluated(str(tmp_path / "one"))
    assert (one["batches"], one["samples"]) == (4, 7)
    assert {"error/val", "mean/val", "loss/val/total", "in order"} < one.keys()
    results = two.call(evaluated, str(tmp_path / "two"))
    assert results[0] == results[1] == pytest.approx(one, rel=1e-9)


# ---------------------------------------------------------------- outputs


def tracked(run_dir: str) -> dict[str, float]:
    mean = hooks.track_outputs(keys=["error", "mean"], save_output=True, verbose=True)
    last = hooks.track_outputs(patterns=["rr"], reduce="last").named("last")
    return train(run_dir, [every(updates=4)(mean), every(updates=2)(last)])


def test_tracked_outputs_are_means_over_ranks(two: Group, tmp_path: Path) -> None:
    one = tracked(str(tmp_path / "one"))
    assert one.keys() == {"error/U4", "mean/U4", "error/U2"}
    results = two.call(tracked, str(tmp_path / "two"))
    assert results[0] == results[1] == pytest.approx(one, rel=1e-9)
    names = [path.name for path in (tmp_path / "two" / "1" / "outputs").iterdir()]
    expected = [f"update_outputs.{key}_U4_E2_U4_S16.pt" for key in ("error", "mean")]
    assert sorted(names) == expected


def figure(model: Any, batch: Any) -> Any:
    from matplotlib.figure import Figure

    made = Figure(figsize=(1, 1))
    made.subplots().plot(model(batch[0])[:, 0].tolist())
    return made


def image(model: Any, batch: Any) -> Any:
    return model(batch[0]).sigmoid()[None]


def rolled(model: Any, prompt: str, max_new_tokens: int) -> str:
    return f"{prompt} {torch.randint(0, 9, (max_new_tokens,)).tolist()}"


def written(run_dir: str, plot: Any) -> dict[str, float]:
    made = [
        hooks.predictions(dataset="val", batch_size=2, targets=True),
        hooks.images(dataset="val", plot=plot, count=3),
        hooks.text_samples(dataset="val", prompts=["a", "b"], generate=rolled),
    ]
    return train(run_dir, list(map(every(epochs=2), made)))


@pytest.mark.parametrize("plot", [image, figure])
def test_files_are_written_once_and_are_those_of_one_rank(
    two: Group, tmp_path: Path, plot: Any
) -> None:
    written(str(tmp_path / "one"), plot)
    two.call(written, str(tmp_path / "two"), plot)
    one, other = (tmp_path / run / "1" / "outputs" for run in ("one", "two"))
    stamp = "E2_U4_S16"
    names = [f"images.val_{stamp}.png", f"predictions.val_{stamp}.pt", f"text_samples_{stamp}.json"]
    assert sorted(path.name for path in other.iterdir()) == names
    found, expected = (torch.load(run / names[1], weights_only=True) for run in (other, one))
    assert torch.equal(found["target"], doubled(7, seed=3).targets)
    assert torch.allclose(found["prediction"], expected["prediction"], rtol=1e-9)
    with Image.open(other / names[0]) as drawn, Image.open(one / names[0]) as same:
        assert drawn.tobytes() == same.tobytes()
    assert json.loads((other / names[2]).read_text()) == json.loads((one / names[2]).read_text())
