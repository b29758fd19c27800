"""Submits specs to a runner and reads its receipts and statuses, through files alone.

Writes only the inbox, where others may have planted links: none is followed. Reads the outbox, the
health file and what waits in the inbox. Works the same whether a runner is running or not. Shared
by the command line and the MCP server, and usable from other programs.
"""

import contextlib
import errno
import json
import os
import platform
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from runner import reading
from runner.errors import InputBad, UsageProblem
from runner.files import is_absent, is_file, is_there, names_in, read_file
from runner.job import FINAL_STATES
from runner.settings import Home
from runner.spool.disk import beneath
from runner.spool.disk.locks import is_held
from runner.spool.store import lending
from runner.spool.store.names import (
    CLEAN_NAME,
    KEEP_SUFFIX,
    LEND_NAME,
    SPEC_SUFFIXES,
    Names,
    file_key,
    holds_no_id,
    is_spec,
    key_of,
    numbered,
    receipt_names,
    unique,
)
from runner.wire import Lent
from specs.errors import SpecInvalid

_POLL_SECONDS = 0.05
_LONGEST_NAME = 255
# A share comes back, and files are closed again.
_REFUSED_SECONDS = 10.0
_MISSED_INTERVALS = 5
T = TypeVar("T")


@dataclass(frozen=True)
class _Look:
    """A look at a health file: what it said, since when it says so, and the last sign of life.

    Times are this process's monotonic ones; `at` is that of the look.
    """

    health: dict[str, Any]
    since: float
    alive_at: float
    at: float


_looks: dict[Path, _Look] = {}


def runner_health(home: Home) -> dict[str, Any] | None:
    """The health file of a runner that is running now and is not stopping, or None.

    No two machines' clocks are compared. Signs of life are that the home's lock is held, and that
    the file changes. Each counts for five of the file's intervals, in which a runner that died may
    be started again. Where the lock tells nothing, as on another machine or to another user, a
    first look waits as long for a change.
    """
    while (health := reading.health(home.health)) and health["state"] != "stopping":
        patience = _MISSED_INTERVALS * health["interval_seconds"]
        held, now = is_held(home), time.monotonic()
        last = _looks.get(home.health, _Look(health, now, -inf, now))
        changed = health != last.health and now - last.at < patience
        since = last.since if health == last.health else now
        look = _Look(health, since, now if held or changed else last.alive_at, now)
        _looks[home.health] = look
        if now - look.alive_at < patience:
            return health
        is_here = (health["host"], health["system"]) == (platform.node(), sys.platform)
        if (is_here and held is False) or now - since >= patience:
            return None
        time.sleep(_POLL_SECONDS)
    return None


def unseen_runner(home: Home) -> str | None:
    """What is wrong where a runner has a home and no health file tells of it; None where none has.

    For who was told by `runner_health` that none is running.
    """
    if reading.health(home.health) is None and is_held(home):
        return f"a runner works here, but not in {home.outbox}: mount it, or put it back"
    return None


def outdated_runner(home: Home) -> str | None:
    """What of the settings' file the runner that has the home does not work with, or None."""
    health = reading.health(home.health)
    return health["settings"] if health and is_held(home) else None


def submit(home: Home, data: bytes, name: str) -> str:
    """Put a spec into the inbox atomically and return its file name there.

    The name is `name`, or `name` with a number where another file has it; while a runner takes
    files, one that is used once, so that its receipt is nobody else's (but see `unique`). A name
    without the ending of a spec gets `.yaml`, one that would be ignored loses the signs it begins
    with. Raises UsageProblem when the inbox cannot be written.
    """
    # A name that begins so is ignored, and would lie there for ever.
    stem, suffix = os.path.splitext(os.path.basename(name).lstrip(".~") or "spec")
    if suffix.lower() not in (".yaml", ".yml", ".json"):
        stem, suffix = f"{stem}{suffix}", ".yaml"
    drop = _put(home, data, numbered(f"{_used_once(home, stem)}{suffix}"))
    assert drop is not None, "the names never end"
    return drop


def put(home: Home, data: bytes, name: str, still: Callable[[], bool] = lambda: True) -> bool:
    """Put a file into the inbox atomically, under exactly this name; returns whether it was free.

    The name may contain folders. `still` is asked at the last moment; nothing is put where it says
    no. Raises UsageProblem when the inbox cannot be written.
    """
    with _writing(home):
        beneath.make_folder((home.inbox / name).parent, _unlinked(home))
    return _put(home, data, (each for each in [name] if still())) is not None


def bring_images(
    home: Home, spec_file: Path, data: bytes, in_rows: Iterable[str] = ()
) -> list[str]:
    """Copy the table and the images beside a spec file into the inbox, and return their names.

    Copies only files that the spec, or a row of its table, names by a path below its own folder and
    that are not in the inbox yet; nothing for a spec that cannot be read, of which the runner
    reports what is wrong.
    Raises UsageProblem for an image that cannot be read, and when the inbox cannot be written.
    """
    from runner.spool.inbox.inputs import named_paths
    from specs.read import read

    try:
        spec = read(data, json=spec_file.suffix.lower() == ".json").value
    except SpecInvalid:
        return []
    copied = []
    named = [name for _, name in named_paths(spec)] if isinstance(spec, dict) else []
    for name in dict.fromkeys([*named, *in_rows]):
        steps = name.replace("\\", "/").split("/")
        elsewhere = ("", *("inbox", "outbox") * (len(steps) > 1))
        name = "/".join(step for step in steps if step not in ("", "."))
        if steps[0] in elsewhere or name[:1] in ("~", ".", "") or ".." in steps or ":" in name:
            continue
        image = beside(spec_file, name)
        try:
            if not is_file(image):
                if len(os.fsencode(name)) > _LONGEST_NAME:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                continue
            picture, there = read_file(image, follow=True), home.inbox / name
            if is_there(there):
                if read_file(there) != picture:
                    raise UsageProblem(
                        f"the inbox has another {name} than the one beside {spec_file.name}: remove"
                        f" inbox/{name} (accepted jobs have copies of their own), or give one of"
                        " them another name"
                    )
                continue
        except OSError as error:
            raise UsageProblem(f"cannot read {image}: {error.strerror or error}") from error
        if put(home, picture, name):
            copied.append(name)
    return copied


def beside(spec_file: Path, name: str) -> Path:
    """The file beside a spec that a name in it means, which may be spelled otherwise; see Names."""
    folder, _, last = name.replace("\\", "/").rpartition("/")
    names: list[str] = []
    with contextlib.suppress(PermissionError, ValueError):  # a folder may be entered and not listed
        names = names_in(spec_file.parent / folder)
    found = Names(names).alike(last)
    return spec_file.parent / folder / (found[0] if len(found) == 1 else last)


def receipt(home: Home, drop: str, data: bytes | None = None) -> dict[str, Any] | None:
    """The receipt of a drop, or None while its file is in the inbox.

    With the bytes of a drop only that of these bytes, also where its file cannot leave the inbox.
    """
    answer = _read_receipt(home, drop)
    if data is None:
        return None if is_there(home.inbox / drop) else answer
    # Here, for most commands never need it.
    import hashlib

    # Of what cannot be a spec the bytes are not read.
    hashes = ("", hashlib.sha256(data).hexdigest())
    return answer if answer is not None and answer["sha256"] in hashes else None


def _read_receipt(home: Home, drop: str) -> dict[str, Any] | None:
    files = (home.drops / name for name in receipt_names(drop))
    found = next(filter(None, map(reading.receipt, files)), None)
    return found if found is not None and _is_name(found["job"]) else None


def fault(home: Home, drop: str) -> dict[str, Any] | None:
    """The fault for which a runner has set a drop aside."""
    faults = (reading.health(home.health) or {}).get("faults", ())
    return next((fault for fault in faults if fault["file"] == f"inbox/{drop}"), None)


def wait_for_receipt(
    home: Home, drop: str, seconds: float | None, check: Callable[[], None] | None = None,
    *, data: bytes | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Wait at most `seconds` (None: no limit) for the receipt of a drop; None if none has come.

    `check` is called meanwhile, and may raise to end the waiting.
    """
    return _wait(lambda: receipt(home, drop, data), seconds, check)


def status(home: Home, job_id: str) -> dict[str, Any]:
    """The status of a job.

    Without one the state is `submitted` while a file of that name is in the inbox, else `unknown`.
    """
    if not _is_name(job_id):
        return {"id": job_id, "state": "unknown"}
    file = home.job(job_id) / "status.json"
    recorded = reading.status(file)
    # A spec in the inbox takes the place of a job that does not hold its id.
    if recorded is not None and not holds_no_id(recorded["state"], recorded["images"]["total"]):
        return {**recorded, "id": job_id}
    waiting = [job_id] if is_spec(job_id) else [f"{job_id}{end}" for end in SPEC_SUFFIXES]
    if any(is_file(home.inbox / name) for name in waiting):
        return {"id": job_id, "state": "submitted"}
    # Read again: the file may have left the inbox and become a job since the first read.
    return {**(reading.status(file) or {"state": "unknown"}), "id": job_id}


def job_of(home: Home, name: str) -> str:
    """The id of the job that `name` refers to: a job's id, or the file name of a drop.

    While the newest drop of that name is in the inbox, it is that file's own name.
    """
    if not _is_name(name) or is_file(home.job(name) / "status.json"):
        return name
    for file in filter(is_spec, names_in(home.inbox)):
        if key_of(name) in (key_of(file), file_key(file)):
            return file
    # macOS takes letters and their accents apart, in the names of drops too.
    for form in dict.fromkeys([name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))]):
        stem, suffix = map(re.escape, os.path.splitext(form))
        of_it = re.compile(rf"{stem}~[0-9a-f]{{12}}{suffix}\.json", re.DOTALL)
        names = filter(of_it.fullmatch, names_in(home.drops))
        once = (reading.receipt(home.drops / name) for name in names)
        answers = [answer for answer in (_read_receipt(home, form), *once) if answer]
        # What came last has this name now.
        newest = max(answers, key=lambda answer: str(answer["at"]), default=None)
        if newest is not None and _is_name(newest["job"]):
            return str(newest["job"])
    return name


def wait_until_over(
    home: Home, job_id: str, seconds: float | None, check: Callable[[], None] | None = None
) -> dict[str, Any]:
    """The status of a job once it is final, or as it is after `seconds` (None: no limit).

    One whose folder was taken away is over too, and `unknown`. `check` is called meanwhile, and may
    raise to end the waiting.
    """
    why = f"outbox/{job_id} was taken away before the end of its job was seen"

    def final_status() -> dict[str, Any] | None:
        current = status(home, job_id)
        if current["state"] == "unknown":
            return {**current, "reason": "gone", "message": why}
        return current if current["state"] in FINAL_STATES else None

    return _wait(final_status, seconds, check) or status(home, job_id)


def cancel(home: Home, job_id: str) -> str:
    """Ask for a job to be cancelled; returns the name of the control file."""
    return _control(home, f"{job_id}.cancel")


def keep(home: Home, job_id: str) -> str:
    """Ask for a job to be kept by `clean`, once it is over; the name of the drop."""
    return _control(home, f"{_used_once(home, job_id)}{KEEP_SUFFIX}")


def retry(home: Home, job_id: str) -> str:
    """Ask for a finished job to be run again under a new id; returns the control file's name."""
    return _control(home, f"{_used_once(home, job_id)}.retry")


def pause(home: Home) -> None:
    """Ask the runner to start no further image until `resume`."""
    _control(home, "runner.pause")


def resume(home: Home) -> None:
    """Undo `pause`."""
    (home.inbox / "runner.pause").unlink(missing_ok=True)


def lend(home: Home, lent: Lent, tell: Callable[[str], object]) -> None:
    """Have the device, after those to whom it is lent by now, and once nothing is on it.

    `tell` is told, again and again, what is waited for. Raises UsageProblem where it is taken back
    meanwhile.
    """
    asked: str | None = None

    def is_free() -> bool | None:
        nonlocal asked
        found = current_lend(home)
        if asked and found != lent:
            raise UsageProblem("the device was taken back before it was free")
        if asked:
            health = runner_health(home)
            if health is None or (health["state"], health["lent"]) == ("lent", lent):
                return True
            tell("waiting until the runner has left the device")
        elif found is None:
            asked = _put(home, json.dumps(lent).encode(), [LEND_NAME])
        elif (found["pid"] and not found["host"]) or not lending.is_over(found, time.time()):
            # A process of no machine is the runner's to ask.
            tell(f"waiting, for {lending.hold_of(found).message}")
        else:
            # A runner does that as well.
            take_back(home, found)
        return None

    _wait(is_free, None)


def current_lend(home: Home) -> Lent | None:
    """What `runner.lend` says, by which the device is lent; None where there is none."""
    try:
        return lending.read(home.inbox / LEND_NAME)
    except FileNotFoundError:
        return None
    except (OSError, InputBad) as error:
        if isinstance(error, OSError) and not is_absent(error):
            raise
        return lending.ENDLESS


def lend_on(home: Home, before: Lent, lent: Lent) -> None:
    """Replace what `runner.lend` says, as long as it says what it did before."""
    if current_lend(home) == before:
        _put(home, json.dumps(lent).encode(), [LEND_NAME], over=True)


def take_back(home: Home, lent: Lent | None = None) -> bool:
    """Remove `runner.lend`, where given only if it says this; whether that was there."""
    with _writing(home), contextlib.suppress(FileNotFoundError):
        if lent is None or current_lend(home) == lent:
            beneath.remove(home.inbox / LEND_NAME, _unlinked(home))
            return True
    return False


def clean(home: Home) -> None:
    """Ask the runner to forget the finished jobs whose folders are gone by now."""
    with contextlib.suppress(OSError):
        # One that is being obeyed may be past what went last.
        beneath.remove(home.inbox / CLEAN_NAME, _unlinked(home))
    _control(home, CLEAN_NAME)


def wait_until_obeyed(home: Home, control: str, seconds: float) -> bool:
    """Wait at most `seconds` for the runner to take a control file; returns whether it did."""
    return bool(_wait(lambda: not is_there(home.inbox / control) or None, seconds))


def _control(home: Home, name: str) -> str:
    if not _is_name(name):
        raise UsageProblem(f"{name.rsplit('.', 1)[0]!r} is not a job's id")
    # One that lies there already asks the same, whatever it is: only its name counts.
    with _writing(home), contextlib.suppress(FileExistsError):
        os.close(beneath.create(home.inbox / name, _unlinked(home)))
    return name


def _used_once(home: Home, stem: str) -> str:
    """A stem that is used once while a runner takes files: receipts are named like them."""
    return unique(stem) if runner_health(home) else stem


def _unlinked(home: Home) -> list[str]:
    """The folders below which no link is followed."""
    return [str(home.inbox)]


@contextlib.contextmanager
def _writing(home: Home) -> Iterator[None]:
    """Raise a failed file operation as the UsageProblem that callers report; PlaceAway."""
    home.require_mounted()
    try:
        yield
    except OSError as error:
        raise UsageProblem(f"cannot write into {home.inbox}: {error.strerror}") from error


def _put(home: Home, data: bytes, names: Iterable[str], *, over: bool = False) -> str | None:
    """Write a file aside, then rename it to the first free name; only `over` another if told so.

    Returns that name, or None where every name is taken.
    """
    aside = home.inbox / ".tmp" / os.urandom(8).hex()
    unlinked = _unlinked(home)
    try:
        with _writing(home):
            beneath.make_folder(aside.parent, unlinked)
            with os.fdopen(beneath.create(aside, unlinked), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for name in names:
                if over:
                    beneath.rename(aside, home.inbox / name, unlinked)
                    return name
                if _rename_to_free(aside, home.inbox / name, unlinked):
                    return name
    finally:
        with contextlib.suppress(OSError):
            beneath.remove(aside, unlinked)
    return None


def _rename_to_free(aside: Path, target: Path, unlinked: list[str]) -> bool:
    try:
        return beneath.rename_to_free(aside, target, unlinked)
    except OSError:
        # No hard links on this file system. Another file may take the name between the test and
        # the rename, and would then be overwritten.
        if is_there(target):
            # A drop box may take a file and refuse to let go of its first name.
            return os.path.samestat(os.lstat(aside), os.lstat(target))
        beneath.rename(aside, target, unlinked)
        return True


def _is_name(text: str) -> bool:
    """Whether a text can be one plain file name on every system."""
    return bool(text) and not text.startswith(".") and not set(text) & set("/\\:\0")


def _wait(
    poll: Callable[[], T | None], seconds: float | None, check: Callable[[], None] | None = None
) -> T | None:
    """Call `poll` until it returns something, or None after so many seconds (None: no limit)."""
    deadline = None if seconds is None else time.monotonic() + seconds
    look, checked = patient(poll), patient(check or (lambda: None))
    while (result := look()) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return poll()
        checked()
        time.sleep(_POLL_SECONDS)
    return result


def patient(poll: Callable[[], T]) -> Callable[[], T | None]:
    """`poll` for who waits: None where the system refuses it, unless it does so for seconds."""
    worked = time.monotonic()

    def look() -> T | None:
        nonlocal worked
        result = None
        try:
            result, worked = poll(), time.monotonic()
        except OSError:
            if time.monotonic() - worked > _REFUSED_SECONDS:
                raise
        return result

    return look
