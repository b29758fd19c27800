"""JSON with positions: strict, iterative, and under the same guards as YAML.

The standard decoder keeps no positions, lets duplicate keys and NaN through, and recurses; only
its string scanner is used here. Never accepts what `json.loads` would refuse.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # absent from the stubs
from typing import Any, NoReturn

from specs.document import BREAK, MAX_DIGITS, Builder, refuse

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LITERAL = re.compile(r"true|false|null")
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class _Source:
    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in BREAK.finditer(text))]
        self.at = 0

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def bad(self, message: str, offset: int | None = None) -> NoReturn:
        refuse("BadYaml", *self.place(self.at if offset is None else offset), message)


def feed(builder: Builder, text: str) -> None:
    """Give the builder the events of one JSON text."""
    source = _Source(text)
    if not source.peek():
        return
    _value(builder, source)
    while builder.stack:
        opened = builder.stack[-1].value
        end = "}" if isinstance(opened, dict) else "]"
        char = source.peek()
        if char == end:
            source.at += 1
            builder.close()
            continue
        if opened:
            if char != ",":
                source.bad(f"expected ',' or '{end}'" if char else f"'{end}' is missing at the end")
            source.at += 1
        if isinstance(opened, dict):
            _key(builder, source)
        _value(builder, source)
    if source.peek():
        source.bad("more text after the end of the JSON value")


def _key(builder: Builder, source: _Source) -> None:
    if source.peek() != '"':
        source.bad("expected a key in double quotes")
    start = source.place(source.at)
    builder.scalar(_string(source), *start)
    if source.peek() != ":":
        source.bad("expected ':' after the key")
    source.at += 1


def _value(builder: Builder, source: _Source) -> None:
    char = source.peek()
    line, column = source.place(source.at)
    if char == "{" or char == "[":
        source.at += 1
        builder.open({} if char == "{" else [], line, column)
    elif char == '"':
        builder.scalar(_string(source), line, column)
    elif literal := _LITERAL.match(source.text, source.at):
        source.at = literal.end()
        builder.scalar(_LITERALS[literal.group()], line, column)
    elif number := _NUMBER.match(source.text, source.at):
        source.at = number.end()
        builder.scalar(_number(source, number), line, column)
    else:
        source.bad("expected a value" if char else "the text ends where a value should be")


def _string(source: _Source) -> str:
    try:
        found: tuple[str, int] = scanstring(source.text, source.at + 1, True)
    except JSONDecodeError as exc:
        source.bad(exc.msg, exc.pos)
    source.at = found[1]
    return found[0]


def _number(source: _Source, found: re.Match[str]) -> Any:
    text = found.group()
    if found.group(1) is None and found.group(2) is None:
        if len(text.lstrip("-")) > MAX_DIGITS:
            source.bad(f"a number of more than {MAX_DIGITS} digits", found.start())
        return int(text)
    number = float(text)
    if number - number != 0:
        source.bad("too large a number", found.start())
    return number
