"""`lend`: gives the GPU to another program, for a time, while a command runs, or until told."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import time
from typing import Any

from runner import client
from runner.cli.output import add_verb, print_answer, print_message
from runner.errors import UsageProblem
from runner.settings import Home, find_home
from runner.spool.store import lending
from runner.stop_signals import taken_by
from runner.wire import Lent

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LOOK_SECONDS = 0.2


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    lend = add_verb(verbs, shared, "lend", run_lend, "give the GPU to another program for a while")
    lend.add_argument("--for", dest="time", metavar="TIME", help="take it back after: 90s, 30m, 2h")
    lend.add_argument("--now", action="store_true", help="stop the image in hand at its next step")
    lend.add_argument("--end", action="store_true", help="take it back")
    command_help = "run this when the GPU is free, and take it back when it ends"
    lend.add_argument("command", nargs="*", metavar="COMMAND", help=command_help)


def run_lend(options: argparse.Namespace) -> int:
    """Lend the device, and return when it is free; with a command, when that has ended."""
    home, command = find_home(options.home), options.command[:]
    if options.end:
        text = "taken back" if client.take_back(home) else "it was not lent"
        print_answer(options, {"ok": True}, text)
        return 0
    seconds = _seconds_of(options.time)
    if command and not (found := shutil.which(command[0])):
        raise UsageProblem(f"there is no command {command[0]!r}")
    elif command:
        command[0] = found
    # Until it is free: the end of this process takes it back.
    ours = lending.lent_to(os.getpid(), now=options.now)
    try:
        lent = _lent(home, ours, shares=not command)
        if client.runner_health(home) is not None:
            print_message("waiting until the runner has left the device")
        client.wait_until_lent(home, lent)
        if command:
            return _run(home, lent, command, seconds)
        until = None if seconds is None else time.time() + seconds
        # One that is there already is only made longer.
        if lent == ours or (lent["until"] and (until is None or lending.is_over(lent, until))):
            client.lend_on(home, lent, lent := lending.lent_to(None, until))
    finally:
        client.take_back(home, ours)
    until_text = lent["until"] or "it is taken back"
    text = f"the device is free, and lent until {until_text}: `fluxdrop lend --end` takes it back"
    print_answer(options, {"lent": lent}, text)
    return 0


def _lent(home: Home, ours: Lent, *, shares: bool) -> Lent:
    """Wait for the end of other lends, but for one that can be shared; the one that is there then.

    One that no process has is shared by who runs no command.
    """
    told = False
    while (lent := client.lend(home, ours)) != ours:
        if shares and lent["pid"] is None:
            if ours["now"]:
                client.lend_on(home, lent, lent := lent | {"now": True})
            break
        if not told:
            print_message(f"waiting, for {lending.hold_of(lent).message}")
            told = True
        time.sleep(_LOOK_SECONDS)
    return lent


def _run(home: Home, lent: Lent, command: list[str], seconds: float | None) -> int:
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
        until = None if seconds is None else time.time() + seconds
        client.lend_on(home, lent, lent := lending.lent_to(child.pid, until))
        code = child.wait()
    if not client.take_back(home, lent):
        print_message("the device was taken back before the command ended")
    return 128 - code if code < 0 else code


def _seconds_of(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise UsageProblem(f"a time is written like 90s, 30m or 2h, not {text!r}")
    return float(match[1]) * _SECONDS[match[2]]
