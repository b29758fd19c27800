"""Which finished jobs may be removed from the outbox, and their removal.

Before each job `pause` is called, which may wait, or raise to break off. Whole jobs, rejected ones
first, then the oldest. Holds one status at a time. Never touches jobs that are queued, running or
kept (by a file `<id>.keep`, also one that no runner has obeyed yet), nor those that a spec in the
inbox or of an unfinished job names by a path, nor what is not the folder of a job.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from runner import client, reading
from runner.clock import now
from runner.errors import UsageProblem
from runner.files import is_absent, names_in, paths_in, read_file, text_of
from runner.gallery.rebuild import remove_gone
from runner.gallery.store import FOLDER, Gallery
from runner.job import FINAL_STATES, State
from runner.settings import Home
from runner.spool.disk.disk import Disk, leaving_out
from runner.spool.store.names import KEEP_SUFFIX, is_spec, key_of, not_unique, plain
from specs.times import parse_moment

_ASIDE = ".removing-"
# Another process may write the gallery's index.
_PATIENCE = 5.0
_COARSE_SECONDS = 3.0
_DAY, _GB = 86_400, 10**9
Limits = Mapping[str, Any]
"""As the setting `retention`: `days`, `gb` and `count` of what stays, each None for no limit.

Only those that ended in one of its `states` count, and may go.
"""
_Tell = Callable[[str], object]
_Pause = Callable[[], object]
# The folders of a path: a spec need not be one that can be read.
_FOLDER = re.compile(rb"(?<=[/\\])[A-Za-z0-9][A-Za-z0-9._-]*(?=[/\\])")


@dataclass(frozen=True)
class Job:
    """A finished job in the outbox; `finished` in seconds since 1970."""

    id: str
    state: str
    finished: float
    bytes: int


def statuses(
    home: Home,
    names: Iterable[str] | None = None,
    *,
    tell: _Tell,
    unread: bool = False,
) -> Iterator[dict[str, Any]]:
    """The statuses of these jobs, or of all, whose folders are in the outbox.

    One that cannot be read is told and left out; with `unread` it has the state of that name.
    """
    for name in names_in(home.outbox) if names is None else names:
        file = home.outbox / name / "status.json"
        # It may be running.
        status = {"state": "unread", "id": name} if unread else None
        with leaving_out(file, tell):
            status = reading.status(file)
        if status is not None and status["id"] == name:
            yield status


def survey(home: Home, limits: Limits, tell: _Tell, pause: _Pause = lambda: None) -> list[Job]:
    """The jobs that may go; they have no bytes where no limit needs them."""
    states, needs_bytes = limits.get("states", FINAL_STATES), limits.get("gb") is not None
    found, jobs = [], []
    to_keep = _asked_to_keep(home)
    # After the inbox: what has left it by now is a job.
    for status in statuses(home, tell=tell, unread=True):
        pause()
        to_keep |= _needs_of(home, status)
        with suppress(ValueError, KeyError):
            ended = parse_moment(str(status["finished_at"] or status["updated_at"]))
            if status["state"] in states and _may_go(status, to_keep):
                found.append((status["id"], status["state"], ended.timestamp()))
    # Once more: one may be named by a job that came behind it.
    for job in found:
        if key_of(job[0]) not in to_keep:
            pause()
            jobs.append(Job(*job, bytes_of(home, job[0]) if needs_bytes else 0))
    return jobs


def choose(jobs: Iterable[Job], limits: Limits) -> list[Job]:
    """The jobs that go, in their order: too old ones, and as many others as are too many."""
    days, gb, most = (inf if limits.get(n) is None else limits[n] for n in ("days", "gb", "count"))
    before = now() - days * _DAY
    in_order = sorted(jobs, key=lambda job: (job.state != State.REJECTED, job.finished, job.id))
    size, count = sum(job.bytes for job in in_order), len(in_order)
    chosen = []
    for job in in_order:
        if job.finished < before or size / _GB > gb or count > most:
            chosen.append(job)
            size, count = size - job.bytes, count - 1
    return chosen


def remove(home: Home, disk: Disk, jobs: Iterable[Job], pause: _Pause = lambda: None) -> list[str]:
    """Delete the jobs' folders, and the gallery's rows of what is gone; why what is left is so."""
    for aside in paths_in(home.outbox, f"{_ASIDE}*"):  # left by one that was interrupted
        with suppress(OSError):
            disk.remove_tree(aside)
    left: list[str] = []
    needed, to_keep = _needed(home), set[str]()
    for job in jobs:
        pause()
        folder, aside = home.job(job.id), home.outbox / f"{_ASIDE}{job.id}"
        # First: what leaves the inbox meanwhile is a job by then, or a status that says `kept`.
        to_keep |= _asked_to_keep(home)
        to_keep |= next(needed)
        try:
            # Since the list was made, another job may have taken the id of a rejected one.
            if _may_go(client.status(home, job.id), to_keep):
                # The folder leaves its name in one operation: no reader finds half of a job.
                disk.rename(folder, aside)
                disk.remove_tree(aside)
        except FileNotFoundError:
            # Another process was here first.
            pass
        except OSError as error:
            left.append(f"{job.id} could not be removed: {error.strerror}")
    gallery = Gallery(home.data / FOLDER, writing=True, patience=_PATIENCE)
    try:
        if not gallery.missing:
            remove_gone(gallery, home.outbox, pause)
    except OSError as error:
        left.append(f"the gallery still has pictures that are gone: {error}")
    finally:
        gallery.close()
    return left


def _needed(home: Home) -> Iterator[set[str]]:
    """At each look the folders that jobs need which are not over and have come since the last."""
    known, changed = set[str](), -1.0
    while True:
        needed, before, changed = set[str](), changed, 0.0
        with suppress(FileNotFoundError):
            changed = os.stat(home.drops).st_mtime
        # No job comes without a receipt, whose time may be a coarse one.
        if changed != before or now() - changed < _COARSE_SECONDS:
            new = {*names_in(home.outbox)} - known
            for status in statuses(home, sorted(new), tell=lambda told: None, unread=True):
                needed |= _needs_of(home, status)
                known.add(status["id"])
        yield needed


def bytes_of(home: Home, job_id: str) -> int:
    """What the files of a job's folder have together."""
    total = 0
    for below, _, names in os.walk(home.job(job_id)):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(below, name)).st_size
    return total


def _asked_to_keep(home: Home) -> set[str]:
    """What the inbox asks to keep: the ids and file names of `.keep` files, the folders in specs.

    Raises UsageProblem where the inbox cannot be read.
    """
    try:
        names = os.listdir(home.inbox)
    except OSError as error:
        raise UsageProblem(f"cannot read {home.inbox}: {error.strerror}") from error
    stems = [n[: -len(KEEP_SUFFIX)] for n in names if n.lower().endswith(KEEP_SUFFIX)]
    asked = {key_of(plain(not_unique(text_of(stem)))) for stem in stems}
    return asked.union(*(_folders_in(home.inbox / name) for name in names if is_spec(name)))


def _needs_of(home: Home, status: Mapping[str, Any]) -> set[str]:
    """The folders that have to stay for the job of a status; none where it is over."""
    if status["state"] in FINAL_STATES:
        return set()
    specs = (home.job(status["id"]) / f"spec.{form}" for form in ("yaml", "json"))
    return {key_of(status["id"])}.union(*map(_folders_in, specs))


def _folders_in(spec: Path) -> set[str]:
    """The folders in the paths of a spec."""
    try:
        return _folders_of(spec, os.lstat(spec).st_mtime_ns)
    except OSError as error:
        if is_absent(error):
            return set()
        why = f"{error.strerror or error}, and it may name pictures that would go"
        raise UsageProblem(f"cannot read {spec}: {why}") from error


@lru_cache(maxsize=4096)
def _folders_of(spec: Path, modified: int) -> set[str]:
    """The same, read once: the inbox is looked at before each job goes."""
    return {key_of(name.decode()) for name in _FOLDER.findall(read_file(spec))}


def _may_go(status: Mapping[str, Any], to_keep: set[str]) -> bool:
    """Whether a job is over and nobody keeps it, has asked for that or needs its pictures."""
    if status["state"] not in FINAL_STATES or status["kept"]:
        return False
    return not to_keep & {key_of(status["id"]), key_of(plain(status["source"]["name"]))}
