"""Names: which files in the inbox are specs, what a job and a receipt may be called.

Pure functions on strings; nothing here reads the disk.
"""

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePath

from runner.files import text_of
from runner.job import State

SPEC_SUFFIXES = (".yaml", ".yml", ".json")
PICTURE_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
CANCEL_SUFFIX = ".cancel"
RETRY_SUFFIX = ".retry"
KEEP_SUFFIX = ".keep"
CONTROL_SUFFIXES = (CANCEL_SUFFIX, KEEP_SUFFIX, RETRY_SUFFIX)
PAUSE_NAME = "runner.pause"
CLEAN_NAME = "runner.clean"
LEND_NAME = "runner.lend"
_LONGEST_PLAIN_RECEIPT = 200

_TEMPORARY = re.compile(
    r"^[.~]|~$|^#.*#$|^4913$|^(thumbs\.db|desktop\.ini|readme\.md)$"
    r"|\.(tmp|temp|part|partial|crdownload|swp|swx|swo|bak|writing|filepart)$",
    re.IGNORECASE,
)
# What Dropbox says in the languages of its users; Nextcloud and ownCloud say the first in all.
_COPY_WORDS = (
    "conflicted copy", "in Konflikt stehende Kopie", "copie en conflit", "copia en conflicto",
    "copia in conflitto", "cópia em conflito", "motstridiga kopia", "конфликтующая копия",
    "競合コピー", "冲突副本", "衝突複本",
)  # fmt: skip
_DAY = r"\d{4}-\d{2}-\d{2}"
# What each tool puts behind the stem of a conflict copy, and where that is written down.
_CONFLICT_TAGS = (
    # Dropbox: help.dropbox.com/syncing-uploads/conflicted-copy, and names in people's repositories.
    # Nextcloud and ownCloud: src/common/utility.cpp of nextcloud/desktop and owncloud/client.
    rf" \([^()]*(?:{'|'.join(_COPY_WORDS)})[^()]* ?{_DAY}[^()]*\)",
    # The same file: before 2.5, and where two names differ by case only.
    rf"_conflict(?:_.+)?-\d{{8}}-\d{{6}}| \(case clash from {_DAY} \d{{6}}\)",
    # Syncthing: lib/model/folder_sendrecv.go of syncthing/syncthing.
    r"\.sync-conflict-\d{8}-\d{6}(?:-\w{0,7})?",
    # Seafile: common/vc-common.c and daemon/vc-utils.c of haiwen/seafile.
    r" \(SFConflict (?:[^()]+ )?\d{4}(?:-\d\d){5}\)| \(case conflict \d+\)",
    # Synology: kb.synology.com, Synology_Drive_file_conflict_resolution; months in any language.
    r"_.+_[^-_\d]{2,12}-\d\d-\d{4,6}-\d{4}_[A-Za-z]*Conflict(?:_\d+)?",
    # OneDrive for Linux: abraunegg/onedrive puts the host's name and this.
    r"-.+-safeBackup-\d{4}",
)
_CONFLICT_COPY = re.compile(rf".+(?:{'|'.join(_CONFLICT_TAGS)})", re.IGNORECASE)
# People name files so, too: a conflict copy only where a file of the name without it is known.
_PERHAPS_CONFLICT_COPY = (
    # OneDrive puts the computer's name behind the stem; this is how Windows names computers.
    (re.compile(r"(.+)-(?:(?:DESKTOP|LAPTOP)-[0-9A-Z]{7}|WIN-[0-9A-Z]{11})(?:-\d+)?"), False),
    # Google Drive (keepassxreboot/keepassxc#2066), but file managers and browsers as well.
    (re.compile(r"(.+) \(\d+\)"), True),
)
_UNIQUE = re.compile(r"~[0-9a-f]{12}$")
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


def is_conflict_copy(
    name: str, is_known: Callable[[str], bool] = lambda name: False, *, synced: bool = False
) -> bool:
    """Whether a sync tool named this file so because two sides changed the original.

    Names that people give as well count only where `is_known` knows a file of the original's name,
    and those that file managers give to any copy only where the inbox is `synced`.
    """
    path = PurePath(unicodedata.normalize("NFC", name))
    if _CONFLICT_COPY.fullmatch(path.stem):
        return True
    for pattern, common in _PERHAPS_CONFLICT_COPY:
        found = pattern.fullmatch(path.stem)
        if found and (synced or not common) and is_known(f"{found[1]}{path.suffix}"):
            return True
    return False


def why_not_taken(name: str) -> str | None:
    """Why a file that is meant to be a spec or a control file is not taken; None for all others."""
    meant, end = name.rstrip(), "a blank"
    if meant == name:
        # Notepad puts its own ending behind the one that was typed.
        meant, end = os.path.splitext(name)
    if end.lower() not in ("a blank", ".", ".txt", ".rtf") or is_ignored(meant):
        return None
    if not meant.lower().endswith((*SPEC_SUFFIXES, *CONTROL_SUFFIXES)):
        return None
    return f"its name ends with {end}: rename it to {meant}"


class Names:
    """Names that are also found in another Unicode form and another case.

    macOS takes letters and their accents apart, and people forget whether it was `.jpg` or `.JPG`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.all = list(names)
        self._by_form: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []
        for form in (str, partial(unicodedata.normalize, "NFC"), key_of):
            found: dict[str, list[str]] = {}
            for name in self.all:
                found.setdefault(form(name), []).append(name)
            self._by_form.append((form, found))

    def alike(self, wanted: str) -> list[str]:
        """The names that a text may mean: itself, else the same characters, else in any case."""
        found = (names.get(form(wanted)) for form, names in self._by_form)
        return next(filter(None, found), [])


def is_control(name: str) -> bool:
    """Whether a file of this name is a control file."""
    return name in (PAUSE_NAME, CLEAN_NAME, LEND_NAME) or name.lower().endswith(CONTROL_SUFFIXES)


def is_safe_id(name: str) -> bool:
    """Whether a name may be a job's id on every file system."""
    return (
        bool(_SAFE_ID.fullmatch(name))
        and not name.endswith(".")
        and name.lower() not in _RESERVED
        and not _is_device(name)
    )


def _is_device(name: str) -> bool:
    return name.split(".")[0].lower() in _WINDOWS_DEVICES


def stand_in(name: str) -> str:
    """A name of at most 113 bytes that every file system can hold, another one for each name."""
    # Here, for most commands never need it.
    import hashlib

    raw = os.fsencode(name)
    safe = re.sub(rb"[^A-Za-z0-9._-]", b"_", raw[:100]).decode()
    return f"{safe}~{hashlib.sha256(raw).hexdigest()[:12]}"


def receipt_names(name: str) -> tuple[str, ...]:
    """The names that the receipt of a file may have; each where the outbox cannot hold the last."""
    other = f"{stand_in(name)}.json"
    # On Windows a device has all names that begin with its own and a dot.
    device = [f"_{other}"] if _is_device(other) else []
    return (*([f"{name}.json"] if _is_plain(name) else []), other, *device)


def _is_plain(name: str) -> bool:
    """Whether the receipt of a file may have its name."""
    return len(os.fsencode(name)) <= _LONGEST_PLAIN_RECEIPT and text_of(name) == name


def unique(stem: str) -> str:
    """A stem that no other client's file has; the id made of it is the same.

    A receipt is found by it only if it has the file's name. So a stem that is too long for that (by
    bytes, above 181), or is no UTF-8, stays as it is, and may be another client's too.
    """
    made = f"{stem}~{os.urandom(6).hex()}"
    return made if _is_plain(f"{made}{RETRY_SUFFIX}") else stem


def not_unique(stem: str) -> str:
    """A stem without what `unique` put behind it."""
    return _UNIQUE.sub("", stem)


def plain(name: str) -> str:
    """The name of a file as its owner gave it, without what `unique` put into it."""
    stem, suffix = os.path.splitext(name)
    return f"{not_unique(stem)}{suffix}"


def id_from_file(name: str) -> str:
    """The id made of a file's stem: in NFC, other characters replaced by `-`, never empty."""
    stem = not_unique(PurePath(unicodedata.normalize("NFC", name)).stem)
    job_id = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:96].rstrip("-._")
    if not is_safe_id(job_id):
        job_id = f"job-{job_id}".strip("-._") if job_id else "job"
    return job_id


def holds_no_id(state: str, total: int) -> bool:
    """Whether a job of so many images gives up its id: a rejected one, or one never planned."""
    return state == State.REJECTED or (state == State.CANCELLED and not total)


def numbered(name: str) -> Iterator[str]:
    """The name of a file, then others like it to choose a free one from: `x.png`, `x-2.png` …"""
    yield name
    stem, suffix = os.path.splitext(name)
    yield from (f"{stem}-{number}{suffix}" for number in itertools.count(2))


def key_of(job_id: str) -> str:
    """The form in which ids are compared: case and Unicode form make no difference."""
    return unicodedata.normalize("NFC", job_id).casefold()


def file_key(name: str | bytes) -> str | bytes:
    """The form in which names of files are compared; bytes, as which those are stored that are not
    UTF-8, are compared as they are."""
    return key_of(plain(name)) if isinstance(name, str) else name


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key under which `job2` comes before `job10`."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple((0, int(part)) if n % 2 else (1, part) for n, part in enumerate(parts) if part)
