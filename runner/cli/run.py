"""`run`, `drain` and `demo`: the commands that make this process, or its child, the runner."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from runner import client, exit_codes, reading
from runner.cli.output import (
    add_verb,
    left_text,
    print_answer,
    print_line,
    print_message,
    saying_what_goes_on,
    shown_path,
)
from runner.clock import now, timestamp
from runner.errors import LedgerUnusable, RunnerNeeded, UsageProblem
from runner.holds import UNWRITABLE, disk_hold
from runner.job import FINAL_STATES
from runner.logs import log_to_file, log_to_stderr
from runner.settings import Home, find_home
from specs import schemas
from specs.times import parse_moment

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_HELD = "{}; then run `fluxdrop demo` again"


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    add_verb(verbs, shared, "demo", run_demo, "run one job of each kind, here and now")
    run = add_verb(verbs, shared, "run", run_run, "watch the inbox until stopped")
    drain = add_verb(verbs, shared, "drain", run_drain, "run what is there, then leave")
    drain.add_argument("--until", metavar="HH:MM", help="leave at this hour; wait for windows")
    for verb in (run, drain):
        text = "without the process that starts it again when a driver or lack of memory ends it"
        verb.add_argument("--one-process", action="store_true", help=text)
        text = "on the GPUs of a Ray cluster: `local`, or its host:port (default: the settings')"
        verb.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help=text)
        text = "answer Prometheus on this port of this machine, with what is in data/metrics.prom"
        verb.add_argument("--metrics", type=int, metavar="PORT", help=text)
        # What the supervisor adds; standard input then is its pipe.
        verb.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)


def run_run(options: argparse.Namespace) -> int:
    """Run the jobs of the inbox until asked to stop."""
    if not options.one_process:
        return _supervise(options, exit_codes.NOT_RESTARTED)
    home = _prepared(options)
    with _working(home, options, waits=True) as daemon:
        if not options.json:
            print_message(f"watching {home.inbox} (Ctrl-C stops)")
        daemon.serve()
    return 0


def run_drain(options: argparse.Namespace) -> int:
    """Run jobs until none is left that can run, or until the hour of `--until`."""
    until = None if options.until is None else _next_time(options.until)
    if not options.one_process:
        # As a moment: a runner that is started again after that hour must not wait for tomorrow's.
        hour = [] if until is None else ["--until", timestamp(until)]
        return _supervise(options, exit_codes.NOT_RESTARTED | {exit_codes.FAILED}, *hour)
    home = _prepared(options)
    with _working(home, options) as daemon:
        outcome = daemon.drain(until=until, notify=print_message)
        is_stopped = daemon.is_asked_to_stop(0)
    counts = {str(state): n for state, n in outcome.counts.items()}
    if options.json:
        print_line({"counts": counts, "note": outcome.note})
    else:
        ended = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
        nothing = "nothing to do" if outcome.note is None else "nothing was done"
        # What a stop leaves is said by now.
        for text in (ended, "") if is_stopped else (ended or nothing, outcome.note):
            if text:
                print_message(text)
    return 0 if outcome.all_well else 1


@contextmanager
def _working(home: Home, options: argparse.Namespace, *, waits: bool = False) -> Iterator[Any]:
    """The home's daemon, open, its newest jobs shown; signals and an absent supervisor stop it.

    With `waits`, not before the outbox can be written. Else raises LedgerUnusable then.
    """
    from runner.cli.progress import Board
    from runner.daemon.daemon import stopping_on_signals

    opening = opened(home, options.ray)
    if options.supervised:
        from runner.daemon.supervisor import stop_when_orphaned

        stop_when_orphaned(opening.ask_to_stop)
    said = None
    with stopping_on_signals(opening):
        while (hold := disk_hold(home, home.outbox)) and hold.reason == UNWRITABLE.reason:
            if not waits:
                raise LedgerUnusable(hold.message)
            if hold.message != said:
                print_message(said := hold.message)
            if opening.is_asked_to_stop(_LOOK_SECONDS):
                sys.exit(exit_codes.DONE)
        # To the end: it takes seconds, and a terminal that is closed sends more than one signal.
        with opening as daemon, Board(home, daemon.newest_jobs, as_json=options.json) as board:
            if options.metrics is not None:
                daemon.metrics.serve(options.metrics)
            last = os.environ.get(exit_codes.LAST_END, "no other before it")
            log.info("the runner begins: process %d, %s", os.getpid(), last)
            board.follow_in_thread()
            yield daemon
            log.info("the runner stops")
            is_stopped = daemon.is_asked_to_stop(0) and not options.json
            running = [record.id for record in daemon.ledger.running()]
            if is_stopped:
                print_message("stopping (a second Ctrl-C ends it at once)")
    if is_stopped:
        queued = (reading.health(home.health) or {}).get("queued", 0)
        left = left_text(home, running, max(queued - len(running), 0))
        print_message(f"stopped; with the next `fluxdrop run`: {left}" if left else "stopped")
    _leave_if_lost(daemon)


def _supervise(options: argparse.Namespace, final_codes: frozenset[int], *more: str) -> int:
    """Run the verb in a child process, started again until it ends with one of `final_codes`."""
    from runner.daemon.supervisor import keep_running

    home = find_home(options.home, mounted=False)
    given = ["--json"] if options.json else []
    given += [f"--ray={options.ray}"] if options.ray is not None else []
    given += [f"--metrics={options.metrics}"] if options.metrics is not None else []
    command = [options.verb, *more, "--one-process", "--supervised", "--home", str(home.root)]
    return keep_running([*command, *given], final_codes=final_codes, notify=print_message)


def run_demo(options: argparse.Namespace) -> int:
    """Drop the example specs, run them, and print the paths of the pictures."""
    home = _prepared(options)
    if client.runner_health(home) is not None:
        jobs = _run_examples(home, lambda: _wait_for_runner(home), options)
    else:
        # Ctrl-C raises here: leaving `with` then puts the image in flight back into the queue.
        with opened(home) as daemon:
            jobs = _run_examples(home, lambda: _step(daemon), options)
    statuses = [client.status(home, job) for job in jobs]
    print_answer(options, {"jobs": jobs, "statuses": statuses}, *_picture_lines(home, statuses))
    return 0 if all(status["state"] == "succeeded" for status in statuses) else 1


def _step(daemon: Any) -> None:
    daemon.step(0.1)
    if daemon.worker.hold is not None and daemon.worker.idle:
        raise UsageProblem(_HELD.format(daemon.worker.hold.message))
    if daemon.worker.exit_code is not None:
        daemon.close()
        _leave_if_lost(daemon)


def _leave_if_lost(daemon: Any) -> None:
    """End the process at once where its device or a thread is lost: one that hangs would stay."""
    code = daemon.worker.exit_code
    if code is not None:
        why = daemon.home.threads.broken or "the device answers nothing any more"
        print_message(f"the runner ends: {why}; see its log and `fluxdrop doctor`")
        sys.stdout.flush()
        os._exit(code)


def _wait_for_runner(home: Home) -> None:
    health = client.runner_health(home)
    if health is None:
        raise RunnerNeeded("the runner has stopped: run `fluxdrop demo` again")
    if health["state"] in ("paused", "lent"):
        raise UsageProblem(_HELD.format(health["note"]))
    time.sleep(0.05)


def _run_examples(home: Home, step: Callable[[], object], options: argparse.Namespace) -> list[str]:
    """Drop the examples one after another and return the ids of their jobs once all are over.

    `step` is called again and again meanwhile. The later examples read the first one's picture.
    """
    from runner.cli.progress import Board

    files = (schemas.FOLDER / "examples").glob("*.yaml")
    jobs: list[str] = []
    with (
        saying_what_goes_on(home, jobs, "stopped; with the next `fluxdrop run`: {}"),
        Board(home, lambda: [] if options.json else [*jobs], as_json=options.json) as board,
    ):
        board.follow_in_thread()
        for file in sorted(files, key=lambda file: (file.stem != "draw", file.stem)):
            data = file.read_bytes()
            if jobs:
                # Another job may have the id `draw` already: read the picture of this demo's own.
                data = data.replace(b"outbox/draw/draw-", f"outbox/{jobs[0]}/{jobs[0]}-".encode())
            client.bring_images(home, file, data)
            drop = client.submit(home, data, file.name)
            while (receipt := client.receipt(home, drop)) is None:
                step()
            jobs.append(receipt["job"])
        while not all(client.status(home, job)["state"] in FINAL_STATES for job in jobs):
            step()
    return jobs


def _picture_lines(home: Home, statuses: list[dict[str, Any]]) -> Iterator[str]:
    for status in statuses:
        shown = f"{status['state']}: {status['message']}"
        if status["outputs"]:
            shown = shown_path(home.job(status["id"]) / status["outputs"][0]["file"])
        yield f"{status['kind']!s:<9} {shown}"
    yield f"open {shown_path(home.outbox / 'index.html')}"


def _prepared(options: argparse.Namespace) -> Home:
    """The home, its folders made, with the log on standard error and in its file."""
    log_to_stderr()
    home = find_home(options.home)
    home.prepare()
    log_to_file(home.data)
    return home


def opened(home: Home, ray: str | None = None) -> Any:
    """A daemon of the home with the engine of this machine, or a Ray cluster, to be opened.

    `ray` is the cluster's address, "" for that of the settings. Raises UsageProblem.
    """
    from runner.daemon.daemon import Daemon

    if ray is not None or home.settings.ray is not None:
        from runner.slots.ray_cluster import cluster_of
        from runner.slots.ray_slots import of_cluster

        cluster = cluster_of(home, ray)
        return Daemon(home, lambda home: of_cluster(cluster, home.threads))
    from runner.slots.local import LocalSlots

    slots = LocalSlots(home)
    return Daemon(home, slots.executor, locks=[slots])


def _next_time(text: str) -> float:
    """When the clock next shows HH:MM, or a whole date, in seconds since 1970.

    Raises UsageProblem.
    """
    wall = now()
    try:
        if "T" in text:
            return parse_moment(text).timestamp()
        hour, minute = (int(part) for part in text.split(":"))
        today = datetime.fromtimestamp(wall).replace(hour=hour, minute=minute)
    except ValueError:
        raise UsageProblem(
            "--until takes an hour from 00:00 to 23:59, like 07:00, or a date and an hour, like"
            f" 2026-11-30T07:00; not {text!r}"
        ) from None
    days = (today + timedelta(days=day) for day in range(2))
    moments = (parse_moment(f"{day:%Y-%m-%dT%H:%M}").timestamp() for day in days)
    return next(moment for moment in moments if moment > wall)
