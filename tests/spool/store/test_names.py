"""What a job may be called, and which files are specs."""

from __future__ import annotations

import pytest

from runner.spool.store.names import (
    SPEC_SUFFIXES,
    Names,
    id_from_file,
    is_conflict_copy,
    is_safe_id,
    is_spec,
    key_of,
    natural_order,
    receipt_names,
    unique,
    why_not_taken,
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


@pytest.mark.parametrize(
    "tag",
    [
        # Dropbox, as found in people's repositories.
        " (conflicted copy 2026-07-18)", " (Ann's conflicted copy 2026-01-01)",
        " (Elin's iPhone's Conflicted Copy 2026-01-01 1)",
        " (In Konflikt stehende Kopie von PC-1 2012-01-10)",
        " (Rebekka Schneiders in Konflikt stehende Kopie 2017-01-18)",
        " (Copie en conflit de SEMLOG-GTH-0001 2025-11-17)",
        " (Copia en conflicto de D SM 2024-03-08)",
        " (Copia in conflitto di MBP-di-Marco.fritz.box 2026-10-08)",
        " (Cópia em conflito de pc-saito 2014-08-14)",
        " (Co\u0301pia em conflito de estacao 2024-01-01)",
        " (Elins iPhone:s motstridiga kopia 2026-10-03)",
        " (Конфликтующая копия пользователя Alexei Macheret 2022-02-14 02_1.12.08 PM)",
        " (平川知明 の競合コピー 2023-10-29)", " (G Z 的冲突副本 2018-01-21)",
        # Nextcloud and ownCloud
        " (conflicted copy 2026-01-01 120000)", " (conflicted copy ann 2026-01-01 120000)",
        " (case clash from 2026-01-01 120000)", "_conflict-20260101-120000",
        "_conflict_ann-20260101-120000",
        # Syncthing, now and before 1.1.0
        ".sync-conflict-20260101-120000-K3HJ2QL", ".sync-conflict-20260101-120000",
        # Seafile
        " (SFConflict ann@example.org 2026-01-01-12-00-00)", " (SFConflict 2026-01-01-12-00-00)",
        " (case conflict 1)",
        # Synology
        "_Andy-PC_Jan-03-0901-2013_CaseConflict_1", "_DESKTOP-HKGCSV3_Jan-15-123319-2026_Conflict",
        "_840G11-WEBER_oct.-05-085858-2026_CaseConflict",
        # The OneDrive client for Linux
        "-myhost-safeBackup-0001",
    ],
)  # fmt: skip
def test_the_conflict_copies_of_sync_tools_are_known_by_their_exact_forms(tag: str) -> None:
    """Seen red: 16 of these 28 were jobs."""
    for name in (f"hero{tag}.yaml", f"my hero{tag}.JSON"):
        assert is_conflict_copy(name)
    assert not is_conflict_copy(f"{tag}.yaml".lstrip(" ")), "there is no original's name"


@pytest.mark.parametrize(
    "name",
    ["conflict.yaml", "border conflict 2026-11-28.yaml", "conflicted copy.yaml",
     "a conflicted copy 2026-11-28.yaml", "hero (conflict).yaml", "hero_conflict-1.yaml",
     "the conflict_of_1914-1918.yaml", "hero-desktop.yaml", "hero 2.yaml", "hero_Jan-03_1.yaml",
     "hero (2).yaml", "hero-DESKTOP-AB12CD3.yaml"],
)  # fmt: skip
def test_names_that_people_give_are_no_conflict_copies(name: str) -> None:
    assert not is_conflict_copy(name)
    assert not is_conflict_copy(name, lambda name: False, synced=True)


def test_a_name_that_people_give_too_is_a_conflict_copy_only_beside_its_original() -> None:
    """OneDrive puts the computer's name behind, Google Drive a number, as file managers do."""
    known = {"hero.yaml"}.__contains__
    for computer in ("DESKTOP-AB12CD3", "LAPTOP-0123456", "WIN-ABCDEFGHIJ0", "DESKTOP-AB12CD3-2"):
        assert is_conflict_copy(f"hero-{computer}.yaml", known)
        assert not is_conflict_copy(f"other-{computer}.yaml", known)
    assert not is_conflict_copy("hero (1).yaml", known)
    assert is_conflict_copy("hero (1).yaml", known, synced=True)
    assert not is_conflict_copy("other (1).yaml", known, synced=True)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("hero.yaml.txt", "hero.yaml"), ("hero.json.TXT", "hero.json"), ("hero.yaml ", "hero.yaml"),
     ("hero.yml\u00a0", "hero.yml"), ("hero.yaml.", "hero.yaml"), ("x.cancel.txt", "x.cancel"),
     ("x.retry ", "x.retry")],
)  # fmt: skip
def test_a_spec_with_another_ending_behind_its_own_is_told_with_the_name_it_should_have(
    name: str, meant: str
) -> None:
    assert (why_not_taken(name) or "").endswith(f": rename it to {meant}")


@pytest.mark.parametrize(
    "name", ["hero.yaml", "x.png", "notes.txt", "x.png ", ".hero.yaml.txt", "x.cancel", "README.md"]
)
def test_of_other_files_nothing_is_told(name: str) -> None:
    assert why_not_taken(name) is None


@pytest.mark.parametrize(
    ("wanted", "names", "meant"),
    [
        ("a.png", ["a.png", "A.png"], ["a.png"]),
        ("caf\u00e9.png", ["cafe\u0301.png", "CAF\u00c9.png"], ["cafe\u0301.png"]),
        ("cafe\u0301.png", ["CAF\u00c9.PNG"], ["CAF\u00c9.PNG"]),
        ("a.jpg", ["A.jpg", "a.JPG", "b.jpg"], ["A.jpg", "a.JPG"]),
        ("a.jpg", ["b.jpg"], []),
    ],
)
def test_a_name_is_found_as_it_is_else_in_another_form_else_in_another_case(
    wanted: str, names: list[str], meant: list[str]
) -> None:
    assert Names(names).alike(wanted) == meant


def test_names_with_numbers_are_ordered_as_people_count() -> None:
    names = ["job10", "job2", "Job1", "job²", "job"]
    assert sorted(names, key=natural_order) == ["job", "Job1", "job2", "job10", "job²"]


@pytest.mark.parametrize("name", ["com1.yaml", "CON.yaml", "nul.json.yaml"])
def test_the_receipt_of_a_name_that_means_a_device_has_one_more_name(name: str) -> None:
    """Seen red: on a disk with the rules of Windows it could not be written at all."""
    plain, other, last = receipt_names(name)
    assert plain == f"{name}.json" and other.startswith(f"{name}~") and last == f"_{other}"


@pytest.mark.parametrize(
    ("stem", "may_be"),
    [("cat", True), ("a" * 181, True), ("a" * 182, False), ("猫" * 61, False), ("\udcff", False)],
)
def test_a_name_that_is_used_once_is_also_its_receipts(stem: str, may_be: bool) -> None:
    """Seen red: the receipts of long ones had another name, and were not found."""
    once = unique(stem)
    for suffix in (*SPEC_SUFFIXES, ".retry"):
        name = f"{once}{suffix}"
        assert once == stem or receipt_names(name)[0] == f"{name}.json"
    assert (once != stem) == may_be
