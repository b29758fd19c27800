"""Reading what others may have written, or put in the place of what they should have."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.files import read_file
from runner.settings import Home
from runner.wire import read_json
from tests.spool.conftest import Spool


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"a": '])
def test_what_is_no_json_object_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert read_json(tmp_path / "x") is None
    assert read_json(tmp_path / "none") is None
    (tmp_path / "x").write_bytes(b'{"a": 1}')
    assert read_json(tmp_path / "x") == {"a": 1}


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Seen red: `status`, the MCP server and a rebuild showed what only their user may read."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"state": "secret"}', encoding="utf-8")
    link = tmp_path / "status.json"
    try:
        link.symlink_to(secret)
    except OSError as error:
        pytest.skip(f"this user may not make links: {error}")
    assert read_json(link) is None
    with pytest.raises(OSError):
        read_file(link)


@pytest.mark.skipif(os.name == "nt", reason="a file with holes has to be asked for on Windows")
def test_a_huge_file_in_the_place_of_a_status_fills_no_memory_and_a_start_comes_up(
    tmp_path: Path,
) -> None:
    """Seen red: MemoryError at each start, which was taken for a fault of the whole home."""
    spool = Spool(tmp_path / "home")
    spool.start()
    spool.drop("one.yaml")
    spool.end("one")
    planted = spool.home.outbox / "planted"
    planted.mkdir()
    (spool.home.outbox / "spec").mkdir()
    status = spool.status("one") | {"id": "spec", "state": "queued"}
    (spool.home.outbox / "spec" / "status.json").write_text(json.dumps(status), encoding="utf-8")
    for place in (
        planted / "status.json", spool.home.job("one") / "one-0002.json",
        spool.home.outbox / "spec" / "spec.yaml",
    ):  # fmt: skip
        place.touch()
        os.truncate(place, 8 << 40)
        assert read_json(place) is None
        with pytest.raises(OSError, match="larger than 256 MiB"):
            read_file(place)
    spool.stop()
    for file in spool.home.data.glob("ledger.sqlite*"):
        file.unlink()
    spool.restart()
    assert spool.status("one")["state"] == "succeeded"
    spool.drop("two.yaml")
    assert spool.end("two")["state"] == "succeeded"
    spool.stop()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.timeout(60)
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_read_at_once(tmp_path: Path) -> None:
    """Seen red: the pipe was waited for, without end."""
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/dev/fd"))
    for place in (tmp_path / "pipe", tmp_path):
        assert read_json(place) is None
        with pytest.raises(OSError):
            read_file(place)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.timeout(120)
def test_a_start_waits_for_no_pipe_in_the_outbox(tmp_path: Path) -> None:
    """Seen red: a rebuild of the ledger, and a recovery, hung at the first of these."""
    spool = Spool(tmp_path / "home")
    spool.start()
    for name in ("one", "two"):
        spool.drop(f"{name}.yaml")
        spool.end(name)
    spool.stop()
    home: Home = spool.home
    planted = home.outbox / "planted"
    planted.mkdir()
    two = home.job("two")
    for place in (
        planted / "status.json", two / "two-0002.json", two / "two-0001.png",
        home.drops / "x.yaml.json",
    ):  # fmt: skip
        place.unlink(missing_ok=True)
        os.mkfifo(place)
    for file in home.data.glob("ledger.sqlite*"):
        file.unlink()
    spool.restart()
    assert spool.status("one")["state"] == "succeeded"
    spool.drop("three.yaml")
    assert spool.end("three")["state"] == "succeeded"
    spool.stop()
    assert json.loads((home.job("two") / "status.json").read_bytes())["id"] == "two"
