"""Hostile files: a table of bytes that no reader should trust, and what each is refused for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import yaml

import specs.read

Row = tuple[str, bytes]

OK = b"kind: text2img\nprompt: a\n"


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
    b"".join(b"a%d: &a%d [%s]\n" % (i, i, b"*a%d, " % (i - 1) * 9) for i in range(1, 10)),
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


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) + len(JSON) >= 150


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_each_hostile_yaml_is_refused_for_its_reason(
    number: int, answer: Callable[..., str]
) -> None:
    reason, data = TABLE[number]
    assert answer(data) == reason, data[:80]


@pytest.mark.parametrize("number", range(len(JSON)))
def test_each_hostile_json_is_refused_for_its_reason(
    number: int, answer: Callable[..., str]
) -> None:
    reason, data = JSON[number]
    assert answer(data, json=True) == reason, data[:80]


def test_all_of_them_together_take_no_more_than_milliseconds_each(
    answer: Callable[..., str],
) -> None:
    start = time.process_time()
    for _, data in TABLE:
        answer(data)
    assert (time.process_time() - start) / len(TABLE) < 0.05


def test_without_libyaml_nothing_else_escapes_either(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]
) -> None:
    monkeypatch.setattr(specs.read, "_loader", lambda: yaml.SafeLoader)
    for _, data in TABLE:
        if len(data) < 5_000:
            assert answer(data), data[:80]
