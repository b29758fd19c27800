"""`cancel` and `retry`: which drop a name means, and what is answered."""

from __future__ import annotations

import json

import pytest

from runner import client
from runner.settings import Home
from tests.cli.here import Here
from tests.harness import spec
from tests.planted import STATUS


def has_ended(here: Here, job: str, drop: str, **status: object) -> None:
    """A job that is over, and the receipt of its drop."""
    receipt = {"name": drop, "job": job, "outcome": "accepted", "at": "2026-11-29T07:00:00.000Z"}
    for file, value in ((f"{job}/status.json", STATUS | status), (f"drops/{drop}.json", receipt)):
        path = here.home / "outbox" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("drop", ["hero.yaml", "Hero.yaml", "hero~0123456789ab.yaml"])
def test_a_cancel_by_a_files_name_means_the_one_in_the_inbox_not_its_older_job(
    here: Here, drop: str
) -> None:
    """Seen red: `was over already: succeeded`, and no control file."""
    has_ended(here, "hero", "hero.yaml")
    assert "was over already: succeeded" in here("cancel", "hero.yaml").out
    (here.home / "inbox" / drop).write_text(spec(), encoding="utf-8")
    done = here("cancel", "hero.yaml")
    assert done.code == 0 and "asked; it is submitted" in done.out, done
    assert (here.home / "inbox" / "hero.yaml.cancel").exists()


def test_a_cancel_of_a_job_that_is_over_promises_nothing(here: Here) -> None:
    """Seen red: `it will be obeyed when one starts`."""
    has_ended(here, "hero", "hero.yaml")
    done = here("cancel", "hero")
    assert "was over already" in done.out and done.err == ""


def test_a_cancel_of_a_spec_that_is_dropped_again_after_it_was_never_planned_is_written(
    here: Here,
) -> None:
    """Seen red: `was over already: cancelled`, and no control file."""
    counts = dict.fromkeys(STATUS["images"], 0)
    has_ended(here, "night", "night.yaml", state="cancelled", images=counts)
    assert "was over already: cancelled" in here("cancel", "night").out
    (here.home / "inbox" / "night.yaml").write_text(spec(), encoding="utf-8")
    assert "asked; it is submitted" in here("cancel", "night").out
    assert (here.home / "inbox" / "night.cancel").exists()


def test_a_retry_that_is_refused_ends_with_1_and_says_so(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the old id and 0."""
    has_ended(here, "night", "night.yaml", state="cancelled")

    def acts(home: Home) -> dict[str, str]:
        for file in home.inbox.glob("*.retry"):
            answer = {"name": file.name, "job": "night", "outcome": "rejected"}
            (home.drops / f"{file.name}.json").write_text(json.dumps(answer))
            file.unlink()
        return {"state": "idle"}

    monkeypatch.setattr(client, "runner_health", acts)
    done = here("retry", "night")
    assert (done.code, done.out) == (1, "") and "night cannot be run again" in done.err
    assert here("retry", "night", "--json").json == {"jobs": []}


def test_a_job_is_kept_by_its_id_and_one_that_is_not_known_is_said(here: Here) -> None:
    has_ended(here, "hero", "hero.yaml")
    done = here("keep", "hero")
    assert done.code == 0 and "hero: kept" in done.out
    assert (here.home / "inbox" / "hero.keep").exists()
    never = here("keep", "hero", "never")
    assert never.code == 2 and "no job is named never" in never.err


def test_a_keep_that_is_refused_or_comes_early_is_told_as_that(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: `kept` for both, and 0."""
    has_ended(here, "gone", "gone.yaml")
    has_ended(here, "early", "early.yaml", state="running")

    def acts(home: Home) -> dict[str, str]:
        for file in home.inbox.glob("gone*.keep"):
            answer = {"name": file.name, "job": "gone", "outcome": "rejected"}
            (home.drops / f"{file.name}.json").write_text(json.dumps(answer))
            file.unlink()
        return {"state": "idle"}

    monkeypatch.setattr(client, "runner_health", acts)
    done = here("keep", "gone", "early")
    assert done.code == 1 and "gone: cannot be kept" in done.out, done
    assert "early: will be kept when it ends" in done.out
    assert here("keep", "gone", "early", "--json").json == {"jobs": ["early"]}
