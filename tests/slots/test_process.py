"""An executor in a process of its own answers every task once, whatever becomes of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from runner import exit_codes
from runner.executor import Failed, Rendered, SlotLost, SlotState, StoppedEarly
from runner.slots import process
from runner.slots.process import ProcessExecutor
from runner.threads import Threads
from tests.harness import ROOT, eventually
from tests.slots.conftest import Told, ready
from tests.slots.inner import Inner, broken, ending, task

ChildOf = Callable[..., ProcessExecutor]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the child's ends are those of POSIX")


def test_the_slots_of_a_child_are_mirrored_as_they_come_change_and_go(child_of: ChildOf) -> None:
    child, told = child_of(), None
    (slot,) = child.slots()
    assert (slot.name, slot.state, slot.is_free) == ("child", SlotState.STARTING, False)
    assert ready(child, 2) == ["one", "two"]
    told = Told(child)
    child.start("one", [task("comes three")])
    assert isinstance(told.next(), Rendered)
    assert ready(child) == ["one", "two", "three"]
    assert child.slots()[0].models == ("tiny",)
    child.start("one", [task("goes two")])
    told.next()
    assert ready(child) == ["one", "three"]
    child.release()
    eventually(lambda: child.slots()[0].models == (), "no model")
    child.prepare([task("a"), task("b")])
    eventually(lambda: child.slots()[0].models == ("a", "b"), "the upcoming tasks over there")


def test_a_slot_is_busy_at_once_and_free_again_when_its_last_answer_is_read(
    child_of: ChildOf,
) -> None:
    child = child_of()
    ready(child, 2)
    told = Told(child)
    both = [task(index=1), task(index=2)]
    child.start("one", both)
    assert [slot.busy for slot in child.slots()] == [True, False]
    with pytest.raises(ValueError, match="it is busy"):
        child.start("one", [task()])
    assert [told.next().task for _ in both] == both  # type: ignore[union-attr]
    assert not child.slots()[0].busy
    child.start("one", [])
    assert not child.slots()[0].busy and told.rest() == []


def test_a_preview_comes_with_the_progress_of_its_child(child_of: ChildOf) -> None:
    child = child_of()
    ready(child, 2)
    child.start("two", [task("previewed")])
    shown = Told(child).reaches()
    assert (shown.slot, shown.step, shown.preview) == ("two", 1, b"RIFF \x00 WEBP")


def test_a_slot_that_is_not_there_or_of_a_child_that_is_closed_takes_no_task(
    child_of: ChildOf,
) -> None:
    child = child_of()
    with pytest.raises(ValueError, match="starting"):
        child.start("child", [task()])
    ready(child)
    with pytest.raises(ValueError, match="not there"):
        child.start("child", [task()])
    child.close()
    with pytest.raises(ValueError, match="closed"):
        child.start("one", [task()])


@pytest.mark.parametrize(
    ("prompt", "why"), [("killed", "killed by SIGKILL"), ("exits 3", "exit code 3")]
)
def test_a_child_that_dies_costs_the_tasks_in_hand_and_is_made_again(
    child_of: ChildOf, prompt: str, why: str
) -> None:
    child = child_of()
    ready(child, 2)
    told = Told(child)
    child.prepare([task("soon")])
    child.start("two", [task("picture")])
    assert isinstance(told.next(), Rendered)
    child.start("two", [task(prompt), task(prompt, 2)])
    assert told.next() == SlotLost("two", why, charged=True)
    assert {slot.state for slot in child.slots()} <= {SlotState.STARTING, SlotState.READY}
    ready(child, 2)
    assert child.slots()[0].models == ("soon",), "what comes is announced to the new one too"
    child.start("two", [task("picture")])
    answer = told.next()
    assert isinstance(answer, Rendered) and told.rest() == []


def test_the_images_of_every_slot_with_tasks_are_lost_and_charged_as_the_child_is(
    child_of: ChildOf,
) -> None:
    child = child_of(charged=False)
    ready(child, 2)
    told = Told(child)
    child.start("one", [task("hold")])
    child.start("two", [task("killed")])
    lost = {told.next(), told.next()}
    assert lost == {SlotLost(slot, "killed by SIGKILL", charged=False) for slot in ("one", "two")}


def test_a_lost_device_is_told_as_a_lost_slot_and_the_process_is_replaced(
    child_of: ChildOf,
) -> None:
    child = child_of()
    ready(child, 2)
    told = Told(child)
    child.start("one", [task("lost")])
    assert told.next() == SlotLost("one", "the GPU was lost", charged=True)
    ready(child, 2)
    child.start("one", [task()])
    assert isinstance(told.next(), Rendered) and told.rest() == []


def test_what_the_executor_can_abandon_itself_costs_that_slot_alone(child_of: ChildOf) -> None:
    child = child_of(Inner, True)
    ready(child, 2)
    told = Told(child)
    for slot in ("one", "two"):
        child.start(slot, [task("hold")])
    assert child.abandon("one", "it hung")
    assert told.next() == SlotLost("one", "it hung", charged=False)
    child.stop("two")
    assert told.next() == StoppedEarly("two", task("hold"))
    assert child.abandon("three", "it hung"), "one that is gone is told by an event"
    eventually(lambda: not child._deadlines, "the child's word that it is done")


@pytest.mark.parametrize("prompt", ["hold", "deaf"])
def test_a_slot_that_hangs_costs_the_child_where_the_executor_cannot_end_it_or_hangs_too(
    child_of: ChildOf, prompt: str
) -> None:
    child = child_of()
    ready(child, 2)
    told = Told(child)
    child.start("one", [task(prompt)])
    assert child.abandon("one", "it hung at step 3")
    assert told.next() == SlotLost("one", "it hung at step 3", charged=True)
    ready(child, 2)


def test_a_child_that_may_take_longer_to_abandon_a_slot_is_not_killed_sooner(
    child_of: ChildOf,
) -> None:
    child = child_of(answer_seconds=60.0)
    ready(child, 2)
    child.start("one", [task("deaf")])
    assert child.abandon("one", "it hung")
    assert child._deadlines["one"][0] > time.monotonic() + 30


def test_tasks_for_a_slot_that_was_lost_before_they_came_go_back(child_of: ChildOf) -> None:
    child = child_of()
    ready(child, 2)
    told = Told(child)
    child.start("one", [task("refuse")])
    told.next()
    child.start("one", [task()])
    assert told.next() == SlotLost("one", "it was lost before it began", charged=False)
    assert not child.slots()[0].busy


def test_closing_answers_what_is_in_hand(child_of: ChildOf) -> None:
    child = child_of()
    ready(child, 2)
    child.start("one", [task("hold")])
    child.close()
    assert child._process is not None and child._process.exitcode == 0
    assert Told(child).next() == StoppedEarly("one", task("hold"))
    assert {slot.state for slot in child.slots()} == {SlotState.DRAINED}


def test_closing_takes_seconds_where_the_child_hangs_and_charges_nobody(
    child_of: ChildOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_CLOSE_SECONDS", 1.0)
    child = child_of()
    ready(child, 2)
    child.start("one", [task("deaf")])
    began = time.monotonic()
    child.close()
    assert time.monotonic() - began < 5.0
    assert Told(child).next() == SlotLost("one", "the runner stopped", charged=False)


def test_a_child_can_be_closed_before_it_is_there(child_of: ChildOf) -> None:
    child = child_of()
    child.close()
    assert not child._thread.is_alive() and not child._sender.is_alive()


def test_a_child_that_is_told_to_hold_its_breath_keeps_no_caller_waiting(
    child_of: ChildOf,
) -> None:
    """A stopped process reads nothing: what is sent to it waits in a thread of its own."""
    child = child_of()
    ready(child, 2)
    assert child._process is not None and child._process.pid is not None
    os.kill(child._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    child.prepare([task("long " * 1000, n) for n in range(1000)])
    child.start("one", [task()])
    child.slots()
    child.abandon("one", "it is frozen")
    assert time.monotonic() - began < 1.0
    assert Told(child).next() == SlotLost("one", "it is frozen", charged=True)


def test_a_child_that_cannot_be_made_says_why_and_is_tried_again_after_growing_pauses(
    child_of: ChildOf,
) -> None:
    child = child_of(broken)
    note = "made again: sageattention is not installed"
    eventually(lambda: child.slots()[0].note == note, "its note")
    other = child_of(ending)
    eventually(lambda: other.slots()[0].note == "made again: exit code 4", "its note")
    pauses = [process._pause(early) for early in range(10)]
    assert pauses == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_an_event_that_cannot_be_sent_ends_the_child_rather_than_its_slot_looking_busy(
    child_of: ChildOf,
) -> None:
    child = child_of()
    ready(child, 2)
    child.start("one", [task("odd")])
    assert Told(child).next() == SlotLost("one", exit_codes.ENDS[exit_codes.BROKEN], charged=True)


def test_the_environment_is_set_before_the_executor_is_made(child_of: ChildOf) -> None:
    child = child_of(environment={"CUDA_VISIBLE_DEVICES": "5"})
    ready(child, 2)
    child.start("one", [task("variable CUDA_VISIBLE_DEVICES")])
    answer = Told(child).next()
    assert isinstance(answer, Failed) and answer.message == "5"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "5"


def test_what_a_child_logs_is_logged_here(
    child_of: ChildOf, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: the child wrote it to standard error, and no file had it."""
    child = child_of()
    ready(child, 2)
    with caplog.at_level("INFO", logger="runner.engine.inner"):
        child.start("one", [task("logs")])
        Told(child).next()
    error, info = caplog.records
    assert error.getMessage().startswith("job job image 1 is tried again\nTraceback")
    assert (error.levelname, info.message, info.name) == ("ERROR", "then on", "runner.engine.inner")


def test_signals_that_end_the_runner_do_not_reach_the_child(child_of: ChildOf) -> None:
    child = child_of()
    first = eventually(lambda: child._process, "a process")
    assert first is not None and first.pid is not None
    # From its first moment: it has not imported anything yet.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(first.pid, number)
    ready(child, 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(first.pid, number)
    child.start("one", [task()])
    answer = Told(child).next()
    assert isinstance(answer, Rendered) and answer.facts["pid"] == first.pid


SCRIPT = """
import os, sys, time
from queue import SimpleQueue
from runner.slots.process import ProcessExecutor
from runner.threads import Threads
from tests.slots.conftest import Told, ready
from tests.slots.inner import Inner, task

if __name__ == "__main__":
    child = ProcessExecutor(Inner, (), name="child", events=SimpleQueue(), threads=Threads())
    ready(child, 2)
    child.start("one", [task(sys.argv[1])])
    # Until it has nothing more to tell: who tells sees that nobody listens.
    while sys.argv[1] != "prints" and not child._seen["one"].busy:
        time.sleep(0.01)
    print(child._process.pid, flush=True)
    input()
    print(type(Told(child).next()).__name__)
    # And ends without having closed it.
"""


def started(tmp_path: Any, prompt: str) -> subprocess.Popen[str]:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, script, prompt], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("prompt", ["hold", "deaf"])
def test_a_child_whose_parent_was_killed_ends_at_once(tmp_path: Any, prompt: str) -> None:
    with started(tmp_path, prompt) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert psutil.pid_exists(number)
        parent.kill()
    gone = "the end of the child"
    eventually(lambda: not psutil.pid_exists(number) or is_zombie(number), gone, seconds=10)


def is_zombie(number: int) -> bool:
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_a_child_prints_goes_to_standard_error_and_no_child_outlives_a_parent_that_ends(
    tmp_path: Any,
) -> None:
    with started(tmp_path, "prints") as parent:
        out, errors = parent.communicate("\n", timeout=50)
    number, answer = out.split()
    assert answer == "Rendered" and parent.returncode == 0
    assert "by Python" in errors and "by a library" in errors
    assert not psutil.pid_exists(int(number))


def test_a_child_is_seen_among_the_threads_of_the_runner(child_of: ChildOf) -> None:
    threads = Threads()
    child = child_of(threads=threads)
    ready(child, 2)
    assert {"child", "child sender"} <= threads.still().keys()
    child.close()
    assert threads.still() == {} and threads.broken is None


def test_a_child_that_stands_still_before_it_has_said_anything_is_made_again(
    child_of: ChildOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: a slot that was stopped between two images kept the next one for ever."""
    monkeypatch.setattr(process, "_SILENT_SECONDS", 4.0)
    child = child_of()
    ready(child, 2)
    assert child._process is not None and child._process.pid is not None
    os.kill(child._process.pid, signal.SIGSTOP)
    child.start("one", [task()])
    assert Told(child).next() == SlotLost("one", "silent for 4 s", charged=True)
    ready(child, 2)
