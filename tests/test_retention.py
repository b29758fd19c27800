"""Which finished jobs may go, in which order, by which limits."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from runner.retention import Job, choose, remove, survey
from runner.settings import Home
from runner.spool.disk.disk import Disk
from tests.gallery.samples import put_json, status

NOW = 1_000_000.0
DAY = 86_400
JOBS = [
    Job("old", "succeeded", NOW - 40 * DAY, 10**9),
    Job("failed", "failed", NOW - 30 * DAY, 10**9),
    Job("new", "succeeded", NOW - DAY, 10**9),
    Job("refused", "rejected", NOW - DAY / 2, 10**9),
]


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        ({}, []),
        ({"days": 35}, ["old"]),
        ({"days": 0}, ["refused", "old", "failed", "new"]),
        ({"gb": 3}, ["refused"]),
        ({"gb": 2.5}, ["refused", "old"]),
        ({"count": 1}, ["refused", "old", "failed"]),
        ({"count": 3, "days": 35}, ["refused", "old"]),
        ({"count": 4, "gb": 4}, []),
    ],
)
def test_rejected_ones_go_first_and_then_the_oldest_until_no_limit_is_passed(
    monkeypatch: pytest.MonkeyPatch, retention: dict[str, Any], gone: list[str]
) -> None:
    monkeypatch.setattr("runner.retention.now", lambda: NOW)
    assert [job.id for job in choose(reversed(JOBS), retention)] == gone


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    for name in ("a", "b"):
        home.job(name).mkdir()
        put_json(home.job(name) / "status.json", status(1, job=name))
    return home


def ids(home: Home, **retention: Any) -> set[str]:
    return {job.id for job in survey(home, retention, print)}


def test_only_jobs_of_the_states_that_are_named_count_and_may_go(home: Home) -> None:
    put_json(home.job("b") / "status.json", status(1, job="b") | {"state": "failed"})
    assert ids(home, count=0) == {"a", "b"}
    assert ids(home, count=0, states=["failed", "rejected"]) == {"b"}


def test_what_a_job_needs_that_came_meanwhile_stays(home: Home) -> None:
    """Seen red: it was looked for once, before the first removal."""
    jobs = sorted(survey(home, {}, print), key=lambda job: job.id)
    home.drops.mkdir()
    os.utime(home.drops, (1, 1))
    turns = itertools.count()

    def come() -> None:
        if next(turns) == 1:
            home.job("new").mkdir()
            (home.job("new") / "spec.yaml").write_text("image: outbox/b/b-0001.png\n")
            put_json(home.job("new") / "status.json", status(1, job="new") | {"state": "queued"})
            put_json(home.drops / "new.yaml.json", {})

    assert remove(home, Disk(home.outbox), jobs, come) == []
    assert not home.job("a").exists() and home.job("b").exists()
