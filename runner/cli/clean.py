"""`clean`: deletes finished jobs from the outbox, by age or by size, whole folders at a time.

Lists the jobs and deletes them only with `--yes` or after a question; then they are forgotten.
Holds one status at a time. Never touches jobs that are queued, running or kept (by a file
`<id>.keep`, also one that no runner has obeyed yet), nor those that a spec in the inbox or of an
unfinished job names by a path, nor what is not the folder of a job.
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
from runner.errors import RunnerBusy, UsageProblem
from runner.files import is_absent, is_folder, is_there, paths_in, read_file, text_of
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.spool.store.names import CLEAN_NAME, KEEP_SUFFIX, is_spec, key_of, not_unique, plain
from runner.terminal import size_text
from specs.errors import FluxdropError
from specs.times import parse_moment

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_ASIDE = ".removing-"
# Stands for a status that cannot be read: the job may be running.
_UNREAD = {"state": "unread"}
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
    _require_outbox(home)
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
    # With `--yes` also what is gone already, removed by hand or by one that was interrupted.
    left = [*remove(home, chosen), *forget(home)] if removed or options.yes else []
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


def _require_outbox(home: Home) -> None:
    """Raise UsageProblem where the outbox is away, or one that no runner had lies in its place."""
    folder = home.drops if is_there(home.data / "ledger.sqlite") else home.outbox
    if not is_folder(folder):
        raise UsageProblem(f"the outbox is not there: {folder} is no folder: put it back")


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
    found = []
    to_keep = _to_keep(home)
    # After the inbox: what has left it by now is a job.
    for status in statuses(home, unread=_UNREAD):
        to_keep |= _named_by_unfinished(home, [status])
        with suppress(ValueError, KeyError):
            ended = parse_moment(str(status["finished_at"] or status["updated_at"]))
            if _may_go(status, to_keep):
                found.append((status["id"], status["state"], ended.timestamp()))
    # Once more: one may be named by a job that came behind it.
    going = (job for job in found if key_of(job[0]) not in to_keep)
    return [Job(*job, _bytes_in(home.job(job[0]))) for job in going]


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
    jobs = (home.job(status["id"]) for status in every if status["state"] not in FINAL_STATES)
    return _folders_in(job / name for job in jobs for name in ("spec.yaml", "spec.json"))


def _folders_in(specs: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for spec in specs:
        try:
            found |= _folders_of(spec, os.lstat(spec).st_mtime_ns)
        except OSError as error:
            if not is_absent(error):
                why = f"{error.strerror or error}, and it may name pictures that would go"
                raise UsageProblem(f"cannot read {spec}: {why}") from error
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
    """Delete the jobs' folders, and the gallery's rows of what is gone; a message for each left."""
    from runner.gallery.rebuild import remove_gone
    from runner.gallery.store import FOLDER, Gallery

    for aside in paths_in(home.outbox, f"{_ASIDE}*"):  # left by a clean that was interrupted
        with suppress(OSError):
            shutil.rmtree(aside)
    left = []
    named = _named_by_unfinished(home, statuses(home, unread=_UNREAD)) if jobs else set()
    for job in jobs:
        folder, aside = home.job(job.id), home.outbox / f"{_ASIDE}{job.id}"
        # Before the status: a `.keep` that is obeyed meanwhile is in one of the two.
        to_keep = _to_keep(home) | named
        try:
            # Since the list was made, another job may have taken the id of a rejected one.
            if not _may_go(client.status(home, job.id), to_keep):
                continue
            # The folder leaves its name in one operation: no reader finds half of a job.
            os.replace(folder, aside)
            shutil.rmtree(aside)
        except FileNotFoundError:
            # Another clean was here first.
            continue
        except OSError as error:
            left.append(f"{job.id} could not be removed: {error.strerror}")
    gallery = Gallery(home.data / FOLDER, writing=True)
    try:
        if not gallery.missing:
            remove_gone(gallery, home.outbox)
    except OSError as error:
        left.append(f"the gallery still has pictures that are gone: {error}")
    write_outbox_page(home)
    return left


def forget(home: Home) -> list[str]:
    """Have the runner forget what is gone, or do it here where none runs; why it is not done."""
    try:
        if client.runner_health(home) is None:
            with suppress(RunnerBusy):
                return _forget_here(home)
        client.clean(home)
    except (FluxdropError, OSError) as error:
        return [f"what is gone is not forgotten yet: {error}"]
    return []


def _forget_here(home: Home) -> list[str]:
    """Forget what is gone; what else went wrong. Raises RunnerBusy where another has the home."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.disk.disk import Disk
    from runner.spool.disk.locks import home_lock
    from runner.spool.inbox.forgetting import forget_gone
    from runner.spool.startup.opening import open_spool

    if not is_there(home.data / "ledger.sqlite"):
        return []
    lock, disk = home_lock(home), Disk()
    lock.acquire()
    try:
        home.places.pin(inbox=home.inbox, outbox=home.outbox, data=home.data)
        _require_outbox(home)
        disk.places = home.places
        spool = open_spool(home, disk, RegistryCatalogue(home.settings, home.data))
        try:
            with suppress(OSError):
                # Not at the end: one that comes later is another's, who has removed more.
                (home.inbox / CLEAN_NAME).unlink()
            for _ in forget_gone(spool):
                pass
            try:
                spool.ledger.shrink(whole=True)
            except (FluxdropError, OSError) as error:
                return [f"what is gone is forgotten, but its room is not free yet: {error}"]
        finally:
            # What is at fault now must be recovered again.
            spool.ledger.close(clean=not spool.faults)
    finally:
        home.places.unpin()
        lock.release()
    return []
