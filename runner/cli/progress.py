"""The progress of jobs: a page that changes on a terminal, elsewhere one line for each change.

Reads status files and the health file only, so it shows the same whether the runner is this process
or another.
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from runner import reading
from runner.cli.output import give_up, job_line, print_line, show
from runner.files import is_there
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.spool.store.names import is_safe_id
from runner.wire import PREVIEW

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_POLL_SECONDS = 0.1
_OF_AN_END = ("id", "state", "reason", "message", "images", "accepted_at")
Json = dict[str, Any]


class Board:
    """Shows the progress of jobs; `ids` is called for the jobs to show at each update.

    On a terminal a `whole` one has the screen, and the runner's own line, slots and last results;
    any other has the last lines, below one for each job that ended. Where the jobs were `named`,
    each has its bar, whatever its state.
    """

    def __init__(
        self,
        home: Home,
        ids: Callable[[], list[str]],
        *,
        as_json: bool = False,
        named: bool = False,
        whole: bool = False,
    ) -> None:
        self.footer = ""
        self.draws = not as_json and is_drawable()
        self._home = home
        self._ids = ids
        self._as_json = as_json
        self._named = named
        self._whole = whole
        self._live = _live(whole) if self.draws else None
        # By job that `ids` named last, or that is not over: the status shown last.
        self._jobs: dict[str, Json] = {}
        # At the first look: what was over before it is no news.
        self._skips_over = whole and not (named or as_json)
        # When the newest of those that are no longer in it was accepted: `clean` may let older ones
        # be named again.
        self._forgotten = ""
        # The jobs whose preview was named.
        self._previewed: set[str] = set()
        self._drawn: list[Text] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.follow, args=(lambda: False,), daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._update()
        if self._live:
            try:
                self._live.stop()
            except OSError:
                # The terminal was closed: the jobs and their exit code are the same.
                give_up(sys.stdout)

    def follow_in_thread(self) -> None:
        """Update the board in a thread of its own until it is left."""
        self._thread.start()

    def follow(
        self, is_over: Callable[[], bool | None], pause: Callable[[], bool] | None = None
    ) -> None:
        """Update the board until `is_over` or `pause` returns true, or the board is left.

        `pause` is called between two updates.
        """
        while not is_over() and not (pause() if pause else self._stop.wait(_POLL_SECONDS)):
            self._update()

    def running(self) -> list[Json]:
        """The statuses of the jobs in hand."""
        return [status for status in self._jobs.values() if status["state"] == "running"]

    def _update(self) -> None:
        try:
            self._show_changes()
            if self._live:
                self._draw(self._live)
        except OSError:
            if self._thread.ident is None:
                raise
            # Who works on in the other thread does not end because nobody reads any more.
            give_up(sys.stdout)

    def _show_changes(self) -> None:
        ids, skips = [*self._jobs], self._skips_over
        with suppress(OSError):  # at the next look
            ids = [*filter(is_safe_id, self._ids())]
            self._skips_over = False
        # A job that was shown once is shown to its end, whether `ids` still names it or not.
        for job_id in dict.fromkeys([*self._jobs, *ids]):
            preview, before = self._home.job(job_id) / PREVIEW, self._jobs.get(job_id)
            status, is_shown = None, False
            with suppress(OSError):  # at the next look
                status = reading.status(preview.with_name("status.json"))
                is_shown = is_there(preview)
            if before and status and before["accepted_at"] != status["accepted_at"]:
                before = None  # another job of that id
                self._previewed.discard(job_id)
            if status is None or (before and before["state"] in FINAL_STATES):
                continue
            status["id"] = job_id
            is_end = status["state"] in FINAL_STATES
            is_old = is_end and before is None and status["accepted_at"] <= self._forgotten
            is_new = before is None or _told(status) != _told(before)
            if is_new and not (is_old or (is_end and skips)):
                self._tell(status, before, is_end=is_end)
            if is_shown and not (self._as_json or job_id in self._previewed):
                self._previewed.add(job_id)
                self._print(f"{job_id:<24} preview     {preview}")
            self._jobs[job_id] = {key: status[key] for key in _OF_AN_END} if is_end else status
        for job_id in self._jobs.keys() - set(ids):
            if self._jobs[job_id]["state"] in FINAL_STATES:
                self._forgotten = max(self._forgotten, self._jobs.pop(job_id)["accepted_at"])
        self._previewed &= self._jobs.keys()

    def _tell(self, status: Json, before: Json | None, *, is_end: bool) -> None:
        if self._as_json:
            print_line(_changed(status, before or {"outputs": []}))
        elif not self._live or (is_end and not self._named):
            self._print(job_line(status), status)

    def _print(self, line: str, ended: Json | None = None) -> None:
        """Print a line, above what changes; nothing where that has the screen."""
        if not self._live:
            show(line, flush=True)
        elif not self._whole:
            from runner.cli.screen import above, is_plain

            text = above(line, ended, plain=is_plain(self._live.console.encoding))
            self._live.console.print(text, soft_wrap=True, highlight=False)

    def _draw(self, live: "Live") -> None:
        from rich.console import Group

        from runner.cli import screen

        health: Json = {}
        with suppress(OSError):  # at the next look
            health = reading.health(self._home.health) or {}
        named = self._ids() if self._named else ()
        jobs = [self._jobs[job] for job in named if job in self._jobs] or self.running()
        rows = (self._jobs.get(row["id"], row) for row in health.get("recent", ()))
        ended = [row for row in rows if row["state"] in FINAL_STATES and row not in jobs]
        width, height = live.console.size
        drawn = screen.lines(
            (width, height - (not self._whole)), health, jobs, ended if self._whole else (),
            whole=self._whole, footer=self.footer, plain=screen.is_plain(live.console.encoding),
        )  # fmt: skip
        if drawn != self._drawn:
            self._drawn = drawn
            live.update(Group(*drawn), refresh=True)


def is_drawable() -> bool:
    """Whether standard output is a terminal on which lines can be changed."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _told(status: Json) -> tuple[Any, ...]:
    """What is worth a line when it changes."""
    return status["state"], status["reason"], status["images"]["done"]


def _changed(status: Json, before: Json) -> Json:
    """What is new in a status, of its outputs too, and which job and state that is."""
    always = ("id", "revision", "state")
    new = {k: v for k, v in status.items() if k in always or k not in before or v != before[k]}
    if "outputs" in new:
        new["outputs"] = [output for output in status["outputs"] if output not in before["outputs"]]
    return new


def _live(whole: bool) -> "Live":
    from rich.console import Console
    from rich.live import Live

    # Not by a thread of rich: it would end where the terminal was closed, see `_update`.
    return Live(
        console=Console(), auto_refresh=False, screen=whole, transient=True,
        vertical_overflow="crop",
    )  # fmt: skip
