"""`status` and `watch`: the state of jobs and of the runner, read from the home's files only."""

import argparse
import contextlib
import os
import platform
import sys
from typing import Any

from runner import client, reading
from runner.cli.output import (
    add_verb,
    job_line,
    print_json,
    print_message,
    show,
    shown_slots,
    slot_line,
)
from runner.errors import RunnerNeeded
from runner.holds import disk_hold
from runner.job import FINAL_STATES, State
from runner.settings import Home, find_home
from runner.spool.disk.locks import holder_of


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    status = add_verb(verbs, shared, "status", run_status, "what a job, or the runner, does")
    status.add_argument("id", nargs="?", metavar="ID")
    watch = add_verb(verbs, shared, "watch", run_watch, "follow the runner until Ctrl-C")
    watch.add_argument("ids", nargs="*", metavar="ID", help="follow these until they are over")


def run_status(options: argparse.Namespace) -> int:
    """Print one job's status, or the runner's summary.

    The summary comes from the health file; the jobs' status files are not read for it.
    """
    home = find_home(options.home)
    if options.id:
        return _print_status(options, client.status(home, options.id))
    running = client.runner_health(home)
    is_here = running and (running["host"], running["system"]) == (platform.node(), sys.platform)
    holder = holder_of(home) if running and is_here else None
    if running and holder not in (None, running["pid"]):
        # The runner that wrote it has died, and a command that renders holds the home.
        running = None
    summary = running or reading.health(home.health) or {}
    if running is None:
        # Jobs went on after a runner that was killed had written its last summary.
        summary["recent"] = [_as_published(home, job) for job in summary.get("recent", ())]
    waiting = _specs_in_inbox(home)
    from runner.cli.overlooked import overlooked

    not_taken = [{"file": file, "why": why} for file, why in overlooked(home)]
    outdated = client.outdated_runner(home) if running else None
    if options.json:
        more = {"running": running is not None, "inbox": waiting, "not_taken": not_taken}
        more |= {"outdated": outdated}
        print_json({**summary, **more})
        return 0
    counts = summary.get("counts", {})
    numbers = ", ".join(f"{counts[state]} {state}" for state in State if counts.get(state))
    if running:
        at = f" at {running['job']}" if running["job"] else ""
        show(f"runner {running['pid']} is {running['state']}{at}; {numbers or 'no jobs yet'}")
        if running["note"]:
            show(running["note"])
        for slot in shown_slots(running):
            show(slot_line(slot))
        for fault in running["faults"]:
            show(f"set aside: {fault['file']}: {fault['message']}")
        if outdated:
            show(outdated)
    else:
        then = f"when it last wrote its summary: {numbers}" if numbers else "no jobs yet"
        who = f"process {holder} has the home, and no runner" if holder else "no runner"
        show(client.unseen_runner(home) or f"{who} is running; {then}")
    # To others the outbox and `data/` are closed.
    hold = disk_hold(home, home.outbox) if os.access(home.data, os.W_OK) else None
    if hold and not (running and running["note"]):
        show(hold.message)
    if waiting:
        show(f"{waiting} in the inbox, not yet taken")
    for each in not_taken:
        show(f"{each['file']} is not taken: {each['why']}")
    for job in reversed(summary.get("recent", [])):
        show(job_line(job))
    return 0


def _as_published(home: Home, job: dict[str, Any]) -> dict[str, Any]:
    """A row of the summary as the job's own status has it, if that may have changed."""
    status = {} if job["state"] in FINAL_STATES else client.status(home, job["id"])
    if "images" not in status:
        return job
    return {
        **job,
        **{key: status[key] for key in ("state", "reason", "message")},
        **status["images"],
    }


def _specs_in_inbox(home: Home) -> int:
    from runner.spool.store.names import is_spec

    try:
        return sum(is_spec(name) for name in os.listdir(home.inbox))
    except OSError:
        return 0


def _print_status(options: argparse.Namespace, status: dict[str, Any]) -> int:
    if options.json:
        print_json(status)
    else:
        show(job_line(status))
        for error in status.get("errors", []):
            path = f"{error['path']}: " if error["path"] else ""
            show(f"  line {error['line']}, column {error['column']}: {path}{error['message']}")
        for warning in status.get("warnings", []):
            show(f"  warning: {warning}")
        for output in status.get("outputs", []):
            show(f"  outbox/{status['id']}/{output['file']}")
    return 1 if status["state"] in ("failed", "rejected", "unknown") else 0


def run_watch(options: argparse.Namespace) -> int:
    """Show the runner's jobs until Ctrl-C, or the named jobs until they are over."""
    home = find_home(options.home)
    if client.runner_health(home) is None:
        raise RunnerNeeded("no runner is running: start `fluxdrop run`")
    from runner.cli.progress import Board

    def newest_jobs() -> list[str]:
        health = reading.health(home.health) or {}
        jobs = [job["id"] for job in reversed(health.get("recent", []))]
        return list(dict.fromkeys([*jobs, *health.get("next", [])]))

    def states() -> list[str]:
        return [client.status(home, job)["state"] for job in options.ids]

    def is_over() -> bool:
        if options.ids and all(state in (*FINAL_STATES, "unknown") for state in states()):
            return True
        return client.runner_health(home) is None

    with (
        contextlib.suppress(KeyboardInterrupt),
        Board(
            home,
            lambda: options.ids or newest_jobs(),
            slots=lambda: [] if options.ids else shown_slots(reading.health(home.health) or {}),
            as_json=options.json,
        ) as board,
    ):
        board.follow(client.patient(is_over))
    if options.ids:
        return 0 if all(state == "succeeded" for state in states()) else 1
    if client.runner_health(home) is None:
        print_message("the runner has stopped")
    return 0
