"""The outbox: the folders of jobs, with statuses written from the ledger's records.

A status can be written again from its record at any time. Statuses, receipts, pictures and sidecars
are written only here, contact sheets by daemon/pages.py and `fluxdrop gallery page` too. The copies
of input images come from inbox/waiting.py, the page of the newest jobs from daemon/pages.py,
`gallery page` and `clean`, as those of months, previews from daemon/pages.py; recovery and `clean`
remove files.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runner import reading
from runner.clock import now, timestamp
from runner.errors import LedgerUnusable
from runner.files import is_absent, is_file, is_there, read_file, text_of
from runner.job import State
from runner.settings import Home
from runner.spool.disk.disk import Disk, File, StrPath
from runner.spool.disk.faults import BAD_NAME, Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.names import receipt_names
from runner.spool.store.record import Record, counts_of
from runner.wire import SCHEMA, Counts, Output, ProblemJson, Progress, Receipt, Status, read_json

_STATUS = "status.json"
ORIGINAL = ".original.png"
"""What follows the stem of an image in the name of the picture that was enlarged to it."""
_MOST_OUTPUTS = 100


@dataclass(frozen=True)
class SavedImage:
    """The files of one image; `stem` is their common name, `suffix` the picture's own.

    `original` is the picture before it was enlarged, where that is kept.
    """

    job: str
    stem: str
    suffix: str
    picture: bytes
    thumbnail: bytes
    sidecar: Mapping[str, Any]
    original: bytes | None = None


class Outbox:
    """Writes one home's outbox; safe to use from any thread.

    The folder of a job, or an image, that alone cannot be written is added to the faults; what can
    be written is none any more.
    """

    def __init__(self, home: Home, ledger: Ledger, disk: Disk, faults: Faults) -> None:
        self._folder, self._drops = home.outbox, home.drops
        self._ledger = ledger
        self._disk = disk
        self._faults = faults
        self._lock = threading.RLock()

    def folder(self, job_id: str) -> Path:
        """The folder of one job."""
        return self._folder / job_id

    def make_folder(self, record: Record) -> None:
        """Make a job's folder unless it exists."""
        self._disk.make_folder(self.folder(record.id))

    def clear_job(self, job_id: str) -> None:
        """Remove the folder of a job."""
        self._disk.remove_tree(self.folder(job_id))

    def write_status(self, seq: int, *, durable: bool = False) -> None:
        """Publish the status of a job as the ledger has it now, one revision higher."""
        self.write_statuses({seq: None}, durable=durable)

    def write_statuses(
        self, progress: Mapping[int, Progress | None], *, durable: bool = False
    ) -> None:
        """Publish the statuses of many jobs, by `seq`, as the ledger has them now.

        The end of a job that has begun, or has several images, is left to `publish_ends`: its page
        and its results come first.
        """
        with self._lock:
            # A job may have been forgotten meanwhile, or its end published by another thread.
            found = [record for seq in progress if (record := self._ledger.find(seq))]
            records = [record for record in found if not record.is_final or self._may_show(record)]
            if not records:
                return
            with self._blaming(*(self.folder(record.id) for record in records), shown=records):
                for record in records:
                    self.make_folder(record)
                files: list[File] = [
                    (self.folder(r.id) / _STATUS, to_json(self.status(r, progress[r.seq])))
                    for r in records
                ]
                self._disk.replace_many(files, durable=durable)
            shown = {seq: (p["image"], p["phase"]) for seq, p in progress.items() if p}
            self._ledger.published(records, shown)

    def _may_show(self, final: Record) -> bool:
        """Whether a status of a final job is due that needs no new page."""
        has_files = final.started_at is not None or final.total > 1
        return not (final.is_shown or (has_files and not self._ledger.end_is_shown(final.seq)))

    def write_jobs(self, records: Sequence[Record], receipts: Sequence[Receipt]) -> None:
        """Publish specs and statuses of many jobs, then receipts; all of it is synced.

        The records must be current; the caller records in the ledger that they are published.
        """
        answers = [(receipt_names(r["name"]), to_json({**r, "name": text_of(r["name"])}))
                   for r in receipts]  # fmt: skip
        with self._lock, self._blaming(shown=records):
            files: list[File] = []
            in_place: set[StrPath] = set()
            for record in records:
                folder = f"{self._folder}/{record.id}"
                is_new = self._disk.make_folder(folder)
                if record.spec:
                    spec = f"{folder}/spec{record.suffix}"
                    files.append((spec, record.spec))
                    if is_new:
                        in_place.add(spec)
                files.append((f"{folder}/{_STATUS}", to_json(self.status(record))))
            self._disk.make_folder(self._drops)
            first: list[File] = [(f"{self._drops}/{names[0]}", data) for names, data in answers]
            try:
                self._disk.replace_many([*files, *first], also=self._folder, in_place=in_place)
            except OSError as error:
                if error.errno not in BAD_NAME or not answers:
                    raise
                if files:
                    self._disk.replace_many(files, also=self._folder)
                for names, data in answers:
                    self._write_receipt(names, data)
            for record in records:
                self._faults.forget(self.folder(record.id))

    def _write_receipt(self, names: Sequence[str], data: bytes) -> None:
        """Write one receipt by the first of these names that the outbox can hold."""
        for name in names:
            try:
                self._disk.replace(f"{self._drops}/{name}", data, durable=True)
            except OSError as error:
                if error.errno not in BAD_NAME or name == names[-1]:
                    raise
            else:
                return

    def show_queued_again(self) -> None:
        """Publish the queued jobs whose status callers have deleted; all of it is synced."""
        for seq, job_id in self._ledger.queued_ids().items():
            folder = self.folder(job_id)
            if is_there(folder / _STATUS) or self._faults.seconds_left(folder):
                continue
            with self._lock, self._faults.isolated(folder):
                record = self._ledger.get(seq)
                if record.state == State.QUEUED:
                    self.write_jobs([record], [])
                    self._ledger.published([record])

    def status(self, record: Record, progress: Progress | None = None) -> Status:
        """The status of a record as it would be published now."""
        outputs = self._ledger.outputs(record.seq, _MOST_OUTPUTS) if record.done else []
        why = record.why(now())
        status = Status(
            schema=SCHEMA,
            id=record.id,
            kind=record.kind,
            model=record.model,
            state=str(record.state),
            reason=why.reason,
            message=why.message or None,
            revision=record.revision + 1,
            attempt=record.attempt,
            priority=record.priority,
            tags=list(record.realised.get("tags", ())),
            source={
                "name": text_of(record.source_name),
                "sha256": record.source_sha256,
                "bytes": record.source_bytes,
            },
            accepted_at=record.accepted_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            updated_at=timestamp(),
            images=cast(Counts, counts_of(record)),
            progress=progress if record.state == State.RUNNING else None,
            errors=cast("list[ProblemJson]", record.errors),
            warnings=list(record.warnings),
            kept=record.kept,
            outputs=cast("list[Output]", outputs),
        )
        # The caller's own keys are repeated; none of ours begins with `x_`.
        own = {key: value for key, value in record.realised.items() if key.startswith("x_")}
        return {**status, **own}  # type: ignore[typeddict-item]  # TypedDict has no open keys

    def publish_images(self, images: Sequence[SavedImage]) -> None:
        """Write images into their jobs' folders; each counts from when its sidecar exists."""
        pictures: list[File] = []
        sidecars: list[File] = []
        for image in images:
            folder = f"{self._folder}/{image.job}"
            pictures.append((f"{folder}/{image.stem}{image.suffix}", image.picture))
            pictures.append((f"{folder}/thumbs/{image.stem}.webp", image.thumbnail))
            if image.original:
                pictures.append((f"{folder}/{image.stem}{ORIGINAL}", image.original))
            data = json.dumps(image.sidecar, ensure_ascii=False, indent=1).encode() + b"\n"
            sidecars.append((f"{folder}/{image.stem}.json", data))
        with self._blaming(*(self.folder(i.job) / f"{i.stem}{i.suffix}" for i in images)):
            for job in {image.job for image in images}:
                self._disk.make_folder(f"{self._folder}/{job}/thumbs")
            self._disk.replace_many(pictures, then=sidecars)

    def take_back(self, image: SavedImage) -> None:
        """Remove the files of an image of which not all could be written."""
        folder = f"{self._folder}/{image.job}"
        names = [f"{image.stem}.json", f"{image.stem}{image.suffix}", f"thumbs/{image.stem}.webp"]
        for name in (*names, *([f"{image.stem}{ORIGINAL}"] if image.original else [])):
            self._disk.remove(f"{folder}/{name}")

    def publish_ends(self, pages: Mapping[int, Mapping[str, str]]) -> None:
        """Write the contact sheets, by `seq` and file, and then the statuses of ended jobs."""
        with self._lock:
            # Another thread may have published one meanwhile, with a keep: it has its sheet.
            due = [record for seq in pages if not (record := self._ledger.get(seq)).is_shown]
            files: list[File] = []
            for record in due:
                folder = f"{self._folder}/{record.id}"
                files += [(f"{folder}/{n}", page.encode()) for n, page in pages[record.seq].items()]
                files.append((f"{folder}/{_STATUS}", to_json(self.status(record))))
            with self._blaming(*(self.folder(record.id) for record in due), shown=due):
                for record in due:
                    self.make_folder(record)
                if files:
                    self._disk.replace_many(files)
            for record in due:
                self._faults.forget(self.folder(record.id), below=True)
            self._ledger.published(due)

    @contextmanager
    def _blaming(self, *files: Path, shown: Sequence[Record] = ()) -> Iterator[None]:
        """Add a job's folder or an image to the faults where it is the only one and fails.

        A status of `shown` may have been read all the same: the next one has a higher revision.
        """
        try:
            yield
        except Exception as error:
            with suppress(LedgerUnusable), self._ledger.transaction(durable=False):
                for record in shown:
                    self._ledger.lift_revision(record.seq, record.revision + 1)
            if len(files) == 1:
                self._faults.add(files[0], error)
            raise
        for file in files:
            self._faults.forget(file)

    def sidecars(
        self, job_id: str, numbers: Iterable[int] | None = None
    ) -> dict[int, dict[str, Any]]:
        """The sidecars in a job's folder, or those of some images, by number.

        Damaged ones are left out.
        """
        found, folder = {}, self.folder(job_id)
        some = (folder / f"{job_id}-{number:04}.json" for number in numbers or ())
        for file in reading.sidecars(folder).values() if numbers is None else some:
            sidecar = read_json(file) or {}
            try:
                found[int(sidecar["result"]["index"])] = sidecar
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def read_status(self, job_id: str) -> dict[str, Any] | None:
        """The status file of a job, or None where there is none that a runner may have written."""
        return reading.status(self.folder(job_id) / _STATUS)


def receipt(name: str, sha256: str, job: str, outcome: str) -> Receipt:
    """The receipt of a drop, now."""
    return Receipt(
        schema=SCHEMA, name=name, sha256=sha256, job=job, outcome=outcome, at=timestamp()
    )


# One line for each key: the encoder's own `indent` takes ten times as long.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",\n ", ": ")).encode


def to_json(value: Mapping[str, Any]) -> bytes:
    """The bytes of a status, a receipt or the health file."""
    return f"{_encode(value)}\n".encode()


def state_of(picture: Path) -> tuple[int, int] | None:
    """The size and the time of change of a picture, which tell whether it is still the same."""
    try:
        status = os.lstat(picture)
    except OSError:
        return None
    # SQLite's integers end sooner than the times of some file systems.
    return status.st_size, status.st_mtime_ns % 2**63


def output_of(
    sidecar: dict[str, Any], folder: Path, counted: sqlite3.Row | None = None
) -> dict[str, Any] | None:
    """The `outputs` entry of a sidecar whose picture has the recorded hash, else None.

    A picture that is as it was when its row in the ledger was made, `counted`, is not read.
    """
    try:
        picture = folder / sidecar["result"]["file"]
        thumbnail = f"thumbs/{picture.stem}.webp"
        output = output_entry(sidecar, thumbnail if is_file(folder / thumbnail) else None)
        known = counted and (counted["output"], counted["bytes"], counted["mtime_ns"])
        found = (json.dumps(output), *(state_of(picture) or ()))
        if known != found and hashlib.sha256(read_file(picture)).hexdigest() != output["sha256"]:
            return None
        return output
    except (KeyError, TypeError):
        return None
    except OSError as error:
        if is_absent(error):
            return None
        raise


def output_entry(sidecar: Mapping[str, Any], thumbnail: str | None) -> dict[str, Any]:
    """The `outputs` entry of an image, from its sidecar."""
    result = sidecar["result"]
    return {
        "file": result["file"],
        "sidecar": f"{Path(result['file']).stem}.json",
        "thumbnail": thumbnail,
        "seed": sidecar["seed"],
        "sha256": result["sha256"],
        "width": result["width"],
        "height": result["height"],
        "original": result["original"]["file"] if "original" in result else None,
    }
