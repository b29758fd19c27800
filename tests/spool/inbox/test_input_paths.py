"""Which file a text in a spec names, what is read of it, and the name of its copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import InputBad, PathNotAllowed
from runner.files import open_regular
from runner.settings import Home, Settings
from runner.spool.disk.platform import allow_writer_probe, can_probe_writers
from runner.spool.inbox.inputs import (
    copy_name,
    is_from_outbox,
    maker_of,
    named_paths,
    place_of,
    reading_copies,
    take,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that may read from an album, too, with x.png in each of its folders."""
    album = tmp_path / "album"
    album.mkdir()
    made = Home(tmp_path / "home", Settings(input_roots=(str(album),)))
    made.prepare()
    (made.outbox / "hero").mkdir()
    for folder in (made.inbox, made.outbox / "hero", album):
        (folder / "x.png").write_bytes(folder.name.encode())
    return made


def test_every_image_of_a_spec_is_named_with_the_path_of_its_field() -> None:
    spec = {"image": ["a.png", {"path": "b.png", "weight": 0.5}], "mask": "m.png", "prompt": "x"}
    named = [("image.0", "a.png"), ("image.1.path", "b.png"), ("mask", "m.png")]
    assert list(named_paths(spec)) == named
    # What an earlier check found wrong names none.
    assert list(named_paths({"image": [5, None, {}, {"path": 3}, "a.png"], "mask": 7})) == [
        ("image.4", "a.png")
    ]


def test_the_same_fields_read_the_copies() -> None:
    spec = {"image": ["a.png", {"path": "b.png", "weight": 0.5}], "mask": "m.png", "prompt": "x"}
    copies = {"a.png": "1.png", "b.png": "2.png", "m.png": "3.png"}
    inputs = "outbox/edit/inputs"
    assert reading_copies(spec, "edit", copies) == {
        "image": [f"{inputs}/1.png", {"path": f"{inputs}/2.png", "weight": 0.5}],
        "mask": f"{inputs}/3.png",
        "prompt": "x",
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x.png", "home/inbox/x.png"),
        ("inbox/x.png", "home/inbox/x.png"),
        ("outbox/hero/x.png", "home/outbox/hero/x.png"),
        (r"outbox\hero\x.png", "home/outbox/hero/x.png"),
        ("sub/outbox/x.png", "home/inbox/sub/outbox/x.png"),
        ("inbox", "home/inbox/inbox"),
        ("outbox/", "home/inbox/outbox/"),
        ("x..png", "home/inbox/x..png"),
    ],
)
def test_a_relative_path_is_below_the_inbox_unless_it_begins_with_the_outbox(
    home: Home, text: str, place: str
) -> None:
    assert place_of(text, home) == home.root.parent / place


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a/../x.png", "'..'"), (r"a\..\x.png", "'..'"), ("a\0.png", "'..'"),
        ("/etc/passwd", "outside the inbox"), (r"\\host\share\x.png", "outside the inbox"),
        ("x.png:stream", "may not contain ':'"), ("C:x.png", "outside the inbox"),
        ("~/photo.png", "`~` is not expanded"), (r"~\photo.png", "`~` is not expanded"),
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_roots_or_names_a_stream_is_refused(
    home: Home, text: str, why: str
) -> None:
    with pytest.raises(PathNotAllowed, match=why):
        place_of(text, home)


def test_links_may_lead_into_any_allowed_root_and_nowhere_else(home: Home) -> None:
    album, link = home.root.parent / "album", home.inbox / "link.png"
    link.symlink_to(album / "x.png")
    assert place_of("link.png", home) == link
    assert place_of(str(album / "x.png"), home) == album / "x.png"
    link.unlink()
    link.symlink_to(home.data / "ledger.sqlite")
    with pytest.raises(PathNotAllowed, match="a link that leaves"):
        place_of("link.png", home)
    (album / "link.png").symlink_to(home.data)
    with pytest.raises(PathNotAllowed, match="outside the inbox"):
        place_of(str(album / "link.png"), home)


@pytest.mark.parametrize(
    ("text", "maker", "from_outbox"),
    [
        ("outbox/hero/hero-0001.png", "hero", True),
        (r"outbox\hero\hero-0001.png", "hero", True),
        ("outbox/hero/inputs/x.png", None, True),
        ("outbox/x.png", None, True),
        ("inbox/hero/x.png", None, False),
        ("outboxes/x.png", None, False),
        ("pictures/hero/x.png", None, False),
    ],
)
def test_a_picture_of_a_jobs_folder_is_made_by_that_job(
    text: str, maker: str | None, from_outbox: bool
) -> None:
    assert (maker_of(text), is_from_outbox(text)) == (maker, from_outbox)


@pytest.mark.parametrize(
    ("text", "taken", "name"),
    [
        ("a/Cat 1.png", [], "Cat-1.png"),
        (r"a\cat.png", [], "cat.png"),
        ("--.cat.png.", [], "cat.png"),
        ("日本", [], "image"),
        ("x" * 90 + ".png", [], "x" * 76 + ".png"),
        ("cat.png", ["CAT.png"], "2-cat.png"),
        ("cat.png", ["cat.png", "2-Cat.png"], "3-cat.png"),
    ],
)
def test_a_copy_has_a_safe_short_name_that_no_other_copy_has(
    text: str, taken: list[str], name: str
) -> None:
    assert copy_name(text, {other.casefold() for other in taken}) == name


def test_an_image_is_read_whole_with_what_is_known_of_its_writer(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home.inbox / "x.png"
    for writer, closed in ((False, True), (None, False)):
        monkeypatch.setattr("runner.spool.inbox.inputs.has_writer", lambda handle, w=writer: w)
        found = take(place, home)
        assert found is not None and (found.data, found.closed) == (b"inbox", closed)
        assert found.signature[1:3] == (place.stat().st_ino, 5)
    for other in (home.outbox / "hero" / "x.png", home.root.parent / "album" / "x.png"):
        found = take(other, home)
        assert found is not None and found.data == other.parent.name.encode()


def test_an_image_that_is_missing_empty_or_being_written_is_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home.inbox / "x.png"
    assert take(home.inbox / "none.png", home) is None
    if can_probe_writers(home.inbox):
        allow_writer_probe()
        with place.open("ab"):
            assert take(place, home) is None

    for data in (b"more of it", b"less"):

        def write(handle: int, data: bytes = data) -> None:
            place.write_bytes(data)

        with monkeypatch.context() as patch:
            patch.setattr("runner.spool.inbox.inputs.has_writer", write)
            assert take(place, home) is None
    place.write_bytes(b"")
    assert take(place, home) is None


def test_what_is_no_file_or_is_too_large_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputBad, match=r"hero cannot be read \(not a regular file\)"):
        take(home.outbox / "hero", home)
    with (home.inbox / "x.png").open("wb") as file:
        file.truncate(256 * 2**20 + 1)
    with pytest.raises(InputBad, match="larger than 256 MiB"):
        take(home.inbox / "x.png", home)
    monkeypatch.setattr("runner.spool.inbox.inputs.MAX_FILE_BYTES", 5)
    (home.inbox / "x.png").write_bytes(b"12345")
    found = take(home.inbox / "x.png", home)
    assert found is not None and found.data == b"12345"


def test_a_path_that_leads_elsewhere_by_the_time_it_is_opened_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = home.data / "secret.png"
    secret.write_bytes(b"secret")
    opened: list[int] = []

    def swapped(path: Path) -> int:
        opened.append(open_regular(secret))
        return opened[-1]

    monkeypatch.setattr("runner.spool.inbox.inputs.open_regular", swapped)
    with pytest.raises(PathNotAllowed, match=r"x\.png was replaced by a link"):
        take(home.inbox / "x.png", home)
    with pytest.raises(OSError):
        os.fstat(opened[0])
