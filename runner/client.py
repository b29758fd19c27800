"""Submits specs to a runner and reads its receipts and statuses, through files alone.

Writes only the inbox; reads the outbox, the health file and what waits in the inbox. Works the
same whether a runner is running or not. Shared by the command line and the MCP server, and usable
from other programs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.spool.store.names import receipt_names
from runner.wire import read_json
from specs.errors import SpecInvalid

_POLL_SECONDS = 0.05
_MISSED_INTERVALS = 5
_numbers = itertools.count()
T = TypeVar("T")


def runner_health(home: Home) -> dict[str, Any] | None:
    """The health file of a runner that is running now, or None.

    A runner counts as running while it is not stopping and its health file is younger than five
    of the file's own intervals.
    """
    health = read_json(home.health)
    if health is None or health.get("state") == "stopping":
        return None
    age = time.time() - datetime.fromisoformat(health["updated_at"]).timestamp()
    return health if age < _MISSED_INTERVALS * health["interval_seconds"] else None


def submit(home: Home, data: bytes, name: str) -> str:
    """Put a spec into the inbox atomically and return its file name there.

    The name is `name`, or `name` with a number where another file has it; a name without the
    ending of a spec gets `.yaml`. Raises UsageProblem when the inbox cannot be written.
    """
    stem, suffix = os.path.splitext(os.path.basename(name))
    if suffix.lower() not in (".yaml", ".yml", ".json"):
        stem, suffix = f"{stem}{suffix}", ".yaml"
    numbered = (f"{stem}-{number}{suffix}" for number in itertools.count(2))
    drop = _put(home, data, itertools.chain([f"{stem}{suffix}"], numbered))
    assert drop is not None, "the names never end"
    return drop


def put(home: Home, data: bytes, name: str) -> bool:
    """Put a file into the inbox atomically, under exactly this name; returns whether it was free.

    The name may contain folders. Raises UsageProblem when the inbox cannot be written.
    """
    with _writing(home):
        (home.inbox / name).parent.mkdir(parents=True, exist_ok=True)
    return _put(home, data, [name]) is not None


def bring_images(home: Home, spec_file: Path, data: bytes) -> list[str]:
    """Copy the images that lie beside a spec file into the inbox, and return the names copied.

    Copies only files that the spec names without a folder and that are not in the inbox yet.
    Copies nothing for a spec that cannot be read: the runner reports what is wrong with it.
    Raises UsageProblem for an image that cannot be read, and when the inbox cannot be written.
    """
    from runner.spool.inbox.inputs import named_paths
    from specs.read import read

    try:
        spec = read(data, json=spec_file.suffix.lower() == ".json").value
    except SpecInvalid:
        return []
    copied = []
    for _, name in named_paths(spec) if isinstance(spec, dict) else ():
        image = spec_file.parent / name
        plain = "/" not in name and "\\" not in name and not name.startswith(".")
        try:
            if not plain or not image.is_file() or (home.inbox / name).exists():
                continue
            picture = image.read_bytes()
        except OSError as error:
            raise UsageProblem(f"cannot read {image}: {error.strerror}") from error
        if put(home, picture, name):
            copied.append(name)
    return copied


def receipt(home: Home, drop: str) -> dict[str, Any] | None:
    """The receipt of a drop, or None while its file is in the inbox."""
    if (home.inbox / drop).exists():
        return None
    return _read_receipt(home, drop)


def _read_receipt(home: Home, drop: str) -> dict[str, Any] | None:
    files = (home.drops / name for name in receipt_names(drop))
    return next(filter(None, map(read_json, files)), None)


def wait_for_receipt(
    home: Home, drop: str, seconds: float | None, check: Callable[[], None] | None = None
) -> dict[str, Any] | None:
    """Wait at most `seconds` (None: no limit) for the receipt of a drop; None if none has come.

    `check` is called meanwhile, and may raise to end the waiting.
    """
    return _wait(lambda: receipt(home, drop), seconds, check)


def status(home: Home, job_id: str) -> dict[str, Any]:
    """The status of a job.

    Without one the state is `submitted` while a file of that name is in the inbox, else `unknown`.
    """
    if not _is_name(job_id):
        return {"id": job_id, "state": "unknown"}
    file = home.job(job_id) / "status.json"
    recorded = read_json(file)
    # A rejected job does not hold its id: a spec of that id in the inbox takes its place.
    if recorded is not None and recorded.get("state") != "rejected":
        return recorded
    if any((home.inbox / f"{job_id}{end}").exists() for end in ("", ".yaml", ".yml", ".json")):
        return {"id": job_id, "state": "submitted"}
    # Read again: the file may have left the inbox and become a job since the first read.
    return read_json(file) or {"id": job_id, "state": "unknown"}


def job_of(home: Home, name: str) -> str:
    """The id of the job that `name` refers to: a job's id, or the file name of a drop."""
    if not _is_name(name) or (home.job(name) / "status.json").is_file():
        return name
    answer = _read_receipt(home, name)
    return str(answer["job"]) if answer and "job" in answer else name


def wait_until_over(
    home: Home, job_id: str, seconds: float | None, check: Callable[[], None] | None = None
) -> dict[str, Any]:
    """The status of a job once it is final, or as it is after `seconds` (None: no limit).

    `check` is called meanwhile, and may raise to end the waiting.
    """

    def final_status() -> dict[str, Any] | None:
        current = status(home, job_id)
        return current if current["state"] in FINAL_STATES else None

    return _wait(final_status, seconds, check) or status(home, job_id)


def cancel(home: Home, job_id: str) -> str:
    """Ask for a job to be cancelled; returns the name of the control file."""
    return _control(home, f"{job_id}.cancel")


def retry(home: Home, job_id: str) -> str:
    """Ask for a finished job to be run again under a new id; returns the control file's name."""
    return _control(home, f"{job_id}.retry")


def pause(home: Home) -> None:
    """Ask the runner to start no further image until `resume`."""
    _control(home, "runner.pause")


def resume(home: Home) -> None:
    """Undo `pause`."""
    (home.inbox / "runner.pause").unlink(missing_ok=True)


def wait_until_obeyed(home: Home, control: str, seconds: float) -> bool:
    """Wait at most `seconds` for the runner to take a control file; returns whether it did."""
    return bool(_wait(lambda: not (home.inbox / control).exists() or None, seconds))


def _control(home: Home, name: str) -> str:
    if not _is_name(name):
        raise UsageProblem(f"{name.rsplit('.', 1)[0]!r} is not a job's id")
    with _writing(home):
        (home.inbox / name).touch()
    return name


@contextlib.contextmanager
def _writing(home: Home) -> Iterator[None]:
    """Raise a failed file operation as the UsageProblem that callers report."""
    try:
        yield
    except OSError as error:
        raise UsageProblem(f"cannot write into {home.inbox}: {error.strerror}") from error


def _put(home: Home, data: bytes, names: Iterable[str]) -> str | None:
    """Write a file aside, then rename it to the first free name; never over another file.

    Returns that name, or None where every name is taken.
    """
    aside = home.inbox / ".tmp" / f"{os.getpid()}-{next(_numbers)}-{time.time_ns()}"
    try:
        with _writing(home):
            aside.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for name in names:
                if _rename_to_free(aside, home.inbox / name):
                    return name
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    return None


def _rename_to_free(aside: Path, target: Path) -> bool:
    try:
        if os.name == "nt":
            os.rename(aside, target)  # refuses to replace there
        else:
            os.link(aside, target)
    except FileExistsError:
        return False
    except OSError:
        # No hard links on this file system. Another file may take the name between the test and
        # the rename, and would then be overwritten.
        if target.exists():
            return False
        os.replace(aside, target)
    return True


def _is_name(text: str) -> bool:
    """Whether a text can be one plain file name on every system."""
    return bool(text) and not text.startswith(".") and not set(text) & set("/\\:\0")


def _wait(
    poll: Callable[[], T | None], seconds: float | None, check: Callable[[], None] | None = None
) -> T | None:
    """Call `poll` until it returns something, or None after so many seconds (None: no limit)."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while (result := poll()) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        if check is not None:
            check()
        time.sleep(_POLL_SECONDS)
    return result
