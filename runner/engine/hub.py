"""Where weights are on this machine, without ever asking the network.

Looking is done on the file system alone, so that listing models loads no library. A model counts
as present only when every component of its index is there, whole: a download that broke off
leaves the index behind. What diffusers and the hub raise is translated here into one sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.engine.models import MODEL_REGISTRY, Model, Prior
from runner.errors import JobFailed, ModelMissing

INDEX = "model_index.json"
_WEIGHTS = (".safetensors", ".bin")


class Library(Protocol):
    """Where the executor gets models from: the entries, and the folder of each pipeline.

    `main` and `prior` raise `ModelMissing` where the folder is not on this machine.
    """

    models: Mapping[str, Model]

    def main(self, model: Model, kind: str) -> Path: ...

    def prior(self, model: Model, kind: str) -> Path: ...


class Disk:
    """The library of a home: the built-in model, local folders, and the hub's cache."""

    def __init__(self, data: Path, models: Mapping[str, Model] = MODEL_REGISTRY) -> None:
        self.data = data
        self.models = models

    def main(self, model: Model, kind: str) -> Path:
        if model.builtin:
            return builtin_folder(model.serves[kind].part, self.data)
        return self._complete(model, model.repo, model.revision)

    def prior(self, model: Model, kind: str) -> Path:
        prior = _prior(model, kind)
        if model.builtin:
            return builtin_folder(prior.part, self.data)
        return self._complete(model, prior.repo, prior.revision)

    def _complete(self, model: Model, repo: str, revision: str) -> Path:
        folder = find(repo, revision, self.data)
        if folder is None:
            raise ModelMissing(
                f"{repo} is not on this machine: run `fluxdrop models pull {model.name}`"
            )
        lacking = missing_parts(folder)
        if lacking:
            raise ModelMissing(
                f"{repo} is only partly on this machine ({', '.join(lacking)} missing):"
                f" run `fluxdrop models pull {model.name}` again"
            )
        return folder


def present(model: Model, data: Path, kind: str | None = None) -> Path | None:
    """The main folder of a model if all it needs is here (for one kind, or for all), else None."""
    library = Disk(data, {model.name: model})
    if model.builtin:
        return Path(__file__).parent / model.name
    folder = None
    for each in [kind] if kind else list(model.serves):
        try:
            folder = library.main(model, each)
            if model.serves[each].prior is not None:
                library.prior(model, each)
        except ModelMissing:
            return None
    return folder


def builtin_folder(part: str, data: Path) -> Path:
    """The folder of one part of the built-in model, put together in `data` on first use."""
    from runner.engine.tiny import folders

    return folders.folder(part, data)


def cache_folder(data: Path) -> Path:
    """The hub's cache, as huggingface_hub would choose it; `data/hf-cache` where nothing is set."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else data / "hf-cache") / "hub"


def find(repo: str, revision: str, data: Path) -> Path | None:
    """The folder of a repository (or the local folder `repo` names); None where there is none."""
    if Path(repo).is_absolute():
        return Path(repo) if (Path(repo) / INDEX).is_file() else None
    base = cache_folder(data) / f"models--{repo.replace('/', '--')}"
    try:
        commit = (base / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    folder = base / "snapshots" / commit
    return folder if (folder / INDEX).is_file() else None


def revision_of(folder: Path, model: Model) -> str | None:
    """The commit of a folder in the hub's cache; a local or built-in model has its hash only."""
    return folder.name if folder.parent.name == "snapshots" and model.repo else None


def missing_parts(folder: Path) -> list[str]:
    """The components that a pipeline folder's index names and that are not wholly there."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [INDEX]
    names = (
        name
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and value and value[0]
    )
    return [name for name in names if not _whole(folder / name)]


def _whole(part: Path) -> bool:
    """True where a component's folder has its configuration and, if it has weights, all shards."""
    try:
        files = {each.name for each in part.iterdir() if each.exists()}
    except OSError:
        return False
    shards = [name for name in files if name.endswith(".index.json")]
    if any(not _shards(part / name) <= files for name in shards):
        return False
    if "config.json" in files:  # only what has weights has a plain config.json
        return any(name.endswith(_WEIGHTS) for name in files)
    return any(name.endswith(".json") or name.endswith(".model") for name in files)


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return {f"readable {index.name}"}


def _prior(model: Model, kind: str) -> Prior:
    prior = model.serves[kind].prior
    if prior is None:
        raise ValueError(f"{model.name} serves {kind} without a prior stage")
    return prior


@dataclass(frozen=True)
class _Sentence:
    """What one foreign exception means; the first that occurs in a chain of causes counts."""

    exception: str
    says: str


_SENTENCES = (
    # A gated repository's error is a kind of "not found", so it has to be asked for first.
    _Sentence("GatedRepoError", "is gated: accept its licence on huggingface.co, set HF_TOKEN"),
    _Sentence("RepositoryNotFoundError", "was not found on the hub, or is private: check HF_TOKEN"),
    _Sentence("RevisionNotFoundError", "has no such revision on the hub: check the registry entry"),
    _Sentence("OfflineModeIsEnabled", "is not on this machine, and the hub is switched off"),
    _Sentence("SafetensorError", "is damaged on this machine: remove its folder"),
    _Sentence("ConnectError", "is not on this machine, and the hub cannot be reached"),
    _Sentence("ConnectTimeout", "is not on this machine, and the hub cannot be reached"),
    _Sentence("HfHubHTTPError", "could not be asked for: the hub answered with an error"),
    _Sentence("LocalEntryNotFoundError", "is not, or not wholly, on this machine"),
)


def explain(error: BaseException, model: Model) -> JobFailed | None:
    """A foreign error of loading as one of ours, found by walking its causes; None if unknown.

    The topmost message misleads ("no file named config.json" for an unreachable hub), so the
    whole chain is searched for the most telling exception. Names are compared and not classes:
    nothing has to be imported to fail.
    """
    seen = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    for sentence in _SENTENCES:
        if sentence.exception in seen:
            pull = f"then run `fluxdrop models pull {model.name}`"
            return ModelMissing(f"{model.repo or model.name} {sentence.says}; {pull}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
