"""What asks a process to stop, in signal handlers too."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from runner.stop_signals import StopRequest
from tests.harness import PATIENCE, ROOT

STORM = """\
import os, signal, sys, threading
from runner.stop_signals import StopRequest

request = StopRequest()
signal.signal(signal.SIGUSR1, lambda number, frame: request.set())
send = lambda: [os.kill(os.getpid(), signal.SIGUSR1) for _ in range(20000)]
thread = threading.Thread(target=send)
thread.start()
while thread.is_alive():
    request.set()
    request.wait(0.001)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals of one's own")
def test_a_signal_that_comes_while_one_is_handled_hangs_nothing() -> None:
    """Seen red with threading.Event: it hangs in its own lock."""
    command = [sys.executable, "-c", STORM]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE)


def test_all_who_wait_for_a_stop_are_told() -> None:
    request, told = StopRequest(), []
    threads = [
        threading.Thread(target=lambda: told.append(request.wait(PATIENCE))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert not request.is_set() and not request.wait(0.01)
    request.set()
    for thread in threads:
        thread.join()
    assert told == [True] * 3 and request.is_set()
