"""Keeps a runner running: starts it, and starts it again when it ends without being asked to.

A GPU driver, a kernel out of memory or a broken library can end the whole process; the next one
continues with the queue. A runner whose supervisor is gone stops, and gives the home's lock and the
GPU back within a minute: its standard input is a pipe that only the supervisor holds open. Knows
nothing of jobs and imports nothing heavy.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue
from types import FrameType

from runner import exit_codes
from runner.launch import command
from runner.stop_signals import taken_by

_SOON_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 60.0
# The services of systemd and launchd give a stop as long (runner/cli/service.py).
_LONGEST_STOP_SECONDS = 60.0

# The console of Windows sends Ctrl-C to the child itself.
_NOT_FORWARDED = signal.SIGINT if sys.platform == "win32" else None


def keep_running(
    arguments: Sequence[str],
    *,
    final_codes: Collection[int],
    notify: Callable[[str], None],
) -> int:
    """Run `fluxdrop` with these arguments until it ends with one of `final_codes` or is stopped.

    The runner has to call `stop_when_orphaned`. Returns the exit code. Signals to stop are
    forwarded. A runner that ends soon after its start is started again after a pause that doubles,
    up to a minute.
    """
    # An event may hang in a signal handler that interrupts its own wait.
    stops: SimpleQueue[int] = SimpleQueue()
    environment = dict(os.environ)
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        stops.put(number)
        if child is not None and child.poll() is None:
            # Windows has no SIGHUP, and a second SIGINT is to end the runner at once.
            child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    seconds = 1.0
    with taken_by(forward, without=_NOT_FORWARDED):
        while stops.empty():
            began = time.monotonic()
            # Its own session: Ctrl-C reaches it once, through here, and not a second time.
            with subprocess.Popen(
                [*command(), *arguments],
                env=environment, stdin=subprocess.PIPE, start_new_session=os.name != "nt",
            ) as child:  # fmt: skip
                if not stops.empty():
                    # It came while the child was being started.
                    child.terminate()
                code = child.wait()
            if not stops.empty() or code in final_codes:
                return code if code >= 0 else 128 - code
            seconds = 1.0 if time.monotonic() - began > _SOON_SECONDS else seconds
            if code < 0 or code in exit_codes.ENDS or exit_codes.LAST_END not in environment:
                # One that fails to start says nothing of what ended the one before.
                environment[exit_codes.LAST_END] = exit_codes.cause_of(code)
            notify(f"the runner ended ({exit_codes.cause_of(code)}); starting it again")
            with contextlib.suppress(Empty):
                stops.put(stops.get(timeout=seconds))
            seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
    return exit_codes.DONE


def stop_when_orphaned(stop: Callable[[], None]) -> None:
    """Call `stop`, in a thread, once the supervisor that started this process has ended.

    Its end closes the pipe, whatever ended it. A process that is still there a minute later is
    ended: a GPU may hang. Standard input is empty from here on.
    """
    # What this process starts gets none of the pipe: on Windows it would hang at a pipe being read.
    pipe = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(pipe, 1)
        # Not a signal: a second one, after Ctrl-C, would end this process at once.
        stop()
        time.sleep(_LONGEST_STOP_SECONDS)
        os._exit(exit_codes.HUNG)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()
