"""A strict JSON reader that keeps positions, without recursion and with the guards of YAML.

The standard decoder keeps no positions, accepts duplicate keys and NaN, and recurses; only its
string scanner is used here. Whatever `json.loads` refuses is refused here too.
"""

import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # absent from the stubs
from typing import NoReturn

from specs.document import BREAK, MAX_DIGITS, Builder, refuse

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LITERAL = re.compile(r"true|false|null")
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class _Source:
    """The text being read; `at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.line_starts = [0, *(match.end() for match in BREAK.finditer(text))]
        self.at = 0

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def peek(self) -> str:
        """Skip white space and return the next character; empty at the end."""
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.text[self.at : self.at + 1]

    def bad(self, message: str, offset: int | None = None) -> NoReturn:
        """Raise SpecInvalid at an offset, or at the next character."""
        refuse("BadYaml", *self.position(self.at if offset is None else offset), message)


def feed(builder: Builder, text: str) -> None:
    """Pass the events of one JSON text to the builder. Raises SpecInvalid for invalid JSON."""
    source = _Source(text)
    if not source.peek():
        return
    if source.text[source.at].isalpha() and not _LITERAL.match(source.text, source.at):
        source.bad("this is not JSON: name a file in YAML `.yaml`")
    _value(builder, source)
    while builder.stack:
        container = builder.stack[-1].value
        end = "}" if isinstance(container, dict) else "]"
        char = source.peek()
        if char == end:
            source.at += 1
            builder.close()
            continue
        if container:
            if char != ",":
                source.bad(f"expected ',' or '{end}'" if char else f"'{end}' is missing at the end")
            source.at += 1
        if isinstance(container, dict):
            _key(builder, source)
        _value(builder, source)
    if source.peek():
        source.bad("more text after the end of the JSON value")


def _key(builder: Builder, source: _Source) -> None:
    if source.peek() != '"':
        source.bad("expected a key in double quotes")
    start = source.position(source.at)
    builder.scalar(_string(source), *start)
    if source.peek() != ":":
        source.bad("expected ':' after the key")
    source.at += 1


def _value(builder: Builder, source: _Source) -> None:
    char = source.peek()
    line, column = source.position(source.at)
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
    text: str
    try:
        text, source.at = scanstring(source.text, source.at + 1, True)
    except JSONDecodeError as exc:
        source.bad(exc.msg, exc.pos)
    return text


def _number(source: _Source, match: re.Match[str]) -> int | float:
    text = match.group()
    if match.group(1) is None and match.group(2) is None:
        if len(text.lstrip("-")) > MAX_DIGITS:
            source.bad(f"a number of more than {MAX_DIGITS} digits", match.start())
        return int(text)
    number = float(text)
    if number - number != 0:  # infinite
        source.bad("too large a number", match.start())
    return number
