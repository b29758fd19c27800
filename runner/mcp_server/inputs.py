"""The images that a call names or carries, on their way into the inbox.

What the runner can read itself (the inbox, pictures of jobs) is named in the spec as it is. What
it cannot, or what may be gone by then (a data URI, a file of the home or of an allowed folder), is
copied to `inbox/mcp/<job>/` first. Everything is looked at before anything is written: it must be
inside the roots, a regular file, and a picture.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import client
from runner.clock import monotonic
from runner.errors import InputBad, PathNotAllowed, UsageProblem
from runner.files import is_file
from runner.job import FINAL_STATES
from runner.mcp_server.arguments import MOST_DATA_BYTES
from runner.mcp_server.pictures import file_of
from runner.pictures import decoded
from runner.settings import Home
from runner.spool.disk import beneath
from runner.spool.inbox.inputs import (
    IMAGE_FIELDS,
    Folders,
    is_absolute,
    maker_of,
    place_of,
    relative,
    take,
)

FOLDER = "mcp"
"""Where in the inbox the copies lie; subfolders of the inbox are never scanned."""

_DATA = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<rest>(?:;[\w=.+-]+)*),", re.ASCII)
_PICTURE = re.compile(r"flux://jobs/([^/]+)/images/(\d{1,5})")
# Earlier versions added a second number.
_COPY = re.compile(r"[a-z-]+(-[0-9a-f]{12}){1,2}\.[a-z]+")
_FORGOTTEN_SECONDS = 3600.0
_unknown_since: dict[Path, float] = {}
"""When this process first saw a copy, or a folder of them, that no job is known to need."""


@dataclass
class Inputs:
    """The images of one call: the spec that names them, the copies to make, what is wrong."""

    home: Home
    job_id: str
    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def settle(self, spec: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
        """The spec as the runner will read it; `files` and `problems` have the rest.

        An image that is none of the kind's `fields` is not looked at.
        """
        named = [name for name in IMAGE_FIELDS if name in spec and name in fields]
        return {**spec, **{name: self._each(spec[name], name) for name in named}}

    def _each(self, value: Any, path: str) -> Any:
        """Every path in a field, whatever its form; what has another type the schema refuses."""
        if isinstance(value, list):
            return [self._each(item, f"{path}[{n}]") for n, item in enumerate(value)]
        if isinstance(value, str):
            return self._one(value, path)
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return {**value, "path": self._one(value["path"], f"{path}.path")}
        return value

    def _one(self, text: str, path: str) -> str:
        try:
            if text[:5].lower() == "data:":
                return self._copy(_decoded(text), path)
            return self._named(text, path)
        except (PathNotAllowed, InputBad) as error:
            self.problems.append((path, str(error)))
        # A name that the schema lets through, so that everything else is looked at too.
        return "image.png"

    def _copy(self, data: bytes, path: str) -> str:
        ending = str(decoded(data).format).lower()
        stem = re.sub(r"[^a-z]+", "-", path).strip("-") or "image"
        # Named by its content: equal calls write equal specs, and share their copies.
        name = f"{FOLDER}/{self.job_id}/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.{ending}"
        self.files[name] = data
        return name

    def _named(self, text: str, path: str) -> str:
        if text[:8].lower().startswith(("http://", "https://")):
            raise InputBad("URLs are never fetched: save the picture, and give its path")
        found = _PICTURE.fullmatch(text)
        if found:
            file = file_of(self.home, found[1], int(found[2]))
            if file is None:
                raise InputBad(f"{text} is not there: flux_get_job lists a job's pictures")
            text = f"{found[1]}/{file}"
        if len(text) > 1024 or set(text) & set("\0\t\r\n"):
            raise PathNotAllowed("this cannot be a path, and it is no data URI")
        for name in _readings(text, self.home):
            place, _ = Folders(self.home).find(place_of(name, self.home))
            if is_file(place):
                _bytes(place, self.home)
                return name
            if self._will_be_made(name):
                return name
        return self._elsewhere(text, path)

    def _will_be_made(self, name: str) -> bool:
        """Whether an unfinished job may still make this picture; one that is over must have it."""
        maker = maker_of(name)
        if maker is None or (state := client.status(self.home, maker)["state"]) == "unknown":
            return False
        if not re.fullmatch(rf"{re.escape(maker)}-\d{{4,}}[.]\w+", name.rpartition("/")[2]):
            raise InputBad(f"the pictures of job {maker} are named {maker}-0001.png, …")
        if state in FINAL_STATES:
            raise InputBad(f"job {maker} is {state} and has no picture {name.rpartition('/')[2]!r}")
        return True

    def _elsewhere(self, text: str, path: str) -> str:
        """A file of the home, or of an allowed folder: copied, for the runner may not read it."""
        settings = self.home.settings
        roots = (*settings.input_roots, str(self.home.root))
        home = replace(self.home, settings=replace(settings, input_roots=roots))
        place = Path(text) if is_absolute(text) else self.home.root / text
        place_of(str(place), home)
        _refuse_private(place, self.home)
        if not is_file(place):
            raise InputBad(
                f"there is no file {text!r} in the inbox, the home or an allowed folder, and no"
                " picture of a job of that name: name one, or send a data URI"
            )
        return self._copy(_bytes(place, home), path)

    def write(self) -> None:
        """Put the copies into the inbox. Raises UsageProblem where that cannot be written."""
        if self.files and self._leads_away():
            raise UsageProblem(f"{self.home.inbox / FOLDER} leads elsewhere: remove that link")
        for name, data in self.files.items():
            # One that a rejected job has left is needed again.
            _unknown_since.pop(self.home.inbox / name, None)
            client.put(self.home, data, name)

    def _leads_away(self) -> bool:
        copies = self.home.inbox / FOLDER
        return beneath.is_link(copies) or beneath.is_link(copies / self.job_id)


def _decoded(text: str) -> bytes:
    head = _DATA.match(text[:200])
    if head is None or not head["rest"].lower().endswith(";base64"):
        raise InputBad("a data URI has the form data:image/png;base64,…")
    body = re.sub(r"\s+|%0[AaDd]", "", text[head.end() :])
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputBad("what follows `base64,` is not base64, or it was cut short") from error
    if len(data) > MOST_DATA_BYTES:
        raise InputBad("a data URI may carry 3 MB: put the file into the inbox and name it")
    return data


def _readings(text: str, home: Home) -> list[str]:
    """What a path may mean inside the inbox and the outbox, the likeliest first."""
    posix = relative(text, home)
    if is_absolute(posix):
        return []
    if posix.startswith(("inbox/", "outbox/")):
        return [posix]
    place_of(posix, home)  # a path that may not be named is refused as what it is
    return [posix, f"outbox/{posix}"] if posix.count("/") == 1 else [posix]


def _bytes(place: Path, home: Home) -> bytes:
    snapshot = take(place, home)
    if snapshot is None:
        raise InputBad(f"{place.name} is empty or still being written: try again")
    return snapshot.checked(place.name).data


def _refuse_private(place: Path, home: Home) -> None:
    real, root = Path(os.path.realpath(place)), Path(os.path.realpath(home.root))
    parts = real.relative_to(root).parts if real.is_relative_to(root) else ()
    if any(part.startswith(".") for part in parts) or real.is_relative_to(
        os.path.realpath(home.data)
    ):
        raise PathNotAllowed(f"{place.name!r} is private to fluxdrop: copy it into the inbox")


def sweep(home: Home, kept: str) -> None:
    """Remove the copies of jobs that have their own by now, and what a crash left behind.

    Those of the job `kept` stay, for it is being submitted.
    The inbox is open to others: a link is never followed, and only what is named like a copy goes.
    """
    copies = home.inbox / FOLDER
    try:
        folders = [] if beneath.is_link(copies) else list(copies.iterdir())
    except OSError:
        return
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder.name == kept or beneath.is_link(folder):
                continue
            for file in folder.iterdir():
                if _COPY.fullmatch(file.name) and not _is_needed(home, folder.name, file):
                    # The folder may have been replaced by a link since it was looked at.
                    beneath.remove(file, [str(home.inbox)])
                    _unknown_since.pop(file, None)
            if not _is_needed(home, folder.name, folder):
                folder.rmdir()
                _unknown_since.pop(folder, None)


def _is_needed(home: Home, job_id: str, path: Path) -> bool:
    """Whether a copy for a job, or the folder of its copies, may still be read."""
    status = client.status(home, job_id)
    if status["state"] in ("unknown", "rejected"):
        # Just being written, as a rejected job is mended under its id; or left, as by a server that
        # was ended before it wrote the spec. Its age is how long this process has seen it: a clock
        # that is set changes the age of a date.
        since = _unknown_since.setdefault(path, monotonic())
        return monotonic() - since < _FORGOTTEN_SECONDS
    return status["state"] == "submitted" or status.get("reason") == "WaitingForInput"
