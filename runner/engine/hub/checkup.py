"""Finds the missing and damaged files of a model on this machine, and says how to mend them.

Reads files, the settings and the environment only: no network, and torch for an upscaler's net.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runner.engine.hub.explain import host
from runner.engine.hub.library import has_token, is_begun, locate, problem
from runner.engine.hub.sources import (
    HEAVY,
    INDEX,
    Layout,
    Source,
    damaged,
    lacking,
    pickles,
    sources,
)
from runner.engine.models import Aid, Model, Upscaler
from runner.engine.pictures import upscaling
from runner.errors import ModelMissing
from runner.files import is_folder


@dataclass(frozen=True)
class Checkup:
    """The state of one model or aid: `here` says whether any of it is on this machine.

    `missing` and `damaged` are files, each as its repository or folder and its name in it; a name
    that ends with `/` is a whole component. `advice` are sentences, in the order to follow them.
    """

    name: str
    here: bool
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.missing and not self.damaged


def check(wanted: Model | Aid, data: Path) -> Checkup:
    """The state of a model, of an estimator or of an upscaler."""
    needed = sources(wanted)
    missing: list[str] = []
    broken: list[str] = []
    unsafe: list[str] = []
    wrong: dict[str, str] = {}
    # The pipeline beside a ControlNet is another model's: that it is here says nothing.
    is_beside = isinstance(wanted, Model) and not wanted.single
    own = [s for s in needed if s.layout is Layout.FILE and is_beside] or needed
    here = not needed
    for source in needed:
        folder = locate(source, data)
        if folder is None:
            what = source.file or ("the folder" if source.is_local else "all of it")
            if source.is_local and source.needs_index and is_folder(source.repo):
                what = INDEX
            missing.append(f"{source.repo}: {what}")
            continue
        here = here or source in own
        gone = lacking(source, folder)
        unsafe += pickles(folder, gone)
        missing += [f"{source.repo}: {file}" for file in gone]
        told = None if gone else problem(wanted, source, folder, data)
        if isinstance(wanted, Upscaler) and not (gone or told or wanted.sha256):
            try:
                upscaling.of(wanted, folder / source.file)
            except ModelMissing as error:
                told = str(error)
        if told:
            wrong[f"{source.repo}: {source.file or HEAVY}"] = told
        elif source.layout is not Layout.FILE:
            broken += [f"{source.repo}: {file}" for file in damaged(source, folder)]
    begun = any(is_begun(source, data) for source in own)
    checkup = Checkup(wanted.name, here or begun, tuple(missing), tuple(broken))
    advice = [
        *wrong.values(),
        *(f"{file} is a pickle, and is not loaded: convert it to .safetensors" for file in unsafe),
        # Nothing that can be fetched makes the file another one.
        *(() if wrong else _advice(checkup, wanted, needed, data)),
    ]
    return replace(checkup, damaged=(*broken, *wrong), advice=tuple(advice))


def _advice(
    checkup: Checkup, wanted: Model | Aid, needed: tuple[Source, ...], data: Path
) -> Iterator[str]:
    if checkup.ok:
        return
    wrong = {entry.partition(": ")[0] for entry in (*checkup.missing, *checkup.damaged)}
    for local in (source.repo for source in needed if source.is_local and source.repo in wrong):
        yield (
            f"{local} is a folder of yours: put there what is missing, or correct"
            f" `{'registry' if isinstance(wanted, Model) else 'upscaler'}` in fluxdrop.yaml"
        )
        return
    if isinstance(wanted, Model) and wanted.gated and not has_token(data):
        repo = next(source.repo for source in needed if not source.is_local)
        yield (
            f"it is gated: accept its licence on {host()}/{repo}, make a token on"
            f" {host()}/settings/tokens and set it as HF_TOKEN"
        )
    verify = " --verify" if checkup.damaged and not checkup.missing else ""
    goes_on = " (it goes on where it broke off)" if checkup.here else ""
    yield f"run `fluxdrop models pull {checkup.name}{verify}`{goes_on}"
