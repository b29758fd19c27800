"""`cancel`, `retry`, `keep`, `pause` and `resume`: write control files into the inbox."""

import argparse
from collections.abc import Mapping
from typing import Any

from runner import client
from runner.cli.output import add_verb, nearest_job, print_answer, print_message
from runner.errors import UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home, find_home

_OBEYED_SECONDS = 5.0


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    cancel = add_verb(verbs, shared, "cancel", run_cancel, "stop jobs at the next step")
    cancel.add_argument("ids", nargs="+", metavar="ID")
    retry = add_verb(verbs, shared, "retry", run_retry, "run a finished job again")
    retry.add_argument("id", metavar="ID")
    keep = add_verb(verbs, shared, "keep", run_keep, "have `clean` never remove jobs")
    keep.add_argument("ids", nargs="+", metavar="ID")
    add_verb(verbs, shared, "pause", run_hold, "let no further image start")
    add_verb(verbs, shared, "resume", run_hold, "let images start again")


def run_cancel(options: argparse.Namespace) -> int:
    """Cancel jobs and print the outcome of each; an ID may also be the file name of a drop."""
    home = find_home(options.home, tell=print_message)
    before = {named: client.status(home, client.job_of(home, named)) for named in options.ids}
    over = {job_id for job_id, status in before.items() if status["state"] in FINAL_STATES}
    drops = {job_id: client.cancel(home, job_id) for job_id in options.ids if job_id not in over}
    running = client.runner_health(home) is not None
    outcomes = []
    for job_id in options.ids:
        status = before[job_id]
        if job_id in drops and running and status["state"] != "unknown":
            client.wait_until_obeyed(home, drops[job_id], _OBEYED_SECONDS)
            status = client.wait_until_over(home, client.job_of(home, job_id), _OBEYED_SECONDS)
        outcomes.append({"id": job_id, "state": status["state"], "was_over": job_id in over})
    lines = [f"{outcome['id']}: {_outcome_text(home, outcome)}" for outcome in outcomes]
    print_answer(options, {"jobs": outcomes}, *lines)
    _tell_when(options, running=running or not drops)
    return 0


def _tell_when(options: argparse.Namespace, *, running: bool) -> None:
    if not (running or options.json):
        print_message("no runner is running: it will be obeyed when one starts")


def _outcome_text(home: Home, outcome: Mapping[str, Any]) -> str:
    state = outcome["state"]
    if outcome["was_over"]:
        return f"was over already: {state}"
    if state == "unknown":
        near = nearest_job(home, outcome["id"])
        return f"no job or drop of this name yet; one that comes in a minute is cancelled ({near})"
    return "cancelled" if state == "cancelled" else f"asked; it is {state}"


def run_retry(options: argparse.Namespace) -> int:
    """Ask for a finished job to be run again; print its new id once a runner has taken it."""
    home = find_home(options.home, tell=print_message)
    state = client.status(home, options.id)["state"]
    if state not in ("succeeded", "failed", "cancelled"):
        step = {
            "unknown": nearest_job(home, options.id),
            "rejected": "mend its spec and drop it again",
        }.get(state, f"wait for its end: `fluxdrop watch {options.id}`")
        raise UsageProblem(
            "only a job that succeeded, failed or was cancelled can be run again; "
            f"{options.id} is {state}: {step}"
        )
    drop = client.retry(home, options.id)
    receipt = None
    if client.runner_health(home) is not None:
        receipt = client.wait_for_receipt(home, drop, _OBEYED_SECONDS)
    if receipt is None:
        print_message("no runner has taken it yet: it will be obeyed when one runs")
    refused = receipt is not None and receipt["outcome"] == "rejected"
    if refused:
        print_message(f"{options.id} cannot be run again: drop its spec again")
    jobs = [receipt["job"]] if receipt and not refused else []
    print_answer(options, {"jobs": jobs}, *jobs)
    return 1 if refused else 0


def run_keep(options: argparse.Namespace) -> int:
    """Ask for jobs to be kept; one that is not over yet is kept when it is."""
    home = find_home(options.home, tell=print_message)
    states = {job_id: client.status(home, job_id)["state"] for job_id in options.ids}
    if unknown := [job_id for job_id, state in states.items() if state == "unknown"]:
        raise UsageProblem(f"no job is named {', '.join(unknown)}: {nearest_job(home, unknown[0])}")
    drops = {job_id: client.keep(home, job_id) for job_id in states}
    running = client.runner_health(home) is not None
    texts = dict.fromkeys(drops, "kept, whatever `clean` removes")
    for job_id, drop in drops.items():
        if states[job_id] not in FINAL_STATES:
            texts[job_id] = "will be kept when it ends"
        elif running and not client.wait_until_obeyed(home, drop, _OBEYED_SECONDS):
            texts[job_id] = "asked to be kept; the runner has not obeyed yet"
        elif running and client.receipt(home, drop):
            texts[job_id] = "cannot be kept: nothing is left of it"
    refused = {job_id for job_id, text in texts.items() if text.startswith("cannot")}
    jobs = [job_id for job_id in states if job_id not in refused]
    print_answer(options, {"jobs": jobs}, *(f"{job_id}: {text}" for job_id, text in texts.items()))
    _tell_when(options, running=running)
    return 1 if refused else 0


def run_hold(options: argparse.Namespace) -> int:
    """Pause this home's runner, or let it go on."""
    home = find_home(options.home, tell=print_message)
    if options.verb == "pause":
        client.pause(home)
        text = "paused: the image in hand is finished, then nothing starts"
    else:
        client.resume(home)
        text = "images start again"
    print_answer(options, {"ok": True}, text)
    return 0
