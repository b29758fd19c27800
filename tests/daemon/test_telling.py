"""Events reach their receivers at least once, whatever ends meanwhile, and cost nothing else.

Time between tries is a clock of the test's; the servers are real.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from runner.clock import timestamp
from runner.daemon import daemon as daemon_module
from runner.daemon import telling
from runner.daemon.telling import Trouble
from runner.errors import LedgerUnusable, ReceiverAway, ReceiverRefuses
from runner.holds import PAUSED, Hold
from runner.spool.store.ledger import Ledger
from runner.spool.store.lending import ENDLESS, hold_of
from tests.daemon.columns import daemon_of
from tests.harness import eventually
from tests.spool.conftest import SPEC, Spool
from tests.webhooks import free_port, listening, saying

ENDED = {"job.ended": ("ci",)}


def look(trouble: Trouble, moment: float, *found: str) -> str | None:
    """The event that is due, which is recorded."""
    event, trouble.told = trouble.look(dict.fromkeys(found, ""), moment)
    return event


class Clock:
    """The time that tellers wait; it goes on as far as the test lets it."""

    def __init__(self) -> None:
        self.moment = 0.0
        self.until = 0.0

    def flag(self) -> threading.Event:
        clock = self

        class Flag(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                due = clock.moment + (timeout or 0.0)
                while not super().wait(0.002):
                    if due <= clock.until:
                        clock.moment = max(clock.moment, due)
                        return False
                return True

        return Flag()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which the daemon's tellers wait."""
    made = Clock()
    monkeypatch.setattr(telling, "Flag", made.flag)
    return made


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Any]:
    """Makes a started home with these receivers."""
    made: list[Spool] = []

    def make(on: Any, **named: Any) -> Spool:
        made.append(Spool(tmp_path / "home", receivers=named, on=on))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def health(spool: Spool, name: str) -> dict[str, Any]:
    (found,) = (each for each in daemon_of(spool).telling.health() if each["name"] == name)
    return dict(found)


def test_a_receiver_that_is_down_for_ten_minutes_gets_everything_in_order(
    homes: Any, clock: Clock
) -> None:
    port = free_port()
    spool = homes(ENDED, ci={"url": f"http://127.0.0.1:{port}/"})
    for name in "ab":
        spool.drop(f"{name}.yaml")
        spool.end(name)
    clock.until = 300
    eventually(lambda: clock.moment > 150, "some tries")
    assert "127.0.0.1 does not answer" in health(spool, "ci")["error"]
    spool.restart()
    spool.drop("c.yaml")
    spool.end("c")
    clock.until = 600
    eventually(lambda: clock.moment > 450, "more tries")
    with listening(port) as webhook:
        clock.until = 2000
        eventually(lambda: len(webhook.got) == 3, "what happened meanwhile")
        eventually(lambda: health(spool, "ci")["error"] is None, "that all is well")
        spool.restart()
        spool.drop("d.yaml")
        spool.end("d")
        clock.until = 4000
        eventually(lambda: len(webhook.got) == 4, "the next")
    told = webhook.contents
    assert [(each["event"], each["id"], each["state"]) for each in told] == [
        ("job.ended", name, "succeeded") for name in "abcd"
    ]
    assert len(set(webhook.ids)) == 4
    assert {**told[0], **spool.status("a")} == told[0] | {
        "updated_at": spool.status("a")["updated_at"]
    }


def test_a_kill_between_sending_and_recording_costs_a_repetition_with_the_same_id(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.until = 1e9
    with listening() as webhook:
        spool = homes(ENDED, ci={"url": webhook.url})
        with monkeypatch.context() as patch:
            heard = Ledger.heard
            patch.setattr(Ledger, "heard", lambda *a, forget=True: forget and heard(*a))
            spool.drop("hero.yaml")
            spool.end("hero")
            eventually(lambda: webhook.got, "the first time")
            spool.stop()
        spool.start()
        eventually(lambda: len(webhook.got) == 2, "the repetition")
    assert webhook.ids[0] == webhook.ids[1]


def test_receivers_that_refuse_redirect_and_hang_cost_the_others_nothing(
    homes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SECONDS", 0.5)
    with (
        listening() as good,
        listening(answer=500) as refusing,
        listening(answer=307, Location=good.url) as redirecting,
        saying() as silent,
    ):
        names = ("refusing", "redirecting", "silent", "hanging", "absent", "good")
        spool = homes(
            {"job.ended": names},
            refusing={"url": refusing.url},
            redirecting={"url": redirecting.url},
            silent={"url": silent},
            hanging={"command": [sys.executable, "-c", "import time; time.sleep(60)"]},
            absent={"command": ["no-such-program"]},
            good={"url": good.url},
        )
        for name in "abc":
            spool.drop(f"{name}.yaml")
        spool.over(*"abc")
        eventually(lambda: len(good.got) == 3, "all three")
        eventually(lambda: all(health(spool, name)["error"] for name in names[:-1]), "errors")
        told = {name: health(spool, name)["error"] for name in names}
        spool.stop()
    assert told["refusing"] == "127.0.0.1 answers 500"
    assert "answers 307: give the URL" in told["redirecting"]
    assert told["silent"] == "127.0.0.1 does not answer (TimeoutError)"
    assert told["hanging"].endswith(" took longer than 0.5 s")
    assert "cannot be started" in told["absent"]
    assert told["good"] is None
    shown = json.loads(spool.home.health.read_bytes())["receivers"]
    assert shown == [{"name": name, "error": told[name], "dropped": 0} for name in names]


def test_of_ten_thousand_events_for_a_dead_receiver_a_bounded_number_is_kept_and_it_says_so(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    dead = True

    def send(receiver: object, message_id: str, content: Any, seconds: float) -> None:
        if dead:
            raise ReceiverAway("it is dead")
        told.append(content)

    monkeypatch.setattr(telling, "send", send)
    spool = homes({"queue.empty": ("ci",)}, ci={"url": "http://127.0.0.1:9/"})
    ledger = daemon_of(spool).ledger
    with ledger.transaction():
        rows = ((timestamp(), json.dumps({"jobs": {"succeeded": n}})) for n in range(10_000))
        ledger._run_many("INSERT INTO event (type, at, body) VALUES ('queue.empty', ?, ?)", rows)
    clock.until = 20
    eventually(lambda: health(spool, "ci")["error"], "a try of what is kept")
    assert health(spool, "ci") == {"name": "ci", "error": "it is dead", "dropped": 5000}
    eventually(lambda: "ci was not told of 5000 events" in caplog.text, "a word in the log")
    dead = False
    clock.until = 100
    eventually(lambda: len(told) == 5000, "those that are kept")
    assert [each["dropped"] for each in told[:2]] == [5000, 0]
    assert told[0]["jobs"] == {"succeeded": 5000}


def test_an_event_that_is_always_refused_is_dropped_and_the_next_ones_are_told(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def send(receiver: object, message_id: str, content: Any, seconds: float) -> None:
        if content["id"] == "bad":
            raise ReceiverRefuses("it cannot be read")
        told.append(content["id"])

    monkeypatch.setattr(telling, "send", send)
    spool = homes(ENDED, ci={"url": "http://127.0.0.1:9/"})
    for name in ("bad", "good"):
        spool.drop(f"{name}.yaml")
        spool.end(name)
    clock.until = 60_000
    eventually(lambda: told == ["good"], "the next one")
    assert "telling ci: it cannot be read" in caplog.text
    assert "ci was not told of 1 events, which are dropped" in caplog.text
    assert health(spool, "ci") == {"name": "ci", "error": None, "dropped": 1}


def test_each_receiver_is_told_of_its_events_and_of_jobs_that_name_it(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.until = 1e9
    monkeypatch.setattr(daemon_module, "HEALTH_SECONDS", 0.05)
    on = {"job.ended": ("all",), "job.failed": ("bad",), "queue.empty": ("empty",)}
    names = ("all", "bad", "empty", "phone")
    with listening() as hook:
        spool = homes(on, **{name: {"url": f"{hook.url}&{name}"} for name in names})

        def of(name: str) -> list[tuple[Any, Any]]:
            paths = [headers["path"].partition("&")[2] for headers, _ in hook.got]
            said = zip(paths, hook.contents, strict=True)
            return [(each["event"], each.get("id")) for path, each in said if path == name]

        spool.drop("a.yaml")
        spool.end("a")
        spool.until(lambda: of("empty"))
        spool.drop("b.yaml", SPEC + "notify: [phone]\n")
        spool.end("b")
        spool.until(lambda: len(of("empty")) == 2)
        spool.drop("c.yaml", SPEC.replace("text2img", "text3img") + "notify: [phone]\n")
        assert spool.end("c")["state"] == "rejected"
        spool.until(lambda: len(hook.got) == 8)
        # What an idle queue has to say, it has said.
        for _ in range(5):
            spool.daemon.step(0.05)  # type: ignore[union-attr]
    assert of("all") == [("job.ended", "a"), ("job.ended", "b"), ("job.ended", "c")]
    assert of("bad") == [("job.failed", "c")]
    assert of("empty") == [("queue.empty", None)] * 2
    assert of("phone") == [("job.ended", "b"), ("job.ended", "c")]
    assert "notify" not in json.loads((spool.home.job("b") / "b-0001.json").read_bytes())


def test_a_receiver_of_which_a_home_did_not_know_is_not_told_of_what_was_before(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.until = 1e9
    monkeypatch.setattr(daemon_module, "HEALTH_SECONDS", 0.05)
    spool = homes({})
    spool.drop("a.yaml")
    spool.end("a")
    spool.stop()
    with listening() as hook:
        again = homes({**ENDED, "queue.empty": ("ci",)}, ci={"url": hook.url})
        again.drop("b.yaml")
        again.until(lambda: len(hook.got) == 2)
    told = [(each["event"], each.get("id"), each.get("jobs")) for each in hook.contents]
    assert told == [("job.ended", "b", None), ("queue.empty", None, {"succeeded": 1})]


def test_trouble_is_told_once_and_its_end_once(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.until = 1e9
    monkeypatch.setattr(daemon_module, "HEALTH_SECONDS", 0.02)
    monkeypatch.setattr(telling, "_TROUBLE_SECONDS", 0.0)
    monkeypatch.setattr(telling, "_CALM_SECONDS", 0.1)
    full: list[Hold] = [Hold("DiskFull", "the disk is full")]
    monkeypatch.setattr(daemon_module, "disk_hold", lambda home: full[0] if full else None)
    with listening() as hook:
        on = {"runner.trouble": ("ci",), "runner.recovered": ("ci",)}
        spool = homes(on, ci={"url": hook.url})
        spool.until(lambda: hook.got)
        spool.restart()
        (spool.home.inbox / "folder.yaml").mkdir()
        spool.until(lambda: len(hook.got) == 2)
        full.clear()
        (spool.home.inbox / "folder.yaml").rmdir()
        spool.until(lambda: len(hook.got) == 3)
    told = hook.contents
    assert [each["event"] for each in told] == ["runner.trouble"] * 2 + ["runner.recovered"]
    assert told[0]["note"] == "the disk is full" and told[0]["trouble"] == ["DiskFull"]
    assert told[1]["trouble"] == ["DiskFull", "inbox/folder.yaml"]
    assert told[1]["faults"][0]["file"] == "inbox/folder.yaml"


def test_trouble_that_passes_at_once_or_comes_and_goes_is_not_told_again() -> None:
    trouble, full = Trouble(), ("DiskFull",)
    assert [look(trouble, n, *e) for n, e in ((0, full), (4, ()), (6, full))] == [None] * 3
    assert look(trouble, 11, *full) == "runner.trouble"
    assert [look(trouble, n, *e) for n, e in ((20, ()), (49, full), (50, ()))] == [None] * 3
    assert look(trouble, 78) is None
    assert look(trouble, 79) == "runner.recovered"
    assert look(trouble, 200) is None


def test_what_comes_again_while_other_trouble_stands_is_told_again() -> None:
    """Seen red: a file that stays set aside hid every later disk that was full."""
    trouble = Trouble(["inbox/a.yaml"])
    told = [
        look(trouble, n, "inbox/a.yaml", *(["DiskFull"] if n % 50 < 10 else [])) for n in range(61)
    ]
    assert [n for n, event in enumerate(told) if event] == [5, 55]


def test_trouble_that_cannot_be_recorded_is_told_once_it_can(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "_TROUBLE_SECONDS", 0.0)
    spool = homes({"runner.trouble": ("ci",)}, ci={"command": ["true"]})
    full = Hold("DiskFull", "the disk is full")
    told, ledger = daemon_of(spool).telling, daemon_of(spool).ledger
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "announce", mock.Mock(side_effect=LedgerUnusable("it is full")))
        told.look(full, daemon_of(spool).executor.slots(), is_idle=False)
    assert ledger.last_event("runner.trouble") is None
    told.look(full, daemon_of(spool).executor.slots(), is_idle=False)
    assert ledger.last_event("runner.trouble") is not None


@pytest.mark.parametrize("hold", [PAUSED, hold_of(ENDLESS)])
def test_what_was_asked_for_is_no_trouble(hold: Hold) -> None:
    assert telling.troubles(hold, [], []).keys() == {"slots"}


def test_jobs_that_ended_long_before_the_queue_is_empty_are_counted(homes: Any) -> None:
    spool = homes({"queue.empty": ("ci",)}, ci={"command": ["true"]})
    for name in "ab":
        spool.drop(f"{name}.yaml")
        spool.end(name)
    ledger = daemon_of(spool).ledger
    with ledger.transaction():
        ledger._run("UPDATE event SET at = '2020-01-01T00:00:00.000Z'")
    for listener in ("gallery", "tell ci"):
        ledger.heard(listener, ledger.newest_event())
    ledger.announce_empty("queue.empty", "tell queue.empty")
    empty = ledger.last_event("queue.empty")
    assert empty is not None and empty.body["jobs"] == {"succeeded": 2}


def test_once_nothing_is_left_to_tell_a_receiver_is_well(
    homes: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: after what failed was dropped, the next event came a quarter of an hour late."""
    monkeypatch.setattr(telling, "send", mock.Mock(side_effect=ReceiverAway("it is dead")))
    spool = homes(ENDED, ci={"url": "http://127.0.0.1:9/"})
    spool.drop("a.yaml")
    spool.end("a")
    clock.until = 300
    eventually(lambda: health(spool, "ci")["error"], "a try")
    monkeypatch.setattr(telling, "_KEPT_SECONDS", -60.0)
    clock.until = 2000
    eventually(lambda: health(spool, "ci")["dropped"] == 1, "that it is dropped")
    eventually(lambda: health(spool, "ci")["error"] is None, "that it is well")


def test_a_receiver_that_hangs_hangs_while_the_executor_closes(
    homes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = homes(ENDED, ci={"command": ["true"]})
    daemon, seen = daemon_of(spool), []
    close = daemon.executor.close
    monkeypatch.setattr(
        daemon.executor, "close", lambda: seen.append(daemon.telling.stop.is_set()) or close()
    )
    spool.stop()
    assert seen == [True]


def test_where_telling_cannot_begin_the_home_is_free_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home")
    with mock.patch.object(Ledger, "listen", side_effect=LedgerUnusable("it is full")):
        with pytest.raises(LedgerUnusable):
            spool.start()
    spool.start()
    spool.stop()
