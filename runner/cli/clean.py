"""`clean`: deletes finished jobs from the outbox, by age, size or the setting `retention`.

Lists the jobs and deletes them only with `--yes` or after a question; then they are forgotten. What
may go, and in which order, `runner.retention` says.
"""

import argparse
import re
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from runner import client
from runner.cli.gallery import tell, write_outbox_page
from runner.cli.output import add_verb, print_json, print_message, show
from runner.errors import RunnerBusy, UsageProblem
from runner.files import is_folder, is_there
from runner.retention import bytes_of, choose, remove, survey
from runner.settings import Home, find_home
from runner.spool.disk.disk import Disk
from runner.spool.store.names import CLEAN_NAME
from runner.terminal import size_text
from specs.errors import FluxdropError
from specs.times import parse_duration

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_OF_GB = {"": 10**9, "k": 10**6, "m": 1000, "g": 1, "t": 1 / 1000}


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    clean = add_verb(verbs, shared, "clean", run_clean, "take old finished jobs away")
    clean.add_argument("--older-than", metavar="AGE", help="finished before: 12h, 30d, 8w")
    keep_help = "the oldest go until the finished ones take no more than this: 50GB"
    clean.add_argument("--keep", metavar="SIZE", help=keep_help)
    retention_help = "those that the setting `retention` has the runner remove"
    clean.add_argument("--retention", action="store_true", help=retention_help)
    clean.add_argument("--yes", action="store_true", help="delete them without asking")


def run_clean(options: argparse.Namespace) -> int:
    """List the jobs that go by these limits, and delete them where that is confirmed."""
    if (options.older_than is None and options.keep is None) is not options.retention:
        raise UsageProblem("say which: --older-than 30d, --keep 50GB, or both; or --retention")
    home = find_home(options.home)
    _require_outbox(home)
    limits = home.settings.retention
    if not options.retention:
        age = parse_duration(options.older_than or "")
        if options.older_than is not None and age is None:
            raise UsageProblem(f"an age is written like 12h, 30d or 8w, not {options.older_than!r}")
        size = _SIZE.fullmatch(options.keep.strip()) if options.keep is not None else None
        if options.keep is not None and size is None:
            raise UsageProblem(f"a size is written like 500MB or 50GB, not {options.keep!r}")
        limits = {
            "days": None if age is None else age / 86_400,
            "gb": float(size[1]) / _OF_GB[size[2].lower()] if size else None,
        }
    elif not limits:
        raise UsageProblem("there is no setting `retention`: give one, like {days: 30, gb: 50}")
    chosen = choose(survey(home, limits, tell), limits)
    chosen = [replace(job, bytes=bytes_of(home, job.id)) for job in chosen]
    if not options.json:
        for job in chosen:
            day = datetime.fromtimestamp(job.finished).strftime("%Y-%m-%d")
            show(f"{day}  {size_text(job.bytes):>10}  {job.state:<9}  {job.id}")
    total = sum(job.bytes for job in chosen)
    summary = f"{len(chosen):,} finished jobs, {size_text(total)}"
    removed = bool(chosen) and (options.yes or (not options.json and _confirmed(summary)))
    # With `--yes` also what is gone already, removed by hand or by one that was interrupted.
    left: list[str] = []
    if removed or options.yes:
        left += remove(home, Disk(home.outbox), chosen)
        write_outbox_page(home)
        left += forget(home)
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
    from runner.spool.disk.locks import home_lock
    from runner.spool.inbox.forgetting import forget_gone
    from runner.spool.startup.opening import open_spool

    if not is_there(home.data / "ledger.sqlite"):
        return []
    lock, disk = home_lock(home), Disk()
    lock.acquire()
    with ExitStack() as undo:
        undo.callback(lock.release)
        undo.callback(home.places.unpin)
        home.places.pin(inbox=home.inbox, outbox=home.outbox, data=home.data)
        _require_outbox(home)
        disk.places = home.places
        spool = open_spool(home, disk, RegistryCatalogue(home.settings, home.data))
        # What is at fault by then must be recovered again.
        undo.callback(lambda: spool.ledger.close(clean=not spool.faults))
        with suppress(OSError):
            # Not at the end: one that comes later is another's, who has removed more.
            (home.inbox / CLEAN_NAME).unlink()
        for _ in forget_gone(spool):
            pass
        try:
            spool.ledger.shrink(whole=True)
        except (FluxdropError, OSError) as error:
            return [f"what is gone is forgotten, but its room is not free yet: {error}"]
    return []
