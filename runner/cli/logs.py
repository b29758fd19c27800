"""`logs`: what the runner has done and met, with all jobs or one, and what comes next."""

import argparse
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.cli.output import add_verb, nearest_job, print_line, print_message, show
from runner.errors import UsageProblem
from runner.files import open_regular, paths_in
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
    home = find_home(options.home, tell=print_message)
    file = home.data / FILE
    try:
        # First: what is given another name meanwhile is told twice then, and not lost.
        newest, place, number = _read(file, 0)
        older = reversed(paths_in(file.parent, f"{file.name}.[1-9]"))
        lines = [line for each in older for line in _read(each, 0)[0]]
    except FileNotFoundError:
        raise UsageProblem(f"{file} is not there: a runner begins it") from None
    except OSError as error:
        raise UsageProblem(f"{file} cannot be read: {error.strerror or error}") from error
    found = _show([*lines, *newest], options, most=0 if options.id else _SHOWN)
    if options.id and not (found or options.follow):
        print_message(f"the log has nothing about {options.id!r}: {nearest_job(home, options.id)}")
        return 1
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
    with os.fdopen(open_regular(file), "rb") as log:
        log.seek(place)
        whole, end, _ = log.read().rpartition(b"\n")
        return whole.splitlines(), place + len(whole + end), os.fstat(log.fileno()).st_ino


def _show(lines: Iterable[bytes], options: argparse.Namespace, most: int = 0) -> int:
    """Print the last of the lines that are wanted, or all where `most` is 0; how many."""
    told = []
    for line in lines:
        # Half of one is left where the disk was full.
        with suppress(ValueError):
            told.append(json.loads(line))
    wanted = [each for each in told if _is_ours(each) and options.id in (None, each.get("job"))]
    for each in wanted[-most:]:
        if options.json:
            print_line(each)
            continue
        text = on_one_line("{at} {level:<7} {message}".format(**each))
        more = str(each.get("traceback", "")).splitlines()
        show("\n    ".join([text, *more]), many_lines=True, flush=True)
    return len(wanted)


def _is_ours(value: Any) -> bool:
    """Whether a line is one that a runner wrote: another program may write there, too."""
    keys = ("at", "level", "message")
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)
