"""Is a runner there? Says so, says how to start one, and starts one where that was allowed."""

import subprocess
import sys
import threading
import time
from typing import Any

from runner import client
from runner.launch import command
from runner.settings import Home

_PATIENCE_SECONDS = 60.0
"""How long a runner may take until its health file says that it is there."""


class Attendance:
    """Looks for the runner of one home; with `autostart` it starts one, detached."""

    def __init__(self, home: Home, *, autostart: bool = False) -> None:
        self._home = home
        self._autostart = autostart
        self._lock = threading.Lock()
        self._started: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def look(self) -> dict[str, Any]:
        """The same as `peek`, but where none is there one is started if that was allowed."""
        seen = self.peek()
        return self._start() if self._autostart and not seen["running"] else seen

    def peek(self) -> dict[str, Any]:
        """Whether a runner is there, and what a caller should know about it."""
        health = client.runner_health(self._home)
        if health is not None:
            note = f": {health['note']}" if health["note"] else ""
            return {"running": True, "message": f"a runner is {health['state']}{note}"}
        return {
            "running": False,
            "message": "no runner is running, so nothing is made yet; what was submitted waits"
            f" safely. Ask the user to start one: {self.command}",
        }

    @property
    def command(self) -> str:
        """What a user types to start a runner of this home."""
        root = str(self._home.root)
        return f"fluxdrop run --home {root!r}" if " " in root else f"fluxdrop run --home {root}"

    def _start(self) -> dict[str, Any]:
        with self._lock:
            age = time.monotonic() - self._started_at
            ended = self._started.poll() if self._started else None
            if self._started is None or (ended is not None and age > _PATIENCE_SECONDS):
                self._started, ended = self._detached(), None
                self._started_at = time.monotonic()
        if ended is None:
            return {"running": False, "message": "a runner was started and will take it soon"}
        return {
            "running": False,
            "message": f"a runner was started and ended with exit code {ended}; its log is"
            f" {self._home.data / 'runner.log'}. Ask the user to look, or to run: {self.command}",
        }

    def _detached(self) -> subprocess.Popen[bytes]:
        """A runner that outlives this server and shares nothing with its streams."""
        self._home.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        own: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
            own = {"creationflags": flags}
        with (self._home.data / "runner.log").open("ab") as log:
            return subprocess.Popen(
                [*command(), "run", "--home", str(self._home.root)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._home.root, **own,
            )  # fmt: skip
