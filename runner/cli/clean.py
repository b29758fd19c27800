"""`clean`: deletes finished jobs from the outbox, by age or by size, whole folders at a time.

Lists the jobs and deletes them only with `--yes` or after a question. Never touches jobs that are
queued, running or kept (by a file `<id>.keep`, also one that no runner has obeyed yet), nor those
that a spec in the inbox or of an unfinished job names by a path, nor what is not the folder of a
job.
"""

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from runner import client
from runner.cli.gallery import statuses, write_outbox_page
from runner.cli.output import add_verb, print_json, print_message, show
from runner.errors import UsageProblem
from runner.files import read_file, text_of
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.spool.store.names import KEEP_SUFFIX, is_spec, key_of, not_unique, plain
from runner.terminal import size_text
from specs.times import parse_moment

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_ASIDE = ".removing-"
# Whole statuses of 50,000 jobs would take 400 MB.
_JUDGED = ("id", "state", "kept", "source", "finished_at", "updated_at")
# The folders of a path: a spec need not be one that can be read.
_FOLDER = re.compile(rb"(?<=[/\\])[A-Za-z0-9][A-Za-z0-9._-]*(?=[/\\])")


@dataclass(frozen=True)
class Job:
    """A finished job in the outbox; `finished` in seconds since 1970."""

    id: str
    state: str
    finished: float
    bytes: int


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    clean = add_verb(verbs, shared, "clean", run_clean, "take old finished jobs away")
    clean.add_argument("--older-than", metavar="AGE", help="finished before: 12h, 30d, 8w")
    keep_help = "the oldest go until the finished ones take no more than this: 50GB"
    clean.add_argument("--keep", metavar="SIZE", help=keep_help)
    clean.add_argument("--yes", action="store_true", help="delete them without asking")


def run_clean(options: argparse.Namespace) -> int:
    """List the jobs chosen by age and size, and delete them where that is confirmed."""
    if options.older_than is None and options.keep is None:
        raise UsageProblem("say which: --older-than 30d, --keep 50GB, or both")
    home = find_home(options.home)
    age = _amount(options.older_than, _AGE, _SECONDS, "an age is written like 12h, 30d or 8w")
    keep = _amount(options.keep, _SIZE, _BYTES, "a size is written like 500MB or 50GB")
    chosen = choose(sorted(finished(home), key=lambda job: (job.finished, job.id)), age, keep)
    if not options.json:
        for job in chosen:
            day = datetime.fromtimestamp(job.finished).strftime("%Y-%m-%d")
            show(f"{day}  {size_text(job.bytes):>10}  {job.state:<9}  {job.id}")
    total = sum(job.bytes for job in chosen)
    summary = f"{len(chosen):,} finished jobs, {size_text(total)}"
    removed = bool(chosen) and (options.yes or (not options.json and _confirmed(summary)))
    left = remove(home, chosen) if removed else []
    if options.json:
        jobs = [{"id": job.id, "state": job.state, "bytes": job.bytes} for job in chosen]
        print_json({"jobs": jobs, "bytes": total, "removed": removed, "left": left})
    elif removed:
        print_message(f"removed {summary}")
    else:
        hint = " (--yes removes them)" if chosen else ""
        print_message(f"{summary}; nothing was removed{hint}")
    for problem in left:
        print_message(problem)
    return 1 if left else 0


def _confirmed(summary: str) -> bool:
    """Whether a person at a terminal says yes; False where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print_message(f"remove {summary}? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _amount(
    text: str | None, form: re.Pattern[str], units: Mapping[str, int], problem: str
) -> float | None:
    """An age in seconds, or a size in bytes; None where none is given."""
    if text is None:
        return None
    match = form.fullmatch(text.strip())
    if match is None:
        raise UsageProblem(f"{problem}, not {text!r}")
    return float(match[1]) * units[match[2].lower()]


def finished(home: Home) -> list[Job]:
    """The finished jobs whose folders are in the outbox, without those that are to be kept."""
    jobs = []
    to_keep = _to_keep(home)
    # After the inbox: what has left it by now is a job.
    every = [{key: status[key] for key in _JUDGED} for status in statuses(home)]
    to_keep |= _named_by_unfinished(home, every)
    for status in every:
        if not _may_go(status, to_keep):
            continue
        try:
            ended = parse_moment(str(status["finished_at"] or status["updated_at"]))
        except (ValueError, KeyError):
            continue
        folder = home.job(status["id"])
        jobs.append(Job(status["id"], status["state"], ended.timestamp(), _bytes_in(folder)))
    return jobs


def _to_keep(home: Home) -> set[str]:
    """What the inbox asks to keep: the ids and file names of `.keep` files, the folders in specs.

    Raises UsageProblem where the inbox cannot be read.
    """
    try:
        names = os.listdir(home.inbox)
    except OSError as error:
        raise UsageProblem(f"cannot read {home.inbox}: {error.strerror}") from error
    stems = [n[: -len(KEEP_SUFFIX)] for n in names if n.lower().endswith(KEEP_SUFFIX)]
    asked = {key_of(plain(not_unique(text_of(stem)))) for stem in stems}
    return asked | _folders_in(home.inbox / name for name in names if is_spec(name))


def _named_by_unfinished(home: Home, every: Iterable[Mapping[str, Any]]) -> set[str]:
    """The folders in the specs of jobs that are not over."""
    jobs = [home.job(status["id"]) for status in every if status["state"] not in FINAL_STATES]
    return _folders_in(job / name for job in jobs for name in ("spec.yaml", "spec.json"))


def _folders_in(specs: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for spec in specs:
        with suppress(OSError):
            found |= _folders_of(spec, os.lstat(spec).st_mtime_ns)
    return found


@cache
def _folders_of(spec: Path, modified: int) -> set[str]:
    """The folders in one spec, read once: the inbox is looked at before each job goes."""
    return {key_of(name.decode()) for name in _FOLDER.findall(read_file(spec))}


def _may_go(status: Mapping[str, Any], to_keep: set[str]) -> bool:
    """Whether a job is over and nobody keeps it, has asked for that or needs its pictures."""
    if status["state"] not in FINAL_STATES or status["kept"]:
        return False
    return not to_keep & {key_of(status["id"]), key_of(plain(status["source"]["name"]))}


def _bytes_in(folder: Path) -> int:
    total = 0
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(below, name)).st_size
    return total


def choose(oldest_first: list[Job], age: float | None, keep: float | None) -> list[Job]:
    """The jobs to delete: those older than `age` seconds, and the oldest of the others.

    Of these as many as it takes until all jobs that stay have at most `keep` bytes together.
    """
    before = time.time() - (age or 0.0)
    left = sum(job.bytes for job in oldest_first)
    chosen = []
    for job in oldest_first:
        too_old = age is not None and job.finished < before
        too_much = keep is not None and left > keep
        if too_old or too_much:
            chosen.append(job)
            left -= job.bytes
    return chosen


def remove(home: Home, jobs: list[Job]) -> list[str]:
    """Delete the jobs' folders and gallery rows; one message for each that could not be deleted."""
    from runner.gallery.store import FOLDER, Gallery

    gallery = Gallery(home.data / FOLDER, writing=True)
    for aside in home.outbox.glob(f"{_ASIDE}*"):  # left by a clean that was interrupted
        shutil.rmtree(aside, ignore_errors=True)
    left = []
    named = _named_by_unfinished(home, statuses(home)) if jobs else set()
    for job in jobs:
        folder, aside = home.job(job.id), home.outbox / f"{_ASIDE}{job.id}"
        # Before the status: a `.keep` that is obeyed meanwhile is in one of the two.
        to_keep = _to_keep(home) | named
        # Since the list was made, another job may have taken the id of a rejected one.
        if not _may_go(client.status(home, job.id), to_keep):
            continue
        pictures = [file.stem for file in folder.glob(f"{job.id}-[0-9]*.json")]
        rows = [] if gallery.missing else list(filter(None, map(gallery.get, pictures)))
        try:
            # The folder leaves its name in one operation: no reader finds half of a job.
            os.replace(folder, aside)
            shutil.rmtree(aside)
        except OSError as error:
            left.append(f"{job.id} could not be removed: {error.strerror}")
            continue
        if rows:
            # As they were: the next job of that id may have rows by now. Not before there is room.
            gallery.remove(*rows)
    write_outbox_page(home)
    return left
