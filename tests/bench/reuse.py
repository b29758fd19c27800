"""Measures how soon a job is answered whose images exist already, and the plan of it.

`python -m tests.bench reuse [--images N] [--json]`. N images but ten are made, on a device that
answers at once; then a job of N reuses them. The plan is that of `check`; memory is the process's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import client
from runner.catalogue import RegistryCatalogue
from runner.daemon.daemon import Daemon
from runner.daemon.tasks import reuse_counts
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.spool.inbox.assess import assess
from tests.bench.figures import Goal, shown
from tests.spool.device import FlatColours

SPEC = "kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\n"
NEW = 10
GOAL_SECONDS = 30.0


def measure(images: int) -> dict[str, Any]:
    """The seconds of the plan and of the job, and the memory that they took in MiB."""
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root))
        home.prepare()
        with Daemon(home, FlatColours()) as daemon:
            made = _seconds(daemon, "made", f"{SPEC}seeds: {{start: 0, count: {images - NEW}}}\n")
            spec = f"{SPEC}reuse: true\nseeds: {{start: 0, count: {images}}}\n"
            before = _memory()
            began = time.perf_counter()
            catalogue = RegistryCatalogue(home.settings, home.data)
            counts = reuse_counts(assess(spec.encode(), "spec.yaml", home, catalogue), home)
            planned = time.perf_counter() - began
            answered = _seconds(daemon, "reused", spec)
            record = daemon.ledger.newest("reused")
        assert counts == {"new": NEW, "reused": images - NEW, "unknown": 0}, counts
        assert record is not None and (record.done, record.reused) == (images, images - NEW), record
        return {
            "images": images,
            "made_seconds": round(made, 2),
            "plan_seconds": round(planned, 2),
            "answered_seconds": round(answered, 2),
            "memory_mib": _memory() - before,
        }


def _seconds(daemon: Daemon, job: str, spec: str) -> float:
    began = time.perf_counter()
    client.submit(daemon.home, spec.encode(), f"{job}.yaml")
    while client.status(daemon.home, job)["state"] not in FINAL_STATES:
        daemon.step(0.05)
    return time.perf_counter() - began


def _memory() -> int:
    """The most that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _told(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{report['images']:,} images, all but {NEW} of which were made before"
        f" (in {report['made_seconds']} s)",
        f"plan {report['plan_seconds']} s, answered in {report['answered_seconds']} s,"
        f" {report['memory_mib']} MiB more",
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench reuse", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    report = measure(options.images)
    goal = Goal("answered", report["answered_seconds"], GOAL_SECONDS, at_least=False, unit=" s")
    return shown(_told(report), [goal], report, as_json=options.json)
