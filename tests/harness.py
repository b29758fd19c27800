"""What tests of the whole way need: a real runner process in a home, and the command line.

Nothing here sleeps blindly: `eventually` looks again and again until a condition holds or a
deadline passes, and says what it was waiting for and what it saw last.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent
FINAL_STATES = {"succeeded", "failed", "cancelled", "rejected"}
MOVES = {
    "queued": {"running", "cancelled", "failed"},
    "running": {"queued", "succeeded", "failed", "cancelled"},
    **{state: set() for state in FINAL_STATES},
}
"""The states that the contract lets follow each."""
PATIENCE = 90.0
"""Seconds that a loaded machine of two cores may take for what takes one when it is idle."""
_LOOK_SECONDS = 0.01
T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """What `look` finds, once it finds something that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}; last: {found!r}")
        time.sleep(_LOOK_SECONDS)
    return found


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a user who has set nothing of ours."""
    ours = ("FLUXDROP_", "HF_", "HUGGINGFACE_", "PYTHONWARN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONUTF8": "1", **more}


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def fluxdrop(
    *arguments: str,
    home: Path | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = PATIENCE,
) -> Result:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "runner", *arguments]
    if home is not None:
        command += ["--home", str(home)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=seconds, cwd=cwd,
        env=dict(environment or clean_environment()),
    )  # fmt: skip
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def spec(**fields: Any) -> str:
    """A spec of the built-in model as YAML text (JSON is YAML), small enough to be quick."""
    usual = {"kind": "text2img", "model": "tiny", "seed": 7, "steps": 2}
    if fields.get("kind", "text2img") != "redux":
        usual["prompt"] = "a red circle on a blue background"
    merged = {**usual, **fields}
    lines = (f"{name}: {json.dumps(value)}" for name, value in merged.items() if value is not None)
    return "\n".join(lines) + "\n"


def sidecars(folder: Path) -> list[dict[str, Any]]:
    """The sidecars in a job's folder, in the order of its images."""
    files = sorted(folder.glob(f"{folder.name}-[0-9]*.json"))
    return [json.loads(file.read_bytes()) for file in files]


class Runner:
    """A `fluxdrop run` of its own process, in one home."""

    alive: list[Runner] = []
    """Those that are running now, so that a failing test can show what they said."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self._environment = clean_environment(**environment)
        self._log = home / "data" / "test-runner.log"
        self._started: subprocess.Popen[bytes] | None = None

    # -- its life --------------------------------------------------------------------------------

    def start(self) -> Runner:
        """Start it, and wait until it says that it is there."""
        with self._log.open("ab") as log:
            self._started = subprocess.Popen(
                [sys.executable, "-m", "runner", "run", "--one-process", "--home", str(self.home)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip
        Runner.alive.append(self)
        eventually(self._is_there, "the runner's health file")
        return self

    def _is_there(self) -> bool:
        assert self.process.poll() is None, f"the runner ended at once:\n{self.log}"
        health = self.read("runner.json")
        return bool(health) and health["pid"] == self.pid and health["state"] != "stopping"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._started is not None
        return self._started

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it printed."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(its home is gone)"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as a user would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            if self in Runner.alive:
                Runner.alive.remove(self)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()
        if self in Runner.alive:
            Runner.alive.remove(self)

    # -- what callers do -------------------------------------------------------------------------

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the outbox; empty while there is none."""
        try:
            value = json.loads((self.home / "outbox" / name).read_bytes())
        except FileNotFoundError:
            return {}
        assert isinstance(value, dict)
        return value

    def status(self, job: str) -> dict[str, Any]:
        """A job's status; empty while there is none."""
        return self.read(f"{job}/status.json")

    def folder(self, job: str) -> Path:
        """A job's folder."""
        return self.home / "outbox" / job

    def put(self, name: str, data: str | bytes = b"") -> str:
        """Put a file into the inbox by the best way; its name."""
        data = data.encode() if isinstance(data, str) else data
        aside = self.home / "inbox" / ".tmp" / name
        aside.parent.mkdir(exist_ok=True)
        aside.write_bytes(data)
        aside.replace(self.home / "inbox" / name)
        return name

    def drop(self, stem: str, **fields: Any) -> str:
        """Drop a spec of the built-in model and wait for its receipt; the job's id."""
        return self.answer(self.put(f"{stem}.yaml", spec(**fields)))["job"]

    def answer(self, name: str) -> dict[str, Any]:
        """The receipt of a drop, once its file has left the inbox."""
        eventually(lambda: not (self.home / "inbox" / name).exists(), f"{name} to be taken")
        receipt = self.read(f"drops/{name}.json")
        assert receipt, f"{name} has left the inbox, and there is no receipt"
        return receipt

    def until(self, job: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """A job's status, once something is true of it."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.status(job))
            return bool(seen and holds(seen))

        try:
            eventually(look, f"the status of {job}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(seen, indent=1)}") from None
        return dict(seen)

    def over(self, job: str) -> dict[str, Any]:
        """A job's status, once it is final."""
        return self.until(job, lambda status: status["state"] in FINAL_STATES)

    def succeeded(self, job: str) -> list[dict[str, Any]]:
        """The sidecars of a job that must succeed."""
        status = self.over(job)
        assert status["state"] == "succeeded", status
        return sidecars(self.folder(job))
