"""Hostile and broken input: a table of what each is refused for, and a sweep over damaged specs."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import yaml

import specs.read
from runner.errors import SpecInvalid
from specs.read import read
from specs.validate import validate

OK = b"kind: text2img\nprompt: a\n"
Row = tuple[str, bytes]


def plus(*lines: str) -> bytes:
    return OK + "\n".join(lines).encode() + b"\n"


ALIASES: list[bytes] = [
    b"a: &a [x]\nb: [*a, *a]\n",
    b"&a a: 1\n",
    b"a: &a [*a]\n",
    b"a: *b\n",
    b"*a : 1\n",
    b"&a\nkind: x\n",
    b"a: &a {}\nb:\n  <<: *a\n",
    plus("<<: {steps: 4}"),
    plus("x_a: {<<: [{a: 1}]}"),
    b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 10)),
    b"a0: &a0 {k: v}\n" + b"".join(
        b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (i, i, i - 1, i - 1) for i in range(1, 41)
    ),
]  # fmt: skip

TAGS: list[bytes] = [
    b"!!python/object/apply:os.system ['id']\n",
    b"a: !!python/name:os.system\n",
    b"a: !!binary aGk=\n",
    b"a: !!set {a}\n",
    b"a: !!timestamp abc\n",
    b"a: !!int abc\n",
    b"a: !!float .inf\n",
    b"a: !!str 5\n",
    b"a: !local 5\n",
    b"a: ! 5\n",
    b"a: !<tag:x> 5\n",
    b"a: !!omap [a: 1]\n",
    b"!!map {a: 1}\n",
    b"? !!str a\n: 1\n",
    b"%TAG !e! tag:example.com,2026:\n---\na: !e!b 1\n",
    b"".join(b"%%TAG !a%d! tag:x\n" % i for i in range(10_000)) + b"---\na: 1\n",
]

DEEP: list[bytes] = [
    b"[" * 33 + b"]" * 33,
    b"[" * 100_000,
    b"- " * 400 + b"a",
    b"- " * 100_000,
    b"{a: " * 50_000,
    b'{"a":' * 50_000,
    b"".join(b" " * i + b"a:\n" for i in range(60)),
    plus("x_a: " + "[" * 40 + "]" * 40),
    plus("image: " + "{path: " * 40),
]

LARGE: list[bytes] = [
    b"#" * (256 * 1024 + 1),
    b"a: " + b"x" * 300_000,
    b"[" + b"1," * 100_000 + b"1]",
    b"".join(b"- 1\n" for _ in range(21_000)),
    b"".join(b"a%d: 1\n" % i for i in range(11_000)),
    b"a: " + b"x" * 66_000,
    b"a: '" + b"x" * 66_000 + b"'",
    b"? " + b"k" * 66_000 + b"\n: 1\n",
    b"a\n" * 100_000,
]

UTF8: list[bytes] = [
    OK + b"notes: caf\xe9\n",
    OK.decode().encode("utf-16"),
    OK.decode().encode("utf-16-le"),
    OK.decode().encode("utf-16-be"),
    OK.decode().encode("utf-32"),
    b"\0" * 4096,
    OK + b"\0" * 10,
    OK + b"notes: a\0b\n",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xc0\x80",
    b"a: \xed\xa0\x80\n",
    b"a: \xf8\x88\x80\x80\x80\n",
    b"a: \xf4\x90\x80\x80\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\x1f\x8b\x08\0",
    b"prompt: \xe2\x82",
]

MULTIPLE: list[bytes] = [
    OK + b"---\n" + OK,
    b"---\n---\n",
    OK + b"...\n---\na: 1\n",
    OK + b"---\n",
    b"--- a\n--- b\n",
]

DUPLICATES: list[bytes] = [
    plus("prompt: b"),
    plus('"prompt": b'),
    plus("? prompt\n: b"),
    b"{a: 1, a: 1}",
    plus("x_a: {b: 1, b: 2}"),
    b"a: 1\n" * 5_000,
]

YAML: list[bytes] = [
    b"a: b: c\n",
    b"\ta: 1\n",
    b"a:\n\t- 1\n",
    b"a: 'x\n",
    b'a: "x\n',
    b'a: "\\q"\n',
    b'a: "\\xZZ"\n',
    b'a: "\\ud800"\n',
    b'a: "\\uDC00x"\n',
    b'a: "\\U00110000"\n',
    b'a: "\\UFFFFFFFF"\n',
    b'a: "\\0"\n',
    b'a: "\\e[31m"\n',
    b'a: "\\x7f"\n',
    b'a: "\\x85"\n',
    b'a: "\\uffff"\n',
    b"a: \x07\n",
    b"a: \x1b[31m\n",
    b"a: \x7f\n",
    b"a: \xc2\x85\n",
    b"a: \xef\xbf\xbf\n",
    b"a: @x\n",
    b"a: `x`\n",
    b"%\n",
    b"%" * 1000,
    b"%FOO 1\n---\na: 1\n",
    b"%YAML 3.0\n---\na: 1\n",
    b"a: 1\nb\n",
    b"- a\nb: 1\n",
    b"a: 1\n- b\n",
    b"a: [1, 2\n",
    b"a: {b: 1\n",
    b"}\n",
    b"a: |x\n",
    b"a: >99\n",
    b"a: .nan\n",
    b"a: .NaN\n",
    b"a: .inf\n",
    b"a: -.INF\n",
    b"a: +.Inf\n",
    b"a: 1e400\n",
    b"a: -1.5e9999\n",
    b"[.inf]\n",
    b"? [a]\n: 1\n",
    b"? {a: 1}\n: 1\n",
    b"[a]: 1\n",
    b"1: a\n",
    b"1.5: a\n",
    b"true: a\n",
    b"null: a\n",
    b"~: a\n",
    b": a\n",
    b"x_a: {2: 3}\n",
    b"a: 'x' y\n",
    b"a: *\n",
    b"a: &\n",
    b"...\n...\n...\n",
    b"\xef\xbb\xbf\xef\xbb\xbf\xef\xbb\xbf:::\n\xef\xbb\xbf- :",
]

SCHEMA: list[bytes] = [
    b"",
    b"\n\n",
    b"# comment\n",
    b"- kind: text2img\n",
    b"just text\n",
    b"5\n",
    b"null\n",
    b"a\nb\nc\n",
    b"a: 1]\n",
    b"{}\n",
    b"prompt: a\n",
    b"kind:\nprompt: a\n",
    b"kind: [text2img]\nprompt: a\n",
    b"kind: Text2Img\nprompt: a\n",
    b"kind: 5\n",
    b"kind: common\n",
    b"kind: settings\n",
    b"kind: ../../etc/passwd\n",
    b"kind: " + b"k" * 60_000 + b"\n",
    b"kind: text2img\n",
    b"kind: text2img\nprompt:\n",
    b"kind: text2img\nprompt: ''\n",
    b"kind: text2img\nprompt: '   '\n",
    b"kind: text2img\nprompt: 5\n",
    b"kind: text2img\nprompt: [a]\n",
    b"kind: text2img\nprompt: " + b"a" * 2001 + b"\n",
    b"kind: text2img\nprompt: " + "\u0301".encode() * 3_000 + b"\n",
    plus("stpes: 4"),
    plus("Steps: 4"),
    plus("steps: 0"),
    plus("steps: 1001"),
    plus("steps: 4.5"),
    plus("steps: true"),
    plus("steps: '4'"),
    plus("steps: 010"),
    plus("steps: 0x10"),
    plus("steps: 1_0"),
    plus("steps: -4"),
    plus("steps: 1e300"),
    plus("steps: " + "9" * 40),
    plus("steps: " + "9" * 5_000),
    plus("steps:"),
    plus("guidance: -0.1"),
    plus("guidance: 100.1"),
    plus("guidance: true"),
    plus("guidance: 1,5"),
    plus("guidance: nan"),
    plus("width: 100"),
    plus("width: 48"),
    plus("width: 4112"),
    plus("width: 64.5"),
    plus("width: " + "9" * 40),
    plus("width: 1e308"),
    plus("height: 0"),
    plus("height: yes"),
    plus("seed: -1"),
    plus("seed: 4294967296"),
    plus("seed: 1.5"),
    plus("seed: 12:30"),
    plus("seed: 0o17"),
    plus("seed: 4294967295", "count: 2"),
    plus("seed: 1", "seeds: [1]"),
    plus("count: 0"),
    plus("count: 10001"),
    plus("count: 2", "seeds: [1]"),
    plus("seeds: []"),
    plus("seeds: [1, 1]"),
    plus("seeds: [1, 1.0]"),
    plus("seeds: [true]"),
    plus("seeds: [-1]"),
    plus("seeds: 5"),
    plus("seeds: {start: 1}"),
    plus("seeds: {start: 1, count: 2, end: 3}"),
    plus("seeds: {start: 4294967290, count: 10}"),
    plus("seeds: [" + "a," * 5_000 + "a]"),
    plus("matrix: {}"),
    plus("matrix: []"),
    plus("matrix: {steps: 4}"),
    plus("matrix: {steps: []}"),
    plus("matrix: {steps: [4, 4]}"),
    plus("matrix: {steps: [0]}"),
    plus("matrix: {seed: [1]}"),
    plus("matrix: {image: [a.png]}"),
    plus("matrix: {composite: [true]}"),
    plus("matrix: {width: [100]}"),
    plus("matrix: {prompt: ['']}"),
    plus("compose: {pack: a, subjects: all}"),
    b"kind: text2img\ncompose: {subjects: all}\n",
    b"kind: text2img\ncompose: {pack: a}\n",
    b"kind: text2img\ncompose: {pack: ../a, subjects: all}\n",
    b"kind: text2img\ncompose: {pack: a, subjects: ../b}\n",
    b"kind: text2img\ncompose: {pack: a, subjects: []}\n",
    b"kind: text2img\ncompose: {pack: a, subjects: all, on_violation: warn}\n",
    b"kind: text2img\ncompose: {pack: a, subjects: all}\nmatrix: {prompt: [a]}\n",
    plus("id: ''"),
    plus("id: -rf"),
    plus("id: .hidden"),
    plus("id: ../x"),
    plus("id: a/b"),
    plus("id: 'a b'"),
    plus("id: a."),
    plus('id: "a\\n"'),
    plus("id: " + "a" * 101),
    plus("id: " + "a." * 30_000),
    plus("id: CON"),
    plus("id: nul.txt"),
    plus("id: Com1"),
    plus("id: drops"),
    plus("id: Runner.json"),
    plus("id: index.html"),
    plus("id: \u00e9"),
    plus("id: 7"),
    plus("model: ../x"),
    plus("model: ''"),
    plus("model: [tiny]"),
    plus("precision: fp4"),
    plus("format: gif"),
    plus("format: PNG"),
    plus("quality: 80"),
    plus("quality: 80", "format: png"),
    plus("quality: 0", "format: jpeg"),
    plus("quality: 101", "format: webp"),
    plus("metadata: some"),
    plus("priority: 101"),
    plus("priority: high"),
    plus("timeout: 0"),
    plus("timeout: 1e9"),
    plus("window: 23-7"),
    plus("window: 24:00-07:00"),
    plus("window: 07:00-07:00"),
    plus("window: 23:00-07:60"),
    plus('window: "23:00-07:00\\n"'),
    plus("not_before: tomorrow"),
    plus("not_before: 2026-13-01T00:00"),
    plus("not_before: 2026-02-30T00:00"),
    plus("not_before: 2026-01-01T25:00"),
    plus("not_before: 2026-01-01T00:00:60Z"),
    plus("not_before: 2026-01-01"),
    plus("not_before: 0000-01-01T00:00"),
    plus("not_before: 2026-01-01T00:00+99:00"),
    plus("not_before: \u0662026-01-01T00:00"),
    plus("tags: a"),
    plus("tags: [a, a]"),
    plus("tags: [1]"),
    plus("tags: ['']"),
    plus("tags: [" + "a," * 40 + "b]"),
    plus("notes: [a]"),
    plus("schema: 2"),
    plus("result: 5"),
    plus("loras: ink"),
    plus("loras: [{}]"),
    plus("loras: [{path: a, repo: b/c}]"),
    plus("loras: [{repo: https://example.com/x}]"),
    plus("loras: [{path: a, weight: 11}]"),
    plus("loras: [{path: a, name: 'a b'}]"),
    plus("loras: [{path: a, wieght: 1}]"),
    plus("image: a.png"),
    plus("mask: a.png"),
    b"kind: kontext\nprompt: a\n",
    b"kind: kontext\nprompt: a\nimage: []\n",
    b"kind: kontext\nprompt: a\nimage: 5\n",
    b"kind: fill\nprompt: a\nimage: a.png\n",
    b"kind: fill\nprompt: a\nimage: [a.png]\nmask: b.png\n",
    b"kind: fill\nprompt: a\nimage: a.png\nmask: b.png\noutpaint: {left: 16}\n",
    b"kind: fill\nprompt: a\nimage: a.png\noutpaint: {}\n",
    b"kind: fill\nprompt: a\nimage: a.png\noutpaint: {left: 0}\n",
    b"kind: fill\nprompt: a\nimage: a.png\noutpaint: {left: -1}\n",
    b"kind: fill\nprompt: a\nimage: a.png\noutpaint: {up: 16}\n",
    b"kind: fill\nprompt: a\nimage: a.png\nmask: b.png\ncomposite: yes\n",
    b"kind: control\nprompt: a\nimage: a.png\n",
    b"kind: control\nprompt: a\nimage: a.png\ncontrol: pose\n",
    b"kind: redux\n",
    b"kind: redux\nimage: {path: a}\n",
    b"kind: redux\nimage: [{weight: 1}]\n",
    b"kind: redux\nimage: [{path: a, weight: 99}]\n",
    b"kind: redux\nimage: " + b"[" * 20 + b"]" * 20 + b"\n",
    b"kind: redux\nimage: [" + b"a," * 17 + b"a]\n",
    b'kind: redux\nimage: "a\\nb"\n',
]

TABLE: list[Row] = [
    (reason, data)
    for reason, rows in (
        ("AliasesNotAllowed", ALIASES),
        ("TagNotAllowed", TAGS),
        ("TooDeep", DEEP),
        ("TooLarge", LARGE),
        ("NotUtf8", UTF8),
        ("MultipleDocuments", MULTIPLE),
        ("DuplicateKey", DUPLICATES),
        ("BadYaml", YAML),
        ("SchemaInvalid", SCHEMA),
    )
    for data in rows
]

JSON: list[Row] = [
    *(("BadYaml", data) for data in (
        b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b"[1,]", b"[,]", b"{,}",
        b"[1 2]", b'{"a" 1}', b"{a: 1}", b"{'a': 1}", b'{"a": 1} x', b'{"a": 1}{"a": 1}',
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e400}', b'{"a": 01}',
        b'{"a": +1}', b'{"a": .5}', b'{"a": 1.}', b'{"a": 0x1}', b'{"a": tru}', b'{"a": True}',
        b'{"a": "\n"}', b'{"a": "\t"}', b'{"a": "\\x41"}', b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}', b'{"a": "\\u001b"}', b'{"a": "x}', b'{"a": "\\', b'{1: 2}',
        b'{null: 2}', b'[1]]', b'// c\n{}', b'/* c */ {}', b'{"a": ' + b"1" * 41 + b"}",
        b"\x0c{}", b"\xc2\xa0{}", b'{"a": undefined}', b"@",
    )),
    ("DuplicateKey", b'{"a": 1, "a": 1}'),
    ("DuplicateKey", b'{"x_a": {"b": 1, "\\u0062": 2}}'),
    ("TooDeep", b"[" * 100_000),
    ("TooDeep", b'{"a":' * 50_000),
    ("TooLarge", b"[" + b"1," * 100_000 + b"1]"),
    ("TooLarge", b'{"a": "' + b"x" * 66_000 + b'"}'),
    ("TooLarge", b" " * 300_000),
    ("NotUtf8", b'{"a": "\xe9"}'),
    ("NotUtf8", '{"a": 1}'.encode("utf-16")),
    ("SchemaInvalid", b""),
    ("SchemaInvalid", b"[]"),
    ("SchemaInvalid", b'"text"'),
    ("SchemaInvalid", b'{"kind": "text2img"}'),
    ("SchemaInvalid", b'{"kind": "text2img", "prompt": "a", "steps": 1e300}'),
]  # fmt: skip


def answer(data: bytes, *, json: bool = False) -> str:
    """The reason word, or nothing if the spec is good; anything else that is raised is a fault."""
    try:
        spec = validate(read(data, json=json))
    except SpecInvalid as refused:
        assert 1 <= len(refused.problems) <= 21
        for problem in refused.problems:
            assert len(problem.message) < 250 and len(problem.path) < 250
            assert problem.message and "\n" not in problem.message
        return refused.reason
    assert isinstance(spec, dict)
    return ""


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) + len(JSON) >= 250


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_each_hostile_yaml_is_refused_for_its_reason(number: int) -> None:
    reason, data = TABLE[number]
    assert answer(data) == reason, data[:80]


@pytest.mark.parametrize("number", range(len(JSON)))
def test_each_hostile_json_is_refused_for_its_reason(number: int) -> None:
    reason, data = JSON[number]
    assert answer(data, json=True) == reason, data[:80]


def test_all_of_them_together_take_no_more_than_milliseconds_each() -> None:
    start = time.process_time()
    for _, data in TABLE:
        answer(data)
    assert (time.process_time() - start) / len(TABLE) < 0.05


def test_without_libyaml_nothing_else_escapes_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs.read, "_loader", lambda: yaml.SafeLoader)
    for reason, data in TABLE:
        if len(data) < 5_000:
            assert bool(answer(data)) is bool(reason), data[:80]


VALID = """\
# yaml-language-server: $schema=../specs/job.schema.json
kind: fill
id: hero-1
model: tiny
prompt: "a large green star: on a blue background, caf\u00e9 \\u00e9"
image: outbox/draw/draw-0001.png
mask: repaint-mask.png
seeds: {start: 10, count: 4}
matrix:
  steps: [4, 8]
  composite: [true, false]
guidance: 3.5
window: 23:00-07:00
tags: [a, b]
x_note: |
  two
  lines
""".encode()


def test_every_prefix_of_a_spec_is_read_as_written_or_refused() -> None:
    for end in range(len(VALID) + 1):
        answer(VALID[:end])


def test_every_damaged_spec_is_read_as_written_or_refused() -> None:
    chance = random.Random(31)
    for _ in range(1_000):
        data = bytearray(VALID)
        data[chance.randrange(len(data))] = chance.randrange(256)
        answer(bytes(data))


def test_every_damaged_json_spec_is_read_as_written_or_refused() -> None:
    import json

    whole = json.dumps(validate(read(VALID)), indent=1).encode()
    assert answer(whole, json=True) == ""
    chance = random.Random(43)
    for _ in range(1_000):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        answer(bytes(data), json=True)
    for end in range(len(whole)):
        assert answer(whole[:end], json=True), end


def test_arbitrary_values_in_place_of_a_spec_are_refused_not_raised() -> None:
    from specs.document import Document
    from specs.schemas import bundle

    strange: list[Any] = [None, True, -1, 2**70, 1e300, "", "\u202e" * 99, [], [[]], {}, {"": None}]
    for kind in ("fill", "redux", "control"):
        for field in bundle(kind)["properties"]:
            for value in strange:
                spec = {"kind": kind, field: value}
                try:
                    validate(Document(spec))
                except SpecInvalid:
                    continue
