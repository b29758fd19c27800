"""Every error that fluxdrop raises on purpose, and what each one ends.

FluxdropError
├── UsageProblem      the command line or the home is at fault          exit code 2
│   └── LedgerNewer    another version of fluxdrop made the ledger
├── RunnerNeeded      the command needs a running runner                exit code 69
├── RunnerBusy        another runner holds this home or this GPU        exit code 75
├── LedgerUnusable    the ledger cannot be written now                  waited out; exit code 1
│   └── PlaceAway      a folder of the home was unmounted, moved or replaced
├── SpecInvalid       (specs.errors) all the problems of one spec       job `rejected`
├── ReceiverAway      a receiver of events cannot be told now           tried again; exit code 1
│   └── ReceiverRefuses  it does not take what it is told
├── JobFailed         a job or one image of it cannot be done           job `failed`
│   ├── InputMissing  ├── InputBad     ├── PathNotAllowed
│   ├── ModelMissing  ├── OutOfMemory  ├── TimedOut  ├── DiskFull
│   └── NotFinite, DeviceLost      the engine's own, in runner/engine/errors.py
└── Stopped           stopped at a cancellation point; not a fault      job `cancelled` or requeued

Exceptions of other packages are translated where they enter (the engine for diffusers and the hub,
specs for yaml and jsonschema); nothing above those modules catches the originals.
"""

from pathlib import Path

from specs.errors import FluxdropError


class UsageProblem(FluxdropError):
    """Wrong usage of the command line, or no home where one is needed."""


class SettingsWrong(UsageProblem):
    """The settings of a home cannot be used."""


class LedgerNewer(UsageProblem):
    """The ledger was made by another version of fluxdrop, which this one must not change."""

    def __init__(self, file: Path, version: int, known: int) -> None:
        super().__init__(
            f"a newer version of fluxdrop made {file} (schema {version}, this one knows {known}): "
            "use that version, or move the file away, and it is made again from the outbox"
        )


class RunnerNeeded(FluxdropError):
    """The command can do its work only while a runner is running."""


class RunnerBusy(FluxdropError):
    """Another runner holds this home or this GPU."""


class LedgerUnusable(FluxdropError):
    """The ledger cannot be written now, for example on a full disk."""


class PlaceAway(LedgerUnusable):
    """A folder of the home is away; meanwhile the ledger, too, is left as it is."""


class ReceiverAway(FluxdropError):
    """A receiver of events cannot be told now."""


class ReceiverRefuses(ReceiverAway):
    """A receiver of events answers, and does not take what it is told."""


class JobFailed(FluxdropError):
    """A job, or one image of it, cannot be done; `reason` is the word for its status."""

    reason = "Internal"


class InputMissing(JobFailed):
    """An image that the spec names did not arrive in time."""

    reason = "InputMissing"


class InputBad(JobFailed):
    """An image that the spec names cannot be read as one."""

    reason = "InputBad"


class PathNotAllowed(JobFailed):
    """A path leaves the folders that specs may name."""

    reason = "PathNotAllowed"


class ModelMissing(JobFailed):
    """Weights are not on this machine; jobs never download them."""

    reason = "ModelMissing"


class OutOfMemory(JobFailed):
    """The device has no memory left for this image."""

    reason = "OutOfMemory"


class TimedOut(JobFailed):
    """An image took longer than the spec's `timeout`."""

    reason = "Timeout"


class DiskFull(JobFailed):
    """A disk of the home has no room left, or too little."""

    reason = "DiskFull"


class Stopped(FluxdropError):
    """A task was stopped at a cancellation point: between two steps, or between two stages."""
