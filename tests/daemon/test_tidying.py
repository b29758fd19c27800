"""Retention in a running runner: at idle, a step at a time, and forgotten afterwards."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from runner.gallery.store import FOLDER, Gallery
from tests.daemon.columns import daemon_of
from tests.spool.conftest import Spool

REDUX = "kind: redux\nmodel: tiny\nimage: outbox/needed/needed-0001.png\n"


def keep_only(spool: Spool, **retention: Any) -> None:
    """As a changed settings file does."""
    home = daemon_of(spool).home
    home.take_up(replace(home.settings, retention=retention), ["retention"])


def test_jobs_beyond_the_limit_go_and_are_forgotten_but_for_kept_and_needed_ones(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon.HEALTH_SECONDS", 0.05)
    for job in ("first", "kept", "needed", "last"):
        spool.drop(f"{job}.yaml")
        spool.end(job)
    spool.drop("kept.keep", b"")
    spool.gone("kept.keep")
    spool.drop("waits.yaml", f"{REDUX}not_before: 2999-01-01T00:00:00Z\n")
    spool.gone("waits.yaml")
    keep_only(spool, count=1)
    spool.until(lambda: not spool.home.job("first").exists())
    spool.until(lambda: daemon_of(spool).ledger.newest("first") is None)
    assert {"kept", "needed", "last"} <= {path.name for path in spool.home.outbox.iterdir()}
    gallery = Gallery(spool.home.data / FOLDER)
    assert gallery.get("first-0001") is None and gallery.get("last-0001") is not None
    gallery.close()


def test_a_removal_that_a_kill_cut_short_is_finished_by_the_next_runner(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon.HEALTH_SECONDS", 0.05)
    for job in ("gone", "there"):
        spool.drop(f"{job}.yaml")
        spool.end(job)
    aside = spool.home.outbox / ".removing-gone"
    spool.home.job("gone").rename(aside)
    spool.restart()
    keep_only(spool, days=1)
    spool.until(lambda: not aside.exists())
    spool.until(lambda: daemon_of(spool).ledger.newest("gone") is None)
    assert daemon_of(spool).ledger.newest("there") is not None


def test_a_removal_waits_while_the_runner_works_and_ends_with_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.daemon.HEALTH_SECONDS", 0.05)
    spool.drop("stays.yaml")
    spool.end("stays")
    asked = itertools.count()
    monkeypatch.setattr(daemon_of(spool)._tidying, "_is_idle", lambda: next(asked) < 0)
    keep_only(spool, count=0)
    spool.until(lambda: next(asked) > 2)
    assert "tidying" in daemon_of(spool).home.threads.still()
    spool.restart()
    assert spool.home.job("stays").exists()
