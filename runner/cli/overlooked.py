"""What lies in the inbox and is not taken, and why: for `status` and `doctor`.

Reads names, sizes, receipts and statuses, and changes nothing. Input images and what is ignored on
purpose are not listed.
"""

import os
from collections.abc import Iterator
from itertools import islice

from runner import client
from runner.files import is_file, read_file
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.spool.store.names import (
    CANCEL_SUFFIX,
    CONTROL_SUFFIXES,
    is_ignored,
    is_spec,
    why_not_taken,
)
from specs.errors import FluxdropError

MOST_LISTED = 20
# Nobody looks for specs further down, and a walk to the end of a deep folder fails.
_DEEPEST = 8


def overlooked(home: Home) -> list[tuple[str, str]]:
    """At most MOST_LISTED files of the inbox that are not taken, each with the reason."""
    try:
        return list(islice(_overlooked(home), MOST_LISTED))
    except OSError:
        return []


def _overlooked(home: Home) -> Iterator[tuple[str, str]]:
    left = 5000  # to look at, so that a strange inbox does not hold up the command
    for folder, folders, names in os.walk(home.inbox):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        above = os.path.relpath(folder, home.inbox)
        left -= len(names) + len(folders)
        if above.count(os.sep) >= _DEEPEST:
            folders.clear()
        for name in sorted(names):
            if above != os.curdir:
                why = "subfolders are not scanned: move it into the inbox itself"
                found = why if is_spec(name) else None
            else:
                found = why_not_taken(name) or _waits(home, name)
                if is_spec(name) and _is_empty(os.path.join(folder, name)):
                    found = "it is empty: its text is waited for, ten minutes long"
            if found:
                yield os.path.normpath(os.path.join("inbox", above, name)), found
        for name in folders:
            if is_spec(name):
                path = os.path.normpath(os.path.join("inbox", above, name))
                yield path, "it is a folder, and a spec is a file"
        if left < 0:
            return


def _waits(home: Home, name: str) -> str | None:
    """What a spec or a control file that lies in the inbox waits for."""
    if is_spec(name):
        table = _absent_table(home, name)
        return f"it waits for its table {table}" if table else None
    if not name.lower().endswith(CONTROL_SUFFIXES) or is_ignored(name):
        return None
    target, suffix = os.path.splitext(name)
    job = client.job_of(home, target)
    state = client.status(home, job)["state"]
    if state == "unknown":
        return f"there is no job or drop {target!r}: it waits a minute for one"
    if suffix.lower() != CANCEL_SUFFIX and state not in FINAL_STATES:
        return f"it waits until {job} is over"
    return None


def _absent_table(home: Home, name: str) -> str | None:
    """The table that a spec names and that is not there; None where it is, or none is named."""
    from runner.spool.inbox.inputs import TABLE, Folders, place_of
    from specs.read import read

    try:
        data = read_file(home.inbox / name)
        if TABLE.encode() not in data:
            return None
        table = str(read(data, json=name.lower().endswith(".json")).value[TABLE])
        place, _ = Folders(home).find(place_of(table, home))
    except (OSError, LookupError, TypeError, FluxdropError):
        return None
    return None if is_file(place) and not _is_empty(str(place)) else table


def _is_empty(path: str) -> bool:
    try:
        return os.path.isfile(path) and not os.path.getsize(path)
    except OSError:
        return False
