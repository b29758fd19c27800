"""A real terminal for one command, of which the other side is here: what it shows and is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

from tests.harness import PATIENCE, clean_environment, eventually

LEFT = "\x1b[?1049l"
"""What gives the screen back."""
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a terminal of its own; `text` is all that it showed since the last `clear`."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self.raw = ""
        self._side = side

    @property
    def text(self) -> str:
        while select([self._side], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # Linux says so when the other side is closed
                if part := os.read(self._side, 65536):
                    self.raw += part.decode(errors="replace")
                    continue
            break
        return _CODES.sub("", self.raw)

    def shows(self, text: str) -> None:
        def look() -> bool:
            assert text in self.text or self.process.poll() is None, self.text
            return text in self.text

        eventually(look, f"{text!r} on the terminal")

    def press(self, keys: str) -> None:
        self.raw = ""
        os.write(self._side, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        import fcntl
        import termios

        self.raw = ""
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ended(self) -> int:
        """Its exit code, once it has one."""
        code = eventually(lambda: [self.text, self.process.poll()][1:] != [None], "its end")
        return self.process.wait(PATIENCE) if code else -1

    def modes(self) -> list[object]:
        """How the terminal treats what is typed."""
        import termios

        return termios.tcgetattr(self._side)


@contextmanager
def on_terminal(*arguments: str, home: Path, **environment: str) -> Iterator[Terminal]:
    """The command line with these arguments, in 100 columns and 30 rows."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    here = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | environment
    # The size is the terminal's own, whatever pytest's workers were told.
    others = ("COLUMNS", "LINES", "DISPLAY", "WAYLAND_DISPLAY")
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *arguments, "--home", str(home)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={k: v for k, v in clean_environment(**here).items() if k not in others},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)
