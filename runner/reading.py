"""Reads what a runner writes into the outbox, which others may write to as well.

A file is believed only where each of its values has the type that `wire` gives it, so that no
reader meets another one. What is missing, as in files of earlier versions, is empty. OSError is
raised where it is not known what is there. Never says whether what a file says is true.
"""

import json
import re
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from runner.files import is_link, names_in
from runner.wire import Receipt, RunnerHealth, Status, read_json

_LARGEST = 2**53
_INTERVALS = (0.01, 10.0)


def status(file: Path) -> dict[str, Any] | None:
    """The status in a file; None where there is none, or a link stands for the job's folder."""
    return None if is_link(file.parent) else _read(file, Status, "state")


def sidecars(folder: Path) -> dict[int, Path]:
    """The sidecars in a job's folder, by the numbers of their images and in that order."""
    # A recovery renames what it keeps without counting it.
    own = re.compile(rf"{re.escape(folder.name)}-(\d{{4,}})\.json")
    found = filter(None, map(own.fullmatch, names_in(folder)))
    return dict(sorted((int(match[1]), folder / match[0]) for match in found))


def receipt(file: Path) -> dict[str, Any] | None:
    """The receipt in a file; None where there is none."""
    return _read(file, Receipt, "job")


def health(file: Path) -> dict[str, Any] | None:
    """What a health file says, with an interval that can be waited for; None without one."""
    found = _read(file, RunnerHealth, "state")
    if found is not None:
        lowest, highest = _INTERVALS
        found["interval_seconds"] = min(max(found["interval_seconds"], lowest), highest)
    return found


def _read(file: Path, kind: type, needed: str) -> dict[str, Any] | None:
    found = checked(read_json(file), kind)
    return found if found is not None and found[needed] else None


def checked(value: Any, kind: type) -> dict[str, Any] | None:
    """The value as a TypedDict has it, with what it lacks; None where a type is another one."""
    try:
        found: dict[str, Any] = _typed(value, kind)
        # NaN is no JSON, and half of a surrogate pair no text: neither can be passed on.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):
        return None
    return found


def _typed(value: Any, kind: Any) -> Any:
    """The value, with what it lacks, if it is of a type. Raises TypeError."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _typed(value, parts[0])
    if is_typeddict(kind) and isinstance(value, dict):
        hints = _hints(kind)
        return value | {
            name: _typed(value[name] if name in value else _empty(part), part)
            for name, part in hints.items()
        }
    if origin is list and isinstance(value, list):
        return [_typed(item, parts[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: _typed(item, parts[1]) for name, item in value.items()}
    if kind in (int, float) and type(value) in (int, kind) and abs(value) <= _LARGEST:
        return kind(value)
    if kind is Any or (kind in (str, bool) and type(value) is kind):
        return value
    raise TypeError(kind)


_hints = cache(get_type_hints)


def _empty(kind: Any) -> Any:
    origin = get_origin(kind)
    return None if origin is UnionType else (origin or kind)()
