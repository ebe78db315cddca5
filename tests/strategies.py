"""The data of all tests: what one draws or walks over is invented here, or in `noether.testing`."""

from dataclasses import dataclass, field
from typing import Any

import torch

from noether.testing import terms
from noether.testing import walks as runs

# ---------------------------------------------------------------- progress

METRICS = runs.METRICS
Walk = runs.Walk
metric_values = runs.metric_values
metric_reports = runs.metric_reports(METRICS)
walks = runs.progress_walks
steady = runs.steady
reports = runs.reports
answers = runs.answers
fired = runs.fired

# ---------------------------------------------------------------- schedules

COUNTERS, CLOCKS = terms.COUNTERS, terms.CLOCKS
milliseconds = terms.milliseconds
quantities = terms.quantities
fractions = terms.fractions
everies = terms.everies
ats = terms.ats
shares = terms.shares
marks = terms.marks()
windows = terms.windows
constants = terms.constants
plain = marks | windows() | constants
metric_conditions = terms.conditions(METRICS)
improvements = terms.improvements(METRICS)
plateaus = terms.plateaus(METRICS)
memoryless_schedules = terms.schedules(memoryless=True)
schedules = terms.schedules()

# ---------------------------------------------------------------- training

MEASURED = ("train_time/", "memory/", "time/", "throughput/", "system/")
"""How metrics begin that no other run has alike: times, and what the machine is busy with."""


def unmeasured(metrics: Any) -> dict[str, float]:
    """The metrics that a run repeated has again."""
    return {name: value for name, value in metrics.items() if not name.startswith(MEASURED)}


@dataclass(slots=True)
class Samples:
    """A data set of (inputs, target) that notes which samples it served."""

    inputs: torch.Tensor
    targets: torch.Tensor
    served: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.served.append(index)
        return self.inputs[index], self.targets[index]


def samples(n: int, seed: int = 1) -> Samples:
    """`n` samples of three inputs and two targets."""
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(n, 3, generator=generator), torch.randn(n, 2, generator=generator))


def labelled(n: int, seed: int = 3) -> Any:
    """`n` samples of three inputs and one label of two."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, generator=generator)
    return torch.utils.data.TensorDataset(inputs, (inputs.sum(1) > 0).long())


def net(*, dropout: float = 0.3, norm: bool = False) -> torch.nn.Module:
    """Always the same small network, its random numbers apart from the global ones."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        between = torch.nn.BatchNorm1d(5) if norm else torch.nn.Tanh()
        return torch.nn.Sequential(
            torch.nn.Linear(3, 5), between, torch.nn.Dropout(dropout), torch.nn.Linear(5, 2)
        )


def squared_error(model: Any, batch: Any) -> torch.Tensor:
    """Mean squared error of a batch of `samples`."""
    inputs, targets = batch
    return torch.nn.functional.mse_loss(model(inputs), targets)


def squared_error_and_outputs(model: Any, batch: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """The same, and what the model gave for each sample and how large it is."""
    outputs = model(batch[0])
    error = torch.nn.functional.mse_loss(outputs, batch[1])
    return error, {"outputs": outputs, "size": outputs.norm(dim=1)}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Gradient descent with a state of its own."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@dataclass(slots=True)
class Clock:
    """A clock that moves by a quarter of a second whenever it is read."""

    now: float = 100.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now
