"""The lines of the index's files: each is one entry, as a CRC-32 in hex, a space and JSON.

The checksum tells a complete line from one that a kill or a full disk cut short.
"""

import json
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
    """Whether a line, with its line end, is as it was written."""
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:-1])


def decode(line: bytes) -> dict[str, Any] | None:
    """The entry of a line with its line end, or None for a damaged line."""
    if not intact(line):
        return None
    entry = json.loads(line[9:])
    return entry if isinstance(entry, dict) else None


def complete(data: bytes) -> list[bytes]:
    """The lines of a file with their line ends, without an incomplete last line."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def append(path: Path, lines: Sequence[bytes], size: int) -> None:
    """Append lines to a file of `size` bytes: all of them or none.

    They survive the end of the process at once, but a power cut only some seconds later. Syncing
    would take twenty times as long as the rest, and a runner that starts adds the rows of recent
    sidecars again (`rebuild.ensure`).
    """
    data = memoryview(b"".join(lines))
    with path.open("ab", buffering=0) as file:
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            # A full disk: the next line must not be appended to an incomplete one.
            with suppress(OSError):
                file.truncate(size)
            raise
