"""`logs`: what the runner has done and met, with all jobs or one, and what comes next."""

import argparse
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.cli.output import add_verb, print_line, show
from runner.errors import UsageProblem
from runner.files import paths_in
from runner.logs import FILE
from runner.settings import find_home
from runner.terminal import on_one_line

_SHOWN = 100
_LOOK_SECONDS = 0.3


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    logs = add_verb(verbs, shared, "logs", run_logs, "what the runner did, and met")
    logs.add_argument("id", nargs="?", metavar="ID", help="all that is about one job")
    logs.add_argument("-f", "--follow", action="store_true", help="and what comes, until Ctrl-C")


def run_logs(options: argparse.Namespace) -> int:
    """Print the newest lines of the runner's log, or all of them that are about a job."""
    file = find_home(options.home).data / FILE
    try:
        newest, place, number = _read(file, 0)
    except FileNotFoundError:
        raise UsageProblem(f"{file} is not there: a runner begins it") from None
    older = reversed(paths_in(file.parent, f"{file.name}.?"))
    lines = [line for each in older for line in _read(each, 0)[0]]
    _show([*lines, *newest], options, most=0 if options.id else _SHOWN)
    while options.follow:
        time.sleep(_LOOK_SECONDS)
        with suppress(FileNotFoundError):
            if os.stat(file).st_ino != number:
                # It has another name now, with what came until then.
                _show(_read(file.with_name(f"{file.name}.1"), place)[0], options)
                place = 0
            newest, place, number = _read(file, place)
            _show(newest, options)
    return 0


def _read(file: Path, place: int) -> tuple[list[bytes], int, int]:
    """The whole lines of a file from a place on, the place behind them, and the file's number."""
    # Opened for a moment: on Windows, a file that is open gets no other name.
    with open(file, "rb") as log:
        log.seek(place)
        whole, end, _ = log.read().rpartition(b"\n")
        return whole.splitlines(), place + len(whole + end), os.fstat(log.fileno()).st_ino


def _show(lines: Iterable[bytes], options: argparse.Namespace, most: int = 0) -> None:
    """Print the last of the lines that are wanted, or all where `most` is 0."""
    told = []
    for line in lines:
        # Half of one is left where the disk was full.
        with suppress(ValueError):
            told.append(json.loads(line))
    for each in [each for each in told if options.id in (None, each.get("job"))][-most:]:
        if options.json:
            print_line(each)
            continue
        text = on_one_line("{at} {level:<7} {message}".format(**each))
        more = each.get("traceback", "").splitlines()
        show("\n    ".join([text, *more]), many_lines=True, flush=True)
