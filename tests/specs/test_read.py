"""Reading: what YAML 1.2 core and strict JSON mean here, where things stand, what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml

import specs.read
from specs.document import MAX_BYTES
from specs.errors import SpecInvalid
from specs.read import ends_with_marker, is_whole_json_object, read


def one(text: str) -> Any:
    return read(f"a: {text}\n".encode()).value["a"]


@pytest.fixture(params=["libyaml", "pure"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every reading test of this file holds with libyaml and without it."""
    if request.param == "pure":
        monkeypatch.setattr(specs.read, "_loader", lambda: yaml.SafeLoader)
    return str(request.param)


@pytest.mark.parametrize(
    "text, value",
    [
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        *((word, word) for word in ("tRUE", "nuLL", "yes", "No", "on", "OFF", "y", "n")),
        ("0", 0), ("-0", 0), ("+7", 7), ("-12", -12), ("9" * 40, int("9" * 40)),
        ("9" * 41, "9" * 41), ("010", "010"), ("-01", "-01"), ("0x1F", "0x1F"), ("0o17", "0o17"),
        ("1_000", "1_000"), ("12:30:45", "12:30:45"), ("2001-13-45", "2001-13-45"),
        ("2026-11-23", "2026-11-23"), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0),
        ("-1.5E-3", -0.0015), ("+.5e+1", 5.0), ("01.5", "01.5"), ("1e", "1e"), (".", "."),
        ("+", "+"), ("1.2.3", "1.2.3"), ("nan", "nan"), ("inf", "inf"),
        ("'7'", "7"), ('"true"', "true"), ('"\\u00e9\\U0001F600"', "é😀"),
        ("|\n  x\n  y", "x\ny\n"),
        (">-\n  x\n  y", "x y"), ("1" + "0" * 99 + ".5", "1" + "0" * 99 + ".5"),
        ("[1, {b: c}, []]", [1, {"b": "c"}, []]), ("{}", {}), ("=", "="), ("<<", "<<"),
        ("23:00-07:00", "23:00-07:00"),
    ],
)  # fmt: skip
def test_a_scalar_means_what_yaml_1_2_core_says(loader: str, text: str, value: Any) -> None:
    found = one(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("data", [b"", b"\n \n", b"# only a comment\n", b"\xef\xbb\xbf"])
def test_a_file_without_content_has_the_value_none(loader: str, data: bytes) -> None:
    assert read(data).value is None
    assert read(b"" if b"#" in data else data, json=True).value is None


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_one_are_fine(loader: str) -> None:
    found = read(b"\xef\xbb\xbfa: 1\r\nb:\r\n- x\r\n- y")
    assert found.value == {"a": 1, "b": ["x", "y"]}
    assert found.locate(["a"], key=True) == (1, 1)
    assert found.locate(["b", 1]) == (4, 3)
    assert read(b"%YAML 1.2\n---\na: 1\n...\n").value == {"a": 1}


TEXT = """\
kind: redux   # é
image:
  - a.png
  - {path: "b.png", weight: 2}
x_ü😀: [1,
  22]
notes: |
  long
"""


@pytest.mark.parametrize(
    "path, key, place",
    [
        ([], False, (1, 1)), (["kind"], True, (1, 1)), (["kind"], False, (1, 7)),
        (["image"], True, (2, 1)), (["image"], False, (3, 3)), (["image", 0], False, (3, 5)),
        (["image", 1], False, (4, 5)), (["image", 1, "path"], True, (4, 6)),
        (["image", 1, "path"], False, (4, 12)), (["image", 1, "weight"], False, (4, 29)),
        (["x_ü😀", 0], False, (5, 8)), (["x_ü😀", 1], False, (6, 3)), (["notes"], False, (7, 8)),
        (["absent"], False, (1, 1)), (["image", 1, "absent"], True, (4, 5)),
        (["image", 9], False, (3, 3)), (["image", "path"], False, (3, 3)),
        (["kind", "deeper"], False, (1, 7)),
    ],
)  # fmt: skip
def test_locate_gives_line_and_column_in_characters(
    loader: str, path: list[str | int], key: bool, place: tuple[int, int]
) -> None:
    assert read(TEXT.encode()).locate(path, key=key) == place


def test_locate_works_the_same_for_json() -> None:
    found = read('{\n "é": 1,\r\n\t"b": [10, {"c": "x"}]}'.encode(), json=True)
    assert found.value == {"é": 1, "b": [10, {"c": "x"}]}
    assert found.locate(["é"], key=True) == (2, 2)
    assert found.locate(["é"]) == (2, 7)
    assert found.locate(["b", 0]) == (3, 8)
    assert found.locate(["b", 1, "c"]) == (3, 18)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x\\/y \\ud83d\\ude00 \\n\\t\\"", "b": [1, -2, 0.5, 1e3, 1E-2, true, false, null]}',
        '\t[ ]\n', '{}', '"just text"', '12', 'null', '[[[{"a": {}}]]]', '{"": 0, " ": -0.0}',
    ],
)  # fmt: skip
def test_sound_json_means_what_the_standard_library_says(text: str) -> None:
    assert read(text.encode(), json=True).value == json.loads(text)


def test_hostile_nesting_cannot_take_the_process_down() -> None:
    code = (
        "from specs.read import read\nfrom specs.errors import SpecInvalid\n"
        "for data in (b'[' * 200_000, b'- ' * 100_000, b'{a: ' * 60_000, b'? ' * 100_000):\n"
        "    for kind in (False, True):\n"
        "        try:\n            read(data, json=kind)\n"
        "        except SpecInvalid as refused:\n            print(refused.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split() == ["TooDeep"] * 3 + ["BadYaml", "TooDeep", "BadYaml"] + ["BadYaml"] * 2
    )


class _Shallow(yaml.SafeLoader):
    """A parser with a limit of its own for nesting, as some releases of libyaml have one."""

    def fetch_flow_collection_start(self, token: type) -> None:
        if self.flow_level >= 40:
            raise yaml.scanner.ScannerError(None, None, "too much", self.get_mark())
        super().fetch_flow_collection_start(token)


DEEP = ["[", "[\n", "{a: ", "- ", "é: [{"]
KEYS = ["? ", "{? ", "[[? "]
"""Openings that, said again and again, nest too deep or make a mapping a key of another."""


@pytest.mark.parametrize("depth", [33, 41, 999, 1_001, 5_000])
@pytest.mark.parametrize("parser", ["libyaml", "pure", "shallow"])
def test_nesting_is_refused_by_the_guard_here_and_never_by_a_limit_of_the_parser(
    parser: str, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parser != "libyaml":
        loader = {"pure": yaml.SafeLoader, "shallow": _Shallow}[parser]
        monkeypatch.setattr(specs.read, "_loader", lambda: loader)
    for opening in DEEP + KEYS:
        with pytest.raises(SpecInvalid) as caught:
            read(opening.encode() * depth)
        reason, ours = ("BadYaml", "a key") if opening in KEYS else ("TooDeep", "nested more than")
        assert caught.value.reason == reason, opening
        assert caught.value.problems[0].message.startswith(ours), opening


@pytest.mark.parametrize("opening", ["[", "[\n", '{"a":', '{"a": ['])
def test_nested_json_is_refused_by_the_same_guard(opening: str) -> None:
    for depth in (33, 999, 1_001, 20_000):
        with pytest.raises(SpecInvalid, match="nested more than 32 levels") as caught:
            read(opening.encode() * depth, json=True)
        assert caught.value.reason == "TooDeep"


def test_every_duplicate_key_is_told_with_the_line_of_the_first() -> None:
    with pytest.raises(SpecInvalid) as caught:
        read(b"a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n")
    assert caught.value.reason == "DuplicateKey"
    assert [(p.line, p.column, p.path, p.message) for p in caught.value.problems] == [
        (3, 1, "", "duplicate key 'a' (first on line 1)"),
        (4, 11, "c", "duplicate key 'd' (first on line 4)"),
    ]


@pytest.mark.parametrize(
    "data, line, column",
    [
        (b"a: 1\nb: caf\xe9\n", 2, 7), ("é: ü\nß: ".encode() + b"\xff", 2, 4),
        (b"a: \x00", 1, 4), (b"\0\0\0", 1, 1), (b"\xff\xfea\0", 1, 1),
        (b"a: 1\r\r\nb: \xc3(", 3, 4),
    ],
)  # fmt: skip
def test_bytes_that_are_not_utf8_are_shown_where_they_stand(
    data: bytes, line: int, column: int
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        read(data)
    problem = caught.value.problems[0]
    assert (caught.value.reason, problem.line, problem.column) == ("NotUtf8", line, column)


@pytest.mark.parametrize(
    "data, line, column, hint",
    [
        (b"a: 1\nprompt: left: right\n", 2, 13, "in quotes"),
        (b"a: 1\n\tb: 2\n", 2, 1, "not tabs"),
        (b"prompt: @home\n", 1, 9, "begins with @"),
        (b'a: "open\nb: 2\n', 3, 1, "unexpected end"),
        (b"a: [1, 2\n", 2, 1, ""),
        (b"a: 1\n b: 2\n", 2, 3, ""),
        *(
            (f"a: 1\nprompt: {text}\n".encode(), 2, column, f"begins with {text[0]} in quotes")
            for text, column in [
                ("{red|blue} circle", 20), ("[a] b", 13), ("|red| circle", 10), ("> 5 people", 11),
                ("& more", 10), ("`x`", 9), ("%x", 9), ("- a", 9), ("? a", 9),
            ]
        ),
        (b"prompt: 'it's red'\n", 1, 13, "all of the text between ' and '"),
        ("a: 1\nprompt:\u00a0a circle\n".encode(), 2, 8, "U+00A0 (no-break space)"),
        ("kind:\u00a0redux\nmodel: tiny\n".encode(), 1, 6, "U+00A0 (no-break space)"),
        ("a: 1\nprompt\uff1aa circle\n".encode(), 2, 7, "U+FF1A (fullwidth colon)"),
        ("x:\n  a: 1\n  b:\u3000c\n".encode(), 3, 5, "U+3000 (ideographic space)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", 1, 1, "git lfs pull"),
    ],
)  # fmt: skip
def test_bad_yaml_is_shown_where_it_stands_with_a_hint(
    data: bytes, line: int, column: int, hint: str
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        read(data)
    problem = caught.value.problems[0]
    assert (caught.value.reason, problem.line, problem.column) == ("BadYaml", line, column)
    assert hint in problem.message


@pytest.mark.parametrize("text", ["*very* red", "*red", "&x red", "!important red"])
def test_text_that_begins_like_an_alias_or_a_tag_is_told_to_go_in_quotes(
    loader: str, text: str
) -> None:
    with pytest.raises(SpecInvalid, match=f"begins with {re.escape(text[0])} in quotes") as caught:
        one(text)
    assert caught.value.reason in ("AliasesNotAllowed", "TagNotAllowed")


@pytest.mark.parametrize("sign", ["\u2028", "\u2029"])
@pytest.mark.parametrize(
    ("before", "after", "column"),
    [
        ("prompt: a circle", "count: 4", 17), ("prompt: |\n  a circle", "count: 4", 11),
        ("prompt: a circle", "", 17), ("prompt: a circle # x", "count: 4", 21),
        ("", "count: 4", 1), ("x: 'a\u2028b'  # ", "", 13), ("pro", "mpt: a", 4),
    ],
)  # fmt: skip
def test_a_foreign_line_break_outside_quotes_sets_no_field_and_is_refused_where_it_stands(
    loader: str, sign: str, before: str, after: str, column: int
) -> None:
    """Seen red: `count` was 4, for this is a line break to every YAML parser here."""
    with pytest.raises(SpecInvalid, match=f"U\\+{ord(sign):04X} is not allowed outside") as caught:
        read(f"kind: text2img\n{before}{sign}{after}\nseed: 1\n".encode())
    problem = caught.value.problems[0]
    line = 2 + before.count("\n")
    assert (caught.value.reason, problem.line, problem.column) == ("BadYaml", line, column)


def test_a_foreign_line_break_in_quotes_is_text_and_moves_no_place(loader: str) -> None:
    # The second text holds, escaped, the character that is put in its place while it is read.
    text = "a: 'x\u2028  y\u2029'\nb: \"\\u2028\\ue000 \u2028z\"\n'\u2029': [c]\n"
    found = read(text.encode())
    assert found.value == {
        "a": "x\u2028  y\u2029", "b": "\u2028\ue000 \u2028z", "\u2029": ["c"]
    }  # fmt: skip
    assert found.locate(["\u2029", 0]) == (3, 7)
    assert read('{"a": "x\u2028y"}'.encode(), json=True).value == {"a": "x\u2028y"}


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a circle in color #ff0000", "#ff0000"), ("red #ff0000  ", "#ff0000"),
        ("a fan, the #1", "#1"), ("take #1 of it", "#1 of it"), ("a circle  # a comment", None),
        ("'in color #ff0000'", None), ("red  #note", None), ("7 #1", None),
    ],
)  # fmt: skip
def test_a_text_that_a_comment_cuts_is_noted(loader: str, text: str, cut: str | None) -> None:
    notes = read(f"x:\n  prompt: {text}\n".encode()).notes
    if cut is None:
        assert notes == ()
    else:
        (note,) = notes
        assert note.startswith(f"line 2: {cut!r} is a comment and no part of x.prompt: ")


def test_a_file_of_just_the_limit_is_read_and_one_byte_more_is_not() -> None:
    fits = b"a: 1\n#" + b"x" * (MAX_BYTES - 6)
    assert read(fits).value == {"a": 1}
    with pytest.raises(SpecInvalid, match="TooLarge|the limit is"):
        read(fits + b"x")


@pytest.mark.parametrize("depth, fits", [(32, True), (33, False)])
def test_depth_32_is_read_and_33_is_not(depth: int, fits: bool) -> None:
    data = b"[" * depth + b"]" * depth
    for kind in (False, True):
        if fits:
            assert read(data, json=kind).value is not None
        else:
            with pytest.raises(SpecInvalid, match="32 levels"):
                read(data, json=kind)


@pytest.mark.parametrize(
    "data, complete",
    [
        (b"a: 1\n...\n", True), (b"a: 1\n...", True), (b"a: 1\r\n...\r\n", True), (b"...\n", True),
        (b"a: 1\n... \n\n", True), (b"a: 1\n", False), (b"a: ...\n", False), (b"", False),
        (b"a: 1\n ...\n", False), (b"a: 1\n....\n", False), (b"a: 1\n...\nb: 2\n", False),
    ],
)  # fmt: skip
def test_the_end_marker_counts_only_as_the_last_line(data: bytes, complete: bool) -> None:
    assert ends_with_marker(data) is complete


def test_no_part_of_a_json_object_is_a_whole_one() -> None:
    whole = b'{"kind": "text2img", "prompt": "a } b", "x_a": {"b": [1, {}]}}'
    assert is_whole_json_object(whole) and is_whole_json_object(whole + b"\n")
    for end in range(len(whole)):
        assert not is_whole_json_object(whole[:end])
    assert not is_whole_json_object(b"[1]") and not is_whole_json_object(b'{"a": 1}}')
    assert not is_whole_json_object(b'\xff{"a": 1}')


def test_a_run_of_blanks_takes_no_time_to_read() -> None:
    """Seen red: a search for comments began anew at each of a quarter of a million blanks."""
    began = time.process_time()
    read(b"prompt: a fox" + b" " * 200_000 + b"# x\n")
    assert time.process_time() - began < 10


def test_yaml_in_a_file_that_is_called_json_is_told_so() -> None:
    with pytest.raises(SpecInvalid, match="this is not JSON: name a file in YAML"):
        read(b"kind: text2img\n", json=True)
    assert read(b" true", json=True).value is True
