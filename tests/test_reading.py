"""A runner's files as readers get them, whatever lies in their place."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from runner import reading
from tests.planted import HEALTH, RECEIPT, STATUS, variants

READERS = ((reading.status, STATUS), (reading.health, HEALTH), (reading.receipt, RECEIPT))


def read(reader: Any, folder: Path, content: Any) -> Any:
    (folder / "x.json").write_text(json.dumps(content), encoding="utf-8")
    return reader(folder / "x.json")


def test_what_a_runner_wrote_is_read_as_it_is_with_keys_of_later_versions(tmp_path: Path) -> None:
    for reader, content in READERS:
        assert read(reader, tmp_path, {**content, "later": [1]}) == {**content, "later": [1]}
        assert reader(tmp_path / "none") is None


def test_what_an_earlier_version_did_not_write_is_empty(tmp_path: Path) -> None:
    found = read(reading.status, tmp_path, {"state": "queued", "progress": {"phase": "loading"}})
    assert (found["outputs"], found["images"]["done"], found["kept"]) == ([], 0, False)
    assert found["progress"]["eta_seconds"] is None and found["progress"]["fraction"] == 0.0
    assert read(reading.status, tmp_path, {"id": "cat"}) is None, "without a state it is none"


def test_no_value_that_is_read_has_another_type_than_a_runner_writes(tmp_path: Path) -> None:
    for reader, whole in READERS:
        for content in variants(whole):
            found = read(reader, tmp_path, content)
            if found is not None:
                assert found.keys() >= whole.keys()
                _same_types(found, whole)
                needed = [
                    key for key in ("job", "state") if whole.get(key) and reader != reading.health
                ]
                assert all(isinstance(found[key], str) for key in needed)
                json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def _same_types(found: Any, whole: Any) -> None:
    if found is None or whole is None:
        return
    if isinstance(whole, dict):
        for key, value in whole.items():
            _same_types(found.get(key), value)
    elif isinstance(whole, list):
        assert isinstance(found, list)
        for item in found:
            _same_types(item, whole[0])
    else:
        assert type(found) is type(whole)


@pytest.mark.parametrize("said", [nan, inf, 1e9, -1, "2", None, 0])
def test_an_interval_can_be_waited_for(tmp_path: Path, said: Any) -> None:
    """Seen red: a look at a planted health file lasted as long as it said, or raised."""
    found = read(reading.health, tmp_path, {**HEALTH, "interval_seconds": said})
    assert found is None or 0 < found["interval_seconds"] <= 10
