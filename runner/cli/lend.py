"""`lend`: gives the device to another program, for a time, while a command runs, or until told."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
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
    home = find_home(options.home)
    if options.end:
        text = "taken back" if client.take_back(home) else "it was not lent"
        print_answer(options, {"ok": True}, text)
        return 0
    seconds = _seconds_of(options.time)
    program = shutil.which(options.command[0]) if options.command else None
    if options.command and program is None:
        raise UsageProblem(f"there is no command {options.command[0]!r}")
    asked = lending.lent_to(os.getpid(), now=options.now)
    stays = False
    try:
        lent = _lent(home, asked, shares=program is None)
        if client.runner_health(home) is not None:
            print_message("waiting until the runner has left the device")
        client.wait_until_lent(home, lent)
        if program is not None:
            return _run(home, lent, [program, *options.command[1:]], seconds)
        lent = _longer(home, lent, seconds, is_own=lent == asked)
        stays = True
    finally:
        if not stays:
            client.take_back(home, asked)
    text = f"lent until {lent['until'] or 'it is taken back'}: `fluxdrop lend --end` takes it back"
    print_answer(options, {"lent": lent}, f"the device is free, and {text}")
    return 0


def _lent(home: Home, asked: Lent, *, shares: bool) -> Lent:
    """Wait for the end of other lends; what the device is lent by then.

    One that no process has is shared with who only makes it longer.
    """
    told = False
    while (lent := client.lend(home, asked)) != asked:
        if shares and lent["pid"] is None:
            if asked["now"] and not lent["now"]:
                client.lend_on(home, lent, lent := lent | {"now": True})
            return lent
        if not told:
            print_message(f"waiting, for {lending.hold_of(lent).message}")
            told = True
        time.sleep(_LOOK_SECONDS)
    return lent


def _longer(home: Home, lent: Lent, seconds: float | None, *, is_own: bool) -> Lent:
    """Let a lend stay without a process from now on, at least for as long as it would have."""
    until = None if seconds is None else time.time() + seconds
    if is_own or (lent["until"] and (until is None or lending.is_over(lent, until))):
        client.lend_on(home, lent, lent := lending.lent_to(None, until))
    return lent


def _run(home: Home, lent: Lent, command: Sequence[str], seconds: float | None) -> int:
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
        try:
            code = child.wait()
        finally:
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
