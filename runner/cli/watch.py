"""`watch`: what the runner does, as a page that changes and has keys, as lines, or as JSON.

Reads the home's files only, so it shows the same wherever the runner is.
"""

import argparse
import importlib
import os
import signal
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from runner import client, reading
from runner.cli.output import add_verb, file_lines, nearest_job, print_message, runner_line, show
from runner.cli.progress import Board
from runner.errors import RunnerNeeded
from runner.files import is_file, is_there
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.spool.store.names import is_safe_id
from runner.stop_signals import taken_by
from specs.errors import FluxdropError

_KEY_SECONDS = 0.1


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    watch = add_verb(verbs, shared, "watch", run_watch, "follow the runner until Ctrl-C")
    watch.add_argument("ids", nargs="*", metavar="ID", help="follow these until they are over")


def run_watch(options: argparse.Namespace) -> int:
    """Show the runner's jobs until Ctrl-C or q, or the named jobs until they are over."""
    home = find_home(options.home, tell=print_message)
    if (health := client.runner_health(home)) is None:
        raise RunnerNeeded("no runner is running: start `fluxdrop run`")

    def statuses() -> list[dict[str, Any]]:
        return [client.status(home, job) for job in options.ids]

    def is_over() -> bool:
        over = named and all(s["state"] in (*FINAL_STATES, "unknown") for s in statuses())
        return over or client.runner_health(home) is None

    def ids() -> list[str]:
        return options.ids or _newest(home)

    named = bool(options.ids)
    board = Board(home, ids, as_json=options.json, named=named, whole=True)
    if not (named or options.json or board.draws):
        print_message(runner_line(health))
    # By a stop, too, the terminal is left as it was.
    with suppress(KeyboardInterrupt), taken_by(signal.default_int_handler), ExitStack() as stack:
        keys = None
        if board.draws and sys.stdin.isatty():
            keys = _Keys(home, board, stack.enter_context(_pressed()))
        stack.enter_context(board)
        board.follow(client.patient(is_over), keys)
    found = statuses()
    for status in () if options.json else found:
        if status["state"] == "unknown":
            print_message(f"there is no job {status['id']!r}: {nearest_job(home, status['id'])}")
        for line in file_lines(home, status) if board.draws else ():
            show(line)
    if not named and client.runner_health(home) is None:
        print_message("the runner has stopped")
    return 0 if all(status["state"] == "succeeded" for status in found) else 1


def _newest(home: Home) -> list[str]:
    """The jobs in hand, the last ones, the oldest first, and the next."""
    health = reading.health(home.health) or {}
    held = [slot["job"] for slot in health.get("slots", ()) if slot["job"]]
    recent = [job["id"] for job in reversed(health.get("recent", ()))]
    return list(dict.fromkeys([*held, *recent, *health.get("next", ())]))


class _Keys:
    """Obeys the keys of the page; called, it waits for some and returns whether to leave."""

    def __init__(self, home: Home, board: Board, read: Callable[[float], str | None]) -> None:
        self._home, self._board, self._read = home, board, read
        self._asked: str | None = None
        self._said = ""

    def __call__(self) -> bool:
        keys = self._read(_KEY_SECONDS)
        if keys is None or "q" in keys.lower():
            return True
        paused = False
        try:
            for key in keys.lower():
                self._said = self._obey(key)
            paused = is_there(self._home.inbox / "runner.pause")
        except (FluxdropError, OSError) as error:
            self._said = str(error)
        usual = f"p {'resume' if paused else 'pause'}  c cancel  o open  q quit"
        self._board.footer = self._said if self._asked else f"{self._said}   {usual}".lstrip()
        return False

    def _obey(self, key: str) -> str:
        """Do what a key asks for, and return what to say of it."""
        job, self._asked = self._asked, None
        in_hand = [status["id"] for status in self._board.running()]
        if job and key == "y":
            client.cancel(self._home, job)
            return f"{job} stops at its next step"
        if job:
            return ""
        if key == "p":
            paused = is_there(self._home.inbox / "runner.pause")
            (client.resume if paused else client.pause)(self._home)
            halted = "the image in hand is finished, then nothing starts"
            return "images start again" if paused else halted
        if key == "c" and in_hand:
            self._asked = in_hand[0]
            return f"cancel {in_hand[0]}? y or n"
        if key == "o":
            return self._opened(in_hand)
        return "no job is in hand" if key == "c" else ""

    def _opened(self, in_hand: list[str]) -> str:
        """Open the page of the newest picture in a browser; what to say of it."""
        recent = (reading.health(self._home.health) or {}).get("recent", ())
        ids = filter(is_safe_id, [*in_hand, *(job["id"] for job in recent)])
        pages = (self._home.job(job) / "index.html" for job in ids)
        page = next(filter(is_file, pages), self._home.outbox / "index.html")
        # Without a desktop a browser of the terminal would be started, in this terminal.
        has_desktop = os.name == "nt" or sys.platform == "darwin"
        has_desktop |= bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
        shown = page.relative_to(self._home.outbox.parent)
        return f"{'opened ' if has_desktop and webbrowser.open(page.as_uri()) else ''}{shown}"


@contextmanager
def _pressed() -> Iterator[Callable[[float], str | None]]:
    """Yields what waits at most so many seconds for keys: those, "", or None where none can come.

    Leaves the terminal as it was.
    """
    if sys.platform == "win32":
        yield _of_console
    else:
        import termios
        import tty
        from select import select

        terminal = sys.stdin.fileno()

        def read(seconds: float) -> str | None:
            if not select([terminal], [], [], seconds)[0]:
                return ""
            typed = os.read(terminal, 64).decode(errors="replace")
            # Nothing is read where the terminal was closed. An arrow is an escape with letters.
            return typed.partition("\x1b")[0] if typed else None

        before = termios.tcgetattr(terminal)
        # Who stops it with Ctrl-Z would be left on its page.
        stops = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            tty.setcbreak(terminal)
            yield read
        finally:
            signal.signal(signal.SIGTSTP, stops)
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _of_console(seconds: float) -> str:
    console: Any = importlib.import_module("msvcrt")
    deadline = time.monotonic() + seconds
    while not console.kbhit():
        if time.monotonic() >= deadline:
            return ""
        time.sleep(seconds / 10)
    key = str(console.getwch())
    if key in "\0\xe0" and console.kbhit():
        # An arrow is this, and then a letter.
        console.getwch()
        return ""
    return key
