"""Damaged specs: cut short or with one byte changed, they are read as written or refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from specs.read import read
from specs.validate import validate

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


def test_every_prefix_of_a_spec_is_read_as_written_or_refused(answer: Callable[..., str]) -> None:
    for end in range(len(VALID) + 1):
        answer(VALID[:end])


def test_every_damaged_spec_is_read_as_written_or_refused(answer: Callable[..., str]) -> None:
    chance = random.Random(31)
    for _ in range(1_000):
        data = bytearray(VALID)
        data[chance.randrange(len(data))] = chance.randrange(256)
        answer(bytes(data))


def test_every_damaged_json_spec_is_read_or_refused(answer: Callable[..., str]) -> None:
    whole = json.dumps(validate(read(VALID)), indent=1).encode()
    assert answer(whole, json=True) == ""
    chance = random.Random(43)
    for _ in range(1_000):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        answer(bytes(data), json=True)
    for end in range(len(whole)):
        assert answer(whole[:end], json=True), end
