"""The command line as people use and misuse it, where no runner is needed.

Exit codes, what is said, JSON for programs, and what happens to a reader that leaves early.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from runner.cli import build_parser, main
from runner.cli.run import _next_time
from runner.errors import PlaceAway
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.store.migrations import LATEST
from specs.schemas import kinds
from tests.cli.here import Here
from tests.cli.terminal import on_terminal
from tests.harness import PATIENCE, ROOT, clean_environment, fluxdrop, spec

pytestmark = pytest.mark.timeout(180)


def test_without_a_command_a_home_says_where_it_stands_and_what_to_do_next(home: Path) -> None:
    assert fluxdrop(cwd=home).out.splitlines()[-1] == "next: `fluxdrop demo`"
    (home / "inbox" / "cat.yaml").write_text(spec(), encoding="utf-8")
    done = fluxdrop(cwd=home)
    assert done.code == 0 and "1 in the inbox" in done.out
    assert done.out.splitlines()[-1] == "next: `fluxdrop run` takes the 1 that wait"
    assert fluxdrop("--json", home=home).json["running"] is False


def test_without_a_command_outside_of_a_home_it_says_what_it_is_and_fails(tmp_path: Path) -> None:
    done = fluxdrop(cwd=tmp_path)
    assert done.code == 2 and "`fluxdrop --help`" in done.out and "fluxdrop init DIR" in done.err
    assert fluxdrop("--help").code == 0


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser of each command below one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from parsers(each)


def test_the_help_of_every_command_is_a_sentence_and_an_example_and_takes_home() -> None:
    for parser in parsers(build_parser()):
        assert (parser.description or "").strip(), parser.prog
        assert "--home" in parser.format_help(), parser.prog
        if parser.prog != "fluxdrop gallery":
            assert f"example: {parser.prog}" in parser.format_help()


@pytest.mark.parametrize(
    "wrong",
    ["status nigth", "cancel nigth", "retry nigth", "keep nigth", "gallery page nigth"],
)
def test_a_job_that_there_is_not_gets_the_name_of_one_that_there_is(here: Here, wrong: str) -> None:
    (here.home / "outbox" / "night").mkdir(parents=True)
    done = here(*wrong.split())
    assert "did you mean 'night'?" in done.out + done.err


def test_a_wrong_pack_model_or_kind_gets_a_name_or_a_step(here: Here) -> None:
    (here.home / "prompts" / "mine").mkdir()
    for wrong, said in (
        ("compose mine", "mine/pack.json: is not there: copy one from prompts/shapes"),
        ("compose shape --all", "did you mean 'shapes'?"),
        ("gallery search --model tinny", "did you mean 'tiny'?"),
        ("gallery search --kind foo", "'kontext'"),
    ):
        assert said in here(*wrong.split()).err, wrong


@pytest.mark.skipif(os.name == "nt", reason="a terminal of POSIX")
def test_an_mcp_server_that_a_person_starts_says_what_it_waits_for(home: Path) -> None:
    with on_terminal("mcp", home=home) as terminal:
        terminal.shows("waiting for an agent's messages on standard input")


def test_a_misspelt_command_gets_a_suggestion() -> None:
    done = fluxdrop("stauts")
    assert done.code == 2 and "did you mean 'status'?" in done.err and done.out == ""
    assert "Traceback" not in done.err
    cut_short = fluxdrop("statu")
    assert (cut_short.code, cut_short.err.partition(" (see")[0]) == (
        2,
        "fluxdrop: no command 'statu': did you mean 'status'?",
    )


def test_a_wrong_choice_of_an_option_is_no_unknown_command() -> None:
    """Seen red: with every wrong choice told as an unknown command, of which there were none."""
    for arguments in (["service", "isntall"], ["compose", "cats", "--on-violation", "stop"]):
        done = fluxdrop(*arguments)
        assert done.code == 2 and "no command" not in done.err
        assert f"invalid choice: {arguments[-1]!r} (choose from" in done.err


@pytest.mark.parametrize(
    "wrong", [["submit"], ["status", "--jsn"], ["status", "a", "b"], ["check"]]
)
def test_wrong_usage_is_2_and_points_to_the_help(wrong: list[str]) -> None:
    done = fluxdrop(*wrong)
    assert done.code == 2 and "--help" in done.err and len(done.err.splitlines()) == 1


def test_an_unknown_option_of_a_command_points_to_the_help_of_that_command(here: Here) -> None:
    """Seen red: to that of the program, which has none of its options."""
    for command in ("doctor", "gallery search", "status"):
        assert f"`fluxdrop {command} --help`" in here(*command.split(), "--foo").err


def test_a_folder_that_is_no_home_is_refused_naming_init(tmp_path: Path) -> None:
    here = fluxdrop("status", cwd=tmp_path)
    assert here.code == 2 and "fluxdrop init DIR" in here.err
    there = fluxdrop("status", home=tmp_path / "nowhere")
    assert there.code == 2 and f"fluxdrop init {tmp_path / 'nowhere'}" in there.err
    for_programs = fluxdrop("status", "--json", cwd=tmp_path)
    assert for_programs.code == 2 and "init" in for_programs.json["error"]


@pytest.mark.parametrize(
    "command",
    [
        ["status"], ["status", "cat"], ["watch"], ["check", "-"], ["submit", "-"],
        ["cancel", "cat"], ["pause"], ["resume"], ["clean", "--keep", "1GB"], ["gallery", "page"],
        ["gallery", "search"], ["run", "--one-process"], ["drain", "--one-process"], ["mcp"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_home_whose_disk_is_not_mounted_is_refused_and_nothing_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:  # fmt: skip
    """Seen red: `status` said that no job was known, and `gallery page` wrote below the mount."""

    def refuse(home: Home) -> NoReturn:
        raise PlaceAway("where none is mounted now")

    monkeypatch.setattr(Home, "require_mounted", refuse)
    before = sorted(home.rglob("*"))
    assert main([*command, "--home", str(home)]) == 1
    assert capsys.readouterr().err == "fluxdrop: where none is mounted now\n"
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        ["status"], ["watch"], ["check", "-"], ["submit", "-"], ["cancel", "cat"], ["keep", "cat"],
        ["retry", "cat"], ["pause"], ["resume"], ["clean", "--keep", "1GB"], ["gallery", "page"],
        ["gallery", "search"], ["gallery", "rebuild"], ["run"], ["run", "--one-process"], ["drain"],
        ["demo"], ["mcp"], ["doctor"], ["models"], ["models", "check"], ["compose", "shapes"],
        ["verify", "cat.png"], ["service", "show"], ["init"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_home_that_a_newer_version_worked_with_is_refused_and_left_as_it_is(
    home: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Seen red: `init` wrote older schemas over its own, `status` and `submit` went on."""
    ledger = home / "data" / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(f"PRAGMA user_version = {LATEST + 1}")
        connection.execute("CREATE TABLE job (seq INTEGER PRIMARY KEY)")
        connection.commit()
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    where = [str(home)] if command == ["init"] else ["--home", str(home)]
    assert main([*command, *where]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("fluxdrop: a newer version of fluxdrop made") and "use that" in told
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before


def test_each_mistake_in_the_settings_is_a_line_of_its_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: all of them in one line, with a backslash and an n between them."""
    (home / "fluxdrop.yaml").write_text("foo: 1\nbar: 2\n", encoding="utf-8")
    assert main(["doctor", "--home", str(home)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("fluxdrop: ") and ":1:1: foo" in first and ":2:1: bar" in second


def test_what_starts_a_runner_again_begins_before_the_disk_of_its_home_is_mounted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the machine's start it may be mounted later than the service begins."""

    def refuse(home: Home) -> NoReturn:
        raise PlaceAway("where none is mounted now")

    monkeypatch.setattr(Home, "require_mounted", refuse)
    monkeypatch.setattr("runner.daemon.supervisor.keep_running", lambda *_, **__: 0)
    assert main(["run", "--home", str(home)]) == 0


def test_the_home_is_named_by_option_then_environment_then_folder(
    home: Path, tmp_path: Path
) -> None:
    for arguments in (["--home", str(home), "status"], ["status", "--home", str(home)]):
        assert fluxdrop(*arguments, cwd=tmp_path).code == 0
    named = clean_environment(FLUXDROP_HOME=str(home))
    assert fluxdrop("status", cwd=tmp_path, environment=named).code == 0
    assert fluxdrop("status", cwd=home).code == 0
    assert fluxdrop("status", home=tmp_path, cwd=home, environment=named).code == 2


def test_init_makes_a_home_and_leaves_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "pictures of mine"
    first = fluxdrop("init", str(folder), "--json")
    assert first.json == {"home": str(folder), "new": True}
    assert {"inbox", "outbox", "prompts", "data", "fluxdrop.yaml"} <= set(os.listdir(folder))
    assert (folder / "specs" / "job.schema.json").is_file()
    assert (folder / "data").stat().st_mode & 0o777 == 0o700 or os.name == "nt"
    (folder / "fluxdrop.yaml").write_text("rescan_seconds: 1\n", encoding="utf-8")
    again = fluxdrop("init", str(folder))
    assert again.code == 0 and "still" in again.out
    assert (folder / "fluxdrop.yaml").read_text(encoding="utf-8") == "rescan_seconds: 1\n"
    # A command a line: PowerShell knows no `&&`.
    *_, go, look = again.out.splitlines()
    assert look == "  fluxdrop status" and first.code == 0
    if os.name != "nt":
        subprocess.run(["sh", "-c", go], check=True)
    assert fluxdrop("init", str(folder / "fluxdrop.yaml")).code == 2


def test_a_mistake_in_the_settings_is_told_with_its_place(home: Path) -> None:
    (home / "fluxdrop.yaml").write_text("strict: true\nrescan_second: 1\n", encoding="utf-8")
    done = fluxdrop("doctor", home=home)
    assert done.code == 2 and "fluxdrop.yaml:2:1:" in done.err
    assert "did you mean 'rescan_seconds'" in done.err


def test_a_mistake_in_the_settings_keeps_no_word_from_a_running_runner(tmp_path: Path) -> None:
    """Seen red: with a wrong `window` no night could be paused, cancelled or looked at."""
    (tmp_path / "out").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "fluxdrop.yaml").write_text("outbox: out\nwindow: 23-7\n", encoding="utf-8")
    done = fluxdrop("pause", home=tmp_path)
    assert done.code == 0 and "fluxdrop.yaml:2:9: window:" in done.err
    assert (tmp_path / "inbox" / "runner.pause").exists()
    done = fluxdrop("status", "--json", home=tmp_path)
    assert done.code == 0 and "window:" in done.err
    assert fluxdrop("cancel", "night", home=tmp_path).code == 0
    (tmp_path / "fluxdrop.yaml").write_text("outbox: [out\n", encoding="utf-8")
    assert fluxdrop("pause", home=tmp_path).code == 2, "its folders are not known"


def test_check_tells_every_problem_of_every_file(home: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.json"
    good.write_text(spec(), encoding="utf-8")
    bad.write_text(
        '{"kind": "text2img",\n "model": "tiny", "promt": "x",\n "steps": 0}', encoding="utf-8"
    )
    done = fluxdrop("check", str(good), str(bad), "--json", home=home)
    assert done.code == 1 and done.json["ok"] is False
    first, second = done.json["files"]
    assert first == {"file": str(good), "errors": []}
    assert {error["path"] for error in second["errors"]} >= {"promt", "steps"}
    places = {error["path"]: (error["line"], error["column"]) for error in second["errors"]}
    assert places["steps"][0] == 3 and places["promt"][0] == 2
    lines = fluxdrop("check", str(good), str(bad), home=home).out.splitlines()
    assert len(lines) == len(second["errors"])
    assert all(line.startswith(f"{bad}:") for line in lines)
    assert fluxdrop("check", str(good), home=home).code == 0


def test_check_reads_standard_input_and_needs_no_home(tmp_path: Path) -> None:
    done = fluxdrop("check", "-", stdin=spec().encode(), cwd=tmp_path)
    assert (done.code, done.out) == (0, "")
    bad = fluxdrop("check", "-", stdin=b"kind: text2img\nsteps: [", cwd=tmp_path)
    assert bad.code == 1 and bad.out.startswith("-:")


@pytest.mark.parametrize("example", sorted((ROOT / "specs/examples").glob("*.yaml")), ids=str)
def test_every_example_passes_check(example: Path) -> None:
    assert fluxdrop("check", str(example), cwd=ROOT).code == 0


def test_a_file_that_cannot_be_read_is_wrong_usage_and_drops_nothing(
    home: Path, tmp_path: Path
) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(spec(), encoding="utf-8")
    for missing in (tmp_path / "none.yaml", tmp_path):
        done = fluxdrop("submit", str(good), str(missing), home=home)
        assert done.code == 2 and f"cannot read {missing}" in done.err
    assert os.listdir(home / "inbox") == ["README.md"]


def test_submit_without_a_runner_names_the_drops(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "cat.yaml"
    file.write_text(spec(), encoding="utf-8")
    first = fluxdrop("submit", str(file), home=home)
    assert (first.code, first.out) == (0, "cat.yaml\n") and "no runner" in first.err
    second = fluxdrop("submit", str(file), "--json", home=home)
    assert second.json == {"jobs": [], "drops": ["cat-2.yaml"]}
    assert (home / "inbox" / "cat.yaml").read_bytes() == file.read_bytes()
    assert "2 in the inbox" in fluxdrop("status", home=home).out
    waited = fluxdrop("submit", str(file), "--wait", home=home)
    assert waited.code == 69 and "fluxdrop run" in waited.err


def test_submit_takes_yaml_and_json_from_standard_input(home: Path) -> None:
    assert fluxdrop("submit", "-", stdin=spec().encode(), home=home).out == "stdin.yaml\n"
    data = json.dumps({"kind": "text2img", "model": "tiny", "prompt": "a\tb"}, indent="\t").encode()
    assert fluxdrop("submit", "-", stdin=data, home=home).out == "stdin.json\n"
    flow = b"{kind: text2img, model: tiny, prompt: a red circle}"
    assert fluxdrop("submit", "-", stdin=flow, home=home).out == "stdin-2.yaml\n"


def test_submit_brings_the_pictures_that_lie_beside_the_spec(home: Path, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image="cat.png"), encoding="utf-8")
    done = fluxdrop("submit", str(file), home=home)
    assert done.code == 0 and "copied cat.png" in done.err
    assert (home / "inbox" / "cat.png").read_bytes() == b"a picture"
    (tmp_path / "cat.png").write_bytes(b"another")
    fluxdrop("submit", str(file), home=home)
    assert (home / "inbox" / "cat.png").read_bytes() == b"a picture", "an input was overwritten"


def test_an_inbox_that_cannot_be_written_is_said_in_one_sentence(home: Path) -> None:
    (home / "inbox" / ".tmp").write_bytes(b"")  # root can write anywhere, but not through a file
    done = fluxdrop("submit", "-", stdin=spec().encode(), home=home)
    assert done.code == 2 and "cannot write into" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "make it writable"),
        (errno.ENOSPC, "make it writable, or make room"),
        (errno.EACCES, "let this user read and write it"),
        (errno.ETIMEDOUT, "see whether its disk works, or its share answers"),
        (errno.EHOSTDOWN, "see whether its disk works, or its share answers"),
        (errno.ENOTCONN, "see whether its disk works, or its share answers"),
    ],
)
def test_what_the_system_refuses_to_a_command_is_said_in_one_sentence(
    home: Path,
    number: int,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seen red: a demo over a read-only outbox ended in a traceback."""

    def refuse(disk: Disk, folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(Disk, "make_folder", refuse)
    assert main(["demo", "--home", str(home)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert f"{home / 'outbox' / 'drops'}: {os.strerror(number)}: {advice}" in said[-1]
    assert main(["demo", "--json", "--home", str(home)]) == 1
    assert os.strerror(number) in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("wrong", ["../x", "a/b", ".hidden", ""])
def test_what_cannot_be_an_id_is_refused_and_writes_nothing(home: Path, wrong: str) -> None:
    assert fluxdrop("cancel", wrong, home=home).code == 2
    assert fluxdrop("status", wrong, home=home).code in ((1,) if wrong else (0,))
    assert os.listdir(home / "inbox") == ["README.md"]
    assert not (home / "x.cancel").exists()


def test_control_verbs_write_the_files_of_the_inbox(home: Path) -> None:
    done = fluxdrop("cancel", "hero", home=home)
    assert done.code == 0 and "no job or drop of this name yet" in done.out
    assert (home / "inbox" / "hero.cancel").is_file()
    assert fluxdrop("pause", "--json", home=home).json == {"ok": True}
    assert (home / "inbox" / "runner.pause").is_file()
    for _ in range(2):
        assert fluxdrop("resume", home=home).code == 0
    assert not (home / "inbox" / "runner.pause").exists()
    retried = fluxdrop("retry", "hero", home=home)
    assert retried.code == 2 and "unknown" in retried.err


def test_an_unknown_job_is_unknown_and_one_in_the_inbox_is_submitted(home: Path) -> None:
    unknown = fluxdrop("status", "hero", "--json", home=home)
    assert unknown.code == 1 and unknown.json == {"id": "hero", "state": "unknown"}
    (home / "inbox" / "hero.yaml").write_text(spec(), encoding="utf-8")
    submitted = fluxdrop("status", "hero", "--json", home=home)
    assert submitted.code == 0 and submitted.json["state"] == "submitted"


def test_watch_needs_a_runner(home: Path) -> None:
    assert fluxdrop("watch", home=home).code == 69


def test_a_drain_that_is_started_again_after_its_hour_leaves_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the hour was handed on, and a death a minute before it cost a whole day."""
    given: list[str] = []
    monkeypatch.setattr(
        "runner.daemon.supervisor.keep_running",
        lambda arguments, **more: given.extend(arguments) or 0,
    )
    assert main(["drain", "--until", "07:00", "--home", str(home)]) == 0
    until = given[given.index("--until") + 1]
    assert datetime.fromisoformat(until) > datetime.now(UTC)
    (home / "inbox" / "later.yaml").write_text(spec(), encoding="utf-8")
    past = fluxdrop("drain", "--one-process", "--until", "2026-01-01T07:00:00.000Z", home=home)
    assert past.code == 0 and not (home / "outbox" / "later" / "later-0001.png").exists()


@pytest.mark.parametrize("until", ["25:00", "24:00", "soon", "7", "", "07:61", "9999-12-31T23:00"])
def test_an_hour_that_is_none_is_wrong_usage_and_what_to_write_is_told(
    home: Path, until: str
) -> None:
    """Seen red: an empty one, as of an unset variable, was taken for none."""
    done = fluxdrop("drain", "--until", until, home=home)
    assert done.code == 2 and repr(until) in done.err
    assert "from 00:00 to 23:59, like 07:00" in done.err and "like 2026-11-30T07:00" in done.err


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot give one process another zone here")
@pytest.mark.parametrize(
    ("now", "until", "moment"),
    [
        ("2026-03-28T22:00Z", "07:00", "2026-03-29T05:00Z"),  # spring: the night is an hour short
        ("2026-10-24T21:00Z", "07:00", "2026-10-25T06:00Z"),  # autumn: it is an hour longer
        ("2026-03-28T22:00Z", "02:30", "2026-03-29T01:00Z"),  # no clock shows it: the next it shows
        ("2026-11-23T05:59Z", "07:00", "2026-11-23T06:00Z"),
        ("2026-11-23T06:00Z", "07:00", "2026-11-24T06:00Z"),
        ("2026-11-23T06:00Z", "2026-11-23T07:00", "2026-11-23T06:00Z"),
    ],
)
def test_an_hour_to_leave_at_is_what_the_clock_shows_then(
    monkeypatch: pytest.MonkeyPatch, now: str, until: str, moment: str
) -> None:
    """Seen red in both nights in which the clock changes: an hour late, an hour early."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        patch.setattr("runner.cli.run.now", datetime.fromisoformat(now).timestamp)
        found = _next_time(until)
    time.tzset()
    assert found == datetime.fromisoformat(moment).timestamp()


def test_models_tells_what_is_here_in_the_shape_programs_rely_on(home: Path) -> None:
    rows = {row["name"]: row for row in fluxdrop("models", "--json", home=home).json["models"]}
    assert {"name", "kinds", "repo", "licence", "gated", "present", "path", "bytes"} <= rows[
        "tiny"
    ].keys()
    assert rows["tiny"]["present"] and set(rows["tiny"]["kinds"]) == set(kinds())
    assert not rows["dev"]["present"] and rows["dev"]["gated"]
    assert "schnell" in fluxdrop("models", home=home).out


def test_doctor_looks_at_the_machine_and_says_what_it_found(home: Path) -> None:
    done = fluxdrop("doctor", "--json", home=home)
    names = {finding["name"] for finding in done.json["findings"]}
    assert {"python", "packages", "disk", "inbox", "runner", "device", "models"} <= names
    assert done.code == (0 if done.json["ok"] else 1)
    assert fluxdrop("doctor", home=home).out.count("\n") >= len(names)


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    for verb in ("models", "status"):
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", verb, "--home", str(home)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(),
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_runner_works_with_closed_streams(home: Path, closed: str) -> None:
    """Seen red: it ended before the first job, and the ledger might have had number 1."""
    (home / "inbox" / "cat.yaml").write_text(spec(), encoding="utf-8")
    command = [sys.executable, "-m", "runner", "drain", "--one-process", "--home", str(home)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env=clean_environment(), timeout=PATIENCE, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (home / "outbox" / "cat" / "cat-0001.png").exists()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_runner_whose_output_nobody_reads_any_more_works_on(home: Path, stream: str) -> None:
    """Seen red: a traceback, and an end without the exit code of what was done."""
    (home / "inbox" / "cat.yaml").write_text(spec(stpes=1), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "drain", "--one-process", "--home", str(home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(),
    )  # fmt: skip
    gone, read = process.stdout, process.stderr
    if stream == "stderr":
        gone, read = read, gone
    assert gone is not None and read is not None
    gone.close()
    with read:
        said = read.read()
    assert process.wait(PATIENCE) == 1, said
    assert b"Traceback" not in said
    assert (home / "outbox" / "cat" / "status.json").exists()


def test_a_terminal_without_unicode_is_no_error(home: Path) -> None:
    plain = clean_environment(PYTHONIOENCODING="ascii")
    done = fluxdrop("status", home=home, environment=plain)
    assert done.code == 0
    missing = fluxdrop("status", home=home / "☂", environment=plain)
    assert missing.code == 2 and "\\u2602" in missing.err


def test_every_command_says_what_it_is_for() -> None:
    told = build_parser().format_help()
    for verb in ("demo", "init", "doctor", "run", "drain", "submit", "check", "status", "watch",
                 "cancel", "retry", "keep", "pause", "resume", "models"):  # fmt: skip
        assert f"    {verb} " in told, f"{verb} is missing"
    for code in ("0 done", "69 needs", "75 another"):
        assert code in told
