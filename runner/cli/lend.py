"""`lend`: gives the GPU to another program, for a time, while a command runs, or until told."""

import argparse
import os
import shutil
import signal
import subprocess
import time
from functools import cache
from typing import Any

from runner import client
from runner.cli.output import add_verb, print_answer, print_message
from runner.errors import UsageProblem
from runner.settings import Home, find_home
from runner.spool.store import lending
from runner.stop_signals import taken_by
from runner.wire import Lent
from specs.times import parse_duration

_MOST_SECONDS = 1e10


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    lend = add_verb(verbs, shared, "lend", run_lend, "give the GPU to another program for a while")
    lend.add_argument("--for", dest="time", metavar="TIME", help="take it back after: 90s, 30m, 2h")
    lend.add_argument("--now", action="store_true", help="stop the image in hand at its next step")
    lend.add_argument("--end", action="store_true", help="take it back")
    command_help = "run this when the GPU is free, and take it back when it ends"
    lend.add_argument("command", nargs="*", metavar="COMMAND", help=command_help)


def run_lend(options: argparse.Namespace) -> int:
    """Lend the device, and return when it is free; with a command, when that has ended."""
    home, command = find_home(options.home, tell=print_message), options.command[:]
    if options.end:
        text = "taken back" if client.take_back(home) else "it was not lent"
        print_answer(options, {"ok": True}, text)
        return 0
    seconds = parse_duration(options.time or "")
    if options.time is not None and (seconds is None or seconds > _MOST_SECONDS):
        raise UsageProblem(f"a time is written like 90s, 30m or 2h, not {options.time!r}")
    if command and not (found := shutil.which(command[0])):
        raise UsageProblem(f"there is no command {command[0]!r}")
    elif command:
        command[0] = found
    # Until it is free: the end of this process takes it back.
    lent = lending.lent_to(os.getpid(), now=options.now)
    try:
        client.lend(home, lent, cache(print_message))
        until = None if seconds is None else time.time() + seconds
        if command:
            return _run(home, lent, command, until)
        client.lend_on(home, lent, kept := lending.lent_to(None, until))
    finally:
        client.take_back(home, lent)
    until_text = kept["until"] or "it is taken back"
    text = f"the device is free, and lent until {until_text}: `fluxdrop lend --end` takes it back"
    print_answer(options, {"lent": kept}, text)
    return 0


def _run(home: Home, lent: Lent, command: list[str], until: float | None) -> int:
    """Run a command to which the device is lent; its exit code, 128 + n where signal n ended it."""
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: object) -> None:
        # A terminal sends Ctrl-C to the command as well, which may mean something else by it.
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    with taken_by(pass_on):
        try:
            child = subprocess.Popen(command)
        except OSError as error:
            raise UsageProblem(f"{command[0]} cannot be started: {error.strerror}") from error
        client.lend_on(home, lent, lent := lending.lent_to(child.pid, until))
        code = child.wait()
    # The runner takes it back by itself when the command has ended, and when the time is over.
    if not client.take_back(home, lent) and until is not None and time.time() >= until:
        print_message("the time was over before the command ended: the device was taken back")
    return 128 - code if code < 0 else code
