"""`run`, `drain` and `demo`: the verbs under which this process is the runner."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner import client
from runner.cli.output import print_json, print_line, say
from runner.errors import RunnerNeeded, UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home, find_home

# Left on purpose: done, wrong usage, nothing running, busy, Ctrl-C.
_MEANT = frozenset({0, 2, 69, 75, 130})
_HALTED = "{}; then run `fluxdrop demo` again"
STORY = ("draw", "edit", "repaint", "outline", "vary")


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    demo = verbs.add_parser("demo", parents=[shared], help="run one job of each kind, here and now")
    demo.set_defaults(run=run_demo)
    run = verbs.add_parser("run", parents=[shared], help="watch the inbox until stopped")
    run.set_defaults(run=run_run)
    drain = verbs.add_parser("drain", parents=[shared], help="run what is there, then leave")
    drain.add_argument("--until", metavar="HH:MM", help="leave at this hour; wait for windows")
    drain.set_defaults(run=run_drain)
    for verb in (run, drain):
        alone = "without the process that starts it again when a driver or lack of memory ends it"
        verb.add_argument("--one-process", action="store_true", help=alone)


def run_run(options: argparse.Namespace) -> int:
    """Watch and work until SIGINT or SIGTERM."""
    if not options.one_process:
        return _kept_running(options, "run", meant=_MEANT)
    from runner.daemon.daemon import stopping_on_signals

    home = _prepared(options)
    with _opened(home) as daemon:
        if not options.json:
            say(f"watching {home.inbox} (Ctrl-C stops)")
        with stopping_on_signals(daemon), _board(home, daemon, options) as board:
            board.follow_aside()
            daemon.serve()
    _leave_if_lost(daemon)
    return 0


def run_drain(options: argparse.Namespace) -> int:
    """Work until nothing is left that can run."""
    if not options.one_process:
        hour = ["--until", options.until] if options.until else []
        return _kept_running(options, "drain", *hour, meant=_MEANT | {1})
    from runner.daemon.daemon import stopping_on_signals

    home = _prepared(options)
    until = _moment(options.until) if options.until else None
    with _opened(home) as daemon:
        with stopping_on_signals(daemon), _board(home, daemon, options) as board:
            board.follow_aside()
            outcome = daemon.drain(until=until)
    _leave_if_lost(daemon)
    counts = {str(state): n for state, n in outcome.counts.items()}
    if options.json:
        print_line({"counts": counts, "note": outcome.note})
    else:
        say(", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing to do")
        if outcome.note:
            say(outcome.note)
    return 0 if outcome.all_well else 1


def _kept_running(options: argparse.Namespace, *verb: str, meant: frozenset[int]) -> int:
    """Run the same verb in a process that is started again until it ends as it is meant to."""
    from runner.daemon.supervisor import keep_running

    home = find_home(options.home)
    if "--until" in verb:
        _moment(verb[-1])
    more = ["--json"] if options.json else []
    return keep_running(
        [*verb, "--one-process", "--home", str(home.root), *more], meant=meant, say=say
    )


def run_demo(options: argparse.Namespace) -> int:
    """Drop the example specs, run them, and name the pictures."""
    home = _prepared(options)
    if client.runner_health(home) is not None:
        jobs = _tell_story(home, lambda: _wait_for_runner(home), options)
    else:
        # Ctrl-C leaves by exception: `close` then puts back what is in hand.
        with _opened(home) as daemon:
            jobs = _tell_story(home, lambda: _turn(daemon), options)
    statuses = [client.status(home, job) for job in jobs]
    if options.json:
        print_json({"jobs": jobs, "statuses": statuses})
    else:
        _name_pictures(home, statuses)
    return 0 if all(status["state"] == "succeeded" for status in statuses) else 1


def _turn(daemon: Any) -> None:
    daemon.work(0.1)
    if daemon.worker.hold is not None and daemon.worker.idle:
        raise UsageProblem(_HALTED.format(daemon.worker.hold.message))
    if daemon.worker.lost is not None:
        daemon.close()
        _leave_if_lost(daemon)


def _leave_if_lost(daemon: Any) -> None:
    """End the process where its device is beyond help: a thread that hangs would hold it back."""
    code = daemon.worker.lost
    if code is not None:
        say("the device answers nothing any more; see `fluxdrop doctor`")
        sys.stdout.flush()
        os._exit(code)


def _wait_for_runner(home: Home) -> None:
    health = client.runner_health(home)
    if health is None:
        raise RunnerNeeded("the runner has stopped: run `fluxdrop demo` again")
    if health["state"] == "paused":
        raise UsageProblem(_HALTED.format(health["note"]))
    time.sleep(0.05)


def _tell_story(home: Home, turn: Callable[[], object], options: argparse.Namespace) -> list[str]:
    """Drop the examples, each reading the first one's picture, and follow them to their ends."""
    import specs
    from runner.cli.progress import Board

    examples = Path(specs.__file__).parent / "examples"
    jobs: list[str] = []
    with Board(home, lambda: [] if options.json else jobs) as board:
        board.follow_aside()
        for name in STORY:
            file = examples / f"{name}.yaml"
            data = file.read_bytes()
            if jobs:
                # Another job may have the name `draw` already: read this story's own picture.
                data = data.replace(b"outbox/draw/draw-", f"outbox/{jobs[0]}/{jobs[0]}-".encode())
            client.bring_images(home, file, data)
            drop = client.submit(home, data, file.name)
            jobs.append(_until(lambda drop=drop: client.receipt(home, drop), turn)["job"])  # type: ignore[misc]
        _until(lambda: all(_is_over(home, job) for job in jobs) or None, turn)
    return jobs


def _until(look: Callable[[], Any], turn: Callable[[], object]) -> Any:
    while (found := look()) is None:
        turn()
    return found


def _is_over(home: Home, job: str) -> bool:
    return client.status(home, job)["state"] in FINAL_STATES


def _name_pictures(home: Home, statuses: list[dict[str, Any]]) -> None:
    for status in statuses:
        folder = os.path.relpath(home.job(status["id"]))
        if status["outputs"]:
            print(f"{status['kind']:<9} {folder}{os.sep}{status['outputs'][0]['file']}")
        else:
            print(f"{status['kind']:<9} {status['state']}: {status['message']}")
    print(f"contact sheet: {os.path.relpath(home.job(statuses[0]['id']) / 'index.html')}")


def _prepared(options: argparse.Namespace) -> Home:
    import logging

    level = logging.INFO if os.environ.get("FLUXDROP_DEBUG") else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s")
    # A person who read of a fault waits for its end, which is no error.
    logging.getLogger("runner.log_once").setLevel(logging.INFO)
    home = find_home(options.home)
    home.prepare()
    return home


def _opened(home: Home) -> Any:
    from runner.daemon.daemon import Daemon, gpu_thread
    from runner.engine.memory.machine import gpu_in_use

    gpu = gpu_in_use(home.settings.device)
    return Daemon(home, gpu_thread, gpu=gpu)


def _board(home: Home, daemon: Any, options: argparse.Namespace) -> Any:
    from runner.cli.progress import Board

    return Board(home, daemon.newest_jobs, as_json=options.json)


def _moment(text: str) -> float:
    from datetime import datetime, timedelta

    try:
        hour, minute = (int(part) for part in text.split(":"))
        now = datetime.now().astimezone()
        moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    except ValueError:
        raise UsageProblem(f"--until takes an hour like 07:00, not {text!r}") from None
    return (moment if moment > now else moment + timedelta(days=1)).timestamp()
