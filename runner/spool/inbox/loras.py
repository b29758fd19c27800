"""The LoRA files that a spec names: where they may lie, and checks of their content.

A file is named below one of the settings' `lora_roots`, or by a repository that was pulled. It is
checked when the spec is accepted, and its hash goes into the realised spec, so that a sidecar makes
the same picture again or fails because the file has changed. Files of gigabytes are not copied.
Only safetensors files below the roots and the hub's cache are opened: they contain no programs.
"""

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner import lora_names
from runner.errors import InputBad, JobFailed, ModelMissing, PathNotAllowed
from runner.files import (
    instead_of_weights,
    is_absent,
    is_file,
    open_regular,
    sha256_of,
    tensors_in,
)
from runner.settings import Home
from runner.task import Lora
from specs.suggest import did_you_mean

Cached = Callable[[str, str, Path], Path | None]
"""Finds the folder of a repository in the hub's cache: repository, revision, the home's data."""

SUFFIX = ".safetensors"
_MOST_BYTES = 8 * 2**30
_MOST_FOLDERS = 500
_MAIN = "main"
Fault = tuple[str, JobFailed]
"""One LoRA that cannot be used: its place in the spec, and why."""


def recorded(
    spec: Mapping[str, Any], home: Home, cached: Cached
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The spec's LoRAs with their hashes, commits and files, and every fault found."""
    loras: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for n, lora in enumerate(spec.get("loras") or ()):
        if lora is None:  # an earlier check found it wrong
            continue
        try:
            place = _place(lora, home, cached)
            sha256 = _checked(place, _named(lora))
        except JobFailed as error:
            faults.append((f"loras.{n}", error))
            continue
        if lora.get("sha256", sha256) != sha256:
            wrong = InputBad(
                f"{_named(lora)} is not the file that is asked for: its SHA-256 is {sha256};"
                " leave `sha256` out to use it as it is"
            )
            faults.append((f"loras.{n}.sha256", wrong))
        loras.append({"weight": 1.0, **lora, **_commit(lora, place), "sha256": sha256})
    return loras, faults


def settled(realised: Mapping[str, Any], home: Home, cached: Cached) -> Mapping[str, Any]:
    """The spec of an image about to be made, with hashes of files that came after it was accepted.

    Raises JobFailed for the first LoRA that cannot be used.
    """
    if all("sha256" in lora for lora in realised.get("loras") or ()):
        return realised
    loras, faults = recorded(realised, home, cached)
    for _, error in faults:
        raise error
    return {**realised, "loras": loras}


def for_task(realised: Mapping[str, Any], home: Home, cached: Cached) -> tuple[Lora, ...]:
    """The LoRAs of a realised spec as an image task has them.

    Raises JobFailed for one that has gone, or left the roots, since the spec was accepted.
    """
    return tuple(
        Lora(
            path=_place(lora, home, cached),
            weight=float(lora.get("weight", 1.0)),
            name=str(lora.get("name", "")),
            sha256=str(lora.get("sha256", "")),
        )
        for lora in realised.get("loras") or ()
    )


def _named(lora: Mapping[str, Any]) -> str:
    return str(lora.get("path") or lora["repo"])


def _place(lora: Mapping[str, Any], home: Home, cached: Cached) -> Path:
    if "path" in lora:
        return _in_roots(str(lora["path"]), home)
    return _in_cache(lora, home, cached)


def _in_roots(text: str, home: Home) -> Path:
    """The file of this name in the first of the roots that has one."""
    roots = [home.root / Path(root).expanduser() for root in home.settings.lora_roots]
    hint = "" if text.lower().endswith(SUFFIX) else _suggestion(f"{text}{SUFFIX}", roots)
    name, absolute = _checked_name(text, hint), _is_absolute(text)
    if not roots:
        raise ModelMissing(
            f"{text} cannot be looked for: name the folders of your LoRA files as `lora_roots` in"
            " fluxdrop.yaml"
        )
    leaving = False
    for root in roots:
        # An absolute name replaces the root, and has to lie in one of them like any other.
        place = root / name
        if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root)):
            if is_file(place):
                return place
        elif is_file(place):
            leaving = True
    if absolute:
        raise PathNotAllowed(
            f"{text} is outside the `lora_roots`: add its folder to them in fluxdrop.yaml"
        )
    if leaving:
        raise PathNotAllowed(f"{text} is a link that leaves the `lora_roots`: copy the file there")
    raise ModelMissing(
        f"{text} is in none of the `lora_roots`{_suggestion(name, roots)}: put the file there, or"
        " name a `repo` and fetch it with `fluxdrop models pull owner/name`"
    )


def _checked_name(text: str, hint: str = "") -> str:
    name = text.replace("\\", "/")
    if "\0" in name or ".." in name.split("/"):
        raise PathNotAllowed(f"{text!r} may not contain '..': name a file in the `lora_roots`")
    if ":" in (name[2:] if _is_absolute(text) else name):
        raise PathNotAllowed(f"{text!r} may not contain ':': name a file in the `lora_roots`")
    if not name.lower().endswith(SUFFIX):
        raise InputBad(f"{text} is no {SUFFIX} file{hint}: other formats may contain programs")
    return name


def _is_absolute(text: str) -> bool:
    return Path(text).is_absolute() or text.startswith(("/", "\\"))


def _suggestion(name: str, roots: list[Path]) -> str:
    known = sorted({file for root in roots for file in _files_below(root)})
    base = name.rpartition("/")[2].casefold()
    same_base = [file for file in known if file.rpartition("/")[2].casefold() == base]
    hint = did_you_mean(name, same_base or known)
    return f" ({hint})" if hint else ""


def _refused(error: OSError) -> None:
    """Raise what says nothing of a folder below a root; one that may not be read has no files."""
    if not is_absent(error) and error.errno != errno.EACCES:
        raise error


def _files_below(root: Path) -> Iterator[str]:
    """The LoRA files below a root as specs name them, from at most 500 folders."""
    for folder, _, names in itertools.islice(os.walk(root, onerror=_refused), _MOST_FOLDERS):
        for name in names:
            if name.lower().endswith(SUFFIX):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _in_cache(lora: Mapping[str, Any], home: Home, cached: Cached) -> Path:
    """The file of a pulled repository; one with several files needs `file` to choose."""
    repo = str(lora["repo"])
    pull = f"run `fluxdrop models pull {repo}`"
    folder = cached(repo, str(lora.get("revision", _MAIN)), home.data)
    if folder is None and "sha256" in lora:
        # The commit that a sidecar names has been deleted: another may have the same file.
        folder = cached(repo, _MAIN, home.data)
    if folder is None:
        raise ModelMissing(f"the LoRA {repo} is not on this machine: {pull}")
    if "file" in lora:
        place = folder / _checked_name(str(lora["file"]))
        if not is_file(place):
            raise ModelMissing(f"{repo} has no file {lora['file']} on this machine: {pull}")
    else:
        found = (folder / name for name in _files_below(folder))
        files = sorted(file for file in found if is_file(file))
        if not files:
            raise ModelMissing(f"{repo} has no {SUFFIX} file on this machine: {pull} again")
        if len(files) > 1:
            listed = ", ".join(file.relative_to(folder).as_posix() for file in files[:8])
            more = ", …" if len(files) > 8 else ""
            raise InputBad(f"{repo} has several files: say which with `file`: {listed}{more}")
        place = files[0]
    # The cache has a folder for each commit, whose files are links to blobs beside those folders.
    repo_folder = os.path.realpath(folder.parent.parent)
    if not Path(os.path.realpath(place)).is_relative_to(repo_folder):
        raise PathNotAllowed(f"the file of {repo} is a link that leaves the hub's cache: {pull}")
    return place


def _commit(lora: Mapping[str, Any], place: Path) -> dict[str, str]:
    """The commit and the file in a repository; empty for a file below a root."""
    if "repo" not in lora:
        return {}
    folder = next(parent for parent in place.parents if parent.parent.name == "snapshots")
    return {"revision": folder.name, "file": place.relative_to(folder).as_posix()}


def _checked(place: Path, name: str) -> str:
    """The SHA-256 of a file. Raises InputBad unless it is a complete safetensors file of a LoRA."""
    real = Path(os.path.realpath(place))
    try:
        handle = open_regular(real)
    except OSError as error:
        raise InputBad(f"{name} cannot be read as a file: {error.strerror or error}") from None
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_size > _MOST_BYTES:
            raise InputBad(f"{name} is larger than {_MOST_BYTES >> 30} GiB: that is no LoRA")
        try:
            tensors, missing = tensors_in(file)
        except ValueError:
            tensors, missing = {}, 1
        if missing:
            copying = "if it is still being copied, drop the spec again afterwards"
            instead = instead_of_weights(file) or f"no {SUFFIX} file, or not whole: {copying}"
            raise InputBad(f"{name} is {instead}")
        lora_names.check(tensors, name)
    return sha256_of(real)
