"""Several ranks: a lasting group of processes joined by gloo, and commands started as ranks are.

A group costs a start once; each call of it costs what the function does. A rank that raises,
dies or hangs ends its whole group, which starts afresh for the next call.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
TIMEOUT = 60.0
"""Seconds that a call, or a command over ranks, may take."""
GRACE = 5.0
"""Seconds that the other ranks of a group have after one of them raised."""
PRELOADED = [
    *("torch.distributed", "torch._dynamo", "noether.training", "noether.hooks"),
    *("hypothesis", "pytest"),
]
"""What all ranks import is imported once, and forked."""


class RankError(AssertionError):
    """A rank raised, died or hung; the message holds the ranks' own words."""


# ---------------------------------------------------------------- a lasting group


@dataclass(slots=True)
class Group:
    """Processes that are the ranks of one gloo group, started when they are first called."""

    size: int
    log: Path
    """Where the ranks' output goes."""
    processes: list[Any] = field(default_factory=list)
    pipes: list[Connection] = field(default_factory=list)

    def call(self, function: Callable[..., Any], *args: Any, timeout: float = TIMEOUT) -> list[Any]:
        """What a module-level function gives on each rank.

        Raises RankError with the ranks' tracebacks, and ends the group, where not all of them
        give a result in time.
        """
        try:
            if not self.processes:
                self._start(timeout)
            message = pickle.dumps((function, args))
            for pipe in self.pipes:
                pipe.send_bytes(message)
            return self._results(timeout)
        except BaseException:  # an interrupted call, too, leaves answers behind
            self.close()
            raise

    def _start(self, timeout: float) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = free_port()
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            # Not a daemon: those may not have the children that load data.
            process = context.Process(
                target=_serve, args=(environment(rank, self.size, port), theirs, self.log)
            )
            self.pipes.append(ours)
            process.start()
            self.processes.append(process)
            theirs.close()
        self._results(timeout)

    def _results(self, timeout: float) -> list[Any]:
        """One answer of each rank, in rank order."""
        answers = self._answers(timeout)
        words = [
            f"rank {rank} of {self.size}: {answers[rank][1]}"
            if rank in answers
            else f"rank {rank} of {self.size}: no answer within {timeout:.0f} s, or {GRACE:.0f} s "
            "after another's error"
            for rank in range(self.size)
            if rank not in answers or not answers[rank][0]
        ]
        if words:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise RankError("\n".join([*words, f"printed last:\n{tail}"]))
        return [answers[rank][1] for rank in range(self.size)]

    def _answers(self, timeout: float) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        deadline = time.monotonic() + timeout
        while len(answers) < self.size:
            missing = [pipe for rank, pipe in enumerate(self.pipes) if rank not in answers]
            ready = wait(missing, max(deadline - time.monotonic(), 0))
            if not ready:
                break
            for pipe in ready:
                answer = _received(pipe)
                answers[self.pipes.index(pipe)] = answer  # type: ignore[arg-type]
                if not answer[0]:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return answers

    def close(self) -> None:
        """End the ranks, whatever they are doing."""
        for process in self.processes:
            process.kill()
            process.join()
            process.close()
        for pipe in self.pipes:
            pipe.close()
        self.processes.clear()
        self.pipes.clear()


def _received(pipe: Any) -> tuple[bool, Any]:
    try:
        answer: tuple[bool, Any] = pickle.loads(pipe.recv_bytes())
    except (EOFError, ConnectionError):
        return False, "the process died"
    return answer


def _serve(variables: Mapping[str, str], pipe: Connection, log: Path) -> None:
    """A rank's life: join the group, then answer calls until nobody listens any more."""
    with open(log, "ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.update(variables)
    torch.set_num_threads(1)
    # A forked server passes its own way of starting on; a real rank has the usual one.
    multiprocessing.set_start_method("fork", force=True)
    pipe.send_bytes(_answer(_join, ()))
    with suppress(EOFError, ConnectionError):
        while True:
            message = pipe.recv_bytes()
            pipe.send_bytes(_answer(_called, (message,)))
    os._exit(0)  # no farewell: the others may be gone already


def _join() -> None:
    # A little less than a call may take, so that a rank can still say where it waited.
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT - 10))


def _called(message: bytes) -> Any:
    function, args = pickle.loads(message)
    return function(*args)


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((True, function(*args)))
    except BaseException:
        return pickle.dumps((False, traceback.format_exc()))


@contextmanager
def groups(*sizes: int) -> Iterator[Mapping[int, Group]]:
    """Groups of these sizes, each started when it is first called, all ended at the end."""
    with tempfile.TemporaryDirectory() as folder:
        made = {size: Group(size, Path(folder) / f"{size}.log") for size in sizes}
        for group in made.values():
            group.log.touch()
        try:
            yield made
        finally:
            for group in made.values():
                group.close()


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended; without a code where it was killed for its time being over."""

    returncode: int | None
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        """What it printed, gloo's own lines aside."""
        return [line for line in self.output.splitlines() if not line.startswith("[Gloo]")]


def launch(
    ranks: int, script_args: Sequence[str], timeout: float = TIMEOUT, **variables: str
) -> list[Ended]:
    """Run `python *script_args` as each rank of a group, in its own process; kill all at timeout.

    The processes know of each other as under torchrun, but no agent watches over them.
    """
    port = free_port()
    command = [sys.executable, *script_args]
    with ExitStack() as stack:
        files = [
            [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)] for _ in range(ranks)
        ]
        children = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=out,
                stderr=err,
                env=_outer() | environment(rank, ranks, port) | variables,
                start_new_session=True,
            )
            for rank, (out, err) in enumerate(files)
        ]
        codes = _codes(children, timeout)
        return [Ended(code, *map(_text, pair)) for code, pair in zip(codes, files, strict=True)]


def torchrun(
    args: Sequence[str], timeout: float = 100, *, cwd: Path = ROOT, **variables: str
) -> Ended:
    """Run `torchrun --standalone *args`; at timeout its agent and workers are ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *args]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        agent = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=out,
            stderr=err,
            env=_outer() | {"OMP_NUM_THREADS": "1"} | variables,
            start_new_session=True,
        )
        (code,) = _codes([agent], timeout, gently=True)
        return Ended(code, _text(out), _text(err))


def _codes(
    children: Sequence[subprocess.Popen[bytes]], timeout: float, *, gently: bool = False
) -> list[int | None]:
    """The exit codes; None for those that had to be killed."""
    deadline = time.monotonic() + timeout
    codes: list[int | None] = []
    try:
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(deadline - time.monotonic(), 0))
            codes.append(child.returncode)
    finally:
        for child in children:
            _ended(child, gently=gently)
    return codes


def _ended(child: subprocess.Popen[bytes], *, gently: bool) -> None:
    """End a process that still runs, and those it started."""
    if child.poll() is not None:
        return
    if gently:  # torchrun's workers have sessions of their own: it must end them itself
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a worker on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _outer() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    return text
