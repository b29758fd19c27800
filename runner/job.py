"""The states of a job with the legal moves between them, and the phases of an image.

    queued ──► running ──► succeeded | failed | cancelled
      │  ▲        │
      │  └────────┘  at an image's end, or after the process died
      └──► cancelled | failed                 (straight from intake: rejected)

Only enums: every command that reads a status imports this.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """The state of a job, in the words of the status file."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


FINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.REJECTED})

MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    **{state: frozenset() for state in FINAL_STATES},
}
"""The states that may follow each; none leads to `rejected`, which intake alone records."""


class Phase(StrEnum):
    """What is being done to the image in flight."""

    LOADING = "loading"
    PREPROCESSING = "preprocessing"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    SAVING = "saving"
