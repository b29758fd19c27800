"""One entry is one line: its checksum, a space, JSON. Whole or not there, never half."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]


def encode(entry: Entry) -> bytes:
    """The line of one entry."""
    body = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def intact(line: bytes) -> bool:
    """The line is what was once written."""
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:-1])


def decode(line: bytes) -> dict[str, Any] | None:
    """The entry of a line with its line end, or None for one that is damaged."""
    if not intact(line):
        return None
    entry = json.loads(line[9:])
    return entry if isinstance(entry, dict) else None


def complete(data: bytes) -> list[bytes]:
    """The lines of a file that have their end; what follows the last end was torn off."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def append(path: Path, lines: Sequence[bytes], size: int) -> None:
    """Add lines to a file of that size: all of them or none.

    They survive our death at once, and a power cut some seconds later: waiting for the disk costs
    twenty times the rest of it, and the start of a runner looks again at what is that new.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
    try:
        data = memoryview(b"".join(lines))
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        # A full disk: half a line must not stay for the next one to be glued to.
        with suppress(OSError):
            os.ftruncate(file, size)
        raise
    finally:
        os.close(file)
