"""What the system refuses is never taken for absence: each read fails in turn, with each error.

An answer under such a fault is the true one or an error; never "there is none", and nothing that
was there is lost.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from runner import client, reading
from runner.cli.init import make_home
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub.library import bytes_here, repo_folder, snapshot
from runner.engine.hub.sources import lacking, sources
from runner.engine.models import Model
from runner.files import files_below, is_file, is_folder, is_there, names_in, paths_in
from runner.gallery.rebuild import rebuild
from runner.gallery.search import search
from runner.gallery.store import FOLDER, Gallery
from runner.settings import Home, find_home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox, output_of
from specs.errors import FluxdropError
from tests.gallery.samples import put_job, put_json, sidecar, status

KLEIN = MODEL_REGISTRY["klein"]
ERRORS = (errno.EMFILE, errno.EIO, errno.EACCES)
READS = ("open", "stat", "lstat", "listdir", "scandir")


class Refusal:
    """Has the `at`th read of this process fail, counted over all ways to read; or only counts."""

    def __init__(self, number: int = 0, at: int = -1) -> None:
        self._number, self._at = number, at
        self.count = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        with mock.patch.multiple(os, **{name: self._of(getattr(os, name)) for name in READS}):
            yield

    def _of(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*given: Any, **named: Any) -> Any:
            self.count += 1
            if self.count - 1 == self._at:
                raise OSError(self._number, os.strerror(self._number), str(given[0]))
            return read(*given, **named)

        return refusing


def never_takes_a_refusal_for_absence(ask: Callable[[], object]) -> int:
    """Assert it of a question; the number of reads that it took."""
    counting = Refusal()
    with counting.active():
        truth = ask()
    assert truth not in (None, [], {}), "an answer that is the same where nothing is there"
    for at in range(counting.count):
        for number in ERRORS:
            refusal = Refusal(number, at)
            try:
                with refusal.active():
                    told = ask()
            except (OSError, FluxdropError):
                continue
            assert told == truth, (at, errno.errorcode[number])
    return counting.count


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two jobs, a spec that waits, and the index of its pictures."""
    make_home(tmp_path)
    put_job(tmp_path / "outbox", [sidecar(n, job="a") for n in (1, 2)], job="a")
    put_job(tmp_path / "outbox", [sidecar(1, job="b")], job="b")
    whole = sha256((tmp_path / "outbox" / "a" / "a-0001.png").read_bytes()).hexdigest()
    put_json(tmp_path / "outbox" / "a" / "a-0001.json", sidecar(1, job="a", result_sha256=whole))
    (tmp_path / "inbox" / "waits.yaml").write_text("kind: text2img", encoding="utf-8")
    # Of an earlier drop of that name.
    old = {"name": "waits.yaml", "sha256": "", "job": "old", "outcome": "accepted", "at": "2026"}
    (tmp_path / "outbox" / "drops").mkdir()
    put_json(tmp_path / "outbox" / "drops" / "waits.yaml.json", old)
    home = find_home(tmp_path)
    rebuild(Gallery(home.data / FOLDER, writing=True), home.outbox)
    return home


def outbox_of(home: Home) -> Outbox:
    """The outbox as a runner reads it; no ledger is asked."""
    return Outbox(home, cast(Ledger, None), Disk(), Faults(home))


def model_here(home: Home) -> Model:
    """klein's entry, and a whole folder of it in the hub's cache of the home."""
    snapshot = repo_folder(KLEIN.repo, home.data) / "snapshots" / "abc"
    if not snapshot.is_dir():
        (snapshot / "transformer").mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc", encoding="utf-8")
        index = {"_class_name": "Flux2KleinPipeline", "transformer": ["diffusers", "X"]}
        (snapshot / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
        (snapshot / "transformer" / "config.json").write_text("{}", encoding="utf-8")
    return KLEIN


QUESTIONS: dict[str, Callable[[Home], object]] = {
    "the state of a job": lambda home: client.status(home, "a")["state"],
    "the state of a spec that waits": lambda home: client.status(home, "waits")["state"],
    "the job of a name": lambda home: client.job_of(home, "a"),
    "the file of a name": lambda home: client.job_of(home, "WAITS.yaml"),
    "whether a spec waits": lambda home: client.receipt(home, "waits.yaml") is None,
    "a search": lambda home: search(Gallery(home.data / FOLDER))["total"],
    "a row": lambda home: Gallery(home.data / FOLDER).get("a-0001"),
    "whether there is an index": lambda home: Gallery(home.data / FOLDER).missing,
    "the snapshot of a model": lambda home: snapshot(model_here(home).repo, "main", home.data),
    "what a model lacks": lambda home: lacking(
        sources(model_here(home))[0], snapshot(KLEIN.repo, "main", home.data) or Path("none")
    ),
    "the bytes of a model": lambda home: bytes_here(model_here(home), home.data),
    "the sidecars of a job": lambda home: sorted(outbox_of(home).sidecars("a")),
    "the status of a job": lambda home: outbox_of(home).read_status("a"),
    "whether a picture is whole": lambda home: output_of(
        outbox_of(home).sidecars("a").get(1, {}), home.job("a")
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_refusal_is_never_taken_for_absence(home: Home, question: str) -> None:
    """Seen red: "unknown" for a spec that waited, and no file of a name that was there."""
    assert never_takes_a_refusal_for_absence(lambda: QUESTIONS[question](home)) > 0
    assert search(Gallery(home.data / FOLDER))["total"] == 3


def test_a_rebuild_under_refusals_leaves_out_only_what_it_names(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = Gallery(home.data / FOLDER, writing=True)

    def made() -> object:
        caplog.clear()
        rows = rebuild(gallery, home.outbox)
        return rows + sum(3 for _ in caplog.records) >= 3

    assert never_takes_a_refusal_for_absence(made) > 10
    rebuild(gallery, home.outbox)
    assert {row["id"] for row in search(gallery)["rows"]} == {"a-0001", "a-0002", "b-0001"}


@pytest.mark.parametrize("number", ERRORS)
def test_the_ways_to_look_raise_what_the_system_refuses(tmp_path: Path, number: int) -> None:
    def paths(folder: Path) -> object:
        return paths_in(folder, "*")

    for look in (is_there, is_file, is_folder, names_in, files_below, paths, reading.status):
        with pytest.raises(OSError) as refused, Refusal(number, 0).active():
            look(tmp_path / "x" / "status.json")
        assert refused.value.errno == number


def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone")
    for path in ("none", "file/below", "loop", "nowhere", "n" * 300, "nul\0"):
        assert not is_file(tmp_path / path) and not is_folder(tmp_path / path), path
        assert names_in(tmp_path / path) == [] if "\0" not in path else True
    assert is_there(tmp_path / "loop") and is_there(tmp_path / "nowhere")
    assert not is_there(tmp_path / "none") and not is_there(tmp_path / "file" / "below")
    assert is_file(tmp_path / "file") and not is_folder(tmp_path / "file")
    assert names_in(tmp_path) == ["file", "loop", "nowhere"]
    assert reading.status(tmp_path / "file") is None
    assert status()["state"] == "succeeded"
