"""Writes a value as YAML from which `specs.read` reads the same value.

Clients build their specs with `to_yaml`, never by formatting strings: a prompt may contain quotes,
colons, line breaks and any other character.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from specs.document import MAX_DEPTH, MAX_DIGITS, refuse
from specs.read import read

# Text that is a string without quotes, in YAML 1.1 as well; all other text is quoted.
_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9_ ,./()-]{0,2000}[A-Za-z0-9_./()])?")
_NOT_PLAIN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
# Some readers take these for line breaks or a byte order mark, so they are written as escapes.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029\ufeff"}


def to_yaml(value: Any) -> bytes:
    """The value (dicts, lists, text, numbers, booleans, None) as one YAML document in UTF-8.

    Raises SpecInvalid for a value that could not be read back (too deep, too large, a lone
    surrogate, an infinite number), TypeError for a value or key of another type.
    """
    text = "\n".join(_lines(value, 0)) + "\n"
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        refuse("NotUtf8", 0, 0, "a lone surrogate cannot be written as UTF-8")
    read(data)
    return data


def _lines(value: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        refuse("TooDeep", 0, 0, f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a key must be text, not {type(key).__name__}")
            name = _text(key)
            if len(name) > 100:
                yield f"? {name}"
                name = ""
            yield from _entry(f"{name}:", part, depth)
    elif isinstance(value, (list, tuple)) and value:
        for part in value:
            yield from _entry("-", part, depth)
    else:
        yield _scalar(value)


def _entry(head: str, value: Any, depth: int) -> Iterator[str]:
    inner = _lines(value, depth + 1)
    if isinstance(value, (Mapping, list, tuple)) and value:
        yield head
        yield from ("  " + line for line in inner)
    else:
        yield f"{head} {next(inner)}"


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        # The bits are compared first, since converting a huge number to text takes long.
        if value.bit_length() > 4 * MAX_DIGITS or len(str(abs(value))) > MAX_DIGITS:
            refuse("TooLarge", 0, 0, f"a number of more than {MAX_DIGITS} digits")
        return str(int(value))
    if isinstance(value, float):
        if value - value != 0:
            refuse("BadYaml", 0, 0, f"{value} is not a number that can be used")
        return repr(float(value))
    if isinstance(value, (Mapping, list, tuple)):
        return "{}" if isinstance(value, Mapping) else "[]"
    raise TypeError(f"{type(value).__name__} cannot be written in a spec")


def _text(text: str) -> str:
    if len(text) <= 2000 and _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    return json.dumps(str(text), ensure_ascii=False).translate(_ESCAPED).replace("\x7f", "\\x7f")
