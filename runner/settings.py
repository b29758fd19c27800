"""Where a home is, what its settings say, and the folders and environment that follow from them.

Settings come from `fluxdrop.yaml` (described by `specs/settings.schema.json`). `prepare` must run
before anything imports huggingface_hub, which reads HF_HOME once, at import.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import UsageProblem
from runner.places import Places, refuse_unmounted
from runner.threads import Threads
from specs.errors import SpecInvalid

SETTINGS_FILE = "fluxdrop.yaml"
_PARTS = ("inbox", "outbox", "prompts", "data")


@dataclass(frozen=True)
class Settings:
    """Every setting with its default; times are in seconds unless the name says otherwise."""

    inbox: str = "inbox"
    outbox: str = "outbox"
    input_roots: tuple[str, ...] = ()
    lora_roots: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    registry: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settle_seconds: float = 0.3
    settle_seconds_unknown: float = 2.0
    strict: bool = False
    synced_inbox: bool = False
    input_wait_seconds: float = 600.0
    job_inputs_mb: float = 1000.0
    rejected_kept: int = 1000
    umask: str | None = None
    hold_minutes: float = 10.0
    idle_minutes: float = 10.0
    prompt_cache_gb: float = 2.0
    rescan_seconds: float = 5.0
    device: str = "auto"
    gpu_memory_gb: float | None = None
    compile: bool = False
    attention: str = "native"
    step_cache: float = 0.0
    forbidden: tuple[Any, ...] = ()
    window: str | None = None
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where in which file each part of `registry` stands, for mistakes that are found later."""


@dataclass(frozen=True)
class Home:
    """A home folder, its parts, and its settings; all paths are absolute."""

    root: Path
    settings: Settings = field(default_factory=Settings)
    places: Places = field(default_factory=Places, repr=False, compare=False)
    threads: Threads = field(default_factory=Threads, repr=False, compare=False)

    @property
    def inbox(self) -> Path:
        return self.root / self.settings.inbox

    @property
    def outbox(self) -> Path:
        return self.root / self.settings.outbox

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def drops(self) -> Path:
        return self.outbox / "drops"

    @property
    def health(self) -> Path:
        return self.outbox / "runner.json"

    @property
    def mounts(self) -> Path:
        """The file that says on which disks the inbox and the outbox lay when a runner began."""
        return self.data / "mounts.json"

    def job(self, job_id: str) -> Path:
        """The folder of one job in the outbox."""
        return self.outbox / job_id

    def prepare(self) -> None:
        """Create the folders and point HF_HOME into `data/`, unless the user has set it.

        Raises UsageProblem when a folder cannot be made or lies in another, and PlaceAway when its
        disk is not mounted.
        """
        self.require_mounted()
        try:
            folders = (self.inbox, self.outbox, self.prompts, self.data)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            _refuse_overlap(folders)
            self.data.chmod(0o700)
        except OSError as error:
            raise UsageProblem(
                f"cannot make the folder {error.filename}: {error.strerror}"
            ) from error
        os.environ.setdefault("HF_HOME", str(self.data / "hf-cache"))
        # The hub is told nothing but what it is asked for.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    def require_mounted(self) -> None:
        """Raise PlaceAway where the inbox or the outbox was on a disk that is not mounted now."""
        refuse_unmounted((self.inbox, self.outbox), self.mounts)


def _refuse_overlap(folders: Sequence[Path]) -> None:
    """Raise UsageProblem where one of the folders is, or lies in, another; OSError."""
    # By number: names may differ in their case, and links and mounts lead anywhere.
    numbers = [_number(folder) for folder in folders]
    for n, folder in enumerate(folders):
        above = [_number(parent) for parent in (folder, *folder.resolve().parents)]
        for other, number in enumerate(numbers):
            if other != n and number in above:
                raise UsageProblem(
                    f"{folder} is, or lies in, {folders[other]}: give the settings `inbox` and "
                    "`outbox` folders of their own"
                )


def _number(folder: Path) -> tuple[int, int | Path]:
    status = folder.stat()
    # Some shares on Windows give all files the number 0.
    return status.st_dev, status.st_ino or folder.resolve()


def is_home(folder: Path) -> bool:
    """Whether a folder is a home: it has a settings file, or all four parts."""
    return (folder / SETTINGS_FILE).is_file() or all((folder / part).is_dir() for part in _PARTS)


def find_home(given: str | None = None) -> Home:
    """The home named by `--home`, else by $FLUXDROP_HOME, else the current folder.

    Raises UsageProblem, naming `init`, when none of them is a home.
    """
    named = given or os.environ.get("FLUXDROP_HOME")
    folder = Path(named).expanduser() if named else Path.cwd()
    if not is_home(folder):
        raise UsageProblem(
            f"{folder} is not a fluxdrop home: make one with `fluxdrop init {named or 'DIR'}`, "
            "or name one with --home or $FLUXDROP_HOME"
        )
    return Home(folder.resolve(), load_settings(folder / SETTINGS_FILE))


def load_settings(file: Path) -> Settings:
    """Read a settings file; a missing one means all defaults.

    Raises UsageProblem with every mistake, each with its line and column.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise UsageProblem(f"cannot read {file}: {error.strerror}") from error
    if not _has_content(data):
        return Settings()
    from specs.read import read
    from specs.validate import validate

    try:
        document = read(data)
        values = validate(document, schema="settings")
    except SpecInvalid as error:
        lines = (f"{file}:{p.line}:{p.column}: {p.path}: {p.message}" for p in error.problems)
        raise UsageProblem("\n".join(lines)) from error
    values.pop("$schema", None)
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    own = {name: _found(entry, file.parent) for name, entry in values.get("registry", {}).items()}
    places = {
        ".".join(path): f"{file}:{line}:{column}"
        for name, entry in own.items()
        for path in (("registry", name), *(("registry", name, key) for key in entry))
        for line, column in [document.locate(path, key=len(path) == 2)]
    }
    return Settings(**{**values, **lists, "registry": own, "places": places})


def _found(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A registry entry with absolute paths: those in the file are relative to it."""
    paths = {"folder"} if {"repo", "folder"} & entry.keys() else {"file"}
    return {
        key: str((root / Path(value).expanduser()).resolve()) if key in paths else value
        for key, value in entry.items()
    }


def _has_content(data: bytes) -> bool:
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in data.splitlines())
