"""A zoo of naive writers, and how many half-written specs three ways of taking files would run.

`python -m tests.spool.zoo [--runs N] [--json]` prints the table. Every writer is a process that
writes a spec of which every line-prefix is valid too, so that a file taken too early is not
refused but run, with fewer steps or other tags. A writer whose unfinished file lay closed for
longer than the settling time because the machine was busy is not counted: that is the documented
hole, which has rows of its own.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.settings import Settings
from tests.spool.takers import TAKERS, Taken, Taker
from tests.spool.writers import APPEND, IN_PLACE, SHELL, START, WRITERS, Writer, spec

_DEADLINE = 60.0


@dataclass(frozen=True)
class Visit:
    """What became of one writer's file; `pause` is how long it lay closed and unfinished."""

    writer: Writer
    form: str
    pause: float
    truncated: bool
    whole: bool

    @property
    def counts(self) -> bool:
        """Whether the file was never closed for longer than the settling time, or is meant to."""
        return self.writer.hole or self.pause < Settings().settle_seconds


def here(writers: Iterable[Writer] = WRITERS) -> list[Writer]:
    """The writers whose program this machine has."""
    return [writer for writer in writers if shutil.which(writer.needs)]


def play(taker: Taker, visitors: Sequence[tuple[Writer, str]], aside: Path) -> list[Visit]:
    """Let writers write at once, each its own file, and see what the taker makes of them."""
    aside.mkdir()
    ways = [
        _start(n, writer, form, taker.inbox, aside) for n, (writer, form) in enumerate(visitors)
    ]
    _work_until(taker, lambda: all(process.poll() is not None for process, _ in ways))
    (taker.inbox / "zz-last.yaml").write_bytes(spec("marked"))
    _work_until(taker, lambda: taker.is_done("zz-last.yaml"))
    return [
        _visit(writer, form, marks, [t for t in taker.taken if t.name == marks.stem])
        for (_, marks), (writer, form) in zip(ways, visitors, strict=True)
    ]


def _start(
    number: int, writer: Writer, form: str, inbox: Path, aside: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    name = f"{number:03d}{'.json' if form == 'json' else '.yaml'}"
    source, marks = aside / name, aside / f"{name}.marks"
    source.write_bytes(spec(form))
    marks.touch()
    environment = {
        **os.environ, "SPEC": str(source), "TARGET": str(inbox / name), "INBOX": str(inbox),
        "NAME": name, "MARKS": str(marks), "PYTHON": sys.executable, "CODE": APPEND,
        "IN_PLACE": IN_PLACE, "START": str(START), "PIECE": str(len(spec(form)) // 12 + 1),
    }  # fmt: skip
    # What a writer complains of, a file that was taken from under its hands, the table shows.
    quiet = subprocess.DEVNULL
    script = SHELL + writer.script
    return subprocess.Popen(["sh", "-c", script], env=environment, stderr=quiet), marks


def _visit(writer: Writer, form: str, marks: Path, taken: list[Taken]) -> Visit:
    moments = [float(line) for line in marks.read_text(encoding="ascii").split()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    ran = [each.data for each in taken if each.ran]
    whole = spec(form)
    return Visit(
        writer, form, max(pauses, default=0.0), any(data != whole for data in ran), whole in ran
    )


def _work_until(taker: Taker, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"left over: {os.listdir(taker.inbox)}"
        taker.work()


Row = dict[str, tuple[int, int, int]]
"""For each taker: how often truncated specs were run, whole ones never, and of how many."""


def table(runs: int) -> dict[str, Row]:
    """Let every taker meet every writer in every form, `runs` times."""
    rows: dict[str, Row] = {writer.name: {} for writer in here()}
    for name, (kind, forms) in TAKERS.items():
        visits: list[Visit] = []
        for form, _ in itertools.product(forms, range(runs)):
            with tempfile.TemporaryDirectory() as folder, kind(Path(folder) / "home") as taker:
                crowd = [(writer, form) for writer in here()]
                visits += play(taker, crowd, Path(folder) / "aside")
        counted = collections.defaultdict(list)
        for visit in visits:
            if visit.counts:
                counted[visit.writer.name].append(visit)
        for row in rows:
            met = counted[row]
            rows[row][name] = (
                sum(visit.truncated for visit in met),
                sum(not visit.whole for visit in met),
                len(met),
            )
    return rows


def main(arguments: list[str]) -> int:
    """Print the table; 1 if this runner ran a truncated spec outside the documented hole."""
    parser = argparse.ArgumentParser(prog="python -m tests.spool.zoo", description=__doc__)
    parser.add_argument("--runs", type=int, default=2, help="of every writer in every form")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = table(options.runs)
    if options.json:
        print(json.dumps(rows))
    else:
        _print(rows)
    holes = {writer.name for writer in WRITERS if writer.hole}
    ours = [row["fluxdrop"] for name, row in rows.items() if name not in holes]
    strict = [row["fluxdrop, strict"] for row in rows.values()]
    return 1 if any(truncated for truncated, _, _ in ours + strict) else 0


def _print(rows: dict[str, Row]) -> None:
    print("truncated specs run / whole specs never run / of how many")
    print(f"{'':<44}" + "".join(f"{name:>21}" for name in TAKERS))
    total: Row = dict.fromkeys(TAKERS, (0, 0, 0))
    for name, row in rows.items():
        print(f"{name:<44}" + "".join(f"{_cell(row[taker]):>21}" for taker in TAKERS))
        for taker, cell in row.items():
            a, b, c = total[taker]
            total[taker] = (a + cell[0], b + cell[1], c + cell[2])
    print(f"{'all':<44}" + "".join(f"{_cell(total[taker]):>21}" for taker in TAKERS))


def _cell(cell: tuple[int, int, int]) -> str:
    return " / ".join(map(str, cell))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
