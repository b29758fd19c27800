"""What lies in the inbox and is not taken: listed with the reason, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from runner.cli.overlooked import overlooked
from runner.settings import find_home
from tests.cli.here import Here
from tests.harness import spec

TAKEN = ("good.yaml", "photo.jpg", "notes.txt", ".hidden.yaml", "half.yaml.part", "README.md")


@pytest.fixture
def inbox(home: Path) -> Path:
    """An inbox with files that are taken, or ignored on purpose."""
    folder = home / "inbox"
    for name in TAKEN:
        (folder / name).write_text(spec(), encoding="utf-8")
    (folder / ".tmp").mkdir(exist_ok=True)
    (folder / ".tmp" / "aside.yaml").write_text(spec(), encoding="utf-8")
    (folder / "album").mkdir()
    (folder / "album" / "cat.png").write_bytes(b"a picture")
    return folder


def test_what_is_taken_or_ignored_on_purpose_is_not_listed(home: Path, inbox: Path) -> None:
    assert overlooked(find_home(str(home))) == []


def test_status_and_doctor_list_what_is_not_taken_and_why(here: Here, inbox: Path) -> None:
    """Seen red: all of these were ignored without a word."""
    (inbox / "hero.yaml.txt").write_text(spec(), encoding="utf-8")
    (inbox / "album" / "more").mkdir()
    (inbox / "album" / "more" / "deep.yaml").write_text(spec(), encoding="utf-8")
    (inbox / "folder.json").mkdir()
    (inbox / "empty.yaml").touch()
    (inbox / "nobody.retry").touch()
    (here.home / "outbox" / "busy").mkdir()
    status = {"id": "busy", "state": "running"}
    (here.home / "outbox" / "busy" / "status.json").write_text(json.dumps(status), encoding="utf-8")
    (inbox / "busy.keep").touch()
    why = {
        "inbox/hero.yaml.txt": "its name ends with .txt: rename it to hero.yaml",
        "inbox/album/more/deep.yaml": "subfolders are not scanned: move it into the inbox itself",
        "inbox/folder.json": "it is a folder, and a spec is a file",
        "inbox/empty.yaml": "it is empty: its text is waited for, ten minutes long",
        "inbox/nobody.retry": "there is no job or drop 'nobody': it waits a minute for one",
        "inbox/busy.keep": "it waits until busy is over",
    }
    if os.name != "nt":  # Windows itself drops the blank
        (inbox / "cat.yaml ").write_text(spec(), encoding="utf-8")
        why["inbox/cat.yaml "] = "its name ends with a blank: rename it to cat.yaml"
    why = {os.path.normpath(file): reason for file, reason in why.items()}
    listed = here("status", "--json").json["not_taken"]
    assert {each["file"]: each["why"] for each in listed} == why
    told = here("status").out
    for file, reason in why.items():
        assert f"{file} is not taken: {reason}" in told
    (finding,) = (f for f in here("doctor", "--json").json["findings"] if f["name"] == "not taken")
    assert not finding["ok"]
    assert sorted(finding["why"]) == sorted(f"{file}: {reason}" for file, reason in why.items())


def test_at_most_twenty_are_listed_however_many_there_are(here: Here, inbox: Path) -> None:
    for number in range(30):
        (inbox / f"{number}.yaml.txt").touch()
    assert len(here("status", "--json").json["not_taken"]) == 20


@pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="no folder can be as deep here")
def test_a_deep_folder_and_thousands_of_folders_are_not_walked_to_the_end(
    here: Here, inbox: Path
) -> None:
    """Seen red: `status` and `doctor` ended with a RecursionError."""
    at = os.open(inbox, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    (inbox / "z.yaml.txt").write_text(spec(), encoding="utf-8")
    assert [file for file, _ in overlooked(find_home(str(here.home)))] == ["inbox/z.yaml.txt"]
    subprocess.run(["rm", "-r", str(inbox / "d")], check=True)


def test_a_spec_that_waits_for_its_table_is_listed_with_the_table(home: Path, inbox: Path) -> None:
    """Seen red: `status` said that it was submitted."""
    (inbox / "there.csv").write_text("prompt\nx\n")
    for name, table in (("a", "there.csv"), ("b", "sollw.csv"), ("c", "../x.csv")):
        (inbox / f"{name}.yaml").write_text(f"kind: text2img\nmodel: tiny\ntable: {table}\n")
    (inbox / "e.yaml").write_text(spec(prompt="a table: no table"), encoding="utf-8")
    found = overlooked(find_home(str(home)))
    assert found == [("inbox/b.yaml", "it waits for its table sollw.csv")]
