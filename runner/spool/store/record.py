"""The record of one job, a frozen value, and its conversion to and from a row of the ledger."""

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from runner.holds import UNWRITABLE, WAITING_FOR_INPUT, Hold, outside_hours
from runner.job import FINAL_STATES, State
from runner.wire import Counts


@dataclass(frozen=True)
class Record:
    """One job in the ledger; a column for each fact, see schema/.

    `realised` is the validated spec, and `inputs` maps the paths it names to the copies' file
    names. The first `foreseen` of the `warnings` came with the spec, the others while it ran. What
    holds the job back are independent facts; `why` says which of them a status shows.
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
    end_reason: str | None = None
    end_message: str | None = None
    inputs_missing: bool = False
    waits_for: str | None = None
    ready_at: float = 0.0
    put_back: str | None = None
    put_back_message: str | None = None
    cancel_at: str | None = None
    kept: bool = False
    kind: str | None = None
    model: str | None = None
    priority: int = 0
    base_seed: int | None = None
    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    reused: int = 0
    attempt: int = 0
    version: int = 1
    shown: int = 0
    revision: int = 1
    realised: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    foreseen: int | None = None
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the state is one that stays."""
        return self.state in FINAL_STATES

    @property
    def is_shown(self) -> bool:
        """Whether the status shows this version of the record."""
        return self.shown >= self.version

    @property
    def images_left(self) -> int:
        """How many images are not over."""
        return self.total - self.done - self.failed - self.skipped

    def why(self, wall: float, runner: Hold | None = None) -> Hold:
        """The reason word and the sentence that a status shows at this time.

        `runner` is what holds all jobs back, where the caller knows and wants it shown.
        """
        if self.is_final:
            return Hold(self.end_reason, self.end_message or "")
        if self.state == State.RUNNING:
            return Hold(None, "")
        if self.inputs_missing:
            return Hold(WAITING_FOR_INPUT, self.waits_for or "waiting for its images to be copied")
        if self.ready_at > wall and self.put_back != UNWRITABLE.reason:
            return outside_hours(self.ready_at)
        return runner or Hold(self.put_back, self.put_back_message or "")


COLUMNS = tuple(field.name for field in fields(Record))
_JSON = ("realised", "inputs", "errors", "warnings")
_TEXTS = [name for name in COLUMNS if name not in ("spec", "source_name")]
_FLAGS = ("inputs_missing", "kept")


def row_of(record: Record) -> list[Any]:
    """A record's values as the ledger stores them, in the order of COLUMNS."""
    return [column_of(name, getattr(record, name)) for name in COLUMNS]


def storable(name: str) -> str | bytes:
    """A file's name as SQLite can hold it: as bytes where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def column_of(name: str, value: Any) -> Any:
    """One field's value as the ledger stores it."""
    if name in _JSON:
        return _compact(value)
    return storable(value) if name == "source_name" else value


def record_of_row(row: sqlite3.Row) -> Record:
    """The record in a row of the ledger. Raises ValueError or TypeError where it is none."""
    values = {name: row[name] for name in COLUMNS}
    if any(type(values[name]) is bytes for name in _TEXTS):
        raise ValueError("it has text that is not UTF-8")
    values |= {name: json.loads(values[name]) for name in _JSON}
    values |= {name: bool(values[name]) for name in _FLAGS}
    values["source_name"] = os.fsdecode(values["source_name"])
    return Record(**{**values, "state": State(values["state"])})


def counts_of(record: Record) -> dict[str, int]:
    """The images of a job by how they are over, as a status has them."""
    return {name: getattr(record, name) for name in Counts.__annotations__}


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
