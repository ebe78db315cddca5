"""Which tensors of a source go where in a model, which do not, and what is said of it."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from noether.errors import ConfigurationError
from noether.weights.names import (
    chosen,
    glob_mistakes,
    listed,
    one_line,
    prefix_hint,
    renamed,
    renaming_mistakes,
    shown,
)
from noether.weights.request import InitFrom


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a source goes into a model."""

    loaded: Mapping[str, Tensor]
    """By the model's names; tied ones may be under one of theirs only."""
    tied: tuple[str, ...]
    """The others of these."""
    left: tuple[str, ...]
    """The model's names that stay as they are."""
    mismatched: Mapping[str, str]
    """Those of them whose tensor in the source does not fit, and why."""
    unused: tuple[str, ...]
    """The source's names that go nowhere."""
    converted: Mapping[str, int]
    """How many tensors change their type, `float64 to float32` say."""


def fitted(
    source: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    request: InitFrom,
    extra: tuple[str, ...] = (),
) -> Fit:
    """Find the model's tensors in the source, renamed and chosen as requested.

    Raises ConfigurationError with every mistake: names that fit nothing, and what is missing,
    unexpected or mismatched where that is not allowed.
    """
    if problems := [*_naming_mistakes(source, model, request)]:
        raise refused(request, problems)
    final = renamed(source, request.rename)
    there = {new: source[name] for name, new in final.items() if _chosen(new, request)}
    wrong = {n: why for n in there if n in model and (why := _mismatch(there[n], model[n]))}
    loaded = {n: tensor for n, tensor in there.items() if n in model and n not in wrong}
    tied = _tied(model, loaded)
    left = tuple(name for name in model if name not in loaded and name not in tied)
    lacking = [name for name in left if name not in wrong and _chosen(name, request)]
    strange = [name for name in there if name not in model]
    problems = [
        *_missing(lacking, strange, request),
        *_unexpected(strange, lacking, list(there), model, request),
        *_mismatched(wrong, request),
        *_disagreements(model, loaded),
    ]
    if not loaded and not problems:
        problems = [f"nothing of it is in the model{prefix_hint(list(there), model)}"]
    if problems:
        raise refused(request, problems)
    unused = tuple(name for name, new in final.items() if new not in loaded) + extra
    return Fit(loaded, tied, left, wrong, unused, _converted(loaded, model))


def refused(request: InitFrom, problems: Iterable[str]) -> ConfigurationError:
    """The mistakes as an error, one line for each."""
    return ConfigurationError([one_line(f"init_from: {request.path}: {p}") for p in problems])


def _chosen(name: str, request: InitFrom) -> bool:
    return chosen(name, request.include, request.exclude)


def _naming_mistakes(
    source: Collection[str], model: Collection[str], request: InitFrom
) -> Iterator[str]:
    yield from renaming_mistakes(source, request.rename)
    known = {*renamed(source, request.rename).values(), *model}
    yield from glob_mistakes(known, "include", request.include)
    yield from glob_mistakes(known, "exclude", request.exclude)


def _mismatch(there: Tensor, here: Tensor) -> str:
    """Why a tensor does not fit, if it does not."""
    if not is_lazy(here) and there.shape != here.shape:
        return f"{list(there.shape)} instead of {list(here.shape)}"
    if not torch.can_cast(there.dtype, here.dtype):
        return f"{_kind(there)} instead of {_kind(here)}"
    return ""


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _converted(loaded: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Mapping[str, int]:
    kinds = [(_kind(tensor), _kind(model[name])) for name, tensor in loaded.items()]
    return Counter(f"{old} to {new}" for old, new in kinds if old != new)


# ---------------------------------------------------------------- tied weights


def place(tensor: Tensor) -> tuple[object, ...] | None:
    """Where a tensor lies, the same for tied ones; None for one that has no memory."""
    if is_lazy(tensor) or not tensor.numel() or tensor.is_meta:
        return None
    start = tensor.untyped_storage().data_ptr()
    return start, tensor.device, tensor.storage_offset(), tensor.shape, tensor.stride()


def _tied(model: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the model that are not loaded, but are other names of what is."""
    there = {place(model[name]) for name in loaded} - {None}
    return tuple(n for n, tensor in model.items() if n not in loaded and place(tensor) in there)


def _disagreements(model: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of one tensor here that are different ones there."""
    first: dict[object, str] = {}
    for name, tensor in loaded.items():
        spot = place(model[name])
        other = name if spot is None else first.setdefault(spot, name)
        if loaded[other] is not tensor and not torch.equal(loaded[other], tensor):
            yield (
                f"{shown(other)} and {shown(name)} are one tensor in the model but two different "
                "ones in it; exclude one of them"
            )


# ---------------------------------------------------------------- what is said


def _missing(names: list[str], strange: Collection[str], request: InitFrom) -> Iterator[str]:
    if names and request.missing == "error":
        yield (
            f"{len(names)} of the model's tensors are not in it: {_with_nearest(names, strange)}; "
            "rename what it has, exclude them, or set missing: allow"
        )


def _unexpected(
    names: list[str],
    lacking: Collection[str],
    there: Collection[str],
    model: Collection[str],
    request: InitFrom,
) -> Iterator[str]:
    if names and request.unexpected == "error":
        yield (
            f"{len(names)} of its tensors are not in the model: {_with_nearest(names, lacking)}; "
            f"rename or exclude them, or set unexpected: allow{prefix_hint(there, model)}"
        )


def _mismatched(wrong: Mapping[str, str], request: InitFrom) -> Iterator[str]:
    if wrong and request.mismatched == "error":
        yield (
            f"{_count(len(wrong))} of another shape or type: {_explained(wrong)}; exclude them, or "
            "set mismatched: allow"
        )


def _with_nearest(names: Collection[str], candidates: Collection[str]) -> str:
    near = {name: get_close_matches(name, candidates, n=1) for name in list(names)[:5]}
    told = {
        name: f"{shown(name)} (like {shown(found[0])}?)" for name, found in near.items() if found
    }
    rest = len(names) - len(near)
    first = ", ".join(told.get(name, shown(name)) for name in near)
    return f"{first} and {rest} more" if rest else first


def _explained(wrong: Mapping[str, str]) -> str:
    return listed([f"{shown(name)} {why}" for name, why in wrong.items()])


def report(fit: Fit, where: str) -> str:
    """What was loaded and what was not, in a line.

    >>> fit = Fit({"w": torch.ones(1)}, (), ("head.w", "head.b"), {}, ("old.w",), {})
    >>> report(fit, "a.pt")
    'init_from a.pt: 1 tensor loaded, 2 left at their start (head.w, head.b), 1 not used (old.w)'
    """
    parts = [f"{_count(len(fit.loaded) + len(fit.tied))} loaded"]
    if fit.left:
        names = [f"{n} {fit.mismatched[n]}" if n in fit.mismatched else n for n in fit.left]
        parts.append(
            f"{len(names)} left at {'its' if len(names) == 1 else 'their'} start ({listed(names)})"
        )
    if fit.unused:
        parts.append(f"{len(fit.unused)} not used ({listed(fit.unused)})")
    parts += [f"{count} converted from {kinds}" for kinds, count in fit.converted.items()]
    return one_line(f"init_from {where}: {', '.join(parts)}")


def _count(number: int) -> str:
    return f"{number} tensor{'' if number == 1 else 's'}"
