"""Measures the CPU time of starting: `--help`, `status`, the MCP handshake, a runner that is ready.

`python -m tests.bench startup [--rounds N] [--json] [--imports COMMAND]`. CPU time is user and
system time of all processes that a command starts, taken from its beginning until it ends (or, for
the handshake and the runner, until the answer or the word `idle` is there). The commands take turns
with a Python that does nothing, the first round is left out (it writes the byte code), and the
clock's time is given beside it. `--imports` lists what a command imports, the dearest first. It
ends with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from runner.cli.init import make_home
from tests.bench.figures import Goal, Spread, shown
from tests.harness import ROOT, clean_environment, eventually

GOALS = {"--help": 0.3, "status": 0.3, "mcp handshake": 1.0}
"""Seconds of CPU time at most; a runner has none."""

_RUNNER = [sys.executable, "-m", "runner"]


@dataclass(frozen=True)
class Cost:
    """What one start took, in seconds."""

    cpu: float
    wall: float


def environment() -> dict[str, str]:
    """A user's: byte code is kept, as it is everywhere but where somebody has switched it off."""
    kept = clean_environment(PYTHONPATH=str(ROOT))
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


@contextmanager
def _started(command: list[str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own, and its end."""
    with (home / "data" / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                for each in (*psutil.Process(process.pid).children(recursive=True), process):
                    each.terminate()


def _cpu(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU time of a process and of those that it has started."""
    top = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (top, *top.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _whole(command: list[str]) -> Callable[[Path], Cost]:
    """A command from its start to its end."""

    def measure(home: Path) -> Cost:
        # The time of a process that has ended is its parent's to ask for, and nobody else's.
        script = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
            "times = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(times.ru_utime + times.ru_stime)"
        )
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script, *command], cwd=home, check=True,
            env=environment(), stdout=subprocess.PIPE,
        )  # fmt: skip
        return Cost(float(done.stdout), time.perf_counter() - began)

    return measure


def _handshake(home: Path) -> Cost:
    """An MCP server until it has answered `initialize`, as every host begins."""
    about = {"name": "bench", "version": "1"}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": about}
    call = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    began = time.perf_counter()
    with _started([*_RUNNER, "mcp"], home) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(call).encode() + b"\n")
        process.stdin.flush()
        assert b'"serverInfo"' in process.stdout.readline()
        return Cost(_cpu(process), time.perf_counter() - began)


def _ready(*more: str) -> Callable[[Path], Cost]:
    """A runner until its health file says that it waits for work."""

    def measure(home: Path) -> Cost:
        health = home / "outbox" / "runner.json"
        health.unlink(missing_ok=True)
        began = time.perf_counter()
        with _started([*_RUNNER, "run", *more], home) as process:
            eventually(lambda: health.is_file() and b'"idle"' in health.read_bytes(), "idle")
            return Cost(_cpu(process), time.perf_counter() - began)

    return measure


CONTESTANTS: dict[str, Callable[[Path], Cost]] = {
    "python -c pass": _whole([sys.executable, "-c", "pass"]),
    "--help": _whole([*_RUNNER, "--help"]),
    "status": _whole([*_RUNNER, "status"]),
    "mcp handshake": _handshake,
    "run, ready": _ready(),
    "run, one process, ready": _ready("--one-process"),
}


def measure(rounds: int) -> dict[str, list[Cost]]:
    """Let all take turns, in a home of their own; what each round cost."""
    found: dict[str, list[Cost]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_home(home)
        for number in range(rounds + 1):
            for name, contestant in CONTESTANTS.items():
                cost = contestant(home)
                if number:
                    found[name].append(cost)
    return found


def imports(arguments: list[str]) -> list[tuple[float, str]]:
    """What a command imports, with the milliseconds that each module alone took."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *_RUNNER[1:], *arguments], cwd=ROOT,
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    lines = re.findall(r"import time: +(\d+) \| +\d+ \| *(\S+)", done.stderr)
    return sorted(((int(own) / 1000, name) for own, name in lines), reverse=True)


def main(argv: list[str]) -> int:
    """Measure and say whether the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--imports", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.imports is not None:
        for milliseconds, name in imports(options.imports)[:40]:
            print(f"{milliseconds:8.2f} ms  {name}")
        return 0
    measured = measure(2 if options.quick else options.rounds)
    cpu = {name: Spread.of([cost.cpu for cost in costs]) for name, costs in measured.items()}
    wall = {name: Spread.of([cost.wall for cost in costs]) for name, costs in measured.items()}
    nothing = cpu["python -c pass"].middle
    table = [f"{'seconds':<26}{'CPU':<26}{'over nothing':<15}clock"]
    for name, found in cpu.items():
        over = f"{found.middle - nothing:.3f}"
        table.append(f"{name:<26}{found!s:<26}{over:<15}{wall[name]}")
    goals = [Goal(name, cpu[name].middle, bound, False, " s") for name, bound in GOALS.items()]
    told = {name: {"cpu": cpu[name].json(), "clock": wall[name].json()} for name in measured}
    return shown(table, goals, {"seconds": told}, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
