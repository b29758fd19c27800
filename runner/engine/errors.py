"""What torch raises, as our errors; anything else stays what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runner.errors import JobFailed, OutOfMemory


class Bug(Exception):
    """A registry entry or a kind is wrong; no user can mend it."""


class DeviceLost(JobFailed):
    """The device answers nothing any more until the process is started again."""

    reason = "DeviceLost"


class NotFinite(JobFailed):
    """The model computed numbers that are none (NaN or infinite): there is no picture in them."""

    reason = "NotFinite"


_FULL = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
)
_LOST = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "launch failure",
    "misaligned address",
    "illegal instruction",
    "uncorrectable ecc",
    "gpu is lost",
    "fallen off the bus",
)


@contextmanager
def translation() -> Iterator[None]:
    """The border where what torch raises about the device becomes one of our errors."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ours = translated(error)
        if ours is None:
            raise
        raise ours from error


def translated(error: BaseException) -> JobFailed | None:
    """Our error for one that torch raised, or None where it says nothing about the device."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(word in text for word in _FULL):
        return OutOfMemory(
            "the device has no memory left for this image: use a smaller size or a smaller model"
        )
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return OutOfMemory("the device has no memory left for this image: use a smaller size")
    if any(word in text for word in _LOST):
        return DeviceLost("the GPU does not answer any more: restart the runner (or the machine)")
    return None
