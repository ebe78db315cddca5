"""What imports cost in time and memory, each in a fresh interpreter."""

import json
import subprocess
import sys
import time
from functools import partial

import peers
from measured import Reading, Row, alternated, compared, cpu_of_ended

IMPORTING = """
import json, psutil, sys, time
if {after!r}: import torch
memory = psutil.Process().memory_info().rss
wall, cpu = time.perf_counter(), time.process_time()
{code}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
memory = psutil.Process().memory_info().rss - memory
print(json.dumps({{"wall, ms": 1e3 * wall, "CPU, ms": 1e3 * cpu, "memory, MB": memory / 1e6}}))
"""
TORCH, EMPTY = "import torch", "python -c pass"
ONLY = "import noether"
USED = "from noether import every, hooks, train"


def importing(code: str, *, after_torch: bool) -> Reading:
    """What the code takes in an interpreter that has torch already, or has it not."""
    whole = IMPORTING.format(code=code, after=after_torch)
    command = [sys.executable, "-W", "ignore", "-c", whole]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Reading = json.loads(ended.stdout.splitlines()[-1])
    return found


def process(*arguments: str) -> Reading:
    """What a whole interpreter takes, from its start to its end."""
    wall, cpu = time.perf_counter(), cpu_of_ended()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    wall, cpu = time.perf_counter() - wall, cpu_of_ended() - cpu
    return {"wall, ms": 1e3 * wall, "CPU, ms": 1e3 * cpu}


def imports() -> dict[str, str]:
    """What is imported, by its name; a peer that does not import is left out."""
    codes = {ONLY: ONLY, USED: USED}
    for name, code in peers.IMPORTS.items():
        try:
            importing(code, after_torch=True)
        except subprocess.CalledProcessError as error:
            peers.skipped(name, error.stderr.splitlines()[-1])
        else:
            codes[code] = code
    return codes


def measure(rounds: int, updates: int) -> list[Row]:
    over = {TORCH: partial(importing, TORCH, after_torch=False)}
    over |= {name: partial(importing, code, after_torch=True) for name, code in imports().items()}
    whole = {
        EMPTY: partial(process, "-c", "pass"),
        "noether --help": partial(process, "-m", "noether", "--help"),
        f'python -c "{TORCH}"': partial(process, "-c", TORCH),
    }
    return [
        *compared(alternated(over, rounds), TORCH, "over import torch"),
        *compared(alternated(whole, rounds), EMPTY, "whole processes"),
    ]
