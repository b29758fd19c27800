"""The JSON shapes that other programs read: status, receipt, health file.

Version 1: keys may be added, never removed or changed. The schemas beside the specs
(`status`, `receipt`, `runner`) say the same; a test holds the two together. Never writes one.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from runner.files import is_absent, read_file

SCHEMA = 1
PREVIEW = "preview.webp"
"""The file in a job's folder that shows a picture while it is made. No picture's name is so."""
_MOST_BYTES = 16 << 20
_TRIES = 20
_PAUSE_SECONDS = 0.05


class ProblemJson(TypedDict):
    line: int
    column: int
    path: str
    message: str


class Source(TypedDict):
    name: str
    sha256: str
    bytes: int


class Counts(TypedDict):
    total: int
    done: int
    failed: int
    skipped: int
    reused: int


class Progress(TypedDict):
    phase: str
    image: int
    step: int
    steps: int
    fraction: float
    eta_seconds: float | None


class Output(TypedDict):
    file: str
    sidecar: str
    thumbnail: str | None
    seed: int
    sha256: str
    width: int
    height: int
    original: str | None


class Status(TypedDict):
    """`outbox/<id>/status.json`."""

    schema: int
    id: str
    kind: str | None
    model: str | None
    state: str
    reason: str | None
    message: str | None
    revision: int
    attempt: int
    priority: int
    tags: list[str]
    source: Source
    accepted_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str
    images: Counts
    progress: Progress | None
    errors: list[ProblemJson]
    warnings: list[str]
    kept: bool
    outputs: list[Output]


class Receipt(TypedDict):
    """`outbox/drops/<file name>.json`."""

    schema: int
    name: str
    sha256: str
    job: str
    outcome: str
    at: str


class Fault(TypedDict):
    """A file or a job that is set aside because it raises; `file` is relative to the home."""

    file: str
    reason: str
    message: str
    since: str


class RecentJob(Counts):
    """What the health file says of a job that came lately."""

    id: str
    state: str
    kind: str | None
    model: str | None
    reason: str | None
    message: str | None


class SlotHealth(TypedDict):
    """What the health file says of one place that renders; `memory` in bytes of its device."""

    name: str
    host: str
    device: str
    model: str | None
    job: str | None
    image: int | None
    step: int
    steps: int
    memory: int | None
    state: str
    note: str | None


class ReceiverHealth(TypedDict):
    """What the health file says of one who is told of events."""

    name: str
    error: str | None
    dropped: int


class Lent(TypedDict):
    """What `inbox/runner.lend` says: until when the device is lent, or for how long a process runs.

    `space` is the `pid_space` of its `pid`. With `now` no image is finished before.
    """

    until: str | None
    pid: int | None
    host: str | None
    space: str | None
    since: str | None
    now: bool


class RunnerHealth(TypedDict):
    """`outbox/runner.json`, rewritten every `interval_seconds`."""

    schema: int
    pid: int
    host: str
    system: str
    version: str
    state: str
    note: str | None
    settings: str | None
    faults: list[Fault]
    job: str | None
    models: list[str]
    slots: list[SlotHealth]
    queued: int
    next: list[str]
    counts: dict[str, int]
    recent: list[RecentJob]
    watch: str
    threads: dict[str, float]
    receivers: list[ReceiverHealth]
    gpu: dict[str, Any] | None
    lent: Lent | None
    started_at: str
    updated_at: str
    interval_seconds: float


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None where there is none.

    On Windows a file that is being replaced cannot be opened for a moment: that is waited out.
    Raises OSError where it is not known what is there.
    """
    for left in reversed(range(_TRIES)):
        try:
            value = json.loads(read_file(file, _MOST_BYTES))
        except OSError as error:
            if is_absent(error):
                return None
            if not (left and os.name == "nt" and isinstance(error, PermissionError)):
                raise
            time.sleep(_PAUSE_SECONDS)
        except (ValueError, RecursionError):
            return None
        else:
            return value if isinstance(value, dict) else None
    return None
