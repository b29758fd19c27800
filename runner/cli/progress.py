"""The progress of jobs: bars on a terminal, elsewhere one line for each change.

Reads status files only, so it shows the same whether the runner is this process or another.
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from runner import reading
from runner.cli.output import give_up, job_line, print_line, show, slot_note
from runner.files import is_there
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.terminal import on_one_line
from runner.wire import PREVIEW

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_POLL_SECONDS = 0.1
_MARKS = {
    "succeeded": "[green]✓",
    "failed": "[red]✗",
    "rejected": "[red]✗",
    "cancelled": "[yellow]■",
}


class Board:
    """Shows the progress of jobs; `ids` is called for the jobs to show at each update.

    On a terminal also `slots`, as a health file has them. Between entering and leaving it owns the
    terminal's bars.
    """

    def __init__(
        self,
        home: Home,
        ids: Callable[[], list[str]],
        *,
        slots: Callable[[], list[dict[str, Any]]] = list,
        as_json: bool = False,
    ) -> None:
        self._home = home
        self._ids = ids
        self._slots = slots
        self._as_json = as_json
        self._bars = None if as_json else _bars()
        self._tasks: dict[str, TaskID] = {}
        # By job that is not over: the status shown last.
        self._shown: dict[str, dict[str, Any]] = {}
        # By job that is over: when it was accepted. The next job of that id is another.
        self._over: dict[str, str] = {}
        # The jobs whose preview was named.
        self._previewed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.follow, args=(lambda: False,), daemon=True)

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._update()
        if self._bars:
            try:
                self._bars.stop()
            except OSError:
                # The terminal was closed: the jobs and their exit code are the same.
                give_up(sys.stdout)

    def follow_in_thread(self) -> None:
        """Update the board in a thread of its own until it is left."""
        self._thread.start()

    def follow(self, is_over: Callable[[], bool | None]) -> None:
        """Update the board until `is_over` returns true or the board is left."""
        while not is_over() and not self._stop.wait(_POLL_SECONDS):
            self._update()

    def _update(self) -> None:
        try:
            self._show_changes()
        except OSError:
            if self._thread.ident is None:
                raise
            # Who works on in the other thread does not end because nobody reads any more.
            give_up(sys.stdout)

    def _show_changes(self) -> None:
        # A job that was shown once is shown to its end, whether `ids` still names it or not.
        ids: list[str] = []
        with suppress(OSError):  # at the next look
            ids = self._ids()
        for job_id in dict.fromkeys([*self._shown, *ids]):
            status, preview, is_shown = None, self._home.job(job_id) / PREVIEW, False
            with suppress(OSError):  # at the next look
                status = reading.status(preview.with_name("status.json"))
                is_shown = is_there(preview)
            if status is None or self._over.get(job_id) == status["accepted_at"]:
                continue
            if self._over.pop(job_id, None):
                self._tasks.pop(job_id, None)
            status["id"] = job_id
            before = self._shown.get(job_id)
            is_new = before is None or _told(status) != _told(before)
            if is_new:
                self._shown[job_id] = status
            if self._bars:
                self._draw(self._bars, status)
            elif is_new and self._as_json:
                print_line(_changed(status, before or {"outputs": []}))
            elif is_new:
                show(job_line(status), flush=True)
            if is_shown and not (self._as_json or job_id in self._previewed):
                self._previewed.add(job_id)
                line = f"{job_id:<24} preview     {preview}"
                if self._bars:
                    self._bars.console.print(_plain(line), soft_wrap=True, highlight=False)
                else:
                    show(line, flush=True)
            if status["state"] in FINAL_STATES:
                self._previewed.discard(job_id)
                self._over[job_id] = status["accepted_at"]
                del self._shown[job_id]
        if self._bars:
            with suppress(OSError):  # at the next look
                slots = {f"slot {slot['name']}": slot for slot in self._slots()}
                for name in [name for name in self._tasks if name.startswith("slot ")]:
                    if name not in slots:
                        self._bars.remove_task(self._tasks.pop(name))
                for name, slot in slots.items():
                    if name not in self._tasks:
                        self._tasks[name] = self._bars.add_task(_plain(name), mark=" ", note="")
                    self._bars.update(
                        self._tasks[name],
                        total=slot["steps"] or 1,
                        completed=slot["step"],
                        note=_plain(f"{slot['state']}  {slot_note(slot)}"),
                    )
            self._bars.refresh()

    def _draw(self, bars: "Progress", status: dict[str, Any]) -> None:
        job_id, images = status["id"], status["images"]
        if job_id not in self._tasks:
            self._tasks[job_id] = bars.add_task(_plain(job_id), total=1.0, mark=" ", note="")
        task = self._tasks[job_id]
        progress = status["progress"] or {}
        done = (images["done"] + images["failed"]) / max(images["total"], 1)
        over = status["state"] in FINAL_STATES
        bars.update(
            task,
            completed=1.0 if over else max(progress.get("fraction", 0.0), done),
            mark=_MARKS.get(status["state"], " "),
            note=_plain(_note(status)),
        )
        if over:
            bars.stop_task(task)


def _told(status: dict[str, Any]) -> tuple[Any, ...]:
    """What is worth a line when it changes."""
    return status["state"], status["reason"], status["images"]["done"]


def _changed(status: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What is new in a status, of its outputs too, and which job and state that is."""
    always = ("id", "revision", "state")
    new = {k: v for k, v in status.items() if k in always or k not in before or v != before[k]}
    if "outputs" in new:
        new["outputs"] = [output for output in status["outputs"] if output not in before["outputs"]]
    return new


def _bars() -> "Progress | None":
    """The bars; None where there is no terminal to show them, without loading rich."""
    if not (sys.stdout.isatty() or "FORCE_COLOR" in os.environ):
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    if not console.is_terminal:
        return None
    return Progress(
        TextColumn("{task.fields[mark]}"),
        TextColumn("[bold]{task.description:<20}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[note]:<32}"),
        TimeElapsedColumn(),
        console=console,
        # Not by a thread of rich: it would end where the terminal was closed, see `_update`.
        auto_refresh=False,
    )


def _plain(text: str) -> str:
    """A text of a status as rich shows it: no colours, links or marks of its own."""
    from rich.markup import escape

    return escape(on_one_line(text))


def _note(status: dict[str, Any]) -> str:
    images, progress = status["images"], status["progress"]
    reused = f" ({images['reused']} reused)" if images.get("reused") else ""
    counted = f"{images['done']}/{images['total']}{reused}" if images["total"] > 1 else reused
    if progress and status["state"] == "running":
        step = f" {progress['step']}/{progress['steps']}" if progress["step"] else ""
        return f"{counted} {progress['phase']}{step}".strip()
    return f"{counted} {status['reason'] or status['state']}".strip()
