"""What every door uses to talk to a runner: files in, files out, nothing else.

Writes only the inbox, reads only the outbox. Works the same whether a runner is running or not,
and in a program of its own as well as behind the command line and the MCP server.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.wire import read_json
from specs.errors import SpecInvalid

_POLL_SECONDS = 0.05
_MISSED_INTERVALS = 5
_numbers = itertools.count()
T = TypeVar("T")


class _NameTaken(UsageProblem):
    """Every name that a file might have in the inbox is another file's."""


def runner_health(home: Home) -> dict[str, Any] | None:
    """The health file of a runner that is running now, or None."""
    health = read_json(home.health)
    if health is None or health.get("state") == "stopping":
        return None
    age = time.time() - _seconds(health["updated_at"])
    return health if age < _MISSED_INTERVALS * health["interval_seconds"] else None


def submit(home: Home, data: bytes, name: str) -> str:
    """Put a spec into the inbox under a free name like `name`, whole and at once.

    Raises UsageProblem when the inbox cannot be written.
    """
    stem, suffix = os.path.splitext(os.path.basename(name))
    if suffix.lower() not in (".yaml", ".yml", ".json"):
        stem, suffix = f"{stem}{suffix}", ".yaml"
    names = itertools.chain(
        (f"{stem}{suffix}",), (f"{stem}-{n}{suffix}" for n in itertools.count(2))
    )
    return _put(home, data, names)


def submit_as(home: Home, data: bytes, name: str) -> str | None:
    """Put a spec into the inbox under exactly this name; None where one of that name waits there.

    Raises UsageProblem when the inbox cannot be written.
    """
    try:
        return _put(home, data, iter((name,)))
    except _NameTaken:
        return None


def put_input(home: Home, data: bytes, name: str) -> None:
    """Put an image into the inbox, whole and at once; a `name` may lie in a folder of its own.

    The name tells the content: a file that is there already is the same one.
    """
    try:
        (home.inbox / name).parent.mkdir(parents=True, exist_ok=True)
        _put(home, data, iter((name,)))
    except _NameTaken:
        return
    except OSError as error:
        raise UsageProblem(f"cannot write into {home.inbox}: {error.strerror}") from error


def bring_images(home: Home, spec_file: Path, data: bytes) -> list[str]:
    """Copy the images that lie beside a spec file into the inbox, where its paths look for them.

    Only plain relative names that are not in the inbox yet; returns the names copied. A spec that
    cannot be read brings nothing: the runner will say what is wrong with it.
    """
    from runner.spool.inbox.inputs import named_paths
    from specs.read import read

    try:
        spec = read(data, json=spec_file.suffix.lower() == ".json").value
    except SpecInvalid:
        return []
    copied = []
    for _, text in named_paths(spec) if isinstance(spec, dict) else ():
        beside = spec_file.parent / text
        plain = "/" not in text and "\\" not in text and not text.startswith(".")
        if plain and beside.is_file() and not (home.inbox / text).exists():
            _put(home, beside.read_bytes(), iter((text,)))
            copied.append(text)
    return copied


def receipt(home: Home, drop: str) -> dict[str, Any] | None:
    """The receipt of a drop once it has left the inbox, else None."""
    if (home.inbox / drop).exists():
        return None
    return read_json(home.drops / f"{drop}.json")


def wait_for_receipt(home: Home, drop: str, seconds: float) -> dict[str, Any] | None:
    """The receipt of a drop, waited for at most so long."""
    return _wait(lambda: receipt(home, drop), seconds)


def status(home: Home, job_id: str) -> dict[str, Any]:
    """The status of a job; `submitted` while its file waits in the inbox, else `unknown`."""
    if not _is_name(job_id):
        return {"id": job_id, "state": "unknown"}
    file = home.job(job_id) / "status.json"
    found = read_json(file)
    # A rejected job does not hold its id: a spec of that id in the inbox takes its place.
    if found is not None and found.get("state") != "rejected":
        return found
    if any((home.inbox / f"{job_id}{end}").exists() for end in ("", ".yaml", ".yml", ".json")):
        return {"id": job_id, "state": "submitted"}
    # Looked at again: between the two looks its file may have become a job.
    return read_json(file) or {"id": job_id, "state": "unknown"}


def job_of(home: Home, named: str) -> str:
    """The id of the job that a name means: an id, or the file name of a drop."""
    if not _is_name(named) or (home.job(named) / "status.json").is_file():
        return named
    answered = read_json(home.drops / f"{named}.json")
    return str(answered["job"]) if answered and "job" in answered else named


def wait_until_over(home: Home, job_id: str, seconds: float | None) -> dict[str, Any]:
    """The status of a job once it is final, or as it is after so many seconds."""

    def look() -> dict[str, Any] | None:
        found = status(home, job_id)
        return found if found["state"] in FINAL_STATES else None

    return _wait(look, seconds) or status(home, job_id)


def cancel(home: Home, job_id: str) -> str:
    """Ask for a job to be cancelled."""
    return _control(home, f"{job_id}.cancel")


def retry(home: Home, job_id: str) -> str:
    """Ask for a finished job to be run again under a new id."""
    return _control(home, f"{job_id}.retry")


def pause(home: Home) -> None:
    """Let no further image start."""
    _control(home, "runner.pause")


def resume(home: Home) -> None:
    """Let images start again."""
    (home.inbox / "runner.pause").unlink(missing_ok=True)


def wait_until_obeyed(home: Home, control: str, seconds: float) -> bool:
    """Whether a control file has left the inbox within so many seconds."""
    return bool(_wait(lambda: not (home.inbox / control).exists() or None, seconds))


def _control(home: Home, name: str) -> str:
    if not _is_name(name):
        raise UsageProblem(f"{name.rsplit('.', 1)[0]!r} is not a job's id")
    try:
        (home.inbox / name).touch()
    except OSError as error:
        raise UsageProblem(f"cannot write into {home.inbox}: {error.strerror}") from error
    return name


def _put(home: Home, data: bytes, names: Iterator[str]) -> str:
    """Write aside, then give the file the first free name; never over another file."""
    aside = home.inbox / ".tmp" / f"{os.getpid()}-{next(_numbers)}-{time.time_ns()}"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for name in names:
            if _rename_to_free(aside, home.inbox / name):
                return name
    except OSError as error:
        raise UsageProblem(f"cannot write into {home.inbox}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    raise _NameTaken(f"a file of that name is in {home.inbox} already: choose another")


def _rename_to_free(aside: Path, target: Path) -> bool:
    try:
        if os.name == "nt":
            os.rename(aside, target)  # refuses to replace there
        else:
            os.link(aside, target)
    except FileExistsError:
        return False
    except OSError:
        # No hard links on this file system: the moment between look and rename stays open.
        if target.exists():
            return False
        os.replace(aside, target)
    return True


def _is_name(text: str) -> bool:
    return bool(text) and not text.startswith(".") and not set(text) & set("/\\:\0")


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _wait(look: Callable[[], T | None], seconds: float | None) -> T | None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while (found := look()) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)
    return found
