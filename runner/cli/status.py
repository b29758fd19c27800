"""`status`: the state of jobs and of the runner, read from the home's files only."""

import argparse
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from runner import client, reading
from runner.cli.output import (
    add_verb,
    counts_of_states,
    file_lines,
    job_line,
    nearest_job,
    print_json,
    print_message,
    runner_line,
    show,
    shown_slots,
    slot_line,
)
from runner.errors import UsageProblem
from runner.files import is_there
from runner.holds import disk_hold
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.spool.disk.locks import holder_of

_MOST_PICTURES = 10


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    status = add_verb(verbs, shared, "status", run_status, "what a job, or the runner, does")
    status.add_argument("id", nargs="?", metavar="ID")


def run_status(options: argparse.Namespace) -> int:
    """Print one job's status, or the runner's summary.

    The summary comes from the health file; the jobs' status files are not read for it.
    """
    home = find_home(options.home, tell=print_message)
    if options.id:
        return _print_status(options, home, client.status(home, options.id))
    running = client.runner_health(home)
    is_here = running and (running["host"], running["system"]) == (platform.node(), sys.platform)
    holder = holder_of(home) if running and is_here else None
    if running and holder not in (None, running["pid"]):
        # The runner that wrote it has died, and a command that renders holds the home.
        running = None
    summary = running or reading.health(home.health) or {}
    if running is None:
        # Jobs went on after a runner that was killed had written its last summary, or were removed.
        recent = (job for job in summary.get("recent", ()) if is_there(home.job(job["id"])))
        summary["recent"] = [_as_published(home, job) for job in recent]
    waiting = _specs_in_inbox(home)
    from runner.cli.overlooked import overlooked

    not_taken = [{"file": file, "why": why} for file, why in overlooked(home)]
    outdated = client.outdated_runner(home) if running else None
    if options.json:
        more = {"running": running is not None, "inbox": waiting, "not_taken": not_taken}
        more |= {"outdated": outdated}
        print_json({**summary, **more})
        return 0
    if running:
        show(runner_line(running))
        if running["note"]:
            show(running["note"])
        for slot in shown_slots(running):
            show(slot_line(slot))
        for fault in running["faults"]:
            show(f"set aside: {fault['file']}: {fault['message']}")
        if outdated:
            show(outdated)
    else:
        numbers = summary["recent"] and counts_of_states(summary)
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
    if options.verb is None:
        show(f"next: {_next_step(home, summary, waiting, is_running=bool(running))}")
    return 0


def run_overview(options: argparse.Namespace) -> int:
    """Print where the home stands and the next step; outside of one what this is."""
    options.id = None
    try:
        find_home(options.home, tell=lambda text: None)
    except UsageProblem:
        if not options.json:
            show("Drop a YAML file into a folder, get a picture; `fluxdrop --help` says how.")
        raise
    return run_status(options)


def _next_step(home: Home, summary: Mapping[str, Any], waiting: int, *, is_running: bool) -> str:
    queued = waiting + summary.get("queued", 0)
    if is_running and (summary["job"] or queued):
        return "`fluxdrop watch` shows the work"
    if queued:
        return f"`fluxdrop run` takes the {queued:,} that wait"
    if not summary.get("recent"):
        return "`fluxdrop demo`"
    return f"`fluxdrop submit FILE` drops a spec; the pictures are on {home.outbox / 'index.html'}"


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


def _print_status(options: argparse.Namespace, home: Home, status: dict[str, Any]) -> int:
    if options.json:
        print_json(status)
    elif status["state"] == "unknown":
        show(f"{status['id']} is unknown: {nearest_job(home, status['id'])}")
    else:
        show(job_line(status))
        for error in status.get("errors", []):
            path = f"{error['path']}: " if error["path"] else ""
            show(f"  line {error['line']}, column {error['column']}: {path}{error['message']}")
        for warning in status.get("warnings", []):
            show(f"  warning: {warning}")
        for line in file_lines(home, status, _MOST_PICTURES):
            show(line)
    return 1 if status["state"] in ("failed", "rejected", "unknown") else 0
