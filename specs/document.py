"""A document with positions, and the builder that makes one from a stream of events.

The YAML and the JSON reader both feed the builder, so that every guard (depth, number of nodes,
length of text, duplicate keys, text that JSON or an image's metadata could not carry) is written
once. It uses its own stack: no input can exhaust Python's.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NoReturn

from specs.errors import Problem, SpecInvalid

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_EVENTS = 20_000
MAX_SCALAR = 64 * 1024
MAX_DIGITS = 40
MAX_REPORTED = 20
# Beyond this many the rest is not even looked for: a hostile file costs milliseconds.
MAX_COLLECTED = 1_000

# Control characters, lone surrogates and the two non-characters that XML refuses: all of these
# would travel into JSON, PNG text and XMP, and break some reader there.
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
BREAK = re.compile("\r\n|\r|\n")

_ODD_BLANKS = "\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff"
# A sign that looks like the colon or the blank behind a key, or like its indentation, and is none.
ODD_SIGN = re.compile(
    rf"\s*?(?:- +)?(?:[\"']?[\w$-]+[\"']? *(?:(?=[：﹕︓])|:(?=[{_ODD_BLANKS}])))?"
    rf"(?P<sign>[：﹕︓{_ODD_BLANKS}])"
)

# line, column, and the marks of the children: a list, or key -> (line, column, mark of the value)
Mark = tuple[int, int, Any]


@dataclass(frozen=True)
class Document:
    """What a file says, as plain Python, and where in the file it says so."""

    value: Any
    mark: Mark = (1, 1, None)
    notes: tuple[str, ...] = ()
    """What is no mistake by itself, and probably not intended."""

    def locate(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `path` (or of its key), else of its nearest parent."""
        line, column, children = self.mark
        for depth, part in enumerate(path):
            if isinstance(children, dict) and part in children:
                at_key, mark = children[part]
                if key and depth == len(path) - 1:
                    return int(at_key[0]), int(at_key[1])
            elif isinstance(children, list) and type(part) is int and part < len(children):
                mark = children[part]
            else:
                break
            line, column, children = mark
        return line, column

    def renamed(self, paths: Mapping[tuple[str | int, ...], str]) -> "Document":
        """The same document with free keys in place of the last ones of these paths.

        The old ones are still located.
        """
        value, mark = deepcopy((self.value, self.mark))
        for (*parents, old), new in paths.items():
            part, children = value, mark[2]
            for step in parents:
                child = children and children[step]
                children = child and (child[1] if isinstance(part, dict) else child)[2]
                part = part[step]
            part[new] = part.pop(old)
            if children:
                children[new] = children[old]
        return Document(value, mark, self.notes)


def refuse(reason: str, line: int, column: int, message: str, path: str = "") -> NoReturn:
    """Raise SpecInvalid for one problem."""
    raise SpecInvalid(reason, [Problem(line, column, path, message)])


def short(value: Any) -> str:
    """A value as it may stand in a message: never longer than 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shown = repr(value[:80]) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def odd_sign(sign: str) -> str:
    """What is wrong with a sign that looks like another, as a sentence."""
    meant = "':' and a blank" if unicodedata.category(sign).startswith("P") else "a plain blank"
    return f"U+{ord(sign):04X} ({unicodedata.name(sign, '').lower()}) stands here: write {meant}"


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `loras[0].weight`."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else (part if len(part) <= 60 else part[:57] + "...")
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, counted from 1, of a character offset."""
    line, start = 1, 0
    for found in BREAK.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return line, offset - start + 1


@dataclass
class _Frame:
    value: Any
    children: Any
    line: int
    column: int
    key: str | None = None
    key_at: tuple[int, int] = (0, 0)


@dataclass
class Builder:
    """Takes the events of one document and gives the Document, or raises SpecInvalid."""

    stack: list[_Frame] = field(default_factory=list)
    faults: list[tuple[str, Problem]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: int = 0
    value: Any = None
    mark: Mark = (1, 1, None)

    @property
    def wants_key(self) -> bool:
        """Whether the next scalar is the key of a mapping."""
        if not self.stack:
            return False
        frame = self.stack[-1]
        return frame.key is None and type(frame.value) is dict

    def path(self) -> list[str | int]:
        """Where the next value goes."""
        keys = [
            frame.key if isinstance(frame.value, dict) else len(frame.value) for frame in self.stack
        ]
        return [key for key in keys if key is not None]

    def fault(self, reason: str, line: int, column: int, message: str) -> None:
        """Note a problem that does not keep the rest from being read."""
        if len(self.faults) < MAX_REPORTED:
            self.faults.append((reason, Problem(line, column, dotted(self.path()), message)))

    def note(self, message: str) -> None:
        """Note what is no problem and probably not intended."""
        if len(self.notes) < MAX_REPORTED:
            self.notes.append(message)

    def scalar(self, value: Any, line: int, column: int) -> None:
        """Take a scalar: a key where one is due, else a value."""
        self._tick(line, column)
        if isinstance(value, str):
            if len(value) > MAX_SCALAR:
                refuse("TooLarge", line, column, f"text of more than {MAX_SCALAR:,} characters")
            unfit = UNFIT.search(value)
            if unfit:
                code = ord(unfit.group())
                self.fault("BadYaml", line, column, f"the character U+{code:04X} is not allowed")
        if self.wants_key:
            self._key(value, line, column)
        else:
            self._put(value, (line, column, None))

    def open(self, container: dict[str, Any] | list[Any], line: int, column: int) -> None:
        """Begin a mapping or a list."""
        self._tick(line, column)
        if self.wants_key:
            refuse("BadYaml", line, column, "a key must be text, not a list or a mapping")
        if len(self.stack) >= MAX_DEPTH:
            refuse("TooDeep", line, column, f"nested more than {MAX_DEPTH} levels deep")
        children: Any = {} if isinstance(container, dict) else []
        self.stack.append(_Frame(container, children, line, column))

    def close(self) -> None:
        """End the innermost mapping or list."""
        self.events += 1
        frame = self.stack.pop()
        self._put(frame.value, (frame.line, frame.column, frame.children))

    def finish(self) -> Document:
        """The document, or SpecInvalid with every fault noted on the way."""
        if self.faults:
            self.faults.sort(key=lambda fault: fault[1])
            raise SpecInvalid(self.faults[0][0], [problem for _, problem in self.faults])
        return Document(self.value, self.mark, tuple(self.notes))

    def _tick(self, line: int, column: int) -> None:
        self.events += 1
        if self.events > MAX_EVENTS:
            refuse("TooLarge", line, column, f"more than {MAX_EVENTS:,} keys and values")

    def _key(self, value: Any, line: int, column: int) -> None:
        frame = self.stack[-1]
        if not isinstance(value, str):
            self.fault("BadYaml", line, column, f"a key must be text: put {short(value)} in quotes")
            value = str(value)
        elif value in frame.value:
            first = frame.children[value][0][0]
            message = f"duplicate key {short(value)} (first on line {first})"
            self.fault("DuplicateKey", line, column, message)
        frame.key, frame.key_at = value, (line, column)

    def _put(self, value: Any, mark: Mark) -> None:
        if not self.stack:
            self.value, self.mark = value, mark
            return
        frame = self.stack[-1]
        if frame.key is None:
            frame.value.append(value)
            frame.children.append(mark)
        else:
            if frame.key not in frame.value:
                frame.value[frame.key] = value
                frame.children[frame.key] = (frame.key_at, mark)
            frame.key = None
