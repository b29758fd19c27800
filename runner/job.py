"""The states of a job with the legal moves between them, and the phases of an image.

    queued ──► running ──► succeeded | failed | cancelled
      │  ▲        │
      │  └────────┘  at an image's end, or after the process died
      └──► cancelled | failed                 (straight from intake: rejected)

Only enums: every command that reads a status imports this.
"""

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


class Phase(StrEnum):
    """What is being done to the image in flight."""

    LOADING = "loading"
    PREPROCESSING = "preprocessing"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    UPSCALING = "upscaling"
    SAVING = "saving"
