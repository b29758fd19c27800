"""The command line beside a running runner, and where it is the runner itself.

Waiting, following, the demo, Ctrl-C, and a runner that dies while somebody waits for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.mcp_server.runner_presence import Attendance
from runner.settings import Home
from runner.spool.disk.platform import can_probe_writers
from specs.schemas import kinds
from tests.cli.here import Here
from tests.harness import PATIENCE, Runner, clean_environment, eventually, fluxdrop, spec

pytestmark = [
    pytest.mark.timeout(300),
    # Windows has no SIGINT for one process; there the console sends Ctrl-C to all.
    pytest.mark.skipif(os.name == "nt", reason="signals are sent to single processes here"),
]

RunnerOf = Callable[..., Runner]


@contextmanager
def started(*arguments: str, home: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on; what it prints goes to a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments, "--home", str(home)],
            stdout=file, stderr=subprocess.STDOUT, env=clean_environment(),
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def written(path: Path, **fields: object) -> str:
    path.write_text(spec(**fields), encoding="utf-8")
    return str(path)


def test_submit_prints_the_ids_of_the_jobs(runner: Runner, tmp_path: Path) -> None:
    files = [written(tmp_path / f"cli-{n}.yaml") for n in (1, 2)]
    done = fluxdrop("submit", *files, home=runner.home)
    assert (done.code, done.out) == (0, "cli-1\ncli-2\n")
    assert fluxdrop("submit", files[0], "--json", home=runner.home).json == {"jobs": ["cli-1-2"]}


def test_submit_and_wait_ends_with_the_jobs_and_says_how_they_went(
    runner: Runner, tmp_path: Path
) -> None:
    good = written(tmp_path / "cli-good.yaml")
    done = fluxdrop("submit", good, "--wait", home=runner.home)
    assert done.code == 0 and "succeeded" in done.out and "1/1" in done.out
    absent = written(tmp_path / "cli-absent.yaml", model="dev", steps=None)
    done = fluxdrop("submit", good, absent, "--wait", home=runner.home)
    assert done.code == 1 and "ModelMissing" in done.out and "succeeded" in done.out


def test_status_tells_one_job_and_the_runner(runner: Runner) -> None:
    job = runner.drop("cli-status")
    runner.succeeded(job)
    one = fluxdrop("status", job, home=runner.home)
    assert one.code == 0 and f"outbox/{job}/{job}-0001.png" in one.out
    assert fluxdrop("status", job, "--json", home=runner.home).json == runner.status(job)
    told = fluxdrop("status", home=runner.home)
    assert f"runner {runner.pid} is " in told.out
    assert fluxdrop("status", "--json", home=runner.home).json["running"] is True


def test_watch_follows_named_jobs_until_they_are_over(runner: Runner) -> None:
    job = runner.put("cli-watch.yaml", spec(steps=100)).removesuffix(".yaml")
    runner.answer(f"{job}.yaml")
    done = fluxdrop("watch", job, "--json", home=runner.home)
    states = [json.loads(line)["state"] for line in done.out.splitlines()]
    assert done.code == 0 and states[-1] == "succeeded"


def test_watch_ends_well_on_ctrl_c(runner: Runner, tmp_path: Path) -> None:
    output = tmp_path / "watch"
    with started("watch", home=runner.home, output=output) as process:
        eventually(lambda: b"runner " in output.read_bytes(), "the watch to begin")
        runner.drop("cli-seen")
        eventually(lambda: b"cli-seen" in output.read_bytes(), "the watch to show the job")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert b"Traceback" not in output.read_bytes()


def test_demo_makes_a_picture_of_each_kind(home: Path, here: Here) -> None:
    done = fluxdrop("demo", home=home)
    assert done.code == 0, done
    *pictures, sheet = done.out.splitlines()[-len(kinds()) - 1 :]
    made = [line.split()[0] for line in pictures]
    assert made[0] == "text2img" and set(made) == set(kinds())
    for line in (*pictures, sheet):
        assert Path(line.split(maxsplit=1)[1].removeprefix("sheet: ")).is_file(), line
    again = here("demo", "--json")
    assert again.code == 0 and len(again.json["jobs"]) == len(made), again
    assert [status["state"] for status in again.json["statuses"]] == ["succeeded"] * len(made)


def test_a_demo_of_a_paused_home_says_what_to_do_and_its_job_is_kept(
    home: Path, runner_of: RunnerOf
) -> None:
    (home / "inbox/runner.pause").touch()
    done = fluxdrop("demo", home=home)
    assert done.code == 2 and "`fluxdrop resume`" in done.err, done
    runner = runner_of(home).start()
    eventually(lambda: runner.read("runner.json")["state"] == "paused", "the health file")
    told = fluxdrop("status", home=home)
    assert "is paused" in told.out and "`fluxdrop resume`" in told.out
    done = fluxdrop("demo", home=home)
    assert done.code == 2 and "`fluxdrop resume`" in done.err, done
    assert fluxdrop("resume", home=home).code == 0
    runner.until("draw", lambda status: status["state"] == "running")


def test_ctrl_c_ends_a_demo_and_the_next_runner_takes_up_its_jobs(
    home: Path, tmp_path: Path
) -> None:
    with started("demo", home=home, output=tmp_path / "demo") as process:
        eventually(lambda: (home / "outbox/drops/draw.yaml.json").exists(), "the demo to begin")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130, (tmp_path / "demo").read_text(encoding="utf-8")
    said = (tmp_path / "demo").read_text(encoding="utf-8")
    assert "Traceback" not in said and "with the next `fluxdrop run`" in said
    assert fluxdrop("drain", home=home).code == 0
    assert json.loads((home / "outbox/draw/status.json").read_bytes())["state"] == "succeeded"


def test_ctrl_c_in_a_drain_and_in_a_submit_that_waits_says_what_goes_on_where(
    home: Path, tmp_path: Path
) -> None:
    """Seen red: "nothing to do", and nothing."""
    (home / "inbox" / "slow.yaml").write_text(spec(count=30, steps=100), encoding="utf-8")
    later = written(tmp_path / "third.yaml")
    drain, submit = tmp_path / "drain", tmp_path / "submit"
    with started("drain", home=home, output=drain) as process:
        eventually(lambda: b"slow  " in drain.read_bytes(), "the drain to begin")
        with started("submit", later, "--wait", home=home, output=submit) as waiting:
            eventually(lambda: b"third" in drain.read_bytes(), "the third job to be shown")
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(PATIENCE) == 130
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 1
    said = drain.read_text(encoding="utf-8")
    assert "slow goes on at image" in said and "with the next `fluxdrop run`" in said
    assert "nothing to do" not in said
    assert "no longer waiting: " in submit.read_text(encoding="utf-8")


def test_drain_says_at_once_which_file_it_waits_for_and_why(home: Path, tmp_path: Path) -> None:
    """Seen red: ten minutes without a word."""
    empty, open_one, output = home / "inbox/empty.yaml", home / "inbox/open.yaml", tmp_path / "said"
    empty.touch()
    text = b"waiting for inbox/empty.yaml, which is empty"
    with open_one.open("w", encoding="utf-8") as file:
        file.write(spec())
        file.flush()
        with started("drain", home=home, output=output) as process:
            eventually(lambda: text in output.read_bytes(), "the drain to say what it waits for")
            if can_probe_writers(home / "inbox"):
                text = b"waiting for inbox/open.yaml, which is open for writing"
                eventually(lambda: text in output.read_bytes(), "the drain to say what is open")
            file.close()
            empty.write_text(spec(), encoding="utf-8")
            assert process.wait(PATIENCE) == 0, output.read_text(encoding="utf-8")
    assert output.read_bytes().count(b"which is empty") == 1


def test_who_waits_for_a_runner_that_dies_is_told_so(
    home: Path, runner_of: RunnerOf, tmp_path: Path
) -> None:
    runner = runner_of(home).start()
    file = written(tmp_path / "orphan.yaml", steps=1000)
    output = tmp_path / "said"
    with started("submit", file, "--wait", home=home, output=output) as process:
        runner.until("orphan", lambda s: s["state"] == "running")
        runner.kill()
        assert process.wait(PATIENCE) == 69
    assert "the runner has stopped" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_runner_whose_clock_is_an_hour_off_is_there_for_everyone_until_it_dies(
    home: Path, tmp_path: Path, hours: int
) -> None:
    """Seen red: one that was behind was not running, and one ahead was, an hour after its death."""
    code = (
        f"import sys, time; real = time.time; time.time = lambda: real() + {3600 * hours}; "
        "from runner.cli import main; sys.exit(main())"
    )
    # A model that is not there: no picture need be waited for.
    file = written(tmp_path / "off.yaml", model="dev", steps=None)
    health = home / "outbox" / "runner.json"
    arguments = ["run", "--one-process", "--home", str(home)]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], env=clean_environment()) as one:
        try:
            eventually(health.exists, "the health file")
            assert fluxdrop("status", "--json", home=home).json["running"] is True
            assert Attendance(Home(home)).peek()["running"] is True
            ended = fluxdrop("submit", file, "--wait", home=home)
            assert ended.code == 1 and "ModelMissing" in ended.out
        finally:
            one.kill()
    assert fluxdrop("status", "--json", home=home).json["running"] is False
    assert fluxdrop("submit", file, "--wait", home=home).code == 69
    assert fluxdrop("watch", home=home).code == 69


def test_a_kept_runner_comes_back_when_it_is_killed_and_ends_when_told(
    home: Path, tmp_path: Path
) -> None:
    output, health_file = tmp_path / "kept", home / "outbox" / "runner.json"

    def pid_other_than(old: int) -> int:
        def look() -> int:
            try:
                health = json.loads(health_file.read_bytes())
            except FileNotFoundError:
                return 0
            return 0 if health["pid"] == old or health["state"] == "stopping" else health["pid"]

        return int(eventually(look, "a runner"))

    with started("run", home=home, output=output) as process:
        first = pid_other_than(0)
        assert first != process.pid
        os.kill(first, signal.SIGKILL)
        second = pid_other_than(first)
        assert second != process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, output.read_text(encoding="utf-8")
    assert "killed by SIGKILL" in output.read_text(encoding="utf-8")
    assert json.loads(health_file.read_bytes())["state"] == "stopping"


def test_a_terminal_sees_bars_and_their_ends(home: Path) -> None:
    import pty

    (home / "inbox" / "bars.yaml").write_text(spec(count=2), encoding="utf-8")
    (home / "inbox" / "wrong.yaml").write_text(spec(stpes=1), encoding="utf-8")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "drain", "--home", str(home)],
        stdout=theirs, stderr=theirs, stdin=theirs,
        env=clean_environment(TERM="xterm-256color", COLUMNS="100"),
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    assert process.wait(PATIENCE) == 1
    text = seen.decode()
    assert "bars" in text and "─" in text and "2/2" in text and "✓" in text
    assert "SchemaInvalid" in text and "✗" in text and "Traceback" not in text
    assert "stopped" not in text


def test_a_terminal_that_is_closed_while_a_runner_is_idle_ends_it_well(
    home: Path, tmp_path: Path
) -> None:
    """Seen red: exit code 1 and a traceback of the bars, which were drawn once more at the end."""
    import pty

    ours, theirs = pty.openpty()
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", "run", "--one-process", "--home", str(home)],
            stdout=theirs, stderr=file, stdin=theirs,
            env=clean_environment(TERM="xterm-256color", COLUMNS="100"),
        )  # fmt: skip
    os.close(theirs)
    try:
        eventually((home / "outbox" / "runner.json").exists, "the health file")
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0, log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(encoding="utf-8")
