"""Generated drops of every kind that a file system allows, and what must be true of each.

From a seed: names over all bytes, contents, types, owners, modes, dates; a part of them cannot be
removed. Beside them lie good specs, whose ids begin with `good`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import string
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import text_of
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.store.names import is_control, is_ignored, is_spec, receipt_names

_SPEC = (
    b"kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\nsteps: 2\nseed: 7\n"
)
_JSON = json.dumps({"kind": "text2img", "model": "tiny", "prompt": "a star", "seed": 1, "steps": 2})
_SUFFIXES = (b".yaml",) * 8 + (b".yml", b".json", b".JSON", b".Yaml", b".cancel", b".retry")
_SUFFIXES += (b".keep", b".yaml.cancel", b".yaml ", b".txt", b".png", b"")
_LINES = (
    b"not_before: 9999-12-31T23:59:59-14:00", b"not_before: 0001-01-01T00:00:00+23:59",
    b'not_before: "2999-01-01T00:00:00Z"', b'window: "25:00-26:00"', b"id: ../../etc", b"id: CON",
    b"id: drops", b"id: \xff", b"tags: [a, \xe2\x80\xa8]", b"count: 3", b"seeds: [1, 2]",
    b"image: nowhere.png", b"kind: kontext", b"compose: {pack: none, subjects: all}",
    b"x_\x00: 1", b"notes: " + b"n" * 3000, b"priority: 101", b"timeout: -1", b"loras: [{path: x}]",
    b"matrix: {steps: [1, 2]}", b"deep: " + b"[" * 2000, b"\xef\xbb\xbfa: 1", b"? [a]\n: b", b"...",
    b"--- \n--- ", b"prompt: *bold*", b"seed: 1e999", b"a: !!python/object:os.system x",
)  # fmt: skip
_DATES = (-(2**40), -1, 0, 1, 2**31, 2**33, 2**34, 2**40, 2**62)
GOOD = 8


@dataclass(frozen=True)
class Odd:
    """One odd drop: the bytes of its name, what it is, and whether it can be removed."""

    name: bytes
    kind: str
    data: bytes = b""
    mode: int = 0o644
    seconds: int | None = None
    owner: int | None = None
    stubborn: bool = False

    @property
    def text(self) -> str:
        """The name as this process has it."""
        return os.fsdecode(self.name)


def odd_drops(
    seed: int, count: int, *, without: Callable[[Odd], bool] = lambda odd: False
) -> list[Odd]:
    """So many odd drops, without some."""
    draw = random.Random(seed)
    found: dict[bytes, Odd] = {}
    while len(found) < count:
        odd = _draw(draw)
        if odd.name not in found and not without(odd):
            found[odd.name] = odd
    return list(found.values())


def _draw(draw: random.Random) -> Odd:
    kinds = ["file"] * 12 + ["folder", "fifo", "socket", "link", "dangling", "link to a folder"]
    kinds += ["device", "hard link"]
    return Odd(
        _name(draw),
        draw.choice(kinds),
        _data(draw),
        draw.choice((0o644, 0o644, 0o444, 0o600, 0o000, 0o7777, 0o200)),
        draw.choice(_DATES) if draw.random() < 0.2 else None,
        draw.choice((65534, 1)) if draw.random() < 0.1 else None,
        draw.random() < 0.08,
    )


def _name(draw: random.Random) -> bytes:
    suffix = draw.choice(_SUFFIXES)
    longest = 255 - len(suffix)
    length = draw.choice((1, 3, 8, 30, 100, 119, 120, 121, 143, 195, 196, 248, longest))
    letters = string.ascii_letters + string.digits
    stem = {
        "ascii": lambda: "".join(draw.choices(letters, k=length)),
        "printed": lambda: "".join(draw.choices(letters + " :?*\"<>|\\'&$`;#%~!", k=length)),
        "signs": lambda: "".join(draw.choices("犬é🎨ß\u0301İﬀ\u202e\u2028名", k=length)),
        "lines": lambda: "".join(draw.choices("a\n\r\t\x1b\x7f", k=length)),
        "device": lambda: draw.choice(("CON", "nul", "com1", "runner", "drops", "-rf", "..a")),
    }
    how = draw.choice((*stem, "bytes", "bytes"))
    if how == "bytes":
        return (
            bytes(draw.choices([*range(1, 47), *range(48, 256)], k=min(length, longest))) + suffix
        )
    return stem[how]().encode()[:longest] + suffix


def _data(draw: random.Random) -> bytes:
    how = draw.randrange(10)
    if how < 3:
        return _SPEC + (_JSON.encode() if draw.random() < 0.1 else b"")
    if how < 6:
        return _SPEC + draw.choice(_LINES) + b"\n"
    if how == 6:
        return _SPEC[: draw.randrange(len(_SPEC))]
    if how == 7:
        return _JSON.encode()
    if how == 8:
        return draw.randbytes(draw.choice((0, 1, 100, 300_000)))
    spoilt = bytearray(_SPEC)
    spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
    return bytes(spoilt)


def put(odd: Odd, inbox: Path) -> bool:
    """Put an odd drop into an inbox; False where this system allows no such thing."""
    path = os.fsencode(inbox) + b"/" + odd.name
    try:
        _make(odd, path, inbox)
    except (OSError, ValueError, AttributeError):
        # A name, a type or an owner that this system refuses.
        return False
    for change in (_modes, _owner, _date):
        with contextlib.suppress(OSError, OverflowError, AttributeError):
            change(odd, path)
    return True


def _make(odd: Odd, path: bytes, inbox: Path) -> None:
    outside = inbox.parent / "outside.yaml"
    match odd.kind:
        case "file":
            with open(path, "xb") as file:
                file.write(odd.data)
        case "folder":
            os.mkdir(path)
        case "fifo":
            os.mkfifo(path)
        case "socket":
            # Its whole path may have 107 bytes, so it is bound beside and moved.
            with socket.socket(socket.AF_UNIX) as server:
                aside = f"/tmp/odd-{os.getpid()}-{threading.get_ident()}"
                server.bind(aside)
                os.rename(aside, path)
        case "device":
            os.mknod(path, 0o020600, os.makedev(1, 3))
        case "link" | "hard link":
            if not outside.exists():
                outside.write_bytes(_SPEC)
            (os.symlink if odd.kind == "link" else os.link)(os.fsencode(outside), path)
        case "dangling":
            os.symlink(b"nowhere", path)
        case _:
            os.symlink(os.fsencode(inbox.parent / "prompts"), path)


def _modes(odd: Odd, path: bytes) -> None:
    if odd.kind in ("file", "fifo", "folder"):
        os.chmod(path, odd.mode)


def _owner(odd: Odd, path: bytes) -> None:
    if odd.owner is not None and odd.kind == "file":
        os.chown(path, odd.owner, odd.owner)


def _date(odd: Odd, path: bytes) -> None:
    if odd.seconds is not None and odd.kind == "file":
        os.utime(path, ns=(odd.seconds * 10**9, odd.seconds * 10**9))


def put_good(inbox: Path, start: int = 0) -> list[str]:
    """Put good specs into an inbox; their ids."""
    jobs = [f"good-{n}" for n in range(start, start + GOOD)]
    for job in jobs:
        aside = inbox / ".tmp" / job
        aside.parent.mkdir(exist_ok=True)
        aside.write_bytes(_SPEC)
        aside.replace(inbox / f"{job}.yaml")
    return jobs


class StubbornDisk(Disk):
    """Lets none of these files be renamed or removed, as `chattr +i` and sticky folders do."""

    def __init__(self, inbox: Path, names: Collection[str]) -> None:
        super().__init__()
        self._files = {f"{inbox}/{name}" for name in names}

    def before(self, operation: str, path: Any, **details: Any) -> None:
        if {os.fspath(path), os.fspath(details.get("old", ""))} & self._files:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path))


def left_alone(odd: Odd) -> bool:
    """Whether nothing is asked of this one: its name makes it an input image, or it is ignored."""
    return is_ignored(odd.text) or not (is_spec(odd.text) or is_control(odd.text))


def unanswered(
    drops: Iterable[Odd], home: Home, named: Collection[str]
) -> Mapping[str, str]:  # fmt: skip
    """The drops that are neither answered nor named, and why not; `named` as in `faults`."""
    found = {}
    jobs = {file.parent.name.casefold() for file in home.outbox.glob("*/status.json")}
    for odd in drops:
        if left_alone(odd) or f"inbox/{text_of(odd.text)}" in named:
            continue
        there = os.path.lexists(home.inbox / odd.text)
        receipt = _receipt(home, odd.text)
        if there:
            found[repr(odd.name)] = f"{odd.kind} of {len(odd.data)} bytes still lies there"
        elif is_spec(odd.text) and (receipt is None or receipt["name"] != text_of(odd.text)):
            found[repr(odd.name)] = f"has the receipt {receipt}"
        elif is_spec(odd.text) and receipt["job"].casefold() not in jobs:  # type: ignore[index]
            # A rejected job's folder is that of the next job of its id, in whatever case.
            found[repr(odd.name)] = f"has no status of {receipt}"
    return found


def _receipt(home: Home, name: str) -> dict[str, Any] | None:
    for each in receipt_names(name):
        with contextlib.suppress(OSError):
            value: dict[str, Any] = json.loads((home.drops / each).read_bytes())
            return value
    return None


def why_not() -> str | None:
    """Why this system can show less than all, or None."""
    if sys.platform != "linux":
        return "elsewhere names are UTF-8, or not so long, and there are other types of files"
    return None
