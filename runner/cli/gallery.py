"""`gallery search|page|rebuild`: search finished pictures, write pages, rebuild the index.

A search reads the index that the runner writes, whether a runner is running or not. An index that
is missing or damaged is first rebuilt from the sidecars.
"""

import argparse
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from time import gmtime
from typing import TYPE_CHECKING, Any

from runner import client, reading
from runner.cli.output import add_verb, nearest_job, print_answer, print_json, print_message, show
from runner.engine.custom_entries import models_of
from runner.errors import UsageProblem
from runner.files import is_file, is_folder, read_file
from runner.gallery.formatting import mapping
from runner.retention import statuses
from runner.settings import Home, find_home
from runner.spool.disk.disk import leaving_out
from runner.spool.store.names import is_safe_id
from runner.wire import read_json
from specs.schemas import kinds
from specs.suggest import did_you_mean
from specs.times import parse_moment

if TYPE_CHECKING:
    from runner.gallery.search import Page

# Some are read more than once, and each is told of once.
tell = cache(print_message)
_NEWEST = 200
_FILTERS = {
    "kind": "a kind of spec, such as text2img",
    "model": "a name from `fluxdrop models`",
    "pack": "made from this pack",
    "since": "2026-11-23, 2026-11-23T08:00, or an age: 30m, 12h, 2d, 1w",
    "until": "the same; a day is included",
    "size": "1024x768",
    "job": "the id of a job",
}


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    meaning = "find pictures, make pages, rebuild the index"
    gallery = verbs.add_parser("gallery", parents=[shared], help=meaning, description=meaning)
    ways = gallery.add_subparsers(dest="way", metavar="search|page|rebuild", required=True)
    search = add_verb(ways, shared, "search", run_search, "newest first")
    text_help = 'words of the prompt, or their beginnings; a word in "quotes" is a whole one'
    search.add_argument("text", nargs="*", metavar="TEXT", help=text_help)
    for name, meaning in _FILTERS.items():
        known = kinds() if name == "kind" else None
        search.add_argument(f"--{name}", metavar=name.upper(), choices=known, help=meaning)
    search.add_argument("--tag", action="append", metavar="TAG", help="may be given again")
    search.add_argument("--seed", type=int, metavar="N")
    search.add_argument("--limit", type=_count, default=20, metavar="N", help="default: 20")
    search.add_argument("--offset", type=_count, default=0, metavar="N", help="how many to pass")
    page = add_verb(ways, shared, "page", run_page, "write the contact sheets of jobs")
    page.add_argument("ids", nargs="*", metavar="ID", help="without: the page of all jobs")
    add_verb(ways, shared, "rebuild", run_rebuild, "make the index from the sidecars")


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**62:
        raise ValueError(text)
    return number


def run_search(options: argparse.Namespace) -> int:
    """Print the newest pictures that match the text and every filter."""
    from runner.gallery.search import search
    from runner.gallery.store import FOLDER, Gallery

    home = find_home(options.home)
    filters = {name: getattr(options, name) for name in (*_FILTERS, "tag", "seed")}

    gallery = Gallery(home.data / FOLDER)

    def matching() -> "Page":
        text = " ".join(options.text)
        return search(gallery, text, limit=options.limit, offset=options.offset, **filters)

    page = matching()
    if gallery.damaged or gallery.missing:
        _rebuild(home, if_missing=True, damaged=gallery.damaged)
        page = matching()
    if options.json:
        print_json(page)
    else:
        _print_table(page, options.offset)
    if not (page["total"] or options.json) and options.model:
        if near := did_you_mean(options.model, models_of(home.settings)):
            print_message(f"--model {options.model}: {near}")
    return 0


def _rebuild(home: Home, *, if_missing: bool = False, damaged: bool = False) -> int:
    """Rebuild the index from the sidecars, if need be, and return the number of rows.

    Shows the progress on a terminal. Raises UsageProblem where the index cannot be written.
    """
    from runner.gallery.rebuild import rebuild
    from runner.gallery.store import FOLDER, Gallery

    def print_progress(done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            end = "\n" if done == total else "\r"
            print_message(f"reading sidecars: {done:,} of {total:,} jobs", end=end)

    home.prepare()
    gallery = Gallery(home.data / FOLDER, writing=True)
    gallery.damaged = damaged
    try:
        progress = print_progress if sys.stderr.isatty() else None
        return rebuild(gallery, home.outbox, progress, anew=not if_missing, if_missing=if_missing)
    except OSError as error:
        raise UsageProblem(f"no index of the gallery: {error}: see `fluxdrop doctor`") from error


def _print_table(page: "Page", offset: int) -> None:
    rows = page["rows"]
    if rows:
        longest = max(len(str(row["id"])) for row in rows)
        models = max(5, *(len(str(row["model"])) for row in rows))
        head = (
            f"{'made':<16}  {'id':<{longest}}  {'kind':<8}  {'model':<{models}}  "
            f"{'seed':>10}  {'size':>9}  "
        )
        columns = max(20, shutil.get_terminal_size((120, 24)).columns - len(head))
        show(f"{head}prompt")
        for row in rows:
            size = f"{row['width']}x{row['height']}" if row.get("width") else ""
            show(
                f"{_local(row['created_at']):<16}  {row['id']:<{longest}}  {row['kind']!s:<8}  "
                f"{row['model']!s:<{models}}  {row['seed']!s:>10}  {size:>9}  "
                f"{_fitted(str(row['prompt']), columns)}"
            )
    last = offset + len(rows)
    more = f"; --offset {last} shows the next" if rows and last < page["total"] else ""
    shown = f"{offset + 1} to {last} of " if rows else ""
    print_message(f"{shown}{page['total']:,} pictures{more}")


def _local(moment: object) -> str:
    try:
        return parse_moment(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""


def _fitted(text: str, columns: int) -> str:
    """The text cut to one line of so many columns, without characters that control a terminal."""
    shown, used = "", 0
    for char in " ".join(text.split()):
        char = char if char.isprintable() else "\N{REPLACEMENT CHARACTER}"
        wide = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used + wide > columns - 1:
            return f"{shown}…"
        shown, used = shown + char, used + wide
    return shown


def run_page(options: argparse.Namespace) -> int:
    """Write contact sheets and print their paths."""
    home = find_home(options.home)
    pages = [_job_page(home, job) for job in options.ids] or [write_outbox_page(home, months=True)]
    print_answer(options, {"pages": pages}, *pages)
    return 0


def _job_page(home: Home, job: str) -> str:
    from runner.daemon.results import TABLES
    from runner.gallery.page.layout import Shot, shots_of
    from runner.gallery.page.paging import pages_of
    from runner.spool.disk.disk import Disk

    status = client.status(home, job)
    if "images" not in status:
        raise UsageProblem(f"there is no job {job!r}: {nearest_job(home, job)}")
    folder = home.job(status["id"])
    page = folder / "index.html"
    if status["images"]["failed"] and is_file(page):
        # Only the runner knows which images failed, and why: the pages that it wrote are kept.
        return str(page)
    files = reading.sidecars(folder)

    def shots(numbers: Sequence[int]) -> list[Shot]:
        found = (read_json(files[number]) for number in numbers)
        return shots_of((each for each in found if each and mapping(each.get("result"))), ())

    tables = [name for name in TABLES if is_file(folder / name)]
    pages, _ = pages_of(status, list(files), shots, beside=tables)
    for name, text in pages.items():
        Disk(home.outbox).replace(folder / name, text.encode())
    return str(page)


def write_outbox_page(home: Home, *, months: bool = False) -> str:
    """Write the page of the newest jobs, and those of older ones that have changed; their path.

    Goes by the times of folders, and reads only the statuses that it shows. Only with `months` it
    makes pages of older jobs where there are none.
    """
    from runner.gallery.page.overview import months_in

    oldest_first = sorted(_folders(home))
    shown: list[dict[str, Any]] = []
    while oldest_first and len(shown) < _NEWEST:
        shown += statuses(home, [oldest_first.pop()[1]], tell=tell)
    _write_months(home, oldest_first, make=months)
    page = home.outbox / "index.html"
    _write_jobs(home, page, shown, months=months_in(home.outbox))
    return str(page)


def _folders(home: Home) -> Iterator[tuple[int, str]]:
    """The folders that may be jobs', with their times."""
    home.require_mounted()
    if not is_folder(home.outbox):
        raise UsageProblem(f"the outbox is not there: {home.outbox}: put it back")
    with os.scandir(home.outbox) as entries:
        for entry in entries:
            if is_safe_id(entry.name) and entry.is_dir(follow_symlinks=False):
                with leaving_out(entry.path, tell):
                    yield entry.stat(follow_symlinks=False).st_mtime_ns, entry.name


def _write_months(home: Home, oldest_first: Sequence[tuple[int, str]], *, make: bool) -> None:
    """Write the pages of months whose jobs have changed; remove those that have no jobs."""
    from runner.gallery.page.overview import MONTHS, MOST_JOBS, months_in
    from runner.spool.disk.disk import Disk

    disk, stale = Disk(home.outbox), {*months_in(home.outbox)}
    for moment, group in groupby(oldest_first, lambda job: gmtime(max(0, job[0] // 10**9))[:2]):
        month = "{}-{:02}".format(*moment)
        jobs = list(group)
        for begin in range(0, len(jobs), MOST_JOBS):
            some = jobs[begin : begin + MOST_JOBS]
            page = home.outbox / MONTHS / f"{month}.{begin // MOST_JOBS + 1:03}.html"
            if page.name not in stale and not make:
                continue
            stale.discard(page.name)
            made_from = f"<!-- {sha256(repr(some).encode()).hexdigest()} -->"
            with suppress(OSError):
                if read_file(page).endswith(made_from.encode()):
                    continue
            disk.make_folder(page.parent)
            shown = list(statuses(home, [name for _, name in some], tell=tell))
            _write_jobs(home, page, shown, made_from, month=month)
    for name in stale:
        disk.remove(home.outbox / MONTHS / name)


def _write_jobs(
    home: Home, page: Path, jobs: Sequence[Mapping[str, Any]], end: str = "", **more: Any
) -> None:
    from runner.gallery.page.overview import prompts_of
    from runner.gallery.page.sheet import outbox_page
    from runner.spool.disk.disk import Disk

    firsts = {str(job["id"]): _first_sidecar(home, job) for job in jobs}
    packs = {job: str(mapping(one.get("result")).get("pack") or "") for job, one in firsts.items()}
    prompts = {job: prompts_of(one) for job, one in firsts.items()}
    Disk(home.outbox).replace(page, (outbox_page(jobs, packs, prompts, **more) + end).encode())


def _first_sidecar(home: Home, status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sidecar of a picture that a job's status names, for its pack and its prompt.

    Empty where the job has no picture yet.
    """
    for output in status["outputs"][:1]:
        file = home.job(status["id"]) / output["sidecar"]
        with leaving_out(file, tell):
            return read_json(file) or {}
    return {}


def run_rebuild(options: argparse.Namespace) -> int:
    """Rebuild the index and print how many pictures it has."""
    count = _rebuild(find_home(options.home))
    print_answer(options, {"rows": count}, f"{count:,} pictures")
    return 0
