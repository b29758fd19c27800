"""Names: which files in the inbox are specs, what a job and a receipt may be called.

Pure functions on strings; nothing here reads the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePath

SPEC_SUFFIXES = (".yaml", ".yml", ".json")
CANCEL_SUFFIX = ".cancel"
RETRY_SUFFIX = ".retry"
KEEP_SUFFIX = ".keep"
PAUSE_NAME = "runner.pause"
_LONGEST_PLAIN_RECEIPT = 200

_TEMPORARY = re.compile(
    r"^[.~]|~$|^#.*#$|^4913$|^(thumbs\.db|desktop\.ini|readme\.md)$"
    r"|\.(tmp|temp|part|partial|crdownload|swp|swx|swo|bak|writing|filepart)$",
    re.IGNORECASE,
)
_CONFLICT_COPY = re.compile(
    r"\.sync-conflict-\d{8}-\d{6}|conflicted copy|\bconflict\b.*\d{4}-\d{2}-\d{2}", re.IGNORECASE
)
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = {"drops", "runner.json", "index.html"}
_WINDOWS_DEVICES = {
    "con", "prn", "aux", "nul", "conin$", "conout$",
    *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10)),
}  # fmt: skip


def is_ignored(name: str) -> bool:
    """Whether files of this name are ignored: temporary, hidden, or the folder's readme."""
    return bool(_TEMPORARY.search(name))


def is_spec(name: str) -> bool:
    """Whether a file of this name is a spec."""
    return name.lower().endswith(SPEC_SUFFIXES) and not is_ignored(name)


def is_control(name: str) -> bool:
    """Whether a file of this name is a control file."""
    return name == PAUSE_NAME or name.lower().endswith((CANCEL_SUFFIX, RETRY_SUFFIX, KEEP_SUFFIX))


def is_conflict_copy(name: str) -> bool:
    """Whether a sync tool named this file so because two sides changed the original."""
    return bool(_CONFLICT_COPY.search(name))


def is_safe_id(name: str) -> bool:
    """Whether a name may be a job's id on every file system."""
    return (
        bool(_SAFE_ID.fullmatch(name))
        and not name.endswith(".")
        and name.lower() not in _RESERVED
        and name.split(".")[0].lower() not in _WINDOWS_DEVICES
    )


def text_of(name: str) -> str:
    """A file's name as JSON can hold it: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")


def stand_in(name: str) -> str:
    """A name of at most 113 bytes that every file system can hold, another one for each name."""
    raw = os.fsencode(name)
    safe = re.sub(rb"[^A-Za-z0-9._-]", b"_", raw[:100]).decode()
    return f"{safe}~{hashlib.sha256(raw).hexdigest()[:12]}"


def receipt_names(name: str) -> tuple[str, ...]:
    """The names that the receipt of a file may have; each where the outbox cannot hold the last."""
    plain = len(os.fsencode(name)) <= _LONGEST_PLAIN_RECEIPT and text_of(name) == name
    return (*([f"{name}.json"] if plain else []), f"{stand_in(name)}.json")


def id_from_file(name: str) -> str:
    """The id made of a file's stem: in NFC, other characters replaced by `-`, never empty."""
    stem = PurePath(unicodedata.normalize("NFC", name)).stem
    job_id = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:96].rstrip("-._")
    if not is_safe_id(job_id):
        job_id = f"job-{job_id}".strip("-._") if job_id else "job"
    return job_id


def key_of(job_id: str) -> str:
    """The form in which ids are compared: case and Unicode form make no difference."""
    return unicodedata.normalize("NFC", job_id).casefold()


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key under which `job2` comes before `job10`."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple((0, int(part)) if n % 2 else (1, part) for n, part in enumerate(parts) if part)
