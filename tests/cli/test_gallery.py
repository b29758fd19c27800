"""`gallery search`, `gallery page`, `gallery rebuild`, `clean`, and pictures submitted again."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runner import client, reading
from runner.cli import clean, gallery
from runner.gallery.metadata import encode
from runner.gallery.page import overview, paging
from runner.gallery.store import FOLDER, Gallery
from runner.settings import Home
from specs.read import read
from specs.validate import validate
from tests.cli.here import Here
from tests.gallery.samples import picture, put_job, put_json, sidecar, status
from tests.test_startup import HEAVY, run

pytestmark = pytest.mark.timeout(120)

HOSTILE = "a \x1b[31m red\x07 fox 赤い狐 " + "in the snow " * 30


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


@pytest.fixture
def full(here: Here) -> Here:
    """A home with three finished jobs that no index knows of yet."""
    outbox = here.home / "outbox"
    made: dict[str, list[dict[str, Any]]] = {
        "fox": [
            sidecar(n, job="fox", result_created_at=ago(days=3, seconds=-n)) for n in range(1, 31)
        ],
        "cat": [
            sidecar(
                1, job="cat", prompt=HOSTILE, kind="fill", model="tiny", tags=["night"], seed=99,
                result_pack="pets", result_created_at=ago(hours=1),
            ),
        ],
        "lamp": [sidecar(1, job="lamp", prompt="a lamp", result_created_at=ago(minutes=5))],
    }  # fmt: skip
    days = {"fox": 40.0, "cat": 10.0, "lamp": 1.0}
    for job, sidecars in made.items():
        folder = put_job(outbox, sidecars, job=job)
        ended = {"finished_at": ago(days=days[job]), "accepted_at": ago(days=days[job])}
        output = {"sidecar": f"{job}-0001.json", "thumbnail": f"thumbs/{job}-0001.webp"}
        put_json(folder / "status.json", status(len(sidecars), job=job, outputs=[output], **ended))
    return here


def ids(shape: dict[str, Any]) -> list[str]:
    return [row["id"] for row in shape["rows"]]


def test_a_search_finds_the_newest_and_makes_the_index_if_there_is_none(full: Here) -> None:
    shape = full("gallery", "search", "--json").json
    assert shape["total"] == 32 and ids(shape)[:3] == ["lamp-0001", "cat-0001", "fox-0030"]
    row = shape["rows"][0]
    assert {"job", "file", "thumbnail", "prompt", "model", "kind", "seed", "created_at"} <= set(row)
    assert (full.home / row["file"]).is_file()
    assert not Gallery(full.home / "data" / FOLDER).missing


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["lamp"], ["lamp-0001"]),
        (["fox", "red", "--kind", "fill"], ["cat-0001"]),
        (["--model", "tiny"], ["cat-0001"]),
        (["--pack", "pets", "--tag", "night"], ["cat-0001"]),
        (["--seed", "99"], ["cat-0001"]),
        (["--job", "lamp"], ["lamp-0001"]),
        (["--since", "2h"], ["lamp-0001", "cat-0001"]),
        (["--until", "30m", "--since", "1d"], ["cat-0001"]),
        (["fox", "--limit", "2", "--offset", "1"], ["fox-0030", "fox-0029"]),
        (["zebra"], []),
    ],
)
def test_a_search_goes_by_words_and_filters(full: Here, asked: list[str], found: list[str]) -> None:
    done = full("gallery", "search", *asked, "--json")
    assert done.code == 0 and ids(done.json) == found


def test_the_table_fits_the_terminal_and_cannot_be_steered_by_a_prompt(
    full: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = full("gallery", "search", "--limit", "3")
    head, *rows = done.out.splitlines()
    assert head.split() == ["made", "id", "kind", "model", "seed", "size", "prompt"]
    assert len(rows) == 3 and all(len(line) <= 100 for line in rows)
    assert "\x1b" not in done.out and "\x07" not in done.out and "赤い狐" in done.out
    assert done.err == "1 to 3 of 32 pictures; --offset 3 shows the next\n"
    assert full("gallery", "search", "zebra").err == "0 pictures\n"


@pytest.mark.parametrize(
    "wrong", [["--since", "yesterday"], ["--size", "big"], ["--limit", "-1"], ["--sed", "7"]]
)
def test_a_search_that_makes_no_sense_is_2(full: Here, wrong: list[str]) -> None:
    assert full("gallery", "search", *wrong).code == 2


@pytest.mark.parametrize("damage", ["all but the first page", "a row"])
def test_a_damaged_index_is_found_out_and_made_again(full: Here, damage: str) -> None:
    """Seen red with a damaged row: 0 pictures, and no word of it."""
    assert full("gallery", "rebuild").out == "32 pictures\n"
    file = full.home / "data" / FOLDER / "index-2.sqlite"
    data = file.read_bytes()
    row = data.index(b'{"id":"')
    rotten = data[:row] + b"x" + data[row + 1 :]
    file.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096) if damage[0:3] == "all" else rotten)
    shape = full("gallery", "search", "--limit", "100", "--json").json
    assert shape["total"] == len(shape["rows"]) == 32


def test_rebuild_forgets_what_is_gone(full: Here) -> None:
    assert full("gallery", "rebuild", "--json").json == {"rows": 32}
    shutil.rmtree(full.home / "outbox" / "fox")
    assert full("gallery", "rebuild", "--json").json == {"rows": 2}
    assert full("gallery", "search", "--json").json["total"] == 2


def test_page_writes_the_sheet_of_a_job_and_the_page_of_all(full: Here) -> None:
    one = full("gallery", "page", "cat")
    page = Path(one.out.strip())
    assert one.code == 0 and page == full.home / "outbox" / "cat" / "index.html"
    assert "cat-0001.png" in page.read_text(encoding="utf-8")
    (every,) = full("gallery", "page", "--json").json["pages"]
    html = Path(every).read_text(encoding="utf-8")
    assert all(f'href="{job}/index.html"' in html for job in ("fox", "cat", "lamp"))
    assert 'data-pack="pets"' in html
    assert full("gallery", "page", "nobody").code == 2


def test_page_writes_all_pages_of_a_job(full: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_IMAGES", 8)
    opened: list[str] = []
    true = gallery.read_json
    monkeypatch.setattr(gallery, "read_json", lambda f: (opened.append(f.name), true(f))[1])
    assert full("gallery", "page", "fox").code == 0
    folder = full.home / "outbox" / "fox"
    names = ["index.html", "page-2.html", "page-3.html", "page-4.html"]
    assert sorted(file.name for file in folder.glob("*.html")) == names
    shown = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    made = [f"fox-{n:04}" for n in range(1, 31)]
    assert re.findall(r'class="shot[^"]*" id="(fox-\d+)"', shown) == made
    # The first of a page is read with the page before, to see whether a row ends there.
    assert {*opened} == {f"{stem}.json" for stem in made} and len(opened) == 30 + 3


@pytest.fixture
def year(here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A home with five jobs in October and three in each of two later months; two are the newest.

    A page has at most three jobs.
    """
    monkeypatch.setattr(gallery, "_NEWEST", 2)
    monkeypatch.setattr(overview, "MOST_JOBS", 3)
    for month, count in ((10, 5), (11, 3), (12, 3)):
        for number in range(1, count + 1):
            put_old_job(here, f"m{month}-{number}", datetime(2025, month, number, tzinfo=UTC))
    (here.home / "outbox" / "drops").mkdir(exist_ok=True)
    (here.home / "outbox" / "stranger").mkdir()
    return here


def put_old_job(here: Here, job: str, moment: datetime) -> None:
    folder = put_job(here.home / "outbox", [sidecar(1, job=job, result_pack="pets")], job=job)
    output = {"sidecar": f"{job}-0001.json", "thumbnail": f"thumbs/{job}-0001.webp"}
    put_json(
        folder / "status.json",
        status(1, job=job, outputs=[output], accepted_at=moment.isoformat()),
    )
    os.utime(folder, (moment.timestamp(), moment.timestamp()))


def jobs_on(page: Path) -> list[str]:
    return re.findall(r'href="(?:\.\./)?([^"/]*)/index.html" data-pack', page.read_text("utf-8"))


def months(here: Here) -> dict[str, list[str]]:
    folder = here.home / "outbox" / "_months"
    return {file.name: jobs_on(file) for file in sorted(folder.iterdir())}


def test_older_jobs_have_pages_for_each_month(year: Here) -> None:
    assert full_page(year) == ["m12-3", "m12-2"]
    assert months(year) == {
        "2025-10.001.html": ["m10-3", "m10-2", "m10-1"],
        "2025-10.002.html": ["m10-5", "m10-4"],
        "2025-11.001.html": ["m11-3", "m11-2", "m11-1"],
        "2025-12.001.html": ["m12-1"],
    }
    page = (year.home / "outbox/index.html").read_text("utf-8")
    assert re.findall(r'href="_months/([^"]*)"', page) == list(months(year))
    month = (year.home / "outbox/_months/2025-12.001.html").read_text("utf-8")
    assert 'src="../m12-1/thumbs/m12-1-0001.webp"' in month and 'data-pack="pets"' in month
    assert 'href="../index.html"' in month and "<h1>2025-12</h1>" in month


def full_page(here: Here) -> list[str]:
    assert here("gallery", "page").code == 0
    return jobs_on(here.home / "outbox" / "index.html")


def test_only_the_statuses_that_are_shown_are_read_and_no_months_twice(
    year: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: every status was read, and all were held at once."""
    read: list[str] = []
    true = reading.status
    monkeypatch.setattr(reading, "status", lambda f: (read.append(f.parent.name), true(f))[1])
    full_page(year)
    older = [*(f"m10-{n}" for n in range(1, 6)), "m11-1", "m11-2", "m11-3", "m12-1"]
    assert sorted(read) == sorted([*older, "stranger", "m12-2", "m12-3"])
    read.clear()
    full_page(year)
    assert set(read) == {"stranger", "m12-3", "m12-2"}
    read.clear()
    # What changes is written again, and of its month only that page.
    put_old_job(year, "m10-6", datetime(2025, 10, 6, tzinfo=UTC))
    full_page(year)
    assert set(read) == {"stranger", "m12-3", "m12-2", "m10-4", "m10-5", "m10-6"}


def test_the_pages_of_months_lose_the_jobs_that_clean_removes(year: Here) -> None:
    """But `clean` makes none where there were none: that takes a while with many jobs."""
    ended = {"finished_at": "2020-01-01T00:00:00.000Z"}
    put_json(year.home / "outbox/m12-3/status.json", status(1, job="m12-3", **ended))
    assert "removed 1" in year("clean", "--older-than", "1000d", "--yes").err
    assert not (year.home / "outbox" / "_months").exists()
    full_page(year)
    for number in (1, 2):
        ended = {"finished_at": ago(hours=1)}
        put_json(year.home / f"outbox/m11-{number}/status.json",
                 status(1, job=f"m11-{number}", **ended))  # fmt: skip
    assert year("clean", "--older-than", "2h", "--yes").code == 0
    assert months(year) == {} and full_page(year) == ["m11-2", "m11-1"]


def test_a_planted_page_of_a_month_is_replaced_and_another_file_there_left(year: Here) -> None:
    folder = year.home / "outbox" / "_months"
    folder.mkdir()
    (folder / "notes.txt").touch()
    (folder / "2025-11.001.html").symlink_to(year.home / "elsewhere")
    full_page(year)
    assert not (year.home / "elsewhere").exists() and (folder / "notes.txt").exists()
    assert jobs_on(folder / "2025-11.001.html") == ["m11-3", "m11-2", "m11-1"]


def test_page_keeps_a_sheet_that_knows_why_images_failed(full: Here) -> None:
    folder = full.home / "outbox" / "cat"
    counts = {"total": 2, "done": 1, "failed": 1, "skipped": 0}
    put_json(folder / "status.json", status(2, job="cat", state="failed", images=counts))
    (folder / "index.html").write_text("the runner's own", encoding="utf-8")
    assert full("gallery", "page", "cat").code == 0
    assert (folder / "index.html").read_text(encoding="utf-8") == "the runner's own"


def test_clean_only_says_what_would_go_until_it_is_told_to(full: Here) -> None:
    done = full("clean", "--older-than", "7d")
    assert done.code == 0 and [line.split()[-1] for line in done.out.splitlines()] == ["fox", "cat"]
    assert "nothing was removed" in done.err
    shape = full("clean", "--older-than", "7d", "--json").json
    assert [job["id"] for job in shape["jobs"]] == ["fox", "cat"] and shape["removed"] is False
    assert {"fox", "cat", "lamp"} <= set(os.listdir(full.home / "outbox"))
    assert full("clean").code == 2
    for wrong in (["--older-than", "soon"], ["--keep", "much"]):
        assert full("clean", *wrong, "--yes").code == 2


def test_clean_removes_whole_jobs_and_what_the_gallery_says_of_them(full: Here) -> None:
    full("gallery", "rebuild")
    done = full("clean", "--older-than", "30d", "--yes")
    assert done.code == 0 and "removed 1 finished jobs" in done.err
    assert not any("fox" in name for name in os.listdir(full.home / "outbox"))
    assert full("gallery", "search", "--json").json["total"] == 2
    page = (full.home / "outbox" / "index.html").read_text(encoding="utf-8")
    assert "fox/index.html" not in page and "lamp/index.html" in page


def test_clean_by_size_takes_the_oldest_first(full: Here) -> None:
    size = {job["id"]: job["bytes"] for job in full("clean", "--keep", "0", "--json").json["jobs"]}
    assert list(size) == ["fox", "cat", "lamp"]
    keep = size["cat"] + size["lamp"]
    shape = full("clean", "--keep", f"{keep}B", "--json").json
    assert [job["id"] for job in shape["jobs"]] == ["fox"] and shape["bytes"] == size["fox"]


def test_clean_leaves_living_jobs_and_strangers_alone(full: Here) -> None:
    outbox = full.home / "outbox"
    put_json(outbox / "fox" / "status.json", status(1, job="fox", state="running"))
    put_json(outbox / "cat" / "status.json", status(1, job="another"))
    (outbox / "mine").mkdir()
    (outbox / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    elsewhere = full.home / "elsewhere"
    shutil.move(outbox / "lamp", elsewhere)
    (outbox / "lamp").symlink_to(elsewhere, target_is_directory=True)
    shape = full("clean", "--older-than", "0m", "--keep", "0", "--yes", "--json").json
    assert shape["jobs"] == []
    assert (outbox / "fox").is_dir() and (outbox / "mine/notes.txt").is_file()
    assert (elsewhere / "lamp-0001.png").is_file()


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-14:00"])
def test_a_job_with_a_date_in_no_calendar_costs_the_others_nothing(full: Here, date: str) -> None:
    """Seen red: `clean` and the table of a search ended with a traceback."""
    outbox = full.home / "outbox"
    put_json(outbox / "cat" / "status.json", status(1, job="cat", finished_at=date))
    put_job(outbox, [sidecar(1, job="odd", result_created_at=date)], job="odd")
    table = full("gallery", "search", "--limit", "50").out
    assert "odd-0001" in table and "cat-0001" in table
    done = full("clean", "--keep", "0", "--yes")
    assert done.code == 0 and "removed 3 finished jobs" in done.err
    assert (outbox / "cat").is_dir()


def test_clean_leaves_jobs_that_are_kept(full: Here) -> None:
    outbox = full.home / "outbox"
    put_json(outbox / "fox" / "status.json", {**status(1, job="fox"), "kept": True})
    shape = full("clean", "--older-than", "0m", "--keep", "0", "--yes", "--json").json
    assert {job["id"] for job in shape["jobs"]} == {"cat", "lamp"} and (outbox / "fox").is_dir()


def test_a_picture_is_submitted_as_the_spec_that_made_it(full: Here, tmp_path: Path) -> None:
    fact = sidecar(3, prompt="ein “Fuchs”: rot # & $5", model="tiny", steps=8, precision="fp32",
                   x_shelf={"row": 2})  # fmt: skip
    for format, name in (("png", "a.png"), ("jpeg", "b.jpg"), ("webp", "C.WEBP")):
        file = tmp_path / name
        file.write_bytes(encode(picture(), fact, format=format))  # type: ignore[arg-type]
        done = full("submit", str(file))
        assert (done.code, done.out) == (0, f"{file.stem}.yaml\n")
        dropped = (full.home / "inbox" / f"{file.stem}.yaml").read_bytes()
        assert b"result" not in dropped
        expected = {key: value for key, value in fact.items() if key not in ("result", "schema")}
        assert {k: v for k, v in validate(read(dropped)).items() if k != "schema"} == expected
        assert full("check", str(file)).code == 0


def test_a_picture_of_another_program_is_understood_as_far_as_it_goes(
    full: Here, tmp_path: Path
) -> None:
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("parameters", "a red circle\nSteps: 20, Seed: 5, Size: 64x64, Model: tiny")
    picture().save(tmp_path / "forge.png", pnginfo=said)
    assert full("submit", str(tmp_path / "forge.png")).code == 0
    spec = validate(read((full.home / "inbox" / "forge.yaml").read_bytes()))
    assert (spec["prompt"], spec["seed"], spec["steps"]) == ("a red circle", 5, 20)


def test_a_picture_that_says_nothing_is_refused_naming_its_sidecar(
    full: Here, tmp_path: Path
) -> None:
    (tmp_path / "mute.png").write_bytes(encode(picture(), sidecar(), level="none"))
    done = full("submit", str(tmp_path / "mute.png"))
    assert done.code == 2 and "sidecar" in done.err
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert full("submit", str(tmp_path / "torn.png")).code == 1
    assert not list((full.home / "inbox").glob("*.yaml"))


def test_searching_imports_no_picture_library_and_holds_no_lock(full: Here) -> None:
    full("gallery", "rebuild")
    report = run("gallery", "search", "fox", cwd=full.home)
    assert report.code == 0 and report.modules & (HEAVY | {"PIL"}) == set()
    with sqlite3.connect(full.home / "data" / FOLDER / "index-2.sqlite") as base:
        base.execute("BEGIN IMMEDIATE")
        assert run("gallery", "search", "fox", cwd=full.home).code == 0
    base.close()


def test_json_is_what_programs_read_also_of_odd_prompts(full: Here) -> None:
    (row,) = full("gallery", "search", "--pack", "pets", "--json").json["rows"]
    assert row["prompt"] == HOSTILE
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    "name", ["fox.keep", "FOX.KEEP", "night.yaml.keep", "Night~0123456789ab.yaml.keep"]
)
def test_clean_leaves_jobs_that_a_file_in_the_inbox_asks_to_keep(full: Here, name: str) -> None:
    """Seen red: they were removed before a runner came that could obey it."""
    outbox = full.home / "outbox"
    ended = {"finished_at": ago(days=40), "source": {"name": "night~ba9876543210.yaml"}}
    put_json(outbox / "fox" / "status.json", status(1, job="fox", **ended))
    (full.home / "inbox" / name).touch()
    shape = full("clean", "--older-than", "0m", "--keep", "0", "--yes", "--json").json
    assert {job["id"] for job in shape["jobs"]} == {"cat", "lamp"} and (outbox / "fox").is_dir()


@pytest.mark.parametrize("how", ["a file in the inbox", "a runner that obeyed it"])
def test_clean_leaves_a_job_that_is_kept_while_it_removes_others(
    full: Here, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Seen red: it went by the list that it had made."""
    outbox, replace = full.home / "outbox", os.replace

    def keep(source: Any, target: Any, **folders: Any) -> None:
        replace(source, target, **folders)
        if Path(source) != outbox / "fox":
            return
        if how == "a file in the inbox":
            (full.home / "inbox" / "cat.keep").touch()
        else:
            put_json(outbox / "cat" / "status.json", {**status(1, job="cat"), "kept": True})

    monkeypatch.setattr(os, "replace", keep)
    full("clean", "--older-than", "0m", "--yes")
    assert (outbox / "cat").is_dir() and not (outbox / "fox").exists()


def test_clean_leaves_a_job_whose_keep_is_obeyed_while_clean_looks_at_it(
    full: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it looked at the status before, and at the inbox after."""
    outbox, asked = full.home / "outbox", full.home / "inbox" / "cat.keep"
    real = client.status

    def status_then_obeyed(home: Home, job: str) -> dict[str, Any]:
        found = real(home, job)
        if job == "cat" and asked.exists():
            put_json(outbox / "cat" / "status.json", {**status(1, job="cat"), "kept": True})
            asked.unlink()
        return found

    listed = clean.choose
    monkeypatch.setattr(clean, "choose", lambda *given: (listed(*given), asked.touch())[0])
    monkeypatch.setattr(client, "status", status_then_obeyed)
    full("clean", "--older-than", "0m", "--yes")
    assert (outbox / "cat").is_dir() and not (outbox / "lamp").exists()


@pytest.mark.parametrize(
    "text",
    [
        "kind: kontext\nimage: outbox/fox/fox-0001.png\n",
        '{"kind": "kontext", "image": "..\\\\outbox\\\\fox\\\\fox-0001.png"',
        "image: [not, a: spec\nmask: /mnt/pictures/fox/fox-0001.png",
    ],
)
@pytest.mark.parametrize("where", ["inbox/next.yaml", "outbox/next/spec.yaml"])
def test_clean_leaves_a_job_that_a_spec_not_yet_over_names(
    full: Here, where: str, text: str
) -> None:
    """Seen red: its picture went, and the job that named it failed InputMissing."""
    file, outbox = full.home / where, full.home / "outbox"
    if where.startswith("outbox"):
        file.parent.mkdir()
        put_json(file.parent / "status.json", status(1, job="next", state="queued"))
    file.write_text(text, encoding="utf-8")
    shape = full("clean", "--older-than", "0m", "--keep", "0", "--yes", "--json").json
    assert {job["id"] for job in shape["jobs"]} == {"cat", "lamp"} and (outbox / "fox").is_dir()
    if where.startswith("outbox"):
        put_json(file.parent / "status.json", status(1, job="next"))
        shape = full("clean", "--older-than", "0m", "--yes", "--json").json
        assert {job["id"] for job in shape["jobs"]} == {"fox", "next"}


def test_clean_leaves_the_row_of_the_next_job_that_takes_a_freed_id(
    full: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: no search found the new picture any more."""
    full("gallery", "rebuild")
    remove = Gallery.remove

    def after_a_new_job(gallery: Gallery, *rows: Any) -> int:
        if (row := gallery.get("lamp-0001")) in rows:
            gallery.add({**(row or {}), "seed": 123456})
        return remove(gallery, *rows)

    monkeypatch.setattr(Gallery, "remove", after_a_new_job)
    full("clean", "--older-than", "0m", "--yes")
    assert ids(full("gallery", "search", "--json").json) == ["lamp-0001"]
