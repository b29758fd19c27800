"""What a terminal shows of a runner: in every size each line is one row, and what matters stays."""

from __future__ import annotations

from typing import Any

import pytest

from runner import reading
from runner.cli.screen import above, is_plain, lines
from runner.wire import RunnerHealth, Status
from tests.planted import HEALTH, STATUS, variants

IDLE = {**HEALTH["slots"][0], "name": "gpu0", "state": "working", "note": None}
HEALTHY = {
    **HEALTH, "state": "working", "note": None, "faults": [], "slots": [IDLE], "queued": 12,
    "next": ["dog", "horse"],
}  # fmt: skip
RUNNING = {**STATUS, "state": "running", "progress": {
    "phase": "denoising", "image": 3, "step": 5, "steps": 28, "fraction": 0.1, "eta_seconds": 250.0,
}, "images": {**STATUS["images"], "total": 30, "done": 2}, "id": "night"}  # fmt: skip
SECOND = {**IDLE, "name": "cuda:1", "state": "lost", "note": "ended 4 times", "job": None}
FAILED = {**STATUS, "id": "a-job-of-a-very-long-name-that-goes-on", "state": "failed"}


def shown(width: int, *content: Any, height: int = 30, **how: Any) -> list[str]:
    found = lines((width, height), *content, **how)
    assert len(found) <= height and all(line.cell_len <= width for line in found), found
    return [line.plain for line in found]


def test_a_wide_page_has_the_picture_in_hand_the_slots_the_queue_and_the_last_results() -> None:
    page = shown(120, HEALTHY, [RUNNING], [FAILED], whole=True, footer="q quit")
    head, job, image, slot, queue, last, foot = filter(None, page)
    assert head == "runner 1 is working; 1 succeeded"
    assert job.split() == ["night", "2/30", "━━─" + "─" * 17, "tiny", "4", "min", "10", "s", "left"]
    assert image.split() == ["image", "3", "5/28", "━━━━" + "─" * 16, "denoising"]
    assert slot.split() == ["gpu0", "1.0", "GiB", "working", "tiny"]
    assert queue == "12 queued: dog, horse"
    assert "✗" in last and "OutOfMemory: it is full" in last and foot == "q quit"


@pytest.mark.parametrize("width", [*range(10, 100, 7), 200])
@pytest.mark.parametrize("height", [1, 2, 7, 30])
def test_in_every_size_each_line_is_one_row_and_the_keys_are_seen(width: int, height: int) -> None:
    """Seen red: with no `truncate` after the columns."""
    wide = {**RUNNING, "id": "夜" * 30, "message": "長い" * 50}
    health = {**HEALTH, "slots": [IDLE, SECOND]}
    content = health, [RUNNING, wide], [FAILED] * 40
    page = shown(width, *content, height=height, whole=True, footer="q quit")
    assert page[-1].startswith("q quit")


def test_columns_are_dropped_the_model_first_and_the_time_left_stays() -> None:
    rows = [shown(width, HEALTHY, [RUNNING])[0] for width in (100, 38, 30)]
    assert ["tiny" in row for row in rows] == [True, False, False]
    assert all("night" in row and "4 min" in row for row in rows), rows


def test_each_of_several_slots_has_its_picture_and_one_that_is_lost_says_why() -> None:
    page = shown(120, {**HEALTHY, "slots": [IDLE, SECOND]}, [RUNNING], whole=True)
    one, other = [line for line in page if line.startswith(("gpu0", "cuda:1"))]
    assert "2/3" in one and "image 1 of cat" in one and "━" in one
    assert "lost  tiny  ended 4 times" in other


@pytest.mark.parametrize("note", ["paused: `fluxdrop resume` ends it", "lent until 07:00"])
def test_what_halts_the_runner_and_what_is_set_aside_stand_on_top(note: str) -> None:
    page = shown(100, {**HEALTH, "note": note}, [], whole=True)
    assert page[1:3] == [note, "set aside: inbox/x: odd"]


def test_a_plain_terminal_gets_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = HEALTHY, [{**RUNNING, "id": "höhe"}], [FAILED]
    assert all(line.isascii() for line in shown(60, *content, whole=True, plain=True))
    assert above("cat succeeded", STATUS, plain=True).plain == "+ cat succeeded"
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert (is_plain("cp1252"), is_plain("utf-8")) == (True, False)
    monkeypatch.setenv("LANG", "C")
    assert is_plain("utf-8")
    monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
    assert not is_plain("utf-8")


def test_whatever_a_health_file_and_a_status_say_is_shown() -> None:
    """Seen red: a division by no steps."""
    for content in variants(HEALTH):
        if health := reading.checked(content, RunnerHealth):
            shown(80, health, [RUNNING], health["recent"], whole=True)
    for content in variants(RUNNING):
        status: dict[str, Any] | None = reading.checked(content, Status)
        if status:
            shown(80, HEALTHY, [status], [status], whole=True)


def test_colours_and_commands_of_a_terminal_in_a_message_are_shown_not_obeyed() -> None:
    assert shown(80, {**HEALTHY, "note": "\x1b[31m[red]x\ny\tz"}, [])[0] == r"\u001b[31m[red]x\ny z"
