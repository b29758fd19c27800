"""Errors of the engine, and the translation of the errors that torch raises about the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from runner.errors import JobFailed, OutOfMemory

_T = TypeVar("_T")


class Bug(Exception):
    """A registry entry or a kind is wrong: a fault of the program, which no user can correct."""


class DeviceLost(JobFailed):
    """The device does not respond until the process is started again."""

    reason = "DeviceLost"


class NotFinite(JobFailed):
    """The latents or the decoded pixels contain NaN or infinite values."""

    reason = "NotFinite"


def require_finite(tensor: Any) -> None:
    """Raise NotFinite for a tensor with NaN or infinite values."""
    if not tensor.isfinite().all():
        raise NotFinite(
            "the model computed numbers that are none (NaN or infinite):"
            " try another precision, seed or size, or weaker LoRAs where it has any"
        )


_FULL = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
_LOST = (
    "illegal memory access",
    "device-side assert",
    "launch failure",
    "misaligned address",
    "illegal instruction",
    "uncorrectable ecc",
    "gpu is lost",
    "fallen off the bus",
)


@contextmanager
def translation() -> Iterator[None]:
    """Raises torch's errors about the device as errors of ours; all others pass unchanged."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ours = translated(error)
        if ours is None:
            raise
        raise ours from error


def attempted(trial: Callable[[], _T]) -> _T | None:
    """What a trial returns; None where it raises, unless the error is one of the device."""
    try:
        return trial()
    except Exception as error:
        if translated(error):
            raise
        return None


def translated(error: BaseException) -> JobFailed | None:
    """Our error for one that torch raised, or None where it says nothing about the device."""
    text = str(error).lower()
    is_full = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    if is_full or isinstance(error, MemoryError) or any(word in text for word in _FULL):
        return OutOfMemory(
            "the device has no memory left for this image: use a smaller size or a smaller model"
        )
    if any(word in text for word in _LOST):
        return DeviceLost("the GPU does not answer any more: restart the runner (or the machine)")
    return None
