"""The places of a runner: told from what lies at their path meanwhile, and known again."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import PlaceAway, UsageProblem
from runner.places import Places, mounts_of, read_mounts, refuse_unmounted
from runner.settings import Home, Settings
from tests.spool.disk import mounts


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose places are pinned."""
    made = Home(tmp_path / "home")
    made.prepare()
    pin(made)
    return made


def pin(home: Home) -> None:
    home.places.pin(inbox=home.inbox, outbox=home.outbox, data=home.data)


def is_away(home: Home, folder: Path) -> bool:
    message = home.places.away()
    assert message is None or "restart the runner to use what is there now" in message
    return message is not None and message.startswith(f"{folder} is not the folder")


def test_no_place_is_away_until_they_are_pinned_and_once_they_are_unpinned(home: Home) -> None:
    assert Places().away() is None and home.places.away() is None
    shutil.rmtree(home.outbox)
    assert is_away(home, home.outbox)
    home.places.unpin()
    assert home.places.away() is None
    home.places.check(home.outbox / "x")


@pytest.mark.parametrize("name", ["outbox", "data"])
def test_a_folder_that_is_gone_or_another_is_away_until_it_is_back(home: Home, name: str) -> None:
    folder = home.root / name
    aside = folder.rename(home.root / "aside")
    assert is_away(home, folder)
    folder.mkdir()
    assert is_away(home, folder)
    folder.rmdir()
    aside.rename(folder)
    assert home.places.away() is None


def test_an_inbox_that_is_made_anew_is_the_inbox_unless_the_data_is_away(home: Home) -> None:
    shutil.rmtree(home.inbox)
    assert is_away(home, home.inbox)
    home.inbox.mkdir()
    assert home.places.away() is None
    home.inbox.rmdir()
    home.data.rename(home.root / "aside")
    home.inbox.mkdir()
    with pytest.raises(PlaceAway):
        home.places.check(home.inbox / "x")


def test_another_disk_that_is_mounted_over_the_inbox_is_not_the_inbox(home: Home) -> None:
    with mounts.memory_disk(home.inbox):
        assert is_away(home, home.inbox)
    assert home.places.away() is None
    disk = home.inbox.rename(home.root / "aside")
    with mounts.memory_disk(home.inbox):
        pin(home)
    assert is_away(home, home.inbox)
    assert disk.is_dir()


def test_a_place_that_comes_back_under_other_numbers_is_known_by_its_mark(home: Home) -> None:
    aside = home.outbox.rename(home.root / "aside")
    assert is_away(home, home.outbox)
    shutil.copytree(aside, home.outbox)
    assert home.places.away() is None
    shutil.rmtree(home.outbox)
    assert is_away(home, home.outbox)
    shutil.copytree(aside, home.outbox, ignore=lambda folder, names: names)
    assert is_away(home, home.outbox)


def test_a_mark_that_is_tidied_away_is_made_again_so_the_place_is_known_when_it_is_back(
    home: Home,
) -> None:
    for folder in (home.inbox, home.outbox):
        (mark,) = folder.iterdir()
        mark.unlink()
    home.places.tend_marks()
    aside = home.outbox.rename(home.root / "aside")
    home.places.tend_marks()
    assert is_away(home, home.outbox)
    home.outbox.mkdir()
    home.places.tend_marks()
    assert is_away(home, home.outbox) and list(home.outbox.iterdir()) == []
    home.outbox.rmdir()
    shutil.copytree(aside, home.outbox)
    assert home.places.away() is None


def test_the_data_is_known_by_its_numbers_alone_for_the_ledger_is_open_in_it(home: Home) -> None:
    aside = home.data.rename(home.root / "aside")
    shutil.copytree(aside, home.data)
    assert is_away(home, home.data)


def test_a_second_disk_with_the_numbers_of_the_first_is_another(tmp_path: Path) -> None:
    """Disks are numbered in turn, and the first folder of each has the same number."""
    at = tmp_path / "at"
    home = Home(tmp_path / "home", Settings(outbox=str(at)))
    with mounts.memory_disk(at):
        home.prepare()
        pin(home)
        before = at.stat()
    assert is_away(home, at)
    with mounts.memory_disk(at):
        assert (at.stat().st_dev, at.stat().st_ino) == (before.st_dev, before.st_ino)
        assert is_away(home, at)


def test_an_operation_is_refused_where_its_place_or_the_data_is_away(home: Home) -> None:
    home.outbox.rename(home.root / "aside")
    home.places.check(home.inbox / "x.yaml")
    home.places.check(home.data / "ledger.sqlite")
    for path in (home.health, str(home.drops / "x.yaml.json")):
        with pytest.raises(PlaceAway, match="put it back"):
            home.places.check(path)
    (home.root / "aside").rename(home.outbox)
    home.data.rename(home.root / "aside")
    for path in (home.health, home.inbox / "x.yaml", home.data / "ledger.sqlite"):
        with pytest.raises(PlaceAway, match="data"):
            home.places.check(path)


def test_marks_are_hidden_own_files_that_are_removed_at_the_end(home: Home) -> None:
    for folder in (home.inbox, home.outbox):
        (mark,) = folder.iterdir()
        assert mark.name.startswith(".place-") and mark.name.endswith(".writing")
    assert list(home.data.iterdir()) == []
    home.outbox.rename(home.root / "aside")
    home.outbox.mkdir()
    home.places.unpin()
    assert list(home.inbox.iterdir()) == []
    assert len(list((home.root / "aside").iterdir())) == 1, "it is swept at the next start"


def test_a_place_without_a_mark_is_known_by_its_numbers(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> tuple[int, str]:
        raise PermissionError("read-only")

    monkeypatch.setattr("runner.places.tempfile.mkstemp", refuse)
    pin(home)
    assert list(home.outbox.iterdir()) == []
    aside = home.outbox.rename(home.root / "aside")
    assert is_away(home, home.outbox)
    aside.rename(home.outbox)
    assert home.places.away() is None


def test_a_home_goes_to_another_process_with_its_places(home: Home) -> None:
    again = pickle.loads(pickle.dumps(home))
    assert again == home and again.places.away() is None


def test_only_what_lies_on_another_disk_than_the_data_has_its_mount_written_down(
    tmp_path: Path,
) -> None:
    disk, data = tmp_path / "disk", tmp_path / "data"
    data.mkdir()
    (tmp_path / "inbox").mkdir()
    with mounts.memory_disk(disk):
        (disk / "outbox").mkdir()
        (tmp_path / "link").symlink_to(disk / "outbox")
        folders = [tmp_path / "inbox", disk / "outbox", tmp_path / "link"]
        found = mounts_of(folders, data)
        assert found == {str(folder): str(disk) for folder in folders[1:]}
        file = data / "mounts.json"
        file.write_text(json.dumps(found), encoding="utf-8")
        refuse_unmounted(folders, file)
    refuse_unmounted(folders[:1], file)
    with pytest.raises(PlaceAway, match=f"was on the disk of {disk}"):
        refuse_unmounted(folders, file)


@pytest.mark.parametrize("text", [None, "", "[1]", "{"])
def test_without_a_note_of_mounts_none_is_missed(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "mounts.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert read_mounts(file) == {}
    refuse_unmounted([tmp_path / "away"], file)


def _link(root: Path) -> Settings:
    (root / "link").symlink_to(root / "inbox")
    return Settings(outbox="link")


@pytest.mark.parametrize(
    "settings",
    [
        lambda root: Settings(inbox="both", outbox="both"),
        lambda root: Settings(outbox="inbox/made"),
        lambda root: Settings(inbox="outbox/a/b"),
        lambda root: Settings(inbox="."),
        lambda root: Settings(outbox="data/outbox"),
        lambda root: Settings(outbox="prompts"),
        _link,
    ],
)
def test_folders_that_are_one_or_lie_in_one_another_are_refused(
    tmp_path: Path, settings: Callable[[Path], Settings]
) -> None:
    root = tmp_path / "home"
    (root / "inbox").mkdir(parents=True)
    if os.name == "nt" and settings is _link:
        pytest.skip("a link needs rights on Windows")
    with pytest.raises(UsageProblem, match="give the settings `inbox` and `outbox` folders"):
        Home(root, settings(root)).prepare()


def test_folders_elsewhere_and_through_links_are_fine(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", Settings(inbox="../in", outbox=str(tmp_path / "out")))
    home.prepare()
    home.prepare()
    assert (tmp_path / "in").is_dir() and (tmp_path / "out").is_dir()
