"""What a caller writes into an inbox that others write to as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runner import client
from runner.errors import UsageProblem
from runner.settings import Home

SPEC = b"kind: text2img\nmodel: tiny\nprompt: a red circle\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home beside a private folder with one file."""
    made = Home(tmp_path / "home")
    made.prepare()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_bytes(b"secret")
    return made


def plant(link: Path, target: Path) -> None:
    """A link that somebody else made in the inbox."""
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:
        if sys.platform == "win32":
            pytest.skip(f"this user may not make links: {error}")
        raise


def private(home: Home) -> dict[str, bytes]:
    """The files of the private folder."""
    return {file.name: file.read_bytes() for file in (home.root.parent / "private").iterdir()}


def test_asking_for_something_makes_and_touches_no_file_that_a_planted_link_names(
    home: Home,
) -> None:
    """Seen red: with `touch`, the targets were made, and the times of one that was there set."""
    folder = home.root.parent / "private"
    before = (folder / "secret").stat().st_mtime_ns
    for name, target in (
        ("runner.pause", "made"), ("cat.cancel", "made too"), ("cat.retry", "secret"),
    ):  # fmt: skip
        plant(home.inbox / name, folder / target)
    client.pause(home)
    client.cancel(home, "cat")
    client.retry(home, "cat")
    assert private(home) == {"secret": b"secret"}
    assert (folder / "secret").stat().st_mtime_ns == before
    client.resume(home)
    assert not os.path.lexists(home.inbox / "runner.pause")


def test_a_control_file_is_empty_and_may_be_asked_for_twice(home: Home) -> None:
    for _ in range(2):
        assert client.cancel(home, "cat") == "cat.cancel"
    assert (home.inbox / "cat.cancel").read_bytes() == b""


@pytest.mark.parametrize("planted", [".tmp", "mcp", "mcp/job"])
def test_nothing_is_written_through_a_folder_that_is_a_planted_link(
    home: Home, planted: str
) -> None:
    """Seen red: with `mkdir(exist_ok=True)`, which takes a link to a folder for one."""
    (home.inbox / planted).parent.mkdir(exist_ok=True)
    plant(home.inbox / planted, home.root.parent / "private")
    with pytest.raises(UsageProblem, match="a link or a file stands in the place"):
        client.put(home, b"picture", "mcp/job/image.png")
    assert private(home) == {"secret": b"secret"}


def test_a_spec_takes_the_next_name_where_a_link_has_its_own(home: Home) -> None:
    plant(home.inbox / "cat.yaml", home.root.parent / "private" / "made")
    assert client.submit(home, SPEC, "cat.yaml") == "cat-2.yaml"
    assert (home.inbox / "cat-2.yaml").read_bytes() == SPEC
    assert private(home) == {"secret": b"secret"} and not list((home.inbox / ".tmp").iterdir())
