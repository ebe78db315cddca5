"""What the callbacks of time, memory, machine and sizes log is what was there."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import noether
from noether import Callback, Log, Progress, TrainState, at, every, hooks, once_at_end
from noether.checkpoint.encoding import FIELDS, TAG, decode, memory_types
from noether.journal import read
from noether.state import ModelView
from tests.group import Group
from tests.strategies import Clock, net, samples, sgd, squared_error


def train(callbacks: Any, **options: Any) -> TrainState:
    """Six updates, three an epoch, by a clock that moves when it is read."""
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 6}}
    given |= {"batch_size": 4, "defaults": False, "clock": Clock(), "callbacks": callbacks}
    return noether.train(net(), samples(10), **{**given, **options})


def logged(run: Path) -> list[tuple[str, int, dict[str, float]]]:
    rows = read(run / "1" / "journal.jsonl")
    return [(row["tick"], row["update"], row["metrics"]) for row in rows if row["metrics"]]


def witness(seen: list[TrainState]) -> Callback:
    return Callback("witness", after_update=lambda state: seen.append(state))


def moment(update: int = 1, **fields: Any) -> TrainState:
    """A tick of one second and four samples."""
    session = fields.pop("session", 1)
    seconds = fields.pop("seconds", 1.0)
    before = Progress(0, update - 1, 4 * update - 4, 10.0, session)
    now = Progress(0, update, 4 * update, 10.0 + seconds, session)
    return TrainState("update", before, now, **fields)


def played(callback: Callback, states: list[TrainState]) -> Any:
    """The callback's memory after these updates."""
    made: Any = callback
    memory = made.init(states[0])
    for state in states:
        memory, _ = made.after_update(state, memory)
    return memory


def fired(callback: Callback, state: TrainState, memory: Any) -> tuple[Any, list[Any]]:
    made: Any = callback
    memory, effects = made.on_schedule(state, memory)
    return memory, list(effects) if isinstance(effects, list) else [effects]


# ---------------------------------------------------------------- train_time


def parts_of(state: TrainState) -> dict[str, float]:
    given = state.timings
    update = given["forward"] + given["backward"] + given["step"]
    return {**given, "update": update}


def test_train_time_is_mean_and_maximum_of_each_interval_and_the_sum_at_the_end(
    tmp_path: Path,
) -> None:
    seen: list[TrainState] = []
    train([witness(seen), every(updates=4)(hooks.train_time())], run_dir=tmp_path, accumulate=2)
    times = [parts_of(state) for state in seen]
    assert len({time["forward"] for time in times}) > 1
    (_, fourth, metrics), (last, _, totals) = logged(tmp_path)
    assert (fourth, last) == (4, "end")
    for part in ("data_wait", "forward", "backward", "update", "getitem", "collate"):
        spent = [time[part] for time in times]
        assert metrics[f"train_time/{part}/mean/U4"] == pytest.approx(sum(spent[:4]) / 4)
        assert metrics[f"train_time/{part}/max/U4"] == pytest.approx(max(spent[:4]))
        assert totals[f"train_time/{part}/total"] == pytest.approx(sum(spent))


def test_train_time_takes_means_of_ranks_means_and_the_largest_maximum() -> None:
    memory = played(hooks.train_time(), [moment(timings={"forward": 1.0})])
    _, logs = fired(hooks.train_time(), moment(), memory)
    over = {key: log.over_ranks for log in logs for key in log.metrics}
    assert over["train_time/forward/mean/{I}"] == "mean"
    assert over["train_time/forward/max/{I}"] == "max"


UPDATE = {"data_wait": 1.0, "forward": 2.0, "backward": 3.0, "step": 4.0}
TOLD = {"data_wait": 1.0, "forward": 2.0, "backward": 3.0, "update": 9.0}


def times_of(memory: Any) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The means and maxima of a firing."""
    _, (means, most) = fired(hooks.train_time(), moment(), memory)
    return means.metrics, most.metrics


def totals_of(memory: Any) -> Mapping[str, float]:
    made: Any = hooks.train_time()
    _, log = made.after_training(moment(), memory)
    named: Mapping[str, float] = log.metrics
    return {key.split("/")[1]: value for key, value in named.items()}


@pytest.mark.parametrize("known", [{}, {"getitem": 5.0}, {"getitem": 5.0, "collate": 0.0}])
def test_train_time_logs_what_is_known_and_no_more(known: dict[str, float]) -> None:
    updates = [moment(timings={**UPDATE, **known})] * 2
    means, most = times_of(played(hooks.train_time(), updates))
    assert means == {
        f"train_time/{part}/mean/{{I}}": value for part, value in (TOLD | known).items()
    }
    assert most == {f"train_time/{part}/max/{{I}}": value for part, value in (TOLD | known).items()}


@pytest.mark.parametrize(("known", "before"), [(True, False), (False, True)])
def test_other_data_than_before_begins_means_anew_and_goes_on_with_totals(
    *, known: bool, before: bool
) -> None:
    loading = {"getitem": 5.0, "collate": 6.0}
    slow = moment(timings={**dict.fromkeys(UPDATE, 100.0), **(loading if before else {})})
    quick = moment(timings={**UPDATE, **(loading if known else {})})
    memory = played(hooks.train_time(), [slow, quick, quick])
    means, most = times_of(memory)
    expected = TOLD | (loading if known else {})
    assert [*means.values()] == [*most.values()] == [*expected.values()]
    loaded = {part: seconds * (2 if known else 1) for part, seconds in loading.items()}
    totals = {"data_wait": 102.0, "forward": 104.0, "backward": 106.0, "update": 318.0}
    assert totals_of(memory) == totals | loaded


def test_a_memory_of_before_loading_was_measured_is_read_as_it_was_meant() -> None:
    made: Any = hooks.train_time()
    four = {"sums": (1.0, 2.0, 3.0, 4.0), "most": (1.0, 2.0, 3.0, 4.0), "count": 1}
    stored = {TAG: "Spent", FIELDS: {**four, "totals": (10.0, 20.0, 30.0, 40.0)}}
    memory = decode(stored, memory_types([made.after_update]))
    assert totals_of(memory) == {"data_wait": 11, "forward": 22, "backward": 33, "update": 44}
    now = moment(timings={**UPDATE, "getitem": 5.0, "collate": 6.0})
    memory, _ = made.after_update(now, memory)
    means, _ = times_of(memory)
    assert [*means.values()] == [*TOLD.values(), 5.0, 6.0]
    expected = {"data_wait": 12, "forward": 24, "backward": 36, "update": 53}
    assert totals_of(memory) == expected | {"getitem": 5.0, "collate": 6.0}


# ---------------------------------------------------------------- throughput


def test_throughput_is_samples_over_seconds_without_warm_up_and_pauses(tmp_path: Path) -> None:
    seen: list[TrainState] = []
    speed = hooks.throughput(window=2, warmup=1, flops_per_sample=5.0, peak_flops=100.0)
    train([witness(seen), speed], run_dir=tmp_path)
    found = {update: metrics for _, update, metrics in logged(tmp_path)}
    for update, window in {2: (2,), 4: (2, 3, 4), 6: (4, 5, 6)}.items():
        states = [seen[number - 1] for number in window]
        count = sum(state.now.sample - state.before.sample for state in states)
        spent = sum(s.now.seconds - s.before.seconds - s.timings["pause"] for s in states)
        assert found[update] == pytest.approx(
            {
                "throughput/samples_per_second": count / spent,
                "throughput/updates_per_second": len(window) / spent,
                "throughput/samples_per_second_per_device": count / spent,
                "throughput/mfu": count / spent * 5.0 / 100.0,
            }
        )


def speed_of(states: list[TrainState]) -> Mapping[str, float]:
    speed = hooks.throughput(window=4, warmup=0)
    _, (log,) = fired(speed, states[-1], played(speed, states))
    assert isinstance(log, Log)
    return log.metrics


def view(parameters: Mapping[str, torch.Tensor] | None = None) -> ModelView:
    def nothing(*args: Any) -> Any:
        raise AssertionError

    return ModelView(parameters or {}, {}, *[nothing] * 5)


@pytest.mark.parametrize("late", [0, 1])
def test_a_pause_is_left_out_also_where_the_clock_is_heard_a_tick_late(late: int) -> None:
    """As on several ranks, whose seconds are those of the tick before."""
    spent, paused = [1.0] * 4, [0.0, 50.0, 0.0, 0.0]
    spent[1 + late] += 50.0
    states = [
        moment(n + 1, seconds=spent[n], timings={"pause": paused[n]}, model=view(), world_size=2)
        for n in range(4)
    ]
    metrics = speed_of(states)
    assert metrics["throughput/samples_per_second"] == pytest.approx(4.0)
    assert metrics["throughput/samples_per_second_per_device"] == pytest.approx(2.0)
    assert "throughput/mfu" not in metrics


def test_the_window_begins_anew_in_each_session() -> None:
    slow = [moment(n, seconds=100.0, model=view()) for n in (1, 2)]
    assert speed_of([*slow, moment(3, session=2, model=view())])[
        "throughput/updates_per_second"
    ] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"warmup": -1}, {"flops_per_sample": 0.0}, {"peak_flops": -1.0}]
)
def test_throughput_refuses_numbers_out_of_range(options: Any) -> None:
    with pytest.raises(ValueError, match=f"throughput: .*{next(iter(options))}"):
        hooks.throughput(**options)


# ---------------------------------------------------------------- data_wait


def waiting(share: float) -> TrainState:
    rest = (1 - share) / 2
    return moment(timings={"data_wait": share, "forward": rest, "step": rest})


def test_the_wait_for_data_is_a_share_since_the_last_firing_and_warned_of_once() -> None:
    waits: Any = hooks.data_wait(warn_above=0.5)
    memory, told = waits.init(moment()), []
    for share in (0.25, 0.75, 1.0, 0.0):
        memory, _ = waits.after_update(waiting(share), memory)
        memory, effects = waits.on_schedule(moment(), memory)
        assert effects[0].metrics == {"time/data_wait_fraction": pytest.approx(share)}
        told.append([effect.text for effect in effects[1:]])
    assert [len(said) for said in told] == [0, 1, 0, 0]
    assert "75%" in told[1][0]


def test_the_wait_for_data_in_a_run_is_that_of_its_timings(tmp_path: Path) -> None:
    seen: list[TrainState] = []
    waits = hooks.data_wait(schedule=every(updates=3))
    train([witness(seen), waits], run_dir=tmp_path)
    (_, _, metrics), *_ = logged(tmp_path)
    parts = [parts_of(state) for state in seen[:3]]
    wait = sum(part["data_wait"] for part in parts)
    assert metrics["time/data_wait_fraction"] == pytest.approx(
        wait / (wait + sum(part["update"] for part in parts))
    )


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_data_wait_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="data_wait: warn_above"):
        hooks.data_wait(warn_above=share)


# ---------------------------------------------------------------- slow_rank


def test_the_slowest_and_the_fastest_rank_are_told_before_they_wait_for_each_other() -> None:
    ranks = hooks.slow_rank()
    spent = {"data_wait": 1.0, "forward": 2.0, "backward": 40.0, "step": 50.0}
    _, logs = fired(ranks, moment(), played(ranks, [moment(timings=spent)]))
    assert [(log.metrics, log.over_ranks) for log in logs] == [
        ({"time/slowest_rank": 3.0}, "max"),
        ({"time/fastest_rank": 3.0}, "min"),
    ]


@pytest.mark.parametrize(("slowest", "said"), [(1.1, False), (3.0, True)])
def test_the_update_after_tells_the_spread_and_of_a_slow_rank(
    slowest: float, *, said: bool
) -> None:
    ranks: Any = hooks.slow_rank(factor=1.2)
    metrics = {"time/slowest_rank": slowest, "time/fastest_rank": 1.0}
    later = moment(metrics=metrics, timings={"forward": 1.0})
    memory, effects = ranks.after_update(later, ranks.init(later))
    log, *rest = effects
    assert log.metrics == {"time/rank_spread": slowest}
    told = ["the slowest rank needs 3.0 times as long as the fastest"]
    assert [effect.text for effect in rest] == told * said
    assert list(ranks.after_update(later, memory)[1]) == []
    assert list(ranks.after_training(later, memory)[1]) == []


def test_the_spread_follows_each_firing_by_an_update_and_the_last_at_the_end(
    tmp_path: Path,
) -> None:
    ranks = hooks.slow_rank(schedule=every(updates=3))
    train([ranks], run_dir=tmp_path, until={"updates": 6}, strict=True)
    rows = [(tick, update, set(metrics)) for tick, update, metrics in logged(tmp_path)]
    sides, spread = {"time/slowest_rank", "time/fastest_rank"}, {"time/rank_spread"}
    assert rows == [
        ("update", 3, sides),
        ("update", 4, spread),
        ("update", 6, sides),
        ("end", 6, spread),
    ]


def test_no_spread_is_told_where_no_time_passed() -> None:
    ranks: Any = hooks.slow_rank()
    metrics = {"time/slowest_rank": 0.0, "time/fastest_rank": 0.0}
    later = moment(metrics=metrics)
    assert list(ranks.after_update(later, ranks.init(later))[1]) == []


def test_one_rank_alone_is_never_slow(capsys: pytest.CaptureFixture[str]) -> None:
    final = train([hooks.slow_rank(schedule=every(updates=1))])
    assert final.metrics["time/slowest_rank"] == final.metrics["time/fastest_rank"] > 0
    assert final.metrics["time/rank_spread"] == 1.0
    assert "slowest" not in capsys.readouterr().out


def test_slow_rank_refuses_a_factor_that_all_ranks_have() -> None:
    with pytest.raises(ValueError, match="slow_rank: factor is 1"):
        hooks.slow_rank(factor=1.0)


# ---------------------------------------------------------------- memory, machine


def peak_rss() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def test_the_most_memory_of_a_run_on_a_cpu_is_the_process_s(tmp_path: Path) -> None:
    least = peak_rss()
    final = train([every(updates=2)(hooks.peak_memory())])
    assert least <= final.metrics["memory/peak_rss/U2"] <= peak_rss()
    assert len(final.metrics) == 1


def test_a_model_without_parameters_is_no_gpu_s() -> None:
    peaks: Any = hooks.peak_memory(reset=True)
    (log,) = peaks.on_schedule(moment(model=view()))
    assert log.metrics.keys() == {"memory/peak_rss/{I}"}
    assert log.over_ranks == "max"


def test_the_machine_s_metrics_are_shares_and_chosen_by_options() -> None:
    machine = hooks.system_metrics(cpu=False, gpu=False, schedule=every(updates=2))
    metrics = train([machine]).metrics
    assert metrics.keys() == {"system/memory", "system/disk"}
    assert all(0 < share <= 100 for share in metrics.values())


def test_without_psutil_the_way_out_is_told_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ValueError, match=r"pip install 'noether-callbacks\[hw\]'"):
        hooks.system_metrics()


def gpus_seen(monkeypatch: pytest.MonkeyPatch, library: Any) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    machine: Any = hooks.system_metrics(cpu=False, memory=False, disk=False)
    return machine.on_schedule(moment())


def failing(error: type[Exception]) -> Callable[..., Any]:
    def fail(*args: Any) -> Any:
        raise error

    return fail


def nvml(**instead: Any) -> Any:
    """NVIDIA's library as it is on a machine with two GPUs."""
    found = {
        "NVMLError": ArithmeticError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=1 + gpu, total=4),
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=10 * gpu),
        "nvmlDeviceGetPowerUsage": lambda gpu: 250_000,
    }
    return SimpleNamespace(**found | instead)


def test_each_gpu_is_told_of_and_what_one_does_not_tell_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = nvml(nvmlDeviceGetUtilizationRates=failing(ArithmeticError))
    assert gpus_seen(monkeypatch, library).metrics == {
        "system/gpu/0/memory": 25.0,
        "system/gpu/0/power": 250.0,
        "system/gpu/1/memory": 50.0,
        "system/gpu/1/power": 250.0,
    }
    assert gpus_seen(monkeypatch, nvml()).metrics["system/gpu/1/utilization"] == 10.0


@pytest.mark.parametrize("library", [None, nvml(nvmlInit=failing(ArithmeticError))])
def test_without_a_gpu_or_its_library_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    assert gpus_seen(monkeypatch, library) is None


# ---------------------------------------------------------------- sizes


def test_the_lengths_of_all_data_sets_are_logged_once_at_the_start(tmp_path: Path) -> None:
    train([hooks.dataset_stats()], datasets={"val": samples(7)}, run_dir=tmp_path)
    assert logged(tmp_path) == [("start", 0, {"ds_stats/train/len": 10, "ds_stats/val/len": 7})]


def test_a_data_set_without_a_length_is_said_and_not_logged() -> None:
    stats: Any = hooks.dataset_stats()
    log, said = stats.on_schedule(moment(dataset_lengths={"train": None, "val": 0}))
    assert log == Log({"ds_stats/val/len": 0}, summary=True)
    assert "train" in said.text
    assert stats.on_schedule(moment(dataset_lengths={})) == []


def test_the_summary_of_a_model_has_a_row_for_each_part_to_its_depth() -> None:
    free, fixed = torch.zeros(3, 4, requires_grad=True), torch.zeros(5)
    model = view({"encoder.first.weight": free, "encoder.second.bias": fixed, "scale": fixed})
    summary: Any = hooks.model_summary(depth=1)
    rows = [line.split() for line in summary.on_schedule(moment(model=model)).text.splitlines()]
    assert rows[1:] == [["encoder", "12", "5"], ["in", "all", "12", "10"]]
    deeper: Any = hooks.model_summary()
    assert "encoder.first" in deeper.on_schedule(moment(model=model)).text
    with pytest.raises(ValueError, match="model_summary: depth"):
        hooks.model_summary(depth=0)


# ---------------------------------------------------------------- progress


def test_a_line_is_forced_after_a_silence(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[TrainState] = []
    said = hooks.progress(schedule=every(updates=1000), max_silence=3)
    train([witness(seen), said])
    due = [s.now.update for s in seen if s.now.seconds // 3 > s.before.seconds // 3]
    lines = [line for line in capsys.readouterr().out.splitlines() if "  update " in line]
    told = [int(line.split("  update ")[1].split()[0]) for line in lines]
    assert len(due) > 1
    assert told == sorted({*due, 6})


@pytest.mark.parametrize("silence", [0, -1, float("nan")])
def test_a_silence_is_positive(silence: float) -> None:
    with pytest.raises(ValueError, match="progress: max_silence"):
        hooks.progress(max_silence=silence)


@pytest.fixture(name="in_india")
def _in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    earlier = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    yield
    monkeypatch.delenv("TZ") if earlier is None else monkeypatch.setenv("TZ", earlier)
    time.tzset()


@pytest.mark.usefixtures("in_india")
def test_the_expected_end_is_told_in_its_own_time_zone() -> None:
    lines: Any = hooks.progress()
    state = moment(10, total=Progress(None, 20, None, None))
    _, said = lines.on_schedule(state, Progress(0, 9, 36, 10.0))
    assert said.text.endswith(" IST")
    assert "0:00:10 left" in said.text


# ---------------------------------------------------------------- ranks


def spent() -> dict[str, float]:
    """What one of several ranks finds of the times of all."""

    def uneven(model: Any, batch: Any) -> torch.Tensor:
        torch.ones(200 * (1 + 3 * dist.get_rank()), 200).mm(torch.ones(200, 2000))
        return squared_error(model, batch)

    found = noether.train(
        net(),
        samples(48),
        loss=uneven,
        optimizer=sgd,
        until={"updates": 6},
        batch_size=8,
        defaults=False,
        callbacks=[
            every(updates=3)(hooks.train_time()),
            hooks.slow_rank(schedule=at(updates=4) | once_at_end),
            hooks.throughput(window=2, warmup=0),
        ],
    )
    return dict(found.metrics)


@pytest.mark.timeout(200)
def test_times_are_those_of_all_ranks_and_equal_on_each(tmp_path: Path) -> None:
    group = Group(2, tmp_path / "log")
    try:
        one, other = group.call(spent)
    finally:
        group.close()
    assert one == other
    assert one["time/slowest_rank"] > one["time/fastest_rank"] > 0
    # Those of the closing tick, not of update 4.
    sides = one["time/slowest_rank"], one["time/fastest_rank"]
    assert one["time/rank_spread"] == sides[0] / sides[1]
    for part in ("data_wait", "forward", "backward", "update", "getitem", "collate"):
        assert one[f"train_time/{part}/max/U3"] >= one[f"train_time/{part}/mean/U3"]
    each = one["throughput/samples_per_second_per_device"]
    assert one["throughput/samples_per_second"] == pytest.approx(2 * each)
