"""`logs`: what a runner wrote down, of one job, as it comes, and without prompts."""

from __future__ import annotations

import ast
import logging
import os
import re
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from runner.cli import logs
from runner.errors import UsageProblem
from runner.logs import FILE, log_to_file
from tests.cli.here import Here
from tests.harness import ROOT, Runner, eventually

OURS = logging.getLogger("runner.daemon.writer")


@pytest.fixture
def log(home: Path) -> RotatingFileHandler:
    """What writes this process's log, as a runner's."""
    log_to_file(home / "data")
    (handler,) = (h for h in logging.root.handlers if isinstance(h, RotatingFileHandler))
    return handler


def test_a_runner_writes_down_what_becomes_of_each_job_and_no_prompt(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    file, here = runner.home / "data" / FILE, Here(runner.home, capsys)
    job = runner.drop("told", seed=None, seeds=[1, 2], prompt="a yellow square on a red background")
    other = runner.answer(runner.put("told-not.yaml", "kind: none\n"))["job"]
    eventually(lambda: "told succeeded" in file.read_text(encoding="utf-8"), "the end in the log")
    lines = re.sub(r"(?m)^\S+Z info +job told ?", "", here("logs", job).out).splitlines()
    first, *told, last = lines
    assert (first, last) == ("from told.yaml: accepted", "succeeded, 2 of 2 made")
    images = (f"image {n} {what}" for n in (1, 2) for what in ("begins on gpu0", "is made"))
    assert sorted(told) == sorted(images)
    text = file.read_text(encoding="utf-8")
    assert "yellow" not in text and "the runner begins: process" in text
    refused = here("logs", other, "--json").json
    assert refused["message"] == "job told-not from told-not.yaml: SchemaInvalid"


def test_a_message_about_a_job_begins_with_its_id() -> None:
    """Seen red: with `"%s image %d: %s"` in the worker, which `logs ID` would not find."""
    wrong = []
    for file in sorted((ROOT / "runner").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("log."):
                continue
            ids = ("record.id", "task.job", "job_id")
            if len(node.args) > 1 and ast.unparse(node.args[1]).endswith(ids):
                if not ast.unparse(node.args[0]).startswith(("'job %s ", "'job %s: ")):
                    wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(node.args[0])}")
    assert wrong == []


def test_the_log_is_bounded_harmless_and_survives_half_a_line(
    home: Path,
    log: RotatingFileHandler,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Here(home, capsys)
    assert here("logs").code == 2
    file, log.maxBytes = Path(log.baseFilename), 4000
    for n in range(200):
        OURS.info("job a%d is \x1b[2J made\nas asked", n % 4)
    with file.open("a", encoding="utf-8") as half:
        half.write('{"at": "2026')
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        OURS.exception("job a1 image 1 failed")
    OURS.info("job a1 is over")
    logging.getLogger("httpx").info("another's")
    assert len(list(file.parent.iterdir())) == 5
    assert sum(each.stat().st_size for each in file.parent.iterdir()) < 21_000
    said = here("logs", "a1").out
    assert "a1 is over" in said.splitlines()[-1] and "\x1b" not in said and "httpx" not in said
    assert {line.split()[3] for line in said.splitlines() if line.startswith("2")} == {"a1"}
    assert here("logs", "a").out == "" and len(here("logs").out.splitlines()) == 100


def test_lines_of_others_are_passed_over_and_a_job_without_any_is_told(
    log: RotatingFileHandler, here: Here
) -> None:
    """Seen red: a line like `1` ended it with a traceback, and of no job nothing was said."""
    OURS.info("job %s begins", "night")
    log.flush()
    Path(log.baseFilename).write_bytes(b'1\n[]\n{"at": 1}\n' + Path(log.baseFilename).read_bytes())
    assert len(here("logs").out.splitlines()) == 1
    done = here("logs", "nihgt")
    assert done.code == 1 and "nothing about 'nihgt'" in done.err


def test_a_log_that_is_no_file_is_one_sentence(home: Path, here: Here) -> None:
    (home / "data" / FILE).mkdir(parents=True)
    assert "cannot be read" in here("logs").err
    (home / "data" / FILE).rmdir()
    (home / "data" / "logs").rmdir()
    (home / "data" / "logs").touch()
    with pytest.raises(UsageProblem, match="cannot make the folder"):
        log_to_file(home / "data")


def test_a_traceback_stands_below_its_line(
    home: Path, log: RotatingFileHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise ValueError("one\n2026-11-30T00:00:00.000Z info job b is made")
    except ValueError:
        OURS.exception("job a image 1 failed")
    first, *more = Here(home, capsys)("logs", "a").out.splitlines()
    assert first.endswith("error   job a image 1 failed") and more[-2].endswith("ValueError: one")
    assert all(line.startswith("    ") for line in more)


def test_what_is_followed_goes_on_through_a_rotation(
    home: Path,
    log: RotatingFileHandler,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen red: without the look at the file's number, 3 and what came after were missing."""
    OURS.info("line 1")
    turns = iter(("line 2", "rotate", ""))

    def sleep(seconds: float) -> None:
        match next(turns):
            case "rotate":
                OURS.info("line 3")
                log.doRollover()
                OURS.info("line 4")
            case "":
                raise KeyboardInterrupt
            case text:
                OURS.info(text)

    monkeypatch.setattr(logs.time, "sleep", sleep)
    said = Here(home, capsys)("logs", "-f")
    assert said.code == 130
    assert [line[-6:] for line in said.out.splitlines()] == [f"line {n}" for n in (1, 2, 3, 4)]


def test_a_log_that_gets_no_other_name_goes_on_in_the_same_file(
    home: Path, log: RotatingFileHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: as on Windows while another program reads it, each line beyond 2 MB was lost."""
    log.maxBytes = 500
    for n in range(20):
        OURS.info("line %d", n)
    folder, replace = Path(log.baseFilename).parent, os.replace
    older = {file.name: file.read_bytes() for file in folder.glob("*.?")}

    def refused(old: str, new: str) -> None:
        if old == log.baseFilename:
            raise PermissionError(13, "it is open")
        replace(old, new)

    for rename in ("rename", "replace"):
        monkeypatch.setattr(os, rename, refused)
    for n in range(20, 30):
        OURS.info("line %d", n)
    text = Path(log.baseFilename).read_text(encoding="utf-8")
    assert all(f"line {n}" in text for n in range(20, 30))
    assert {file.name: file.read_bytes() for file in folder.glob("*.?")} == older


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_without_room_is_not_told_again_and_again(
    home: Path, log: RotatingFileHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: a traceback of logging's own for each line."""
    Path(log.baseFilename).symlink_to("/dev/full")
    OURS.info("lost")
    assert capsys.readouterr().err == ""
