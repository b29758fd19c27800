"""Fetches the files of a model from the hub, for a command of the user and never for a job.

First `survey` finds the needed files, those that are not here yet, and their bytes; then `fetch`
downloads them. Every failure is raised within seconds, as an error with one sentence; bytes that
have come are kept, and the next attempt resumes there. The token is sent to the hub only, and is
never shown or written.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event
from typing import Any

from runner.engine.hub.cache import CachedCommit
from runner.engine.hub.explain import host, is_passing, translated
from runner.engine.hub.library import cache_folder, repo_folder, token_files
from runner.engine.hub.sources import INDEX, Layout, Source, index_in, lacking, read_index, wanted
from runner.engine.hub.transfer import Interrupted, OnBytes, Remote
from runner.errors import DiskFull, ModelMissing
from runner.files import sha256_of
from runner.terminal import size_text
from specs.errors import FluxdropError

_SPARE_BYTES = 2**30
"""Bytes that a download leaves free on the disk, for the jobs that run meanwhile."""

_MAX_NAMED = 8
_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """The files that are needed of one repository; `gone` are those that are not here."""

    source: Source
    cached: CachedCommit
    files: tuple[Remote, ...]
    gone: tuple[Remote, ...]

    @property
    def bytes(self) -> int:
        """The bytes of all needed files."""
        return sum(file.size for file in self.files)

    @property
    def to_come(self) -> int:
        """The bytes that have to be fetched."""
        return sum(file.size - self.cached.here(file) for file in self.gone)


class Puller:
    """Fetches files for one command; `again` is that command, for error messages."""

    def __init__(self, data: Path, *, again: str) -> None:
        self._data = data
        self._again = again
        self._token = _token(data)

    def survey(self, source: Source, *, verify: bool = False) -> Share:
        """Ask the hub for a source's files; with `verify`, remove those with wrong content first.

        Fetches the index of a pipeline. Raises ModelMissing or DiskFull with a sentence that says
        what to do.
        """
        with self._explained(source):
            commit, listed = self._files(source)
            cached = self._cached(source.repo, commit)
            if source.layout is Layout.FILE:
                source = _with_file(source, listed)
            index = self._index(source.repo, cached, listed) if source.needs_index else {}
            files = tuple(listed[name] for name in wanted(source, listed, index))
            if verify:
                for file in files:
                    cached.discard_wrong(file)
            return Share(source, cached, files, tuple(f for f in files if not cached.has(f)))

    def fetch(self, share: Share, on_bytes: OnBytes, stop: Event) -> Path:
        """Fetch the files that are gone, and return the snapshot's folder.

        Calls `on_bytes` from several threads, with numbers of bytes that add up to the size of the
        files. Raises Interrupted once `stop` is set, ModelMissing or DiskFull with a sentence that
        says what to do.
        """
        source, cached = share.source, share.cached
        with self._explained(source):
            _in_threads(share.gone, partial(cached.fetch, stop=stop, on_bytes=on_bytes), stop)
            absent = lacking(source, cached.folder)
            if absent:
                raise ModelMissing(
                    f"{source.repo} has no {absent[0]} on the hub, which is needed: use another"
                    " repository"
                )
            if source.sha256 and source.sha256 != sha256_of(cached.folder / source.file):
                what = f"{source.repo} has another {source.file} than its makers published"
                raise ModelMissing(f"{what}: name theirs as `upscaler` in fluxdrop.yaml")
            cached.point_revision(source.revision)
        return cached.folder

    def _cached(self, repo: str, commit: str) -> CachedCommit:
        """A commit in the cache. The HTTP client drops the token on redirects to other hosts."""
        from importlib.metadata import version

        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        url = f"{constants.ENDPOINT}/{repo}/resolve/{commit}"
        headers = build_hf_headers(
            token=self._token or False, library_name="fluxdrop", library_version=version("fluxdrop")
        )
        base = repo_folder(repo, self._data)
        return CachedCommit(base, commit, url=url, headers=headers, again=self._again)

    def _files(self, source: Source) -> tuple[str, dict[str, Remote]]:
        """The commit that a revision points to now, and all its files by name.

        Asks twice at most. Raises ModelMissing where the answer is not a hub's, and the hub's
        errors.
        """
        try:
            return self._listed(source)
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(_PAUSE_SECONDS)
        return self._listed(source)

    def _listed(self, source: Source) -> tuple[str, dict[str, Remote]]:
        from huggingface_hub import HfApi, constants

        api = HfApi(endpoint=constants.ENDPOINT, token=self._token or False)
        try:
            info = api.model_info(
                source.repo, revision=source.revision, files_metadata=True, timeout=_SECONDS
            )
            commit = _hash(info.sha)
            files = {}
            for file in info.siblings or ():
                etag = _hash(file.lfs.sha256 if file.lfs else file.blob_id)
                files[file.rfilename] = Remote(file.rfilename, int(file.size), etag)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if isinstance(error, OSError):  # an error status of the hub may be of both classes
                raise
            raise ModelMissing(
                f"what answers at {host()} is not a hub, perhaps a network's log-in page: open it"
                f" in a browser, then run `{self._again}`"
            ) from error
        return commit, files

    def _index(self, repo: str, cached: CachedCommit, listed: Mapping[str, Remote]) -> Any:
        """The index of a pipeline, which names the components that are needed."""
        index = index_in(listed)
        if index not in listed:
            raise ModelMissing(
                f"{repo} holds no pipeline for diffusers (no {INDEX}): use another"
                " repository, or name one of its files as `file` in the settings' `registry`"
            )
        remote = listed[index]
        cached.discard_wrong(remote)
        if not cached.has(remote):
            cached.fetch(remote, stop=Event(), on_bytes=lambda count: None)
        return read_index(cached.folder)

    @contextmanager
    def _explained(self, source: Source) -> Iterator[None]:
        try:
            yield
        except (FluxdropError, Interrupted):
            raise
        except Exception as error:
            ours = translated(
                error,
                repo=source.repo,
                again=self._again,
                revision=source.revision,
                token=self._token is not None,
            )
            if ours is None:
                raise
            raise ours from error


def check_room(shares: Iterable[Share], data: Path, *, again: str) -> None:
    """Raises DiskFull where the disk of the cache has no room for all that has to be fetched."""
    needed = sum(share.to_come for share in shares)
    folder = cache_folder(data).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + _SPARE_BYTES > free:
        raise DiskFull(
            f"{size_text(needed)} have to come and {size_text(free)} are free: make room for"
            f" {size_text(needed + _SPARE_BYTES - free)} more, or set HF_HOME to a folder on a"
            f" larger disk, then run `{again}`"
        )


def _with_file(source: Source, listed: Mapping[str, Remote]) -> Source:
    """The source with its file's name; without one given, the only file that it can be.

    Raises ModelMissing where there is no such file, or several.
    """
    if source.file in listed:
        return source
    names = [name for name in sorted(listed) if name.endswith((".safetensors", ".gguf"))]
    if not source.file and len(names) == 1:
        return replace(source, file=names[0])
    shown = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
    if not names:
        raise ModelMissing(f"{source.repo} holds no .safetensors or .gguf file: check the name")
    if source.file:
        raise ModelMissing(f"{source.repo} has no file {source.file}: name one of {shown}")
    raise ModelMissing(f"{source.repo} has several files: choose with --file one of {shown}")


def _in_threads(items: Sequence[Remote], work: Callable[[Remote], None], stop: Event) -> None:
    """Do the work for each item in four threads; the first error sets `stop` and is raised.

    The threads of a pool are daemons, so Ctrl-C ends the process at once; what they have written is
    kept.
    """

    def work_off(item: Remote) -> None:
        try:
            if not stop.is_set():
                work(item)
        except BaseException:
            stop.set()
            raise

    with ThreadPool(4) as pool:
        done = pool.map_async(work_off, items, chunksize=1)
        try:
            while not done.ready():
                # In short waits, because on Windows a long one does not end on Ctrl-C.
                done.wait(0.2)
        except BaseException:
            stop.set()
            raise
        done.get()


def _hash(text: str | None) -> str:
    """The text, if it is a hash, which is safe as a file name. Raises ValueError if not."""
    if not text or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise ValueError("not a hash")
    return text


def _token(data: Path) -> str | None:
    """The token that the user has set, or that a log-in wrote to one of `token_files`."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    token = get_token()
    for file in token_files(data):
        with suppress(OSError):
            token = token or file.read_text(encoding="utf-8").strip()
    return token or None
