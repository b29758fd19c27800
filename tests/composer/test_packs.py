"""Packs are read exactly: any line ending, names in NFC, and errors that name file and byte."""

import os
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from composer.layers import clean, natural_key
from composer.packs import list_packs, read_pack
from specs.errors import SpecInvalid
from tests.composer.helpers import write_pack

ONE_PACK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def problems(prompts: Path, pack_id: str = "mugs") -> str:
    with pytest.raises(SpecInvalid) as caught:
        read_pack(prompts, pack_id)
    return "\n".join(f"{p.line}:{p.column} {p.path} {p.message}" for p in caught.value.problems)


def test_a_pack_is_read_into_its_blocks(tmp_path: Path) -> None:
    write_pack(tmp_path, variables={"day": "by day"}, forbidden=["text"], defaults={"steps": 4})
    pack = read_pack(tmp_path, "mugs")
    assert pack.fixed.text == "studio photo of"
    assert pack.subjects["mug"].file == "mugs/subjects/mug.txt"
    assert pack.variables["day"].text == "by day"
    assert [term.term for term in pack.forbidden] == ["text"]
    assert (pack.separator, pack.max_chars, dict(pack.defaults)) == (", ", 2000, {"steps": 4})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_line_ending_and_a_byte_order_mark_give_the_same_text(end: str, mark: str) -> None:
    assert clean((mark + f"# note{end}a  mug{end}{end} \t by C# #1{end}").removeprefix(mark)) == (
        "a mug by C# #1"
    )


def test_a_byte_order_mark_is_no_part_of_a_block(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, subjects={"mug": "\ufeff# note\r\nred\rmug\n"})
    facts = folder / "pack.json"
    facts.write_bytes(b"\xef\xbb\xbf" + facts.read_bytes())
    assert read_pack(tmp_path, "mugs").subjects["mug"].text == "red mug"


def test_blocks_are_data(tmp_path: Path) -> None:
    text = "{box} %s $HOME {{x}} \\n __wild__ | a::2"
    write_pack(tmp_path, subjects={"mug": text})
    assert read_pack(tmp_path, "mugs").subjects["mug"].text == text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"abc\xe9def", "byte 0xe9 at offset 3 is not UTF-8"),
        ("mug".encode("utf-16"), "is UTF-16 (byte 0)"),
        (b"ab\xc3\xa9c\x00d", "U+0000 at byte offset 5"),
        (b"\xef\xbb\xbfab\x1b", "U+001B at byte offset 5"),
        (b"x" * (256 * 1024 + 1), "larger than 262,144 bytes"),
    ],
)
def test_bad_bytes_are_an_error_with_file_and_offset(
    tmp_path: Path, data: bytes, said: str
) -> None:
    write_pack(tmp_path, subjects={"mug": data})
    found = problems(tmp_path)
    assert "mugs/subjects/mug.txt" in found
    assert said in found


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    write_pack(tmp_path, fixed=b"\xff\xfe", extra_key=1, id="cups")
    found = problems(tmp_path)
    assert all(part in found for part in ("mugs/fixed_block.txt", "extra_key"))
    write_pack(tmp_path, "bad", subjects={"a": b"\xff\xfe", "b": b"\xe9"})
    found = problems(tmp_path, "bad")
    assert all(part in found for part in ("subjects/a.txt is UTF-16", "subjects/b.txt byte 0xe9"))
    assert "holds no subject" not in found


def test_one_bad_file_refuses_nothing_else(tmp_path: Path) -> None:
    write_pack(
        tmp_path, subjects={"bad": b"\xe9", "good": "a mug"}, variables={"day": "x", "night": b"\0"}
    )
    pack = read_pack(tmp_path, "mugs")
    assert (list(pack.subjects), list(pack.variables)) == (["good"], ["day"])
    assert set(pack.bad) == {("subject", "bad"), ("variable", "night")}
    assert pack.warnings[1] == (
        "mugs/subjects/bad.txt: byte 0xe9 at offset 0 is not UTF-8: save the file as UTF-8 "
        "(left out)"
    )


def test_a_bad_file_does_not_uncover_that_of_the_extended_pack(tmp_path: Path) -> None:
    write_pack(tmp_path, "base", subjects={"mug": "a mug", "cup": b"\xe9"})
    write_pack(tmp_path, subjects={"mug": b"\xe9", "cup": "a cup"}, extends="base")
    pack = read_pack(tmp_path, "mugs")
    assert list(pack.subjects) == ["cup"]
    assert set(pack.bad) == {("subject", "mug")}


def test_settings_and_samples_may_name_a_bad_file(tmp_path: Path) -> None:
    write_pack(
        tmp_path,
        subjects={"a": "a mug", "b": b"\xe9"},
        variables={"day": b"\xe9"},
        samples=[{"subject": "b", "variable": "day", "seed": 1}],
    )
    assert ("subject", "b") in read_pack(tmp_path, "mugs").bad


def test_the_id_must_be_the_folder(tmp_path: Path) -> None:
    write_pack(tmp_path, id="cups")
    assert "its folder is 'mugs'" in problems(tmp_path)


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    (folder / "pack.json").write_text('{"id": "mugs",\n "id": "mugs"}', encoding="utf-8")
    assert "mugs/pack.json" in problems(tmp_path)


def test_missing_blocks_are_errors(tmp_path: Path) -> None:
    write_pack(tmp_path, fixed=None, subjects={})
    found = problems(tmp_path)
    assert "fixed_block.txt is missing" in found
    assert "holds no subject" in found


def test_names_are_normalised_and_twins_are_refused(tmp_path: Path) -> None:
    spelt = unicodedata.normalize("NFD", "café")
    write_pack(tmp_path, subjects={spelt: "a café"})
    assert list(read_pack(tmp_path, "mugs").subjects) == ["café"]
    if sys.platform == "linux":  # other systems cannot even hold both files
        write_pack(tmp_path, "cups", subjects={"Mug": "a", "mug": "b"})
        pack = read_pack(tmp_path, "cups")
        assert list(pack.subjects) == ["Mug"]
        assert "same name as 'subjects/Mug.txt'" in pack.bad["subject", "mug"].message


def test_names_sort_as_people_count(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects=dict.fromkeys(("cat10", "cat2", "Bat", "cat"), "x"))
    assert list(read_pack(tmp_path, "mugs").subjects) == ["Bat", "cat", "cat2", "cat10"]


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=6, unique=True))
@example(["0", "\U0001e145:"])
def test_the_order_of_names_is_total(names: list[str]) -> None:
    """Seen red: a digit of another script, with more of a name after it, was read as a number."""
    keys = [natural_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert sorted(names, key=natural_key) == sorted(set(names), key=natural_key)


def test_files_that_are_no_blocks_are_ignored_and_unknown_ones_are_said(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    for name in (".hidden.txt", "mug.txt~", "README.md", "readme.txt", "~lock.txt", "LICENSE"):
        (folder / name).write_bytes(b"\xff")
    (folder / "wildcards").mkdir()
    assert read_pack(tmp_path, "mugs").warnings == ()
    for name in ("varible_day.txt", "variable_day.TXT", "data.csv", "subjects/Upper.TXT"):
        (folder / name).write_bytes(b"typo")
    (folder / "subjects" / "mug.txt.bak").write_bytes(b"old")
    (folder / "variables").mkdir()
    (folder / "subjects" / "red").mkdir()
    assert read_pack(tmp_path, "mugs").warnings == (
        "mugs: data.csv, variable_day.TXT, variables/, varible_day.txt, subjects/Upper.TXT, "
        "subjects/mug.txt.bak, subjects/red/ not read: a block is fixed_block.txt, "
        "variable_<name>.txt or subjects/<name>.txt",
    )


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_a_link_that_leaves_the_pack_is_refused_and_one_inside_is_read(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    try:
        (folder / "subjects" / "inside.txt").symlink_to(folder / "subjects" / "mug.txt")
    except OSError:
        pytest.skip("this system lets only administrators make links")
    assert "inside" in read_pack(tmp_path, "mugs").subjects
    (folder / "subjects" / "out.txt").symlink_to(secret)
    assert "leaves the pack" in read_pack(tmp_path, "mugs").bad["subject", "out"].message
    (folder / "subjects" / "out.txt").unlink()
    (folder / "subjects" / "gone.txt").symlink_to(tmp_path / "nothing")
    assert "cannot be read" in read_pack(tmp_path, "mugs").bad["subject", "gone"].message
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    write_pack(outside, "cups")
    (tmp_path / "cups").symlink_to(outside / "cups")
    assert "link that leaves" in problems(tmp_path, "cups")


@pytest.mark.parametrize("name", ["../mugs", "mugs/", "/etc", "", "MUGS", "mugs.txt", "no-such"])
def test_a_pack_is_named_by_its_id_and_never_by_a_path(tmp_path: Path, name: str) -> None:
    write_pack(tmp_path)
    problems(tmp_path, name)


def test_extends_lays_a_pack_over_another(tmp_path: Path) -> None:
    write_pack(
        tmp_path, "base", subjects={"mug": "a mug", "cup": "a cup"}, variables={"day": "by day"},
        forbidden=["text"], defaults={"steps": 4, "width": 512}, separator=" | ",
    )  # fmt: skip
    write_pack(
        tmp_path, fixed=None, subjects={"mug": "a better mug"}, extends="base",
        forbidden=["logo"], defaults={"steps": 8},
    )  # fmt: skip
    pack = read_pack(tmp_path, "mugs")
    assert pack.fixed.file == "base/fixed_block.txt"
    assert {name: b.text for name, b in pack.subjects.items()} == {
        "cup": "a cup",
        "mug": "a better mug",
    }
    assert [term.term for term in pack.forbidden] == ["text", "logo"]
    assert dict(pack.defaults) == {"steps": 8, "width": 512}
    assert pack.separator == " | "


def test_extends_in_a_circle_and_too_deep_are_refused(tmp_path: Path) -> None:
    write_pack(tmp_path, "a", extends="b")
    write_pack(tmp_path, "b", extends="a")
    assert "in a circle: a → b → a" in problems(tmp_path, "a")
    for number in range(6):
        facts = {"extends": f"p{number + 1}"} if number < 5 else {}
        write_pack(tmp_path, f"p{number}", **facts)
    assert read_pack(tmp_path, "p1").id == "p1"
    assert "deeper than 4" in problems(tmp_path, "p0")


def test_what_the_schema_cannot_say_is_checked(tmp_path: Path) -> None:
    write_pack(
        tmp_path,
        variables={"day": "by day"},
        defaults={"aspect_ratio": "16:9", "width": 512, "height": 512},
    )
    assert "contradicts 512 × 512" in problems(tmp_path)
    folder = tmp_path / "mugs" / "pack.json"
    folder.write_text(
        '{"schema_version": 1, "id": "mugs", "name": "m", "version": "1.0.0", '
        '"subjects": {"mugg": {}, "mug": {"only_with": ["night"]}}, '
        '"samples": [{"subject": "mug", "variable": "dusk", "seed": 1}]}',
        encoding="utf-8",
    )
    found = problems(tmp_path)
    assert all(part in found for part in ("'mugg'", "'night'", "'dusk'"))


def test_the_hash_covers_every_byte_that_was_read_and_no_other(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, variables={"day": "by day"})
    first = read_pack(tmp_path, "mugs").sha256
    (folder / "README.md").write_text("notes", encoding="utf-8")
    assert read_pack(tmp_path, "mugs").sha256 == first
    for name in ("fixed_block.txt", "subjects/mug.txt", "variable_day.txt", "pack.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b"\n")
        assert read_pack(tmp_path, "mugs").sha256 != first
        (folder / name).write_bytes(data)
    assert read_pack(tmp_path, "mugs").sha256 == first


def test_packs_are_listed_without_being_read(tmp_path: Path) -> None:
    write_pack(tmp_path, "b")
    (write_pack(tmp_path, "a") / "pack.json").write_bytes(b"{")
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    assert list_packs(tmp_path) == ("a", "b")
    assert list_packs(tmp_path / "nowhere") == ()


@ONE_PACK
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_block_or_an_error_that_names_the_file(tmp_path: Path, data: bytes) -> None:
    if not (tmp_path / "mugs").exists():
        write_pack(tmp_path)
    (tmp_path / "mugs" / "subjects" / "mug.txt").write_bytes(data)
    try:
        text = read_pack(tmp_path, "mugs").subjects["mug"].text
    except SpecInvalid as error:
        assert {p.path for p in error.problems} == {"mugs/subjects/mug.txt"}
    else:
        assert text == " ".join(text.split())


@ONE_PACK
@given(data=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_as_pack_json_are_an_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    if not (tmp_path / "mugs").exists():
        write_pack(tmp_path)
    (tmp_path / "mugs" / "pack.json").write_bytes(data)
    with pytest.raises(SpecInvalid) as caught:
        read_pack(tmp_path, "mugs")
    assert all(p.path.startswith("mugs/pack.json") for p in caught.value.problems)
