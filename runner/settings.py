"""Where a home is, what its settings say, and the folders and environment that follow from them.

Settings come from `fluxdrop.yaml` (described by `specs/settings.schema.json`) and, before it, from
variables `FLUXDROP_<NAME>`. `prepare` must run before anything imports huggingface_hub, which reads
HF_HOME once, at import.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from runner import files
from runner.errors import LedgerNewer, SettingsWrong, UsageProblem
from runner.places import Places, identity_of, refuse_unmounted
from runner.threads import Threads
from specs.errors import Problem, SpecInvalid

SETTINGS_FILE = "fluxdrop.yaml"
LOCK_FILE = "runner.lock"
LEDGER_FILE = "ledger.sqlite"
_SCHEMA = Path(__file__).parent / "spool" / "store" / "schema"
_LONGEST_NAME, _LONGEST_PATH = 255, 4000
_UPSCALER_FILES = (".safetensors", ".pth")
_PARTS = ("inbox", "outbox", "prompts", "data")
VARIABLE = "FLUXDROP_"
_MOST_BYTES = 1 << 20
# A running runner takes these up while it is idle; for the others it has to be started again.
TAKEN_UP = frozenset(
    "input_roots lora_roots preview settle_seconds settle_seconds_unknown strict synced_inbox"
    " input_wait_seconds job_inputs_mb rejected_kept hold_minutes idle_minutes rescan_seconds"
    " reuse forbidden audit_languages window retention".split()
)


@dataclass(frozen=True)
class Settings:
    """Every setting with its default; times are in seconds unless the name says otherwise."""

    inbox: str = "inbox"
    outbox: str = "outbox"
    input_roots: tuple[str, ...] = ()
    lora_roots: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    registry: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    upscaler: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    preview: bool = False
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
    devices: tuple[str, ...] | str | None = None
    isolate: bool = False
    reuse: bool = False
    ray: str | Mapping[str, Any] | None = None
    gpu_memory_gb: float | None = None
    compile: bool = False
    attention: str = "native"
    step_cache: float = 0.0
    forbidden: tuple[Any, ...] = ()
    audit_languages: tuple[str, ...] = ("en",)
    window: str | None = None
    retention: Mapping[str, Any] = field(default_factory=dict)
    receivers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Who can be told of events; their addresses may be secrets."""
    on: Mapping[str, Sequence[str]] = field(default_factory=dict)
    log_prompts: bool = False
    positions: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """By each setting that is given, and each part of `registry`: its place, or its variable."""
    stamp: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    """What changes with the file they were read from; None where they were made otherwise."""


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
            if self.data.stat().st_mode & 0o077:
                self.data.chmod(0o700)
        except FileExistsError as error:
            what = "is a file, or a link that leads nowhere: move it away"
            raise UsageProblem(f"{error.filename} {what}") from error
        except OSError as error:
            raise UsageProblem(
                f"cannot make the folder {error.filename}: {error.strerror}"
            ) from error
        os.environ.setdefault("HF_HOME", str(self.data / "hf-cache"))
        # The hub is told nothing but what it is asked for.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    def require_known(self) -> None:
        """Raise LedgerNewer where a newer version of the program worked with the home."""
        file = self.data / LEDGER_FILE
        try:
            with open(file, "rb") as ledger:
                # SQLite's `user_version`: its own module would make this the slowest of all looks.
                version = int.from_bytes(ledger.read(64)[60:], "big")
        except OSError:
            # For who opens it.
            return
        if version > (known := len([*_SCHEMA.glob("*.sql")])):
            raise LedgerNewer(file, version, known)

    def take_up(self, settings: Settings, names: Iterable[str]) -> None:
        """Work with the values that other settings have for these names from now on."""
        new = replace(self.settings, **{name: getattr(settings, name) for name in names})
        # The one thing of a home that changes: who reads a setting reads it anew each time.
        object.__setattr__(self, "settings", new)

    def require_mounted(self) -> None:
        """Raise PlaceAway where the inbox or the outbox was on a disk that is not mounted now."""
        refuse_unmounted((self.inbox, self.outbox), self.mounts)


def _refuse_overlap(folders: Sequence[Path]) -> None:
    """Raise UsageProblem where one of the folders is, or lies in, another; OSError."""
    # By number: names may differ in their case, and links and mounts lead anywhere.
    numbers = [identity_of(folder) for folder in folders]
    for n, folder in enumerate(folders):
        above = [identity_of(parent) for parent in (folder, *folder.resolve().parents)]
        for other, number in enumerate(numbers):
            if other != n and number in above:
                raise UsageProblem(
                    f"{folder} is, or lies in, {folders[other]}: give the settings `inbox` and "
                    "`outbox` folders of their own"
                )


def is_home(folder: Path) -> bool:
    """Whether a folder is a home: it has a settings file or all four parts, or a runner had it."""
    known = (folder / SETTINGS_FILE, folder / "data" / LOCK_FILE)
    return any(map(os.path.isfile, known)) or all((folder / part).is_dir() for part in _PARTS)


def find_home(
    given: str | None = None, *, mounted: bool = True, tell: Callable[[str], object] | None = None
) -> Home:
    """The home named by `--home`, else by $FLUXDROP_HOME, else the current folder.

    Raises UsageProblem, naming `init`, when none of them is a home, LedgerNewer, and PlaceAway
    where its disk is not mounted, unless `mounted` is false: for who waits for it, or says what is
    wrong. What is wrong with its settings is told, where `tell` is given, for its runner goes on
    with those from before, and has to be reached; else it raises SettingsWrong.
    """
    named = given or os.environ.get("FLUXDROP_HOME")
    folder = Path(named).expanduser() if named else Path.cwd()
    if not is_home(folder):
        raise UsageProblem(
            f"{folder} is not a fluxdrop home: make one with `fluxdrop init {named or 'DIR'}`, "
            "or name one with --home or $FLUXDROP_HOME"
        )
    try:
        settings = load_settings(folder / SETTINGS_FILE)
    except SettingsWrong as error:
        if tell is None:
            raise
        for mistake in error.args:
            tell(str(mistake))
        settings = _places_in(folder / SETTINGS_FILE, error)
    home = Home(folder.resolve(), settings)
    home.require_known()
    if mounted:
        home.require_mounted()
    return home


NAMES = tuple(f.name for f in fields(Settings) if f.name not in ("positions", "stamp"))


def stamp_of(file: Path) -> tuple[int, ...]:
    """What changes whenever a file does; nothing where there is none."""
    try:
        return files.stamp(file)
    except OSError:
        return ()


def load_settings(file: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings by a file, which may be missing, and by the environment, which comes first.

    Raises SettingsWrong with every mistake, each with its line and column, or its variable.
    """
    root, stamp = file.parent, stamp_of(file)
    try:
        data = files.read_file(file, _MOST_BYTES, follow=True)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise SettingsWrong(f"cannot read {file}: {error.strerror or error}") from error
    variables = {name: text for name in NAMES if (text := environment.get(variable_of(name)))}
    given = variables or _has_content(data)
    values, positions = _checked(file, data, variables) if given else ({}, {})
    values = {name: value for name, value in values.items() if name in NAMES}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    if values.get("upscaler", "").lower().endswith(_UPSCALER_FILES):
        values["upscaler"] = os.path.realpath(root / Path(values["upscaler"]).expanduser())
    own = {name: _found(entry, root) for name, entry in values.get("registry", {}).items()}
    return Settings(**{**values, **lists, "registry": own, "positions": positions, "stamp": stamp})


def _places_in(file: Path, wrong: SettingsWrong) -> Settings:
    """Settings with the inbox and the outbox of a file that is wrong elsewhere.

    Raises what is wrong where nothing can be read: the runner may have other folders.
    """
    from specs.read import read

    try:
        found = read(files.read_file(file, _MOST_BYTES, follow=True)).value
    except FileNotFoundError:
        found = {}
    except (OSError, SpecInvalid):
        raise wrong from None
    if not isinstance(found, dict):
        raise wrong
    inbox, outbox = (
        str(os.environ.get(variable_of(name)) or found.get(name) or name)
        for name in ("inbox", "outbox")
    )
    return Settings(inbox=inbox, outbox=outbox)


def variable_of(name: str) -> str:
    """The variable of a setting."""
    return f"{VARIABLE}{name.upper()}"


def _checked(
    file: Path, data: bytes, variables: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings by a file's bytes and by variables, and the place of each of them.

    A variable's text stands for itself where a setting takes only text. Raises SettingsWrong.
    """
    # Here, for most homes have nothing to be read.
    from specs import schemas
    from specs.read import read
    from specs.validate import validate

    def place(name: str, line: int, column: int) -> str:
        return variable_of(name) if name in variables else f"{file}:{line}:{column}"

    known, given, source = schemas.bundle("settings")["properties"], {}, ""
    try:
        whole = read(data)
        for source, text in variables.items():
            is_text = known[source].get("type") == "string"
            given[source] = text if is_text else read(os.fsencode(text)).value
        source = ""
        if whole.value is None or isinstance(whole.value, dict):
            # Together: those of a variable may be about those of the file.
            whole = replace(whole, value={**(whole.value or {}), **given})
        values = validate(whole, schema="settings")
        if wrong := list(_impossible(values, file.parent, whole)):
            raise SpecInvalid("SchemaInvalid", wrong)
    except SpecInvalid as error:
        named = [(source or re.split(r"[.\[]", p.path)[0], p) for p in error.problems]
        named.sort(key=lambda each: each[0] in variables)
        told = (f"{place(name, p.line, p.column)}: {_discreet(name, p)}" for name, p in named)
        raise SettingsWrong(*told) from None
    own = values.get("registry", {})
    paths: list[tuple[str, ...]] = [*((n,) for n in values), *(("registry", n) for n in own)]
    paths += (("registry", n, key) for n in own for key in own[n])
    where = ((path, whole.locate(path, key=len(path) < 3)) for path in paths)
    return values, {".".join(path): place(path[0], *at) for path, at in where}


def _discreet(name: str, problem: Problem) -> Problem:
    """A problem without what stands in place of a receiver or of its name: it may be a secret."""
    if name not in ("receivers", "on", ""):
        return problem
    message = re.sub("^.*(?= (?:is (?!number)|cannot be |does not look ))", "this", problem.message)
    message = re.sub(r"['\"][^'\"\s]*:[^'\"\s][^'\"]*['\"]?", "…", message)
    path = problem.path if re.fullmatch(r"[\w.\[\]-]*", problem.path) else name
    return replace(problem, path=path, message=message)


def _paths(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every path in the settings, with its place in them."""
    for name in values.keys() & {"inbox", "outbox", "upscaler"}:
        yield (name,), values[name]
    for name in values.keys() & {"input_roots", "lora_roots"}:
        for number, path in enumerate(values[name]):
            yield (name, number), path
    for name, entry in values.get("registry", {}).items():
        key = _path_key(entry)
        if key in entry:
            yield ("registry", name, key), entry[key]


def _impossible(values: Mapping[str, Any], root: Path, document: Any) -> Iterator[Problem]:
    """A problem for each path in a Document that no file of this machine can have."""
    # Here, for most commands of a home without mistakes never need it.
    from specs.document import dotted

    for place, path in _paths(values):
        try:
            whole = os.fsencode(root.absolute() / Path(path).expanduser())
        except RuntimeError:
            message = "there is no user of that name here whose home is known: write the path"
        else:
            # Windows counts characters, and all of them where another system counts bytes.
            longest = max(map(len, whole.split(os.fsencode(os.sep))))
            if os.name == "nt" or (len(whole) <= _LONGEST_PATH and longest <= _LONGEST_NAME):
                continue
            message = f"too long: a name has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH}"
        line, column = document.locate(place)
        yield Problem(line, column, dotted(place), message)


def _path_key(entry: Mapping[str, Any]) -> str:
    """The key of a registry entry whose value is a path; it need not be there."""
    return "folder" if {"repo", "folder"} & entry.keys() else "file"


def _found(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A registry entry with absolute paths: those in the file are relative to it."""
    found, key = dict(entry), _path_key(entry)
    if key in found:
        found[key] = os.path.realpath(root / Path(found[key]).expanduser())
    return found


def _has_content(data: bytes) -> bool:
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in data.splitlines())
