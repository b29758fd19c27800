"""Reads the files of one pack folder, and nothing outside it.

Text is UTF-8 with any line ending; anything else is an error that names the file and the byte.
Nothing is replaced or guessed, and no link that leads out of the folder is followed.
"""

import re
import unicodedata
from pathlib import Path

MAX_FILE_BYTES = 256 * 1024
# Characters that JSON, PNG text or XMP cannot carry. Tabs and line ends are allowed, as blanks.
_UNFIT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


class FileProblem(Exception):
    """A file of a pack cannot be used; the text says why, and does not name the file."""


def is_ignored(name: str) -> bool:
    """Whether a file is not part of a pack: hidden files, editors' copies, notes in Markdown."""
    return name.startswith((".", "~")) or name.endswith((".md", "~"))


def read_file(root: Path, file: Path) -> bytes:
    """The content of one file of the pack in the folder `root`.

    Raises FileProblem for a file that cannot be read, is larger than `MAX_FILE_BYTES`, or whose
    real path is outside `root`.
    """
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(root.resolve()):
            raise FileProblem("is a link that leaves the pack: put a copy in its place")
        if not real.is_file():
            raise FileProblem("is not a file")
        with real.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileProblem(f"cannot be read: {why}") from error
    if len(data) > MAX_FILE_BYTES:
        raise FileProblem(f"is larger than {MAX_FILE_BYTES:,} bytes")
    return data


def decode(data: bytes) -> str:
    """The text of a file, without its byte order mark. Raises FileProblem for unusable bytes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileProblem("is UTF-16 (byte 0): save it as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise FileProblem(f"{bad}: save the file as UTF-8") from error
    unfit = _UNFIT.search(text)
    if unfit:
        offset = len(text[: unfit.start()].encode())
        raise FileProblem(
            f"the character U+{ord(unfit.group()):04X} at byte offset {offset} is not allowed"
        )
    return text.removeprefix("\ufeff")


def clean(text: str) -> str:
    """The text of a block, on one line: comment lines removed, runs of blanks replaced by one.

    A line is a comment when its first character that is not blank is `#`; any other `#` is text.
    """
    lines = (line.strip() for line in re.split("\r\n|\r|\n", text))
    return " ".join(" ".join(line for line in lines if not line.startswith("#")).split())


def block_name(name: str) -> str:
    """The name of a block in Unicode's NFC, whatever form a file system or a spec has it in."""
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts `2` before `10`, the same on every machine."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    keyed = tuple((0, int(p), p) if p[0].isdecimal() else (1, 0, p) for p in parts)
    return (*keyed, (-1, 0, name))
