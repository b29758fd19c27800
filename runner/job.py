"""The states of a job with the legal moves between them, and the task of one image.

    queued ──► running ──► succeeded | failed | cancelled
      │  ▲        │
      │  └────────┘  at an image's end, or after the process died
      └──► cancelled | failed                 (straight from intake: rejected)

Only enums and frozen values that can be pickled; this module reads no file and imports nothing of
the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


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


@dataclass(frozen=True)
class InputImage:
    """One image that a task reads: the job's own copy, with its weight."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Lora:
    """One LoRA file with its strength, and the hash it had when the job was accepted."""

    path: Path
    weight: float = 1.0
    name: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ImageTask:
    """All that an executor needs to make one image; every default is filled in.

    `width` and `height` are in pixels, and None where the size follows the input image. `timeout`
    is in seconds. `inputs` maps the spec's image fields (`image`, `mask`) to the files; `options`
    holds the other fields of the kind.
    """

    job: str
    index: int
    kind: str
    model: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int | None = None
    height: int | None = None
    precision: str = "auto"
    timeout: float | None = None
    inputs: Mapping[str, tuple[InputImage, ...]] = field(default_factory=dict)
    loras: tuple[Lora, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def is_like(self, other: ImageTask) -> bool:
        """Whether the two differ at most in index, prompt and seed."""
        same = replace(other, index=self.index, prompt=self.prompt, seed=self.seed)
        return self == same
