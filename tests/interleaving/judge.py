"""What is wrong once callers and runners are done: lost, twice, torn, swallowed, wrong, illegal.

Knows what callers did, and nothing of when the runner did what. The checks of single jobs are those
of the crash suite.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from runner.settings import Home
from tests.crash import oracle
from tests.crash.scenario import Expected, Scenario
from tests.interleaving.callers import Job, Memory

_ROUNDING_SECONDS = 0.002
# A control file waits so long for its job.
_UNKNOWN_SECONDS = 60.0


def stem_of(job_id: str) -> str:
    """The stem of the file of which a job, or the one that it runs again, was made."""
    return job_id.split("-")[0]


def judge(
    root: Path, plan: Mapping[str, Job], memory: Memory, removed: Mapping[str, float],
    made: Mapping[int, str], *, colours: bool = True, soon: float = 3.0,
) -> list[str]:  # fmt: skip
    """What is wrong in a home whose runner has ended with nothing left to do.

    `removed` has the time at which control files were seen to be gone, by name; `made` the file of
    each job that was ever made, also of those forgotten since, by `seq`. Without `colours` the
    pictures were made by a model. `soon` is how many seconds after a cancel went its job may end.
    """
    found: list[str] = []
    with closing(sqlite3.connect(root / "data" / "ledger.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        rows = {row["seq"]: dict(row) for row in connection.execute("SELECT * FROM job")}
        told = [seq for (seq,) in connection.execute("SELECT seq FROM event")]
        found += [
            f"wrong: {table} has rows in the morning"
            for table in ("unanswered", "in_flight", "stuck", "quarantine")
            if connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        ]
    found += [f"twice: the end of job {n} is told" for n, c in Counter(told).items() if c > 1]
    found += [f"lost: {r['id']} is {r['state']}" for r in rows.values() if not r["finished_at"]]
    if found:
        return found
    found += [f"lost: no end of {r['id']} is told" for n, r in rows.items() if n not in told]
    sources = Counter(made[seq] for seq in {*rows, *told} if seq in made)
    wanted = Counter({plan[stem].file: 1 for stem in memory.dropped})
    # Of what was cancelled before it was planned, nothing can be run again.
    planned = {row["id"] for row in rows.values() if row["total"]}
    retries = {stem: n for stem, n in memory.retries.items() if stem in planned}
    wanted += Counter({f"{stem}.retry": n for stem, n in retries.items()})
    for name in sources.keys() | wanted.keys():
        if sources[name] != wanted[name]:
            kind = "lost" if sources[name] < wanted[name] else "twice"
            found.append(f"{kind}: {sources[name]} jobs of {name}, not {wanted[name]}")
    jobs = {row["id"]: row for row in rows.values()}
    found += [
        f"swallowed: the cancel of {stem}, which ended {jobs[stem]['state']}"
        for stem in memory.cancels.keys() & jobs.keys() & memory.dropped.keys()
        if _is_swallowed(stem, jobs[stem], memory, removed)
    ]
    found += [
        f"swallowed: the cancel of {stem}, which went on for {late:.0f} s"
        for stem in memory.cancels.keys() & jobs.keys() & memory.dropped.keys()
        if memory.dropped[stem] < memory.cancels[stem] + _UNKNOWN_SECONDS
        and (late := _ended(jobs[stem]) - removed.get(f"{stem}.cancel", inf)) > soon
    ]
    for stem in memory.kept & jobs.keys():
        if not jobs[stem]["kept"]:
            found.append(f"swallowed: the keep of {stem}")
    for name in os.listdir(root / "inbox"):
        if not name.startswith(".") and stem_of(name.split(".")[0]) in memory.dropped:
            found.append(f"swallowed: {name} is still there")
    return found + _faults_of_files(root, plan, memory, jobs, colours)


def faults_of_step(before: dict[str, Any], status: dict[str, Any]) -> list[str]:
    """What is wrong with a status after the one before it."""
    job, rise = status["id"], status["revision"] - before["revision"]
    found = []
    # What was cut short is said again, word for word.
    if rise < 0 or (rise == 0 and {**before, "updated_at": 0} != {**status, "updated_at": 0}):
        found.append(f"illegal: the revision of {job} did not rise at {status['revision']}")
    final = before["state"] in oracle.FINAL_STATES
    if final and oracle.facts(before) != oracle.facts(status):
        found.append(f"illegal: {job} was {before['state']}, then {status['state']}")
    return found


def _is_swallowed(
    stem: str, job: Mapping[str, Any], memory: Memory, removed: Mapping[str, float]
) -> bool:
    """Whether a cancel went, its job went on, and ended as if nothing had been asked."""
    gone, asked = removed.get(f"{stem}.cancel"), memory.cancels[stem]
    if gone is None or memory.dropped[stem] > asked + _UNKNOWN_SECONDS:
        return False
    return bool(job["state"] != "cancelled" and _ended(job) > gone + _ROUNDING_SECONDS)


def _ended(job: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(job["finished_at"]).timestamp()


def _faults_of_files(
    root: Path,
    plan: Mapping[str, Job],
    memory: Memory,
    jobs: Mapping[str, Mapping[str, Any]],
    colours: bool,
) -> list[str]:
    found = [f"torn: {path.name} was left" for path in root.rglob(".*.writing")
             if not path.name.startswith(".place-")]  # fmt: skip
    statuses = oracle.published(Home(root))
    for job_id, row in jobs.items():
        folder, status = root / "outbox" / job_id, statuses.get(job_id)
        if job_id in memory.without_status or (job_id in memory.meddled and not folder.exists()):
            continue
        if status is None:
            found.append(f"lost: {job_id} has no status")
        elif (status["state"], status["revision"]) != (row["state"], row["revision"]):
            found.append(f"wrong: {job_id} shows {status['state']}, is {row['state']}")
        elif (status["kept"], status["warnings"]) != (row["kept"], json.loads(row["warnings"])):
            found.append(f"wrong: {job_id} shows {status['kept']} and {status['warnings']}")
        elif job_id not in memory.meddled:
            expected = _expected(plan, memory, jobs, row)
            found += oracle.faults_of_job(folder, status, expected, colours=colours)
        else:
            found += _unsaid(folder, status)
    touched = memory.meddled | memory.without_status
    dropped = [plan[stem] for stem in memory.dropped if stem not in touched]
    drops = {job.file: job.spec for job in dropped}
    return found + oracle.faults_of_drops(Scenario("", drops, {}), Home(root), statuses)


def _unsaid(folder: Path, status: Mapping[str, Any]) -> list[str]:
    """A job whose pictures went while it ran says so, where it made any after that."""
    gone = [o["file"] for o in status["outputs"] if not (folder / o["file"]).exists()]
    said = any("no longer in the folder" in warning for warning in status["warnings"])
    if gone and not said and len(gone) < len(status["outputs"]):
        return [f"wrong: {folder.name} lists {gone}, which are not there, without a word"]
    return []


def _expected(
    plan: Mapping[str, Job], memory: Memory, jobs: Mapping[str, Mapping[str, Any]],
    row: Mapping[str, Any],
) -> Expected:  # fmt: skip
    """How a job may have ended."""
    job, state = plan[stem_of(row["id"])], row["state"]
    if state == "cancelled" and row["id"] in memory.cancels:
        return Expected(("cancelled",), (0, job.images))
    if memory.kills > 2 and row["end_reason"] == "CrashLoop":
        return Expected(("failed",), (0, job.images))
    if job.fails:
        return Expected(("failed",), (job.images - 1, job.images - 1))
    head = jobs.get(job.made_of)
    untouched = head is not None and head["id"] not in memory.meddled | memory.without_status
    if stem_of(row["id"]) in memory.meddled | memory.without_status:
        # Of a copy that is gone nothing can be made again.
        return Expected(("failed", "succeeded"), (0, job.images))
    if job.made_of and not (untouched and head and head["state"] == "succeeded"):
        return Expected(("failed", "succeeded"), (0, 1))
    return Expected(("succeeded",), (job.images, job.images))
