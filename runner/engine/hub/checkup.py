"""What is missing or damaged of a model on this machine, and what to do about it; offline.

Looks at files, the settings and the environment only: neither torch nor the hub is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.engine import hub
from runner.engine.hub.explain import host
from runner.engine.hub.sources import (
    INDEX,
    Source,
    damaged,
    estimator_source,
    lacking,
    sources,
)
from runner.engine.models import Estimator, Model


@dataclass(frozen=True)
class Checkup:
    """The state of one model: `here` says whether any of it is on this machine.

    `missing` and `damaged` are files, each as its repository or folder and its name in it; a name
    that ends with `/` is a whole component. `advice` are sentences, the first thing to do first.
    """

    name: str
    here: bool
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything is here."""
        return not self.missing and not self.damaged


def check_model(model: Model, data: Path) -> Checkup:
    """What is missing of a model."""
    return _check(model.name, sources(model), data, gated=model.gated)


def check_estimator(estimator: Estimator, data: Path) -> Checkup:
    """What is missing of an estimator."""
    return _check(estimator.name, (estimator_source(estimator),), data, gated=False)


def _check(name: str, needed: tuple[Source, ...], data: Path, *, gated: bool) -> Checkup:
    missing: list[str] = []
    broken: list[str] = []
    here = not needed
    for source in needed:
        folder = hub.locate(source, data)
        if folder is None:
            missing.append(f"{source.repo}: {_all_of(source)}")
            continue
        here = True
        missing += [f"{source.repo}: {file}" for file in lacking(source, folder)]
        broken += [f"{source.repo}: {file}" for file in damaged(source, folder)]
    begun = any(hub.is_begun(source, data) for source in needed)
    found = Checkup(name, here or begun, tuple(missing), tuple(broken))
    advice = tuple(_advice(found, needed, data, gated=gated))
    return Checkup(name, found.here, found.missing, found.damaged, advice)


def _all_of(source: Source) -> str:
    if source.is_local:
        folder = Path(source.repo)
        return INDEX if folder.is_dir() and source.needs_index else source.file or "the folder"
    return source.file or "all of it"


def _advice(
    found: Checkup, needed: tuple[Source, ...], data: Path, *, gated: bool
) -> Iterator[str]:
    if found.ok:
        return
    wrong = {entry.partition(": ")[0] for entry in (*found.missing, *found.damaged)}
    local = [source for source in needed if source.is_local and source.repo in wrong]
    if local:
        yield (
            f"{local[0].repo} is a folder of yours: put there what is missing, or correct"
            f" `registry` in fluxdrop.yaml"
        )
    if len(local) == len(wrong):
        return
    if gated and not hub.has_token(data):
        repo = next(source.repo for source in needed if not source.is_local)
        yield (
            f"it is gated: accept its licence on {host()}/{repo}, make a token on"
            f" {host()}/settings/tokens and set it as HF_TOKEN"
        )
    verify = " --verify" if found.damaged and not found.missing else ""
    goes_on = " (it goes on where it broke off)" if found.here else ""
    yield f"run `fluxdrop models pull {found.name}{verify}`{goes_on}"
