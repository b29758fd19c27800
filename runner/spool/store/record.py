"""The record of one job, a frozen value, and its conversion to and from a row of the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from runner.job import State


@dataclass(frozen=True)
class Record:
    """One job in the ledger.

    `realised` is the validated spec, `inputs` maps the paths it names to the copies' file names,
    `identity` identifies the dropped file until that file has left the inbox, and `behind` says
    that `status.json` may be older than this record.
    """

    seq: int
    id: str
    state: State
    source_name: str
    source_sha256: str
    source_bytes: int
    suffix: str
    spec: bytes
    accepted_at: str
    source_mtime_ns: int = 0
    reason: str | None = None
    message: str | None = None
    kind: str | None = None
    model: str | None = None
    priority: int = 0
    attempt: int = 0
    revision: int = 1
    total: int = 0
    base_seed: int | None = None
    cancelled: bool = False
    ready_at: float = 0.0
    behind: bool = True
    identity: str | None = None
    realised: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    started_at: str | None = None
    finished_at: str | None = None


CANCELLED: Mapping[str, object] = {
    "cancelled": True,
    "reason": "Cancelled",
    "message": "cancelled by a file in the inbox",
}
"""The fields that a cancel sets in a job's record."""

COLUMNS = tuple(field.name for field in fields(Record))
_JSON = ("realised", "inputs", "errors", "warnings")
_JSON_AT = tuple(map(COLUMNS.index, _JSON))


def row_of(record: Record) -> list[Any]:
    """A record's values as the ledger stores them, in the order of COLUMNS."""
    values = [getattr(record, name) for name in COLUMNS]
    for n in _JSON_AT:
        values[n] = _compact(values[n])
    return values


def column_of(name: str, value: object) -> object:
    """One field's value as the ledger stores it."""
    return _compact(value) if name in _JSON else value


def record_of_row(row: Mapping[str, Any]) -> Record:
    """The record in a row of the ledger."""
    values = {name: row[name] for name in COLUMNS}
    values |= {name: json.loads(values[name]) for name in _JSON}
    values |= {name: bool(values[name]) for name in ("cancelled", "behind")}
    return Record(**{**values, "state": State(values["state"])})


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
