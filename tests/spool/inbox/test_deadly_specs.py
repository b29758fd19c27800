"""A spec whose reading ends the process is found out, and no other is blamed for it."""

from __future__ import annotations

from typing import Any

import pytest

from runner.spool.inbox.assess import Assessment, assess
from runner.spool.inbox.compose_process import ComposeProcess
from runner.spool.inbox.settle import Drop
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again


def die_while_reading(spool: Spool, monkeypatch: pytest.MonkeyPatch, poison: bytes = b"") -> None:
    """Start a daemon that ends while it reads the first spec in which `poison` stands."""

    class Died(BaseException):
        """Stands for the end of the process."""

    def deadly(data: bytes, *rest: Any) -> Assessment:
        if poison in data:
            raise Died
        return assess(data, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.inbox.intake.assess", deadly)
        patch.setattr("threading.excepthook", lambda args: None)
        spool.start()
        assert spool.daemon is not None
        thread = spool.daemon._intake_thread
        spool.until(lambda: not thread.is_alive())
        die(spool)


def test_a_spec_whose_reading_ends_the_process_is_found_out_and_the_others_run(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = SPEC + "x_poison: 1\n"
    for name in ("a.yaml", "bomb.yaml", "z.yaml"):
        idle_spool.drop(name, poison if name == "bomb.yaml" else SPEC)
    die_while_reading(idle_spool, monkeypatch, b"poison")
    read_aside = ComposeProcess.assess

    def deadly(planner: ComposeProcess, drop: Drop, *rest: Any) -> Assessment:
        if b"poison" in drop.data:
            planner.kill()
        return read_aside(planner, drop, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ComposeProcess, "assess", deadly)
        start_again(idle_spool)
        statuses = idle_spool.over("a", "bomb", "z")
    assert [s["state"] for s in statuses] == ["succeeded", "rejected", "succeeded"]
    assert statuses[1]["reason"] == "CrashLoop"


def test_specs_that_were_being_read_whenever_the_process_was_killed_are_not_blamed(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        # Each of them with those before, which are read aside from their first death on.
        idle_spool.drop(f"{name}.yaml", SPEC + f"x_name: {name}\n")
        die_while_reading(idle_spool, monkeypatch)
    start_again(idle_spool)
    statuses = idle_spool.over("a", "b", "c")
    assert [s["state"] for s in statuses] == ["succeeded"] * 3
    assert idle_spool.daemon is not None
    assert idle_spool.daemon.ledger.suspects() == set()
