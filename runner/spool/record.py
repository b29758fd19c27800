"""One job as the ledger has it: a frozen value, the same in the database and in the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.job import State


@dataclass(frozen=True)
class Record:
    """One job as the ledger has it.

    `realised` is the validated spec, `inputs` maps the paths it names to the copies' file names,
    `identity` tells the dropped file until that file has left the inbox, and `behind` says that
    `status.json` may be older than this record. `number` of an image counts from 1.
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
