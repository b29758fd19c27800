"""Hostile fields: specs that are sound YAML and still must not be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from specs.document import Document
from specs.errors import SpecInvalid
from specs.schemas import bundle
from specs.validate import validate

OK = b"kind: text2img\nprompt: a\n"


def plus(*lines: str) -> bytes:
    return OK + "\n".join(lines).encode() + b"\n"


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
    plus("matrix: {image: [7]}"),
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
    plus("image: [a.png]"),
    plus("strength: 0.5"),
    plus("image: a.png\nstrength: 0"),
    plus("image: a.png\nstrength: 1.5"),
    plus("matrix: {strength: [0.5]}"),
    plus("negative_prompt: ' '"),
    plus("true_cfg: 1"),
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
    b"kind: control\nprompt: a\ncontrol: canny\n",
    b"kind: control\nprompt: a\nimage: a.png\ncontrol: pose\n",
    b"kind: redux\n",
    b"kind: redux\nimage: {path: a}\n",
    b"kind: redux\nimage: [{weight: 1}]\n",
    b"kind: redux\nimage: [{path: a, weight: 99}]\n",
    b"kind: redux\nimage: " + b"[" * 20 + b"]" * 20 + b"\n",
    b"kind: redux\nimage: [" + b"a," * 17 + b"a]\n",
    b'kind: redux\nimage: "a\\nb"\n',
]


@pytest.mark.parametrize("number", range(len(SCHEMA)))
def test_each_is_refused_by_the_schema_or_a_rule(number: int, answer: Callable[..., str]) -> None:
    assert answer(SCHEMA[number]) == "SchemaInvalid", SCHEMA[number][:80]


def test_without_its_last_line_the_common_spec_would_have_been_fine(
    answer: Callable[..., str],
) -> None:
    assert answer(OK) == ""


SOUND: dict[str, dict[str, Any]] = {
    "fill": {"prompt": "a", "image": "a.png", "mask": "b.png"},
    "redux": {"image": "a.png"},
    "control": {"prompt": "a", "image": "a.png", "control": "canny"},
}
MIRRORED = "\u202e" * 99
STRANGE: list[Any] = [None, True, -1, 2**70, 1e300, "", MIRRORED, [], [[]], {}, {"": None}]
FINE: dict[str, list[Any]] = {
    "$schema": ["", MIRRORED], "notes": ["", MIRRORED], "prompt": [MIRRORED],
    "image": [MIRRORED], "mask": [MIRRORED], "loras": [[]], "tags": [[]],
    "notify": [[]], "priority": [-1], "keep_original": [], "result": [{}, {"": None}],
}  # fmt: skip
"""Which of these values are good ones for a field; everywhere else none but a truth value is."""


@pytest.mark.parametrize("kind", SOUND)
def test_arbitrary_values_in_place_of_any_field_are_refused_not_raised(kind: str) -> None:
    assert validate(Document({"kind": kind, **SOUND[kind]}))
    for field, part in bundle(kind)["properties"].items():
        accepted = []
        for value in STRANGE:
            try:
                validate(Document({"kind": kind, **SOUND[kind], field: value}))
            except SpecInvalid as refused:
                assert any(found.path.startswith(field) for found in refused.problems), field
            else:
                accepted.append(value)
        fine = [True] if part.get("type") == "boolean" else []
        assert accepted == FINE.get(field, fine), field
