"""Whatever lies in the outbox in the place of a runner's files, a command ends with an answer."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import cli, client
from runner.cli import doctor
from runner.cli.progress import Board
from runner.settings import Home
from tests.cli.here import Here
from tests.planted import HEALTH, RECEIPT, SIDECAR, STATUS, variants

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _one_parser_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of commands are run, and to make their parsers anew takes half of that time."""
    monkeypatch.setattr(cli, "build_parser", functools.cache(cli.build_parser))


@pytest.fixture
def job(here: Here) -> Path:
    """A job's folder, with nothing planted in it yet."""
    folder = here.home / "outbox" / "cat"
    folder.mkdir(parents=True)
    put(folder / "status.json", STATUS)
    put(folder / "cat-0001.json", SIDECAR)
    return folder


def put(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def planted(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from variants(whole)
    yield {}


def test_a_planted_status_is_answered_by_every_command(job: Path, here: Here) -> None:
    """Seen red: tracebacks of `status`, `watch`, `clean` and `gallery page`."""
    commands = (
        ("status", "cat"), ("retry", "cat"), ("clean", "--older-than", "1d"), ("gallery", "page"),
        ("gallery", "page", "cat"),
    )  # fmt: skip
    home = Home(here.home)
    for content in planted(STATUS):
        put(job / "status.json", content)
        for command in commands:
            assert here(*command).code in (0, 1, 2), (command, content)
        with Board(home, lambda: ["cat"]):
            pass


def test_a_planted_sidecar_is_answered_by_every_command(job: Path, here: Here) -> None:
    """Seen red: tracebacks of `gallery page`, `gallery rebuild` and `gallery search`."""
    for content in planted(SIDECAR):
        put(job / "cat-0001.json", content)
        for way in (["page"], ["page", "cat"], ["rebuild"], ["search"], ["search", "cat"]):
            assert here("gallery", *way).code in (0, 1, 2), (way, content)


def test_a_planted_health_file_is_answered_by_every_command(
    job: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: tracebacks of `status`, `watch`, `doctor` and of whoever waits for a drop."""
    monkeypatch.setattr(client, "is_held", lambda home: True)
    home = Home(here.home)
    for content in planted(HEALTH):
        put(home.health, content)
        client._looks.clear()
        assert here("status").code == 0, content
        assert here("status", "--json").code == 0, content
        assert here("watch", "cat").code in (0, 1, 69), content
        assert doctor._runner(home).name == "runner"


def test_a_planted_receipt_names_no_job_that_is_none(job: Path, here: Here) -> None:
    """Seen red: `../..` was a job, whose folder `verify` would have removed."""
    home = Home(here.home)
    for content in planted(RECEIPT):
        put(home.drops / "cat.yaml.json", content)
        found = client.receipt(home, "cat.yaml")
        assert found is None or found["job"] == "cat", content
        assert here("status", "cat.yaml").code == 1
