"""The images a spec names: where they may lie, and their copies in the job's folder.

A path is checked as text, then with symlinks resolved (it must be inside the allowed roots), then
opened without blocking and checked again. No content of a file appears in an error. The caller's
file is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.errors import InputBad, PathNotAllowed
from runner.files import MAX_FILE_BYTES, is_there, names_in, open_regular
from runner.pictures import decoded
from runner.settings import Home
from runner.spool.disk.platform import has_writer, may_be_private, path_of, signature_of
from runner.spool.store.names import Names, is_ignored, natural_order
from specs.suggest import nearest

IMAGE_FIELDS = ("image", "mask")
TABLE = "table"
PRIVATE = "another name of a file that is another user's or closed to others"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic")
_MOST_COMPARED = 500
_GUESSES_KEPT = 10_000


def named_paths(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The table and the images that a spec names, each as (path of its field in the spec, text).

    A spec that breaks its schema is taken too: what has another form is passed over.
    """
    for field in (TABLE, *IMAGE_FIELDS):
        value = spec.get(field)
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, list):
            for n, item in enumerate(value):
                if isinstance(item, str):
                    yield f"{field}.{n}", item
                elif isinstance(item, Mapping) and isinstance(item.get("path"), str):
                    yield f"{field}.{n}.path", item["path"]
    varied = spec.get("matrix")
    if isinstance(varied, Mapping):
        yield from ((f"matrix.{path}", text) for path, text in named_paths(varied))


def paths_of(
    spec: Mapping[str, Any], composed: Iterable[tuple[Mapping[str, Any], Any]]
) -> Iterator[tuple[str, str]]:
    """What a spec names, and after it what its prompts name: each row of a table its images."""
    yield from named_paths(spec)
    for fields, _ in composed if TABLE in spec else ():
        yield from named_paths(fields)


def place_of(text: str, home: Home) -> Path:
    """The file that a text in a spec names. Raises PathNotAllowed outside the allowed roots."""
    posix = text.replace("\\", "/")
    if "\0" in text or ".." in posix.split("/"):
        raise PathNotAllowed(f"{text!r} may not contain '..': name a file in the inbox")
    if posix.startswith("~/"):
        raise PathNotAllowed(f"{text!r}: `~` is not expanded: copy the file into the inbox")
    if is_absolute(text):
        if not Path(text).is_absolute() or not _allowed(Path(text), home):
            raise PathNotAllowed(
                f"{text!r} is outside the inbox: copy the file there, or add its folder to "
                "`input_roots` in fluxdrop.yaml"
            )
        return Path(text)
    if ":" in text:
        # It follows a drive or a scheme, or comes before an alternate data stream.
        raise PathNotAllowed(f"{text!r} may not contain ':': rename the file")
    folder, name = home.inbox, posix
    first, _, rest = posix.partition("/")
    if first in ("inbox", "outbox") and rest:
        folder, name = home.outbox if first == "outbox" else home.inbox, rest.lstrip("/")
    place = folder / name
    if not any(_inside(place, root) for root in (folder, *_input_roots(home))):
        raise PathNotAllowed(f"{text!r} is a link that leaves the inbox and the outbox")
    return place


def matching(text: str, home: Home, beside: Callable[[str], Path] | None = None) -> list[str]:
    """The images that a pattern like `photos/*.jpg` names, in natural order; a path as it is.

    `beside` gives a path beside the spec, where they lie that are to be brought into the inbox.
    """
    try:
        place = place_of(text, home)
    except PathNotAllowed:
        return [text]  # refused as a path is
    if not {"*", "?"}.intersection(text) or is_there(place):
        return [text]
    folder = text.replace("\\", "/").rpartition("/")[0]
    near = [] if beside is None or is_absolute(text) else names_in(beside(text).parent)
    found = (
        f"{folder}/{name}" if folder else name
        for name in {*names_in(place.parent), *near}
        if fnmatch(name.lower(), place.name.lower())
        and name.lower().endswith(_ENDINGS)
        and not is_ignored(name)
    )
    return sorted(found, key=natural_order)


def is_absolute(text: str) -> bool:
    """Whether a path is absolute on any system, or names a drive."""
    return text[:1] in ("/", "\\") or text[1:2] == ":"


def relative(text: str, home: Home) -> str:
    """A path with `/`; one that is absolute and leads into the inbox or the outbox, as from there.

    Like `outbox/hero/hero-0001.png`.
    """
    if is_absolute(text):
        given = Path(os.path.realpath(text))
        for word, root in (("inbox", home.inbox), ("outbox", home.outbox)):
            if given.is_relative_to(real := os.path.realpath(root)):
                return f"{word}/{given.relative_to(real).as_posix()}"
    return text.replace("\\", "/")


class Folders:
    """Finds the file that a path means; each folder is listed at most once until `renew`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._listed: dict[Path, Names] = {}
        # Costly, and asked for again and again while a job waits.
        self._guess = lru_cache(_GUESSES_KEPT)(self._most_like)

    def renew(self) -> None:
        """List every folder anew."""
        self._listed.clear()

    def find(self, place: Path) -> tuple[Path, list[str]]:
        """The file that a path means; if there is none, names of files there that it may mean.

        A name is also found in another Unicode form or case, if one file only has it so.
        """
        try:
            return self._find(place)
        except PermissionError:  # said where it is opened
            return place, []

    def _find(self, place: Path) -> tuple[Path, list[str]]:
        root = next((root for root in _roots(self._home) if place.is_relative_to(root)), None)
        if root is None or is_there(place):
            return place, []
        folder = root
        for part in place.relative_to(root).parts:
            found = part
            if not is_there(folder / part):
                names = self._names(folder)
                near = names.alike(part)
                if len(near) != 1:
                    return place, near or self._guess(folder / part, len(names.all))
                (found,) = near
            folder = folder / found
        return folder, []

    def _names(self, folder: Path) -> Names:
        if folder not in self._listed:
            names: list[str] = []
            # A link may lead to a folder whose names callers may not see.
            if _allowed(folder, self._home):
                names = names_in(folder)
            self._listed[folder] = Names(names)
        return self._listed[folder]

    def _most_like(self, place: Path, count: int) -> list[str]:
        """The name of an image that is most like that of `place`, where there are so many files."""
        names = self._names(place.parent).all
        others = (name for name in names if name.lower().endswith(_ENDINGS))
        images = (name for name in others if not is_ignored(name))
        # By their stems: most of a short name is its ending, which all of them have.
        stems = {Path(name).stem: name for name in itertools.islice(images, _MOST_COMPARED)}
        near = nearest(place.stem, stems)
        return [stems[near]] if near else []


def hint_of(near: Sequence[str]) -> str:
    """What to say of names of files that a text may mean; empty without any."""
    return f" (there is {' and '.join(map(repr, near))}: name the one meant)" if near else ""


def _input_roots(home: Home) -> list[Path]:
    return [Path(root).expanduser() for root in home.settings.input_roots]


def _roots(home: Home) -> list[Path]:
    return [home.inbox, home.outbox, *_input_roots(home)]


def _allowed(path: Path, home: Home) -> bool:
    return any(_inside(path, root) for root in _roots(home))


def _inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def maker_of(text: str) -> str | None:
    """The id of the job that makes this picture, if the text has the form outbox/<id>/<file>."""
    parts = text.replace("\\", "/").split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "outbox" else None


@dataclass(frozen=True)
class Snapshot:
    """An input image's bytes, its file's signature, and whether it is known to have no writer.

    `private` says that it may be another name of a file that its owner keeps to himself.
    """

    data: bytes
    signature: tuple[int, ...]
    closed: bool
    private: bool = False

    def checked(self, name: str) -> Snapshot:
        """The same. Raises PathNotAllowed for a private file, InputBad for what is no picture."""
        decoded(self.public(name), name)
        return self

    def public(self, name: str) -> bytes:
        """The bytes. Raises PathNotAllowed for a private file."""
        if self.private:
            raise PathNotAllowed(f"{name} is {PRIVATE}: use a copy")
        return self.data


def take(place: Path, home: Home) -> Snapshot | None:
    """The bytes of an input image, or None while it is missing or still being written.

    Raises PathNotAllowed for a path that now leads out of the roots, and InputBad for what is not a
    regular file or is too large.
    """
    try:
        handle = open_regular(Path(os.path.realpath(place)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputBad(
            f"{place.name} cannot be read ({error.strerror or error}): name a plain file that the "
            "runner's user may read"
        ) from None
    with os.fdopen(handle, "rb") as file:
        # The path may lead to another file now than when it was checked.
        opened = path_of(file.fileno()) or place
        if not _allowed(opened, home):
            raise PathNotAllowed(f"{place.name} was replaced by a link that leaves the inbox")
        before = os.fstat(file.fileno())
        writer = has_writer(file.fileno())
        if writer:
            return None
        if before.st_size > MAX_FILE_BYTES:
            raise InputBad(f"{place.name} is larger than {MAX_FILE_BYTES >> 20} MiB: scale it down")
        data = file.read(MAX_FILE_BYTES + 1)
        if signature_of(os.fstat(file.fileno())) != signature_of(before) or not data:
            return None
    private = may_be_private(before)
    return Snapshot(data, signature_of(before), closed=writer is False, private=private)


def reading_copies(
    spec: Mapping[str, Any], job_id: str, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """The same spec, but reading its images from the job's private copies, where it has them."""

    def copy_of(value: Any) -> Any:
        if isinstance(value, str):
            return f"outbox/{job_id}/inputs/{inputs[value]}" if inputs.get(value) else value
        if isinstance(value, list):
            return [copy_of(item) for item in value]
        has_path = isinstance(value, Mapping) and "path" in value
        return {**value, "path": copy_of(value["path"])} if has_path else value

    copied = {field: copy_of(spec[field]) for field in (TABLE, *IMAGE_FIELDS) if field in spec}
    if "image" in spec.get("matrix", ()):
        copied["matrix"] = {**spec["matrix"], "image": copy_of(spec["matrix"]["image"])}
    return {**spec, **copied}


def is_from_outbox(text: str) -> bool:
    """Whether a path is below the outbox, where files appear whole, by rename."""
    return text.replace("\\", "/").startswith("outbox/")


def copies_in(folder: Path, names: Iterable[str]) -> dict[bytes, tuple[str, int]]:
    """The name and the size of each of these copies in a folder, by the SHA-256 of its bytes."""
    found: dict[bytes, tuple[str, int]] = {}
    for name in dict.fromkeys(names):
        with contextlib.suppress(OSError), os.fdopen(open_regular(folder / name), "rb") as file:
            data = file.read()
            found.setdefault(hashlib.sha256(data).digest(), (name, len(data)))
    return found


def copy_name(text: str, used: Collection[str]) -> str:
    """The file name of an input's copy in `inputs/`: its own, made safe, and none of `used`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("\\", "/").rsplit("/", 1)[-1]).strip("-.")
    name = name[-80:] or "image"
    candidate, n = name, 2
    while candidate.casefold() in used:
        candidate, n = f"{n}-{name}", n + 1
    return candidate
