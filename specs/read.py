"""Read the bytes of one YAML or JSON file into a Document, whatever the bytes are.

Answers with a Document or with SpecInvalid, never with another exception, and in milliseconds.
YAML goes through the event stream, never through a constructor: no tag, anchor or alias is ever
acted upon, and the scalars are those of the YAML 1.2 core schema (`no` is text, 010 is text).
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from specs.document import (
    BREAK,
    MAX_BYTES,
    MAX_DIGITS,
    ODD_SIGN,
    UNFIT,
    Builder,
    Document,
    dotted,
    odd_sign,
    position,
    refuse,
    short,
)
from specs.errors import SpecInvalid

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_INTEGER = re.compile(rf"[-+]?(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?")
_ENDLESS = frozenset(
    sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")
) | {".nan", ".NaN", ".NAN"}
_NUMBER_STARTS = frozenset("0123456789+-.")
# Line breaks for every YAML parser here, and for YAML 1.2 none.
_FOREIGN_BREAKS = "\u2028\u2029"
# What a colour or a number may begin that was to be text and is a comment.
_COMMENT = re.compile(r"[ \t]+(#[^\s#][^\r\n]*)")
# In one pass: `_COMMENT` would begin anew at each of many blanks.
_ANY_COMMENT = re.compile(r"(?<=[ \t])#[^\s#]")
_COLOUR = re.compile(r"#[0-9A-Fa-f]{3}|#\d")
# What an unquoted text must not begin with, behind the key or the dashes before it.
_VALUE = re.compile(r"""\s*(?:- +)*(?:[^\s"'\[{#][^:#]*:[ \t]+)?([*&!{\[@`%|>"']|[-?](?=[ ]))""")
# Directives that would be compared with each other, thousands of times, before any event.
_TAG_DIRECTIVE = re.compile("^%TAG", re.MULTILINE)


def read(data: bytes, *, json: bool = False) -> Document:
    """Read one document (strict JSON if `json`); an empty file gives the value None."""
    if data.startswith(_LFS_POINTER):
        refuse("BadYaml", 1, 1, "a pointer of Git LFS, not the file itself: run `git lfs pull`")
    text = _decode(data)
    builder = Builder()
    if json:
        from specs.strict_json import feed

        feed(builder, text)
    else:
        _feed_yaml(builder, text)
    return builder.finish()


def left_in_place_of(data: bytes) -> str:
    """What another program left in place of a binary file: "LFS", "web page", or ""."""
    begins = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begins.startswith(_LFS_POINTER):
        return "LFS"
    # No format of pictures or weights begins so, and an SVG is no page.
    return "web page" if re.match(rb"<[a-z!?]", begins) and b"<svg" not in begins else ""


def ends_with_marker(data: bytes) -> bool:
    """Whether the last line is the YAML end marker `...`, so that nothing can be missing."""
    end = data.rstrip(b" \t\r\n")
    return end == b"..." or end.endswith((b"\n...", b"\r..."))


def is_whole_json_object(data: bytes) -> bool:
    """Whether these bytes parse as one JSON object, which no part of a file being written does."""
    # The common half-written file is turned away without being parsed.
    if not data.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(read(data, json=True).value, dict)
    except SpecInvalid:
        return False


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        refuse("TooLarge", 0, 0, f"{len(data):,} bytes: the limit is {MAX_BYTES:,}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse("NotUtf8", 1, 1, "the file is UTF-16: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data and not data.strip(b"\0"):
        refuse("NotUtf8", 1, 1, "the file holds nothing but zero bytes: write it again")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        sound = data[: exc.start].decode("utf-8")
        line, column = position(sound, len(sound))
        refuse("NotUtf8", line, column, f"byte 0x{data[exc.start]:02x} is not UTF-8: save it so")
    unfit = UNFIT.search(text)
    if unfit:
        line, column = position(text, unfit.start())
        if unfit.group() == "\0":
            refuse("NotUtf8", line, column, "a zero byte: the file is binary, UTF-16 or half lost")
        refuse("BadYaml", line, column, f"the character U+{ord(unfit.group()):04X} is not allowed")
    return text


@lru_cache(maxsize=1)
def _loader() -> Any:
    import yaml

    # libyaml is eight times faster; its events are safe, only its constructor recurses.
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _feed_yaml(builder: Builder, text: str) -> None:
    import yaml

    # The pure parser lets these out for some escapes; their texts would help nobody.
    foreign = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError)
    directive = _TAG_DIRECTIVE.search(text)
    if directive:
        refuse("TagNotAllowed", *position(text, directive.start()), "%TAG is not accepted")
    stand_ins = _stand_ins(text)
    text = text.translate(stand_ins) if stand_ins else text
    try:
        quoted = _feed_events(builder, text, stand_ins)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        # A parser looks ahead, and may refuse nesting by a limit of its own before its first event.
        # So what comes before that place is read once more: the guards here have the first word.
        with suppress(*foreign):
            _feed_events(Builder(), text[: mark.index if mark else 0], stand_ins)
        if stand_ins:
            # What follows a break was to be a line of its own.
            row_start = mark.index - mark.column if mark else 0
            _refuse_breaks(text[: mark.index if mark else 0], [(0, row_start)], stand_ins)
        refuse("BadYaml", *_explain(exc, text, line, column))
    except foreign as exc:
        refuse("BadYaml", 0, 0, f"this is not YAML ({type(exc).__name__})")
    if stand_ins:
        _refuse_breaks(text, quoted, stand_ins)


def _stand_ins(text: str) -> dict[int, int]:
    """A character for each foreign break of a text that the text does not have, nor its number."""
    found = [sign for sign in _FOREIGN_BREAKS if sign in text]
    lower = text.lower() if found else ""
    unused = (n for n in range(0xE000, 0xF900) if chr(n) not in text and f"{n:x}" not in lower)
    stand_ins = {ord(sign): next(unused, 0) for sign in found}
    if 0 in stand_ins.values():
        refuse("BadYaml", *position(text, text.index(found[0])), "too many odd characters")
    return stand_ins


def _refuse_breaks(text: str, quoted: list[tuple[int, int]], stand_ins: Mapping[int, int]) -> None:
    """Refuse the foreign breaks that stand outside quotes, where editors show them as lines."""
    signs = {chr(stand_in): sign for sign, stand_in in stand_ins.items()}
    outside = re.compile(f"[{''.join(signs)}]")
    begin = 0
    for start, end in [*quoted, (len(text), 0)]:
        found = outside.search(text, begin, start)
        if found:
            code = signs[found.group()]
            message = f"the character U+{code:04X} is not allowed outside quotes: write a blank"
            refuse("BadYaml", *position(text, found.start()), message)
        begin = end


def _feed_events(
    builder: Builder, text: str, stand_ins: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Feed a text that has its foreign breaks replaced; where its quoted scalars begin and end."""
    import yaml
    from yaml import events as kinds

    documents = 0
    quoted: list[tuple[int, int]] = []
    restored = {stand_in: sign for sign, stand_in in stand_ins.items()}
    comments = _ANY_COMMENT.search(text) is not None
    events: Any = yaml.parse(text, Loader=_loader())
    for event in events:
        kind, mark = type(event), event.start_mark
        if kind is kinds.ScalarEvent and event.anchor is None and event.tag is None:
            line, column, value = mark.line + 1, mark.column + 1, event.value
            if stand_ins and event.style in ("'", '"'):
                quoted.append((mark.index, event.end_mark.index))
                value = value.translate(restored)
            if not event.style:
                if value == "<<" and builder.wants_key:
                    refuse("AliasesNotAllowed", line, column, "merge keys (<<) are not accepted")
                value = _plain(builder, value, line, column)
                if comments and isinstance(value, str) and not builder.wants_key:
                    _note_comment(builder, text, event)
            builder.scalar(value, line, column)
        elif kind is kinds.SequenceEndEvent or kind is kinds.MappingEndEvent:
            builder.close()
        elif kind is kinds.DocumentStartEvent:
            documents += 1
            if documents > 1:
                message = "a second document: one file is one spec"
                refuse("MultipleDocuments", mark.line + 1, mark.column + 1, message)
        elif isinstance(event, kinds.NodeEvent):
            _feed_node(builder, event, mark.line + 1, mark.column + 1)
    return quoted


def _note_comment(builder: Builder, text: str, event: Any) -> None:
    """Note a comment that may have been intended as a part of the text before it."""
    comment = _COMMENT.match(text, event.end_mark.index)
    if comment and (" " in event.value or _COLOUR.match(comment[1])):
        message = (
            f"line {event.end_mark.line + 1}: {short(comment[1].rstrip())} is a comment and no part"
            f" of {dotted(builder.path()) or 'the text'}: put the text in quotes to keep it"
        )
        builder.note(message)


def _feed_node(builder: Builder, event: Any, line: int, column: int) -> None:
    """Begin a mapping or a list, or refuse what is acted upon nowhere."""
    from yaml import events as kinds

    if type(event) is kinds.AliasEvent or event.anchor is not None:
        sign = "*" if type(event) is kinds.AliasEvent else "&"
        message = f"anchors (&) and aliases (*) are not accepted{_in_quotes(sign)}"
        refuse("AliasesNotAllowed", line, column, message)
    if event.tag is not None:
        refuse("TagNotAllowed", line, column, f"tags (!) are not accepted{_in_quotes('!')}")
    builder.open({} if type(event) is kinds.MappingStartEvent else [], line, column)


def _plain(builder: Builder, text: str, line: int, column: int) -> Any:
    """What an unquoted scalar means by the YAML 1.2 core schema, without octal and hex."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if text in _ENDLESS:
        builder.fault("BadYaml", line, column, f"{text} is not a number that can be used here")
    # Beyond this length, and of so long an integer, nobody meant a number; the text fails wherever
    # one is needed.
    elif len(text) <= 100 and _FLOAT.fullmatch(text) and not text.lstrip("+-").isdecimal():
        number = float(text)
        if number - number == 0:
            return number
        builder.fault("BadYaml", line, column, f"{text} is too large a number")
    return text


def _explain(exc: Any, text: str, line: int, column: int) -> tuple[int, int, str]:
    """Where the mistake is that a parser came upon, and what to write instead."""
    problem = str(exc.problem or exc.context or "this is not YAML")
    source = BREAK.split(text)
    # A line without a colon goes on in the next ones, until one has a colon too many.
    for number in range(max(line - 4, 0), min(line, len(source))):
        odd = ODD_SIGN.match(source[number])
        if odd:
            return number + 1, odd.start("sign") + 1, odd_sign(odd["sign"])
    row = source[line - 1] if 0 < line <= len(source) else ""
    if row[column - 1 : column] == "\t" or "\t" in row[: len(row) - len(row.lstrip())]:
        return line, column, f"{problem}: indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return line, column, f"{problem}: put text that contains ': ' in quotes"
    start = _VALUE.match(row)
    if not start:
        return line, column, problem
    if start[1] not in ("'", '"'):
        return line, column, f"{problem}{_in_quotes(start[1])}"
    ends_early = exc.context == "while parsing a block mapping"
    hint = f": put all of the text between {start[1]} and {start[1]}" if ends_early else ""
    return line, column, f"{problem}{hint}"


def _in_quotes(sign: str) -> str:
    return f": put text that begins with {sign} in quotes"
