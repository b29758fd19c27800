"""What a job may be called, and which files are specs."""

from __future__ import annotations

import pytest

from runner.spool.store.names import (
    id_from_file,
    is_conflict_copy,
    is_safe_id,
    is_spec,
    key_of,
    natural_order,
)


@pytest.mark.parametrize(
    ("file", "job"),
    [
        ("hero.yaml", "hero"),
        ("my cat, 2.yaml", "my-cat-2"),
        ("über.yml", "ber"),
        ("日本.json", "job"),
        (".yaml", "yaml"),
        ("--x--.yaml", "x"),
        ("CON.yaml", "job-CON"),
        ("drops.yaml", "job-drops"),
        ("index.html.yaml", "job-index.html"),
        ("a" * 300 + ".yaml", "a" * 96),
        ("v1.2.yaml", "v1.2"),
        ("-rf.yaml", "rf"),
        ("x\ny.yaml", "x-y"),
    ],
)
def test_a_files_stem_becomes_a_safe_id(file: str, job: str) -> None:
    assert id_from_file(file) == job
    assert is_safe_id(id_from_file(file))


@pytest.mark.parametrize(
    "name",
    ["", ".x", "x.", "a/b", "con", "COM1.txt", "drops", "runner.json", "é", "x" * 101, "a b"],
)
def test_an_unsafe_name_is_no_id(name: str) -> None:
    assert not is_safe_id(name)


def test_ids_are_compared_regardless_of_case_and_unicode_form() -> None:
    assert key_of("Hero") == key_of("hERO")
    assert key_of("e\u0301") == key_of("\u00e9")


@pytest.mark.parametrize("name", ["x.yaml", "X.YML", "x.json", "x.yaml.json"])
def test_specs_are_known_by_their_suffix(name: str) -> None:
    assert is_spec(name)


@pytest.mark.parametrize(
    "name",
    [".x.yaml", "~$x.yaml", "x.yaml~", "x.yaml.tmp", "x.yaml.part", "#x.yaml#", ".#x.yaml",
     "._x.yaml", "x.yaml.swp", "x.yaml.crdownload", "x.png", "x.cancel", ".syncthing.x.yaml.tmp"],
)  # fmt: skip
def test_temporary_names_are_no_specs(name: str) -> None:
    assert not is_spec(name)


def test_conflict_copies_of_sync_tools_are_recognised() -> None:
    assert is_conflict_copy("hero.sync-conflict-20260101-120000-ABC.yaml")
    assert is_conflict_copy("hero (Ann's conflicted copy 2026-01-01).yaml")
    assert not is_conflict_copy("conflict.yaml")


def test_names_with_numbers_are_ordered_as_people_count() -> None:
    names = ["job10", "job2", "Job1", "job²", "job"]
    assert sorted(names, key=natural_order) == ["job", "Job1", "job2", "job10", "job²"]
