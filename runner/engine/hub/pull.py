"""Fetches what a model needs from the hub: asked for by a person, never by a job.

First `survey`: what the hub has, what of it is needed and not here yet, and how much that is. Then
`fetch`. Every failure is told within seconds, as one sentence; what has come is kept, and the next
try goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from runner.engine import hub
from runner.engine.hub.cache import Store
from runner.engine.hub.client import HubClient
from runner.engine.hub.explain import translated
from runner.engine.hub.sources import INDEX, Layout, Source, lacking, wanted
from runner.engine.hub.transfer import Interrupted, OnBytes, Remote
from runner.errors import DiskFull, ModelMissing
from specs.errors import FluxdropError

_WORKERS = 4
_LOOK_SECONDS = 0.2
_SPARE_BYTES = 2**30
"""Room that a download leaves on the disk, for the jobs that run meanwhile."""

_MOST_NAMED = 8


@dataclass(frozen=True)
class Share:
    """What is needed of one repository: all of it, and what is not here yet."""

    source: Source
    store: Store
    files: tuple[Remote, ...]
    gone: tuple[Remote, ...]

    @property
    def bytes(self) -> int:
        """The length of everything that is needed."""
        return sum(each.size for each in self.files)

    @property
    def to_come(self) -> int:
        """The bytes that have to come through the network."""
        return sum(each.size - self.store.here(each) for each in self.gone)


class Puller:
    """Fetches for one command; `again` is that command, for what is said when it fails."""

    def __init__(self, data: Path, *, again: str) -> None:
        self._data = data
        self._again = again
        self._client = HubClient(data, again=again)

    def survey(self, source: Source, *, verify: bool = False) -> Share:
        """Ask the hub for a source's files; with `verify`, files with wrong content are gone.

        Raises ModelMissing or DiskFull with a sentence that says what to do.
        """
        with self._explained(source):
            commit, listed = self._client.files(source.repo, source.revision)
            store = Store(hub.repo_folder(source.repo, self._data), commit, again=self._again)
            if source.layout is Layout.FILE:
                source = _chosen(source, listed)
            index = self._index(source, store, listed) if source.needs_index else {}
            files = tuple(listed[name] for name in wanted(source, listed, index))
            if verify:
                for each in files:
                    if store.has(each) and not store.is_sound(each):
                        store.discard(each)
            return Share(source, store, files, tuple(e for e in files if not store.has(e)))

    def fetch(self, share: Share, on_bytes: OnBytes, stop: Event) -> Path:
        """Bring everything that is gone; the folder it is in. Raises Interrupted on `stop`."""
        source, store, headers = share.source, share.store, self._client.headers()

        def bring(remote: Remote) -> None:
            url = self._client.url(source.repo, store.commit, remote.name)
            store.fetch(remote, url, headers, stop, on_bytes)

        with self._explained(source):
            _in_threads(share.gone, bring, stop)
            absent = lacking(source, store.folder)
            if absent:
                raise ModelMissing(
                    f"{source.repo} has no {absent[0]} on the hub, which is needed: use another"
                    " repository"
                )
            store.remember(source.revision)
        return store.folder

    def _index(self, source: Source, store: Store, listed: Mapping[str, Remote]) -> Any:
        """The index of a pipeline, which says what else is needed."""
        if INDEX not in listed:
            raise ModelMissing(
                f"{source.repo} holds no pipeline for diffusers (no {INDEX}): use another"
                " repository, or name one of its files as `file` in the settings' `registry`"
            )
        remote = listed[INDEX]
        if store.has(remote) and not store.is_sound(remote):
            store.discard(remote)
        if not store.has(remote):
            url = self._client.url(source.repo, store.commit, INDEX)
            store.fetch(remote, url, self._client.headers(), Event(), lambda count: None)
        index = json.loads((store.folder / INDEX).read_text(encoding="utf-8"))
        return index if isinstance(index, dict) else {}

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
                token=self._client.has_token,
            )
            if ours is None:
                raise
            raise ours from error


def check_room(shares: Iterable[Share], data: Path, *, again: str) -> None:
    """Raises DiskFull where the disk of the cache cannot take all that is to come."""
    needed = sum(share.to_come for share in shares)
    folder = hub.cache_folder(data).absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + _SPARE_BYTES > free:
        raise DiskFull(
            f"{in_words(needed)} have to come and {in_words(free)} are free: make room for"
            f" {in_words(needed + _SPARE_BYTES - free)} more, or set HF_HOME to a folder on a"
            f" larger disk, then run `{again}`"
        )


def in_words(count: int) -> str:
    """A number of bytes as people say it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _chosen(source: Source, listed: Mapping[str, Remote]) -> Source:
    """The source with its one file; without a name there must be only one that can be meant."""
    if source.file in listed:
        return source
    names = [name for name in sorted(listed) if name.endswith((".safetensors", ".gguf"))]
    if not source.file and len(names) == 1:
        return replace(source, file=names[0])
    shown = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    if not names:
        raise ModelMissing(f"{source.repo} holds no .safetensors or .gguf file: check the name")
    if source.file:
        raise ModelMissing(f"{source.repo} has no file {source.file}: name one of {shown}")
    raise ModelMissing(f"{source.repo} has several files: choose with --file one of {shown}")


def _in_threads(items: Sequence[Remote], work: Callable[[Remote], None], stop: Event) -> None:
    """Do the work for each item, a few at a time; the first failure ends the others and is raised.

    The threads are daemons: Ctrl-C leaves at once, and what they have written is kept.
    """
    todo: SimpleQueue[Remote] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for item in items:
        todo.put(item)

    def go_on() -> None:
        while True:
            try:
                item = todo.get_nowait()
            except Empty:
                return
            try:
                if not stop.is_set():
                    work(item)
                done.put(None)
            except BaseException as error:  # noqa: BLE001 raised again by the thread that waits
                done.put(error)

    for _ in range(min(_WORKERS, len(items))):
        Thread(target=go_on, name="pull", daemon=True).start()
    failed: BaseException | None = None
    try:
        for _ in items:
            error = _next(done)
            if error is not None and failed is None:
                failed = error
                stop.set()
    except BaseException:
        stop.set()
        raise
    if failed is not None:
        raise failed


def _next(done: SimpleQueue[BaseException | None]) -> BaseException | None:
    while True:
        try:
            # In short waits: on Windows Ctrl-C is not heard during a long one.
            return done.get(timeout=_LOOK_SECONDS)
        except Empty:
            continue
