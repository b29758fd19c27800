"""Finds weights on this machine, without using the network.

Only reads the file system, so that listing models imports no large library. A model counts as
present only when every component of its index is complete: a download that broke off leaves the
index behind. Never fetches anything: `pull` does.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from runner.engine.entries import DEFAULT_UPSCALER, MODEL_REGISTRY, TINY_UPSCALER
from runner.engine.hub import single_files
from runner.engine.hub.sources import (
    Layout,
    Source,
    damaged,
    index_of,
    lacking,
    main_source,
    pickles,
    single_source,
    source_of,
    sources,
)
from runner.engine.models import Aid, Estimator, Model, Upscaler
from runner.engine.tiny import folders
from runner.errors import ModelMissing
from runner.files import files_below, is_absent, is_file, is_folder, names_in, sha256_of


class Disk:
    """The models of a home, and the folder of each pipeline on this machine.

    Folders are the built-in model's, local ones, and the hub's cache. The methods raise
    ModelMissing for weights that are not, or not wholly, on this machine. `data` is the runner's
    own folder, where quantised weights and the built-in model's folders lie. `upscaler` enlarges
    the pictures of all models but the built-in one.
    """

    def __init__(
        self,
        data: Path,
        models: Mapping[str, Model] = MODEL_REGISTRY,
        upscaler: Upscaler = DEFAULT_UPSCALER,
    ) -> None:
        self.data = data
        self.models = models
        self._upscaler = upscaler

    def main(self, model: Model, kind: str) -> Path:
        if model.builtin:
            return folders.folder(model.serves[kind].part, self.data)
        return self._complete(model, main_source(model))

    def prior(self, model: Model, kind: str) -> Path:
        prior = model.serves[kind].prior
        assert prior is not None
        if model.builtin:
            return folders.folder(prior.part, self.data)
        return self._complete(model, source_of(prior))

    def controlnet(self, model: Model, kind: str) -> tuple[Path, Path]:
        """The folder with the configuration of a ControlNet, and the file of its weights."""
        controlnet = model.serves[kind].controlnet
        assert controlnet is not None
        file = self._complete(model, source_of(controlnet)) / controlnet.file
        return Path(__file__).parent.parent / "controlnets" / controlnet.config, file

    def single(self, model: Model) -> Path | None:
        """The one file that the transformer comes from, for a model that has such a file."""
        if model.single is None:
            return None
        source = single_source(model)
        return self._complete(model, source) / source.file

    def estimator(self, estimator: Estimator) -> Path:
        return self._complete(estimator, source_of(estimator))

    def upscaler(self, model: Model) -> tuple[Upscaler, Path]:
        """What enlarges the pictures of a model, and its file."""
        upscaler = TINY_UPSCALER if model.builtin else self._upscaler
        return upscaler, self._complete(upscaler, source_of(upscaler)) / upscaler.file

    def _complete(self, wanted: Model | Aid, source: Source) -> Path:
        folder, name = locate(source, self.data), wanted.name
        gone = lacking(source, folder) if folder else []
        if folder and not gone:
            is_own = source.is_local and source.needs_index
            if is_own and (broken := damaged(source, folder)):
                raise ModelMissing(f"{name}: {broken[0]} is damaged or cut short: copy it again")
            if sentence := problem(wanted, source, folder, self.data):
                raise ModelMissing(sentence)
            return folder
        if folder and (unsafe := pickles(folder, gone)):
            raise ModelMissing(
                f"{name}: {unsafe[0]} is a pickle, which may run code, and is not loaded: convert"
                " it to .safetensors, or use another repository"
            )
        if source.is_local:
            raise ModelMissing(_incomplete(name))
        if folder is None:
            raise ModelMissing(
                f"{source.repo} is not on this machine: run `fluxdrop models pull {name}`"
            )
        parts = dict.fromkeys(file.partition("/")[0] for file in gone)
        raise ModelMissing(
            f"{source.repo} is only partly on this machine ({', '.join(parts)} missing):"
            f" run `fluxdrop models pull {name}` again"
        )


def problem(model: Model | Aid, source: Source, folder: Path, data: Path) -> str | None:
    """Why a source's folder has not the weights of a model, as a sentence; else None."""
    if not isinstance(model, Model):
        if not source.sha256 or source.sha256 == sha256_of(folder / source.file):
            return None
        what = f"{source.file} on this machine is another {source.file} than its makers published"
        return f"{what}: run `fluxdrop models pull {model.name} --verify`"
    if source in {source_of(s.controlnet) for s in model.serves.values() if s.controlnet}:
        return single_files.damage(folder / source.file, model)
    if source.layout is Layout.FILE:
        base = locate(main_source(model), data)
        return single_files.problem(folder / source.file, model, base, MODEL_REGISTRY.values())
    if model.single or model.name in MODEL_REGISTRY or source != main_source(model):
        return None
    return single_files.folder_problem(folder, model, MODEL_REGISTRY.values())


def present(
    wanted: Model | Aid, data: Path, kind: str | None = None, *, estimates: bool = True
) -> Path | None:
    """The main folder of a model or an aid if all it needs is here, for one kind or for all.

    None where it is not. With `estimates` false a model may lack what makes depth maps.
    """
    needed = sources(wanted, kind, estimates=estimates)
    if not needed:
        return Path(__file__).parent.parent / wanted.name
    if any(_lacks(source, data) for source in needed):
        return None
    return locate(needed[0], data)


def _lacks(source: Source, data: Path) -> bool:
    folder = locate(source, data)
    return folder is None or bool(lacking(source, folder))


def bytes_to_pull(model: Model) -> int:
    """The bytes of all that a model needs, whatever is beside its pipeline, by the registry."""
    serves = model.serves.values()
    parts = {part for each in serves for part in (each.prior, each.controlnet, each.estimator)}
    return model.bytes + sum(part.bytes for part in parts if part)


def absence(
    wanted: Model | Aid, data: Path, kind: str | None = None, *, estimates: bool = True
) -> str | None:
    """A sentence about what is not wholly here: what fetches it, and how much that is.

    None where it is, and what is wrong where nothing that can be fetched would help.
    """
    needed, name = sources(wanted, kind, estimates=estimates), wanted.name
    lacks = [source for source in needed if _lacks(source, data)]
    for source in needed:
        folder = None if source in lacks else locate(source, data)
        if folder and (sentence := problem(wanted, source, folder, data)):
            return sentence
    if any(source.is_local for source in lacks):
        return _incomplete(name)
    if not lacks:
        return None
    how, size = "not", f"{wanted.bytes / 1e6:.0f} MB"
    if isinstance(wanted, Model):
        here = bytes_here(wanted, data)
        how = "only partly" if here else "not"
        size = f"{max(bytes_to_pull(wanted) - here, 0) / 1e9:.1f} GB"
    pull = f"run `fluxdrop models pull {name}` ({size} to download)"
    return f"{name} is {how} on this machine: {pull}"


def _incomplete(name: str) -> str:
    return (
        f"what {name} is made of is not, or not wholly, in its folder: see"
        f" `fluxdrop models check {name}`"
    )


def bytes_here(wanted: Model | Aid, data: Path) -> int:
    """The bytes that are on this machine for a model, half-fetched files included."""
    if isinstance(wanted, Model) and wanted.builtin:
        return wanted.bytes
    sizes: dict[tuple[int, int], int] = {}
    for source in sources(wanted):
        folder = Path(source.repo) if source.is_local else repo_folder(source.repo, data)
        if source.is_local and source.file:
            folder = folder / source.file
        for path in [folder] if is_file(folder) else [folder / n for n in files_below(folder)]:
            # By inode and not by name: the cache links one file into many places.
            stat = path.stat()
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def is_begun(source: Source, data: Path) -> bool:
    """Whether a download of a source has left any file here."""
    blobs = repo_folder(source.repo, data) / "blobs"
    return not source.is_local and bool(names_in(blobs))


def cache_folder(data: Path) -> Path:
    """The hub's cache, as huggingface_hub would choose it; `data/hf-cache` where nothing is set."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    return _hub_home(data) / "hub"


def _hub_home(data: Path) -> Path:
    home = os.environ.get("HF_HOME")
    return Path(home).expanduser() if home else data / "hf-cache"


def repo_folder(repo: str, data: Path) -> Path:
    """Where the hub's cache keeps a repository."""
    return cache_folder(data) / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, revision: str, data: Path) -> Path | None:
    """A repository's snapshot, or the local folder that `repo` names; None where there is none."""
    folder = Path(repo)
    if not folder.is_absolute():
        base, commit = repo_folder(repo, data), revision
        try:
            commit = (base / "refs" / revision).read_text(encoding="utf-8").strip()
        except OSError as error:
            if not is_absent(error):
                raise
        folder = base / "snapshots" / commit
    return folder if is_folder(folder) else None


def locate(source: Source, data: Path) -> Path | None:
    """The folder of a source, and for a pipeline only one that has its index; else None."""
    folder = snapshot(source.repo, source.revision, data)
    if folder is None or (source.needs_index and not is_file(index_of(folder))):
        return None
    return folder


def revision_of(folder: Path, model: Model | Aid) -> str | None:
    """The commit of a folder in the hub's cache; a local or built-in model has its hash only."""
    return folder.name if folder.parent.name == "snapshots" and model.repo else None


def token_files(data: Path) -> list[Path]:
    """The files that a log-in may have written a token to, the home's first.

    HF_TOKEN_PATH if it is set; else below HF_HOME or `data`, and in the user's cache folder.
    """
    path = os.environ.get("HF_TOKEN_PATH")
    if path:
        return [Path(path).expanduser()]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [_hub_home(data) / "token", caches / "huggingface" / "token"]


def has_token(data: Path) -> bool:
    """Whether there is a token to send to the hub; never reads a file."""
    named = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    return any(os.environ.get(name, "").strip() for name in named) or any(
        map(is_file, token_files(data))
    )
