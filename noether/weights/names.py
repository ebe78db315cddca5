"""Names of weights: moved from one dotted prefix to another, chosen by globs, told to people."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from noether.errors import suggestion

WRAPPERS = ("module", "_orig_mod", "model", "module._orig_mod", "_orig_mod.module")
"""What DistributedDataParallel, torch.compile and trainers put before a model's names."""
SHOWN, LONGEST = 5, 80
"""Names in one message, and characters of each."""


def begins(name: str, prefix: str) -> bool:
    """Whether a name begins with a whole dotted prefix; all begin with the empty one."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def moved(name: str, old: str, new: str) -> str:
    """The name with the dotted prefix `new` in place of `old`, if it begins with that.

    >>> moved("encoder.0.weight", "encoder", "backbone"), moved("encoder2.bias", "encoder", "x")
    ('backbone.0.weight', 'encoder2.bias')
    >>> moved("module.weight", "module", ""), moved("weight", "", "head")
    ('weight', 'head.weight')
    """
    if not begins(name, old):
        return name
    rest = name[len(old) :].removeprefix(".") if old else name
    return ".".join(part for part in (new, rest) if part)


def renamed(names: Iterable[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Each name's new one: every move is made in turn, with what the one before it gave."""
    found = {name: name for name in names}
    for old, new in rename.items():
        found = {name: moved(now, old, new) for name, now in found.items()}
    return found


def renaming_mistakes(names: Collection[str], rename: Mapping[str, str]) -> Iterator[str]:
    """Moves that move nothing, and names that end as none, or as one with others."""
    done: dict[str, str] = {}
    for old, new in rename.items():
        now = set(renamed(names, done).values())
        if not any(begins(name, old) for name in now):
            hint = suggestion(old, {head for name in now for head in heads(name)})
            yield f"rename: no name begins with {shown(old)}. {hint}"
        done[old] = new
    final = renamed(names, rename)
    if nameless := [name for name, new in final.items() if not new]:
        yield f"rename leaves nothing of {listed(nameless)}; give it a name"
    for new, count in Counter(final.values()).items():
        if new and count > 1:
            same = [name for name in final if final[name] == new]
            yield f"rename makes {shown(new)} of {count} tensors: {listed(same)}"


def heads(name: str) -> Iterator[str]:
    """The dotted prefixes of a name, itself among them."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, min(len(parts), 6) + 1))


def chosen(name: str, include: Collection[str], exclude: Collection[str]) -> bool:
    """Whether a name fits one of the globs in `include`, if there are any, and none in `exclude`.

    >>> chosen("head.weight", (), ["head.*"]), chosen("head.weight", ["*.weight"], [])
    (False, True)
    """
    wanted = not include or any(fnmatchcase(name, glob) for glob in include)
    return wanted and not any(fnmatchcase(name, glob) for glob in exclude)


def glob_mistakes(known: Collection[str], option: str, globs: Iterable[str]) -> Iterator[str]:
    """Globs that fit no name, neither here nor there."""
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in known):
            hint = suggestion(glob, {f"{head}.*" for name in known for head in heads(name)})
            near = f". {hint}" if hint.startswith("Did") else ""
            yield f"{option}: {shown(glob)} fits no name, in it or in the model{near}"


def prefix_hint(names: Collection[str], model: Collection[str]) -> str:
    """What to rename so that at least half of the names fit, as the end of a message."""
    own = set(model)
    moves = [*((p, "") for p in (*WRAPPERS, *_common(names)))]
    moves += [("", p) for p in (*WRAPPERS, *_common(own))]
    fits = {move: sum(moved(name, *move) in own for name in names) for move in moves}
    (old, new), best = max(fits.items(), key=lambda item: item[1])
    now = sum(name in own for name in names)
    if best <= now or 2 * best < min(len(names), len(own)):
        return ""
    return f'. With rename: {{"{shown(old)}": "{shown(new)}"}} {best} of the names fit'


def _common(names: Iterable[str]) -> list[str]:
    """The first parts that most names have, in the order of their number."""
    return [p for p, _ in Counter(name.partition(".")[0] for name in names).most_common(5)]


# ---------------------------------------------------------------- messages


def listed(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(map(shown, list(names)[:SHOWN]))
    return first if len(names) <= SHOWN else f"{first} and {len(names) - SHOWN} more"


def shown(name: str) -> str:
    """A name from a file, fit for a line on a terminal."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    return one_line(short)


def one_line(text: str) -> str:
    """The text without line breaks and whatever else would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)
