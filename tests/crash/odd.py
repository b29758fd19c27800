"""Odd drops beside good specs, in this process by the thousand and through real runners."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from runner.launch import command
from runner.settings import Home
from runner.spool.store.names import is_control
from tests.crash.scenario import Point
from tests.spool import odd
from tests.spool.inbox.test_odd_drops import play

_SETTINGS = "settle_seconds: 0.0\nsettle_seconds_unknown: 0.1\ninput_wait_seconds: 1\n"
_PATIENCE_SECONDS = 300.0
_LOOK_SECONDS = 0.2
# The health file lists 20 faults: no more may be made of what only it can name.
_THROUGH_RUN = 40


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """Fifty seeds in this process and ten through real runners, or one through real runners."""
    reason = odd.why_not()
    if reason is not None:
        print(f"odd: not played: {reason}")
        return
    for seed in range(50) if most is None else ():
        yield Point(f"400 odd drops of seed {seed}", _in_process, (1000 + seed, 400))
    for seed in range(10 if most is None else most):
        told = f"{_THROUGH_RUN} odd drops of seed {seed} through `run`"
        yield Point(told, _through_run, (seed, _THROUGH_RUN, most is not None))


def _in_process(folder: Path, seed: int, count: int) -> list[str]:
    with (
        mock.patch("runner.spool.inbox.settle._EMPTY_SECONDS", 0.0),
        mock.patch("runner.spool.inbox.settle._UNREADABLE_SECONDS", 0.0),
        mock.patch("runner.spool.inbox.control._UNKNOWN_SECONDS", 0.0),
    ):
        return play(folder / "home", seed, count)


def _through_run(folder: Path, seed: int, count: int, quick: bool) -> list[str]:
    """Drop, run, drop more, kill and run again; `quick` without what takes a minute."""

    def too_slow(each: odd.Odd) -> bool:
        minutes = each.kind == "socket" or (each.kind == "file" and not each.data)
        return minutes or (quick and is_control(each.text))

    home = Home(folder / "home")
    subprocess.run([*command(), "init", str(home.root)], check=True, capture_output=True)
    (home.root / "fluxdrop.yaml").write_text(_SETTINGS, encoding="utf-8")
    drops = [
        each for each in odd.odd_drops(seed, count, without=too_slow) if odd.put(each, home.inbox)
    ]
    found: list[str] = []
    for start in (0, odd.GOOD):
        jobs = odd.put_good(home.inbox, start)
        log = (folder / "log").open("ab")
        with (
            log,
            subprocess.Popen(
                [*command(), "--home", str(home.root), "run", "--one-process"],
                stdout=log,
                stderr=log,
            ) as run,
        ):
            try:
                found += _wait(home, jobs, drops, run)
            finally:
                run.kill()
    return found


def _wait(
    home: Home, jobs: list[str], drops: list[odd.Odd], run: subprocess.Popen[bytes]
) -> list[str]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        states = {job: _json(home.job(job) / "status.json").get("state") for job in jobs}
        health = _json(home.health)
        named = {fault["file"] for fault in health.get("faults", ()) if health["pid"] == run.pid}
        missing = odd.unanswered(drops, home, named)
        if all(state == "succeeded" for state in states.values()) and not missing:
            return []
        if run.poll() is not None:
            return [f"lost: the runner ended with {run.returncode}"]
        if time.monotonic() > deadline:
            found = [f"lost: {job} is {s}" for job, s in states.items() if s != "succeeded"]
            return found + [f"lost: {name} {why}" for name, why in missing.items()]
        time.sleep(_LOOK_SECONDS)


def _json(file: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value
