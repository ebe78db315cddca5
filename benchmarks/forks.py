"""Processes forked from one that has imported everything, so that a start costs next to nothing.

Only as long as that one has a single thread, and has never computed anything.
"""

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRELOADED = ("torch.distributed", "torch._dynamo", "noether.training", "noether.parallel")
POLL = 0.0005
"""Seconds between two looks at a process."""
SUBREAPER = 36
"""Of Linux: orphans come to this process, which can thus see them end."""


def preload() -> None:
    """Import what every process needs; raises RuntimeError where that has started a thread."""
    for name in PRELOADED:
        importlib.import_module(name)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) > 1:
        raise RuntimeError("the imports have started threads: what is forked now may hang")


@dataclass(slots=True)
class Process:
    """A forked process, leader of a group of its own."""

    pid: int
    code: int | None = None
    """As `Popen.returncode`: minus the signal that ended it, if one did."""


def forked(function: Callable[[], object], log: Path, variables: Mapping[str, str]) -> Process:
    """Call the function in a process whose output goes to the end of `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _live(function, log, variables)
    with suppress(OSError):  # whoever comes first: a group must be there before it is killed
        os.setpgid(pid, pid)
    return Process(pid)


def _live(function: Callable[[], object], log: Path, variables: Mapping[str, str]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        with open(log, "ab") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        os.environ.update(variables)
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def running(process: Process) -> bool:
    """Whether it is still there; its code is known as soon as it is not."""
    if process.code is None:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            process.code = os.waitstatus_to_exitcode(status)
    return process.code is None


def alive(processes: Iterable[Process]) -> list[Process]:
    """Those that are still there; the codes of all the others are known."""
    return [process for process in processes if running(process)]


def kill(processes: Iterable[Process], *, group: bool) -> None:
    """SIGKILL to processes alone, or with all that they have started; wait for their end."""
    processes = list(processes)
    for process in processes:
        if process.code is None or group:
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    for process in processes:
        while running(process):
            time.sleep(POLL)


def inhabited(group: int) -> bool:
    """Whether processes are left in a group whose leader has ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def asked(function: Callable[[], Any], log: Path) -> Any:
    """What the function gives, as JSON knows it, computed in a process of its own.

    Raises RuntimeError where it gives nothing; its traceback is in `log`.
    """
    reading, writing = os.pipe()

    def answer() -> None:
        with open(writing, "w") as pipe:
            json.dump(function(), pipe)

    process = forked(answer, log, {})
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    while running(process):
        time.sleep(POLL)
    if process.code:
        raise RuntimeError(f"a process that was asked ended with {process.code}")
    return json.loads(text)


def ranked(ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each rank; nothing where there is but one."""
    if ranks == 1:
        return [{}]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} for rank in range(ranks)]
