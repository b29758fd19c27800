"""What `watch` shows and prints of jobs that change, on a terminal and elsewhere; its keys."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner import client
from runner.cli import watch
from runner.cli.progress import Board
from runner.settings import Home
from runner.spool.disk.locks import home_lock
from runner.wire import PREVIEW
from tests.cli.here import Here
from tests.cli.terminal import LEFT, on_terminal
from tests.harness import eventually
from tests.planted import HEALTH, STATUS


class Watched:
    """A job that is watched; `change` returns what is printed of a change."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._file = home / "outbox" / "cat" / "status.json"
        self._file.parent.mkdir(parents=True)
        self._capsys = capsys
        self._board = Board(Home(home), lambda: ["cat"], as_json=True)
        self.status: dict[str, Any] = {**STATUS, "id": "cat", "revision": 1, "outputs": []}
        self.change(state="queued", progress=None)

    def change(self, done: int = 0, **changes: Any) -> list[dict[str, Any]]:
        images = {"total": 900, "done": done, "failed": 0, "skipped": 0, "reused": 0}
        outputs = [output(number) for number in range(max(1, done - 99), done + 1)]
        self.status |= {"images": images, "outputs": outputs, **changes}
        self.status["revision"] += 1
        self._file.write_text(json.dumps(self.status), encoding="utf-8")
        self._board._update()
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]


def output(number: int) -> dict[str, Any]:
    stem = f"cat-{number:04}"
    return {"file": f"{stem}.png", "sidecar": f"{stem}.json", "thumbnail": None, "seed": number,
            "sha256": "ab" * 32, "width": 64, "height": 64, "original": None}  # fmt: skip


@pytest.fixture
def watched(home: Path, capsys: pytest.CaptureFixture[str]) -> Watched:
    return Watched(home, capsys)


def test_a_job_is_printed_whole_once_and_then_what_changed(watched: Watched) -> None:
    """Seen red: every line was a whole status, 22 kB for each picture of a large job."""
    (line,) = watched.change(state="running", message="x")
    assert line == {"id": "cat", "state": "running", "revision": 3, "message": "x"}
    (line,) = watched.change(done=1)
    assert line == {
        "id": "cat", "state": "running", "revision": 4, "outputs": [output(1)],
        "images": {"total": 900, "done": 1, "failed": 0, "skipped": 0, "reused": 0},
    }  # fmt: skip
    assert watched.change(done=1) == []


def test_the_first_line_of_a_job_is_its_whole_status(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "outbox" / "cat" / "status.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**STATUS, "id": "cat"}), encoding="utf-8")
    Board(Home(home), lambda: ["cat"], as_json=True)._update()
    assert json.loads(capsys.readouterr().out) == {**STATUS, "id": "cat"}


@pytest.mark.parametrize("terminal", [False, True])
def test_the_file_of_a_preview_is_named_once_a_job(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
) -> None:
    if terminal:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "40")
    folder = home / "outbox" / "cat"
    folder.mkdir(parents=True)
    status = {**STATUS, "id": "cat", "state": "running"}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    with Board(Home(home), lambda: ["cat"]) as board:
        board._update()
        (folder / PREVIEW).touch()
        for _ in range(2):
            board._update()
    assert capsys.readouterr().out.count(str(folder / PREVIEW)) == 1


def test_of_its_outputs_only_new_ones_are_printed(watched: Watched) -> None:
    watched.change(done=300)
    (line,) = watched.change(done=302)
    assert line["outputs"] == [output(301), output(302)] and len(json.dumps(line)) < 800


def test_who_reads_every_line_knows_the_status(watched: Watched) -> None:
    known: dict[str, Any] = {}
    changes: list[dict[str, Any]] = [
        {"state": "running"}, {"done": 1, "tags": ["a"]}, {"done": 60, "x_mine": 1}, {"done": 60},
        {"done": 200, "message": "said", "reason": "Paused"}, {"done": 201, "state": "failed"},
    ]  # fmt: skip
    for change in changes:
        for line in watched.change(**change):
            outputs = [*known.get("outputs", []), *line.pop("outputs", [])]
            known |= {**line, "outputs": outputs[-100:]}
    assert known == {key: watched.status[key] for key in known}
    assert {"state", "images", "outputs", "message", "x_mine"} <= known.keys()


def test_ids_that_the_system_refuses_are_asked_for_again_and_the_terminal_stays(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: nothing was shown any more, as if the terminal had been closed."""
    file = home / "outbox" / "cat" / "status.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**STATUS, "id": "cat"}), encoding="utf-8")
    asked = 0

    def ids() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return ["cat"]

    with Board(Home(home), ids, as_json=True) as board:
        board.follow_in_thread()
        eventually(lambda: asked > 1, "a second look")
    assert json.loads(capsys.readouterr().out)["id"] == "cat"


def test_watch_goes_on_while_the_system_refuses_a_look(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: one ESTALE of the health file ended it with a traceback."""
    answers: list[Any] = [HEALTH, OSError(errno.ESTALE, "stale"), HEALTH, None, None]

    def health(home: Home) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(client, "runner_health", health)
    done = here("watch")
    assert done.code == 0 and "the runner has stopped" in done.err and answers == []


def test_the_next_job_of_an_id_is_another_job(watched: Watched) -> None:
    """Seen red: of a spec that was mended and dropped again under its name nothing was shown."""
    (line,) = watched.change(state="rejected")
    assert line["state"] == "rejected" and watched.change(message="later") == []
    (line,) = watched.change(state="queued", accepted_at="2026-11-29T19:00:00.000Z")
    assert line["state"] == "queued" and "source" in line
    (line,) = watched.change(state="succeeded")
    assert line["state"] == "succeeded"


@pytest.fixture
def held(home: Path) -> Iterator[Home]:
    """A home that a runner has, which works at the job `cat` and does nothing that it is asked."""
    for name, value in (
        ("runner.json", HEALTH),
        ("cat/status.json", {**STATUS, "state": "running"}),
    ):
        file = home / "outbox" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")
    lock = home_lock(Home(home))
    lock.acquire()
    yield Home(home)
    lock.release()


posix = pytest.mark.skipif(os.name == "nt", reason="a terminal of POSIX")


@posix
def test_the_keys_of_the_page_pause_cancel_open_and_leave(held: Home) -> None:
    page = held.job("cat") / "index.html"
    page.touch()
    with on_terminal("watch", home=held.root) as terminal:
        terminal.shows("p pause  c cancel  o open  q quit")
        assert "image 1" in terminal.text and "━" in terminal.text
        cancel, pause = held.inbox / "cat.cancel", held.inbox / "runner.pause"
        for answer, is_asked in (("n", False), ("y", True)):
            terminal.press("c")
            terminal.shows("cancel cat? y or n")
            terminal.press(answer)
            terminal.shows("q quit")
            assert cancel.exists() is is_asked
        terminal.press("p")
        terminal.shows("p resume")
        assert pause.exists()
        terminal.press("p")
        terminal.shows("p pause")
        assert not pause.exists()
        terminal.press("o")
        terminal.shows("outbox/cat/index.html")
        terminal.resize(30, 12)
        terminal.shows("denoising")
        eventually(lambda: "runner 1 is idle; 1 succeeded" in terminal.text, "the new width")
        terminal.press("q")
        assert terminal.ended() == 0 and LEFT in terminal.raw


@posix
def test_a_key_that_is_no_letter_is_none_and_ctrl_z_leaves_no_page_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen red: F1 paused, F2 left, an arrow asked to cancel, and the shell was on the page."""
    ours, theirs = os.openpty()
    with open(theirs, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with watch._pressed() as read:
            for keys, taken in (("\x1bOP", ""), ("\x1b[C", ""), ("pq", "pq")):
                os.write(ours, keys.encode())
                assert read(10.0) == taken
            assert signal.getsignal(signal.SIGTSTP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
    os.close(ours)


def test_of_a_key_that_windows_tells_as_two_characters_none_is_a_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = [*"\xe0M", *"\0q", "p"]
    console = SimpleNamespace(kbhit=lambda: bool(typed), getwch=lambda: typed.pop(0))
    monkeypatch.setitem(sys.modules, "msvcrt", console)
    assert [watch._of_console(0.01) for _ in range(4)] == ["", "", "p", ""]


@posix
@pytest.mark.parametrize("way", ["\x03", signal.SIGTERM])
def test_the_terminal_is_as_it_was_however_the_page_is_left(
    held: Home, way: str | signal.Signals
) -> None:
    with on_terminal("watch", "cat", home=held.root, NO_COLOR="1", LC_ALL="C") as terminal:
        before = terminal.modes()
        terminal.shows("q quit")
        assert "\x1b[32m" not in terminal.raw and terminal.text.isascii()
        assert terminal.modes() != before
        if isinstance(way, str):
            terminal.press(way)
        else:
            terminal.process.send_signal(way)
        assert terminal.ended() == 1  # the job is not over
        assert LEFT in terminal.raw and terminal.modes() == before


@pytest.mark.parametrize(
    ("how", "first"), [({}, []), ({"named": True}, ["old"]), ({"as_json": True}, ["old"])]
)
def test_jobs_that_were_over_are_not_shown_first_but_by_name_and_in_json(
    home: Path, capsys: pytest.CaptureFixture[str], how: dict[str, bool], first: list[str]
) -> None:
    """Seen red: every finished job that the runner knows came before the first piece of news."""

    def say(job: str, **status: Any) -> list[str]:
        file = home / "outbox" / job / "status.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**STATUS, "id": job, **status}), encoding="utf-8")
        board._update()
        said = capsys.readouterr().out
        return [name for name in ("old", "new") if name in said]

    board = Board(Home(home), lambda: ["old", "new"], whole=True, **how)
    assert say("old") == first
    assert say("new") == ["new"]
    assert say("old", accepted_at="2026-11-30T19:00:00.000Z") == ["old"]


def test_a_board_keeps_no_more_than_the_jobs_that_are_named_and_of_those_at_an_end_no_pictures(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: the statuses of all jobs that a runner had made since its start."""
    for number in range(9):
        file = home / "outbox" / f"cat-{number}" / "status.json"
        file.parent.mkdir()
        at = f"2026-11-29T18:00:0{number}.000Z"
        status = {**STATUS, "id": file.parent.name, "outputs": [output(1)], "accepted_at": at}
        file.write_text(json.dumps(status), encoding="utf-8")
    named: list[str] = []
    board = Board(Home(home), lambda: named, as_json=True)
    for number in range(9):
        named[:] = [f"cat-{number}", f"cat-{max(number - 1, 0)}"]
        board._update()
    assert {*board._jobs} == {*named}
    assert not any("outputs" in status for status in board._jobs.values())
    # As after a `clean` of newer ones: it was told.
    named[:] = ["cat-3"]
    board._update()
    assert capsys.readouterr().out.count('"id": "cat-3"') == 1
