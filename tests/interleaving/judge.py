"""What is wrong once callers and runners are done: lost, twice, torn, swallowed, wrong, illegal.

Knows what callers did, and nothing of when the runner did what. The checks of single jobs are those
of the crash suite.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from runner.gallery.store import FOLDER, Gallery
from runner.settings import Home
from runner.spool.store.ledger import MOST_LOSSES
from tests.crash import oracle
from tests.crash.scenario import Expected, Scenario
from tests.interleaving.callers import Job, Memory

_ROUNDING_SECONDS = 0.002
# A control file waits so long for its job.
_UNKNOWN_SECONDS = 60.0
# By so much a start after a kill lifts a revision.
_LIFT = 1000


def stem_of(job_id: str) -> str:
    """The stem of the file of which a job, or the one that it runs again, was made."""
    return job_id.split("-")[0]


def judge(
    root: Path, plan: Mapping[str, Job], memory: Memory, removed: Mapping[str, Sequence[float]],
    made: Mapping[int, str], *, colours: bool = True, soon: float = 3.0,
) -> list[str]:  # fmt: skip
    """What is wrong in a home whose runner has ended with nothing left to do.

    `removed` has the times at which control files were seen to be gone, by name; `made` the file of
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
    jobs = {row["id"]: row for row in rows.values()}
    wanted = Counter({plan[stem].file: 1 for stem in memory.dropped})
    wanted += Counter({f"{stem}.retry": n for stem, n in memory.retries.items()})
    for name in sources.keys() | wanted.keys():
        refused = name.endswith(".retry") and _is_refused(root, name, jobs)
        if sources[name] > wanted[name] or (sources[name] < wanted[name] and not refused):
            kind = "lost" if sources[name] < wanted[name] else "twice"
            found.append(f"{kind}: {sources[name]} jobs of {name}, not {wanted[name]}")
    for stem in memory.cancels.keys() & jobs.keys():
        for asked, gone in _cancels(stem, memory, removed):
            found += _faults_of_cancel(jobs[stem], memory.dropped[stem], asked, gone, soon)
    for stem in memory.kept & jobs.keys():
        # Nothing is left to keep of a job whose folder callers removed: that is answered.
        refused = stem in memory.meddled and _answer(root, f"{stem}.keep") == "rejected"
        if not (jobs[stem]["kept"] or refused):
            found.append(f"swallowed: the keep of {stem}")
    for name in os.listdir(root / "inbox"):
        stem = stem_of(name.split(".")[0])
        # A cancel waits a minute for the next drop of an id that its job has left.
        left = stem in memory.meddled or not (jobs.get(stem) or {"total": 0})["total"]
        waits = left and name.endswith(".cancel")
        if not name.startswith(".") and stem in memory.dropped and not waits:
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


def _is_refused(root: Path, name: str, jobs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a retry was answered with no: its job was never planned, or `clean` forgot it.

    A plan is there from the acceptance on, but where a cancel came before the spec was composed.
    """
    job = jobs.get(stem_of(name.split(".")[0]), {"state": "cancelled", "total": 0})
    return _answer(root, name) == "rejected" and (job["state"], job["total"]) == ("cancelled", 0)


def _answer(root: Path, name: str) -> str | None:
    """The outcome in the receipt of a file; None where there is none."""
    receipt = root / "outbox" / "drops" / f"{name}.json"
    return json.loads(receipt.read_bytes())["outcome"] if receipt.exists() else None


def _cancels(
    stem: str, memory: Memory, removed: Mapping[str, Sequence[float]]
) -> Iterator[tuple[float, float]]:
    """When each cancel of a job came, and when it had gone; those that stay are found otherwise."""
    asked = memory.cancels[stem]
    for at, following in zip(asked, (*asked[1:], inf), strict=True):
        # A removal that a kill cut short is done again.
        gone = [time for time in removed.get(f"{stem}.cancel", ()) if at <= time < following]
        if gone:
            yield at, max(gone)


def _faults_of_cancel(
    job: Mapping[str, Any], dropped: float, asked: float, gone: float, soon: float
) -> list[str]:
    name = f"swallowed: the cancel of {job['id']}"
    if gone < dropped or dropped > asked + _UNKNOWN_SECONDS:
        # Nobody knew the job yet: it was kept for a minute, and need not be for longer, though it
        # may only be noticed by then.
        early = gone < asked + _UNKNOWN_SECONDS
        return [f"{name}, gone after {gone - asked:.0f} s, before its job came"] if early else []
    late = _ended(job) - gone
    if job["state"] != "cancelled" and late > _ROUNDING_SECONDS:
        return [f"{name}, which ended {job['state']}"]
    return [f"{name}, which went on for {late:.0f} s"] if late > soon else []


def _ended(job: Mapping[str, Any]) -> float:
    return _moment(job["finished_at"])


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


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
        folder, expected = root / "outbox" / job_id, _expected(plan, memory, jobs, row)
        # Only the first attempt, and those after the death of a process, are counted.
        if row["attempt"] > 1 + _deaths(row, memory):
            found.append(f"illegal: {job_id} took {row['attempt']} attempts")
        if row["state"] not in expected.states:
            found.append(f"wrong: {job_id} is {row['state']} ({row['end_message']})")
        if job_id in memory.meddled and not folder.exists():
            continue
        status = statuses.get(job_id) or memory.without_status.get(job_id)
        if status is None:
            found.append(f"lost: {job_id} has no status")
        elif status["state"] != row["state"] or not _is_revision(status["revision"], row):
            found.append(f"wrong: {job_id} shows {status['state']}, is {row['state']}")
        elif (status["kept"], status["warnings"]) != (row["kept"], json.loads(row["warnings"])):
            found.append(f"wrong: {job_id} shows {status['kept']} and {status['warnings']}")
        elif job_id not in memory.meddled:
            found += oracle.faults_of_job(folder, status, expected, colours=colours)
        else:
            found += _unsaid(folder, status)
        if job_id in statuses:
            # A rebuild takes a folder without a status for no job.
            found += _lacking_in_gallery(root, folder)
    # Receipts stay where callers have removed what they name.
    sources = {job_id: {"source": {"sha256": r["source_sha256"]}} for job_id, r in jobs.items()}
    statuses = {**statuses, **sources}
    drops = {plan[stem].file: plan[stem].spec for stem in memory.dropped if stem in jobs}
    return found + oracle.faults_of_drops(Scenario("", drops, {}), Home(root), statuses)


def _is_revision(revision: int, row: Mapping[str, Any]) -> bool:
    """Whether a status has its row's revision.

    A start after a kill lifts that of the row alone, where the status shows the row already.
    """
    lifted = row["revision"] - revision
    return lifted == 0 or (lifted >= _LIFT and bool(row["shown"] >= row["version"]))


def _lacking_in_gallery(root: Path, folder: Path) -> list[str]:
    gallery = Gallery(root / "data" / FOLDER)
    names = sorted(file.stem for file in folder.glob(f"{folder.name}-[0-9]*.json"))
    return [f"lost: the gallery lacks {name}" for name in names if gallery.get(name) is None]


def _unsaid(folder: Path, status: Mapping[str, Any]) -> list[str]:
    """A job whose pictures went while it ran says so, where it made any after that."""
    gone = [o["file"] for o in status["outputs"] if not (folder / o["file"]).exists()]
    said = any("no longer in the folder" in warning for warning in status["warnings"])
    if gone and not said and len(gone) < len(status["outputs"]):
        return [f"wrong: {folder.name} lists {gone}, which are not there, without a word"]
    return []


def _deaths(job: Mapping[str, Any], memory: Memory) -> int:
    """How often the runner was killed, unless it was stopping, from a job's start to its end."""
    if not job["started_at"]:
        return 0
    began = _moment(job["started_at"])
    return sum(began - _ROUNDING_SECONDS <= at <= _ended(job) for at in memory.kills)


def _expected(
    plan: Mapping[str, Job], memory: Memory, jobs: Mapping[str, Mapping[str, Any]],
    row: Mapping[str, Any],
) -> Expected:  # fmt: skip
    """How a job may have ended."""
    job, state = plan[stem_of(row["id"])], row["state"]
    if state == "cancelled" and min(memory.cancels.get(row["id"], [inf])) <= _ended(row):
        return Expected(("cancelled",), (0, job.images))
    losses = _deaths(row, memory) + memory.losses[row["id"]]
    if losses >= MOST_LOSSES and row["end_reason"] == "CrashLoop":
        return Expected(("failed",), (0, job.images))
    if job.fails:
        return Expected(("failed",), (job.images - 1, job.images - 1))
    head = jobs.get(job.made_of)
    untouched = head is not None and head["id"] not in memory.meddled
    if job.made_of and stem_of(row["id"]) in memory.meddled:
        # Of a copy that is gone nothing can be made again.
        return Expected(("failed", "succeeded"), (0, job.images))
    if job.made_of and not (untouched and head and head["state"] == "succeeded"):
        return Expected(("failed", "succeeded"), (0, 1))
    return Expected(("succeeded",), (job.images, job.images))
