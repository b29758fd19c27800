"""The nouns: a job's states, the one table of legal moves, and the values that travel.

    queued ──► running ──► succeeded | failed | cancelled
      │  ▲        │
      │  └────────┘  at an image's end, or after the process died
      └──► cancelled | failed                 (straight from intake: rejected)

Everything here is a frozen value that can be pickled. Nothing here reads a file, and nothing here
knows diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """Where a job stands; the words of the status file."""

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
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.REJECTED: frozenset(),
}


class Phase(StrEnum):
    """What is being done to the image in hand."""

    LOADING = "loading"
    PREPROCESSING = "preprocessing"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    SAVING = "saving"


@dataclass(frozen=True)
class InputImage:
    """One image that a task reads: a copy private to the job, with its weight."""

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
    """All that an executor needs to make one image; every default is already filled in.

    `width` and `height` are None where the size follows the input image. `inputs` maps the spec's
    image fields (`image`, `mask`) to the files; `options` holds the kind's own scalars.
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
        """Whether the two differ in nothing but their number, prompt and seed."""
        same = replace(other, index=self.index, prompt=self.prompt, seed=self.seed)
        return self == same
