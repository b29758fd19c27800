"""Reads a table: CSV, TSV or JSONL of which each row is a prompt with its spec fields.

    bytes ─► rows ─► values of the spec's types ─► each merged over the spec, checked as a spec

Every fault has its row and column. A row has the number that a spreadsheet shows (the header is row
1), a line of JSONL that of an editor. OpenAI's batch JSONL is known by its keys. Reads no file.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import prod
from typing import Any, NoReturn

from composer.layers import FileProblem, decode
from specs import schemas
from specs.document import MAX_COLLECTED, MAX_DIGITS, MAX_SCALAR, UNFIT, Document, short
from specs.errors import Problem, SpecInvalid
from specs.expand import MAX_IMAGES
from specs.read import read
from specs.suggest import did_you_mean
from specs.validate import check

MAX_BYTES = 32 << 20
PARTS = {"subject": "subjects", "variable": "variables", "extra": "extra"}
"""Columns for `compose`, and its fields."""
# They are the job's, or what a row is combined with; a LoRA is hashed once for a job.
_NO_COLUMNS = frozenset(
    "kind id priority window not_before tags notes compose choices sample sample_seed table"
    " on_error matrix loras reuse preview notify schema $schema result".split()
)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_NEUTRALISED = re.compile(r"'(?='*[=+\-@\t])")
_TEXT_OR_NAN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')
_OPENAI_URL = "/v1/images/generations"
_OPENAI_FIELDS = {
    "prompt": "prompt", "n": "count", "output_format": "format", "seed": "seed", "model": "model",
}  # fmt: skip
_OPENAI_NAMES = {ours: theirs for theirs, ours in _OPENAI_FIELDS.items()}
_OPENAI_NAMES |= dict.fromkeys(("width", "height"), "size")
# Of the results of an earlier job, what is neither a field nor a part of a pack.
_OF_RESULTS = frozenset("row file sha256 state reason message seconds verdict".split())
_Record = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row; `of_all` says that it is the column, and so each row."""

    row: int
    column: str
    message: str
    reason: str = "SchemaInvalid"
    of_all: bool = False


@dataclass(frozen=True)
class Row:
    """One row: its spec fields, and the parts of `compose` that it names."""

    number: int
    fields: Mapping[str, Any]
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The rows of a table that can be made, its columns, and the faults of the others.

    `custom_ids` are those of OpenAI's requests, by row, and `faulty` what the other rows say.
    """

    name: str
    sha256: str
    rows: tuple[Row, ...]
    columns: frozenset[str]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()
    custom_ids: Mapping[int, str] = field(default_factory=dict)
    faulty: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def where(self, row: int, column: str = "") -> str:
        """A cell, in words: "products.csv: row 17, column width"."""
        words = ("line", "key") if self.name.lower().endswith(".jsonl") else ("row", "column")
        return f"{self.name}: {words[0]} {row}" + (f", {words[1]} {column}" if column else "")

    def told(self, faults: Sequence[Fault]) -> SpecInvalid:
        """The error for faults, in the order of the rows."""
        placed = sorted(faults, key=lambda fault: fault.row)
        where = (f"table: {self.where(fault.row, fault.column)}" for fault in placed)
        problems = [Problem(0, 0, w, f.message) for w, f in zip(where, placed, strict=True)]
        return SpecInvalid(faults[0].reason, problems)


def over(spec: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with the fields of a row, whose seeds leave none of the spec's that exclude them."""
    own = {"seed", "count"} & row.keys()
    excluded = ("seed", "count") if "seeds" in row else ("seeds",) if own else ()
    return {**{key: value for key, value in spec.items() if key not in excluded}, **row}


def read_table(
    data: bytes, name: str, sha256: str, spec: Mapping[str, Any], is_model: Callable[[str], bool]
) -> Table:
    """The table in a file's bytes, its rows checked together with the sound part of a spec.

    `is_model` knows the names of models. Raises SpecInvalid for a file of which no row can be read.
    """
    reader = _Reader(name, spec, is_model)
    if len(data) > MAX_BYTES:
        reader.refuse("TooLarge", f"{len(data):,} bytes: a table has at most {MAX_BYTES >> 20} MiB")
    try:
        text = decode(data, None)
    except FileProblem as problem:
        reader.refuse("NotUtf8", f"{problem}, in a spreadsheet as `CSV UTF-8`")
    rows: list[Row] = []
    combinations = prod(len(values) for values in spec.get("matrix", {}).values())
    for record in reader.lines(text) if name.lower().endswith(".jsonl") else reader.cells(text):
        rows += reader.row(*record)
        if len(rows) * combinations > MAX_IMAGES:
            message = f"more than {MAX_IMAGES:,} images: a job has at most so many, so split it"
            reader.refuse("TooManyImages", message)
        if len(reader.faults) >= MAX_COLLECTED:
            break
    if not rows and not reader.faults:
        reader.refuse("NothingToRun", "the table has no rows")
    columns, faults = frozenset(reader.columns), tuple(reader.faults)
    custom_ids = {row: custom_id for custom_id, row in reader.custom_ids.items()}
    warnings = tuple(reader.warnings())
    return Table(name, sha256, tuple(rows), columns, faults, warnings, custom_ids, reader.faulty)


class _Reader:
    def __init__(self, name: str, spec: Mapping[str, Any], is_model: Callable[[str], bool]) -> None:
        self._name, self._is_model = name, is_model
        self._base = {k: v for k, v in spec.items() if k not in ("table", "on_error")}
        self._fields = schemas.bundle(spec["kind"])["properties"]
        self._types = {key: _types(part) for key, part in self._fields.items()}
        self._types |= dict.fromkeys(("subject", "variable"), frozenset({"array"}))
        self.columns: set[str] = set()
        self.faults: list[Fault] = []
        self.custom_ids: dict[str, int] = {}
        self.faulty: dict[int, dict[str, Any]] = {}
        self._unknown: dict[str, None] = {}
        self._ignored: dict[str, None] = {}

    def refuse(self, reason: str, message: str) -> NoReturn:
        """Refuse the whole table."""
        raise SpecInvalid(reason, [Problem(0, 0, f"table: {self._name}", message)])

    def fault(self, row: int, column: str, message: str) -> None:
        self.faults.append(Fault(row, column, message))

    # -- records: the number of a row, and its values by column --------------------------------

    def cells(self, text: str) -> Iterator[_Record]:
        """The rows of CSV or TSV; the delimiter is the one that gives the most known columns."""
        is_tsv = self._name.lower().endswith(".tsv")
        said = re.match(r'"?sep=(.)"?[ ;,]*\r?\n', text)
        text = text[said.end() :] if said else text
        signs = said[1] if said else "\t" if is_tsv else ",;\t|"
        head = {sign: next(_csv(text, sign), []) for sign in signs}
        sign = max(head, key=lambda s: sum(self._is_column(name.strip()) for name in head[s]))
        rows: list[list[str]] = []
        try:
            rows.extend(_csv(text, sign, strict=True))
        except csv.Error as error:
            if not is_tsv:
                message = f'row {len(rows) + 1}: its quotes do not match ({error}): write " as ""'
                self.refuse("BadYaml", message)
            # Some programs write the texts between tabs as they are, and quote nothing.
            rows = list(_csv(text, sign, quoting=csv.QUOTE_NONE))
        names = [name.strip() for name in rows[0]] if rows else []
        if not any(names):
            self.refuse("NothingToRun", "the first row must name the columns")
        for name in self._asked(names):
            self._column(1, name, again=names.count(name) > 1)
        for number, row in enumerate(rows[1:], start=2):
            record: dict[str, Any] = {}
            for place, cell in enumerate(row):
                name = names[place] if place < len(names) else ""
                if not name and place == 0 and cell.strip() == str(number - 2):
                    continue  # the index that pandas writes in front
                if not name and cell.strip():
                    message = f"the header has no such column: put text with {sign!r} in quotes"
                    unnamed = "this column has no name (in pandas write `index=False`)"
                    self.fault(number, str(place + 1), message if place else unnamed)
                elif name in self.columns and cell.strip():
                    record[name] = self._value(number, name, cell, comma=sign != ",")
            if record:
                yield number, record

    def lines(self, text: str) -> Iterator[_Record]:
        """The objects of JSONL, each line by itself; NaN, as pandas writes it, is absent."""
        is_batch = None
        for number, line in enumerate(text.split("\n"), start=1):
            if "NaN" in line or "Infinity" in line:
                line = _TEXT_OR_NAN.sub(lambda m: m[0] if m[0][0] == '"' else "null", line)
            try:
                value = read(line.encode(), json=True).value if line.strip() else {}
            except SpecInvalid as error:
                for problem in error.problems:
                    message = problem.message.partition(": name a file")[0]
                    self.fault(number, problem.path, f"{message} (sign {problem.column})")
                continue
            if not isinstance(value, dict):
                self.fault(number, "", f"{short(value)} is not a mapping: each line is one")
                continue
            if value and is_batch is None:
                is_batch = {"custom_id", "body"} <= value.keys()
            record = self._request(number, value) if value and is_batch else value
            for name in self._asked(record):
                if name not in self.columns:
                    self._column(number, name)
            said = {
                name: _whole(cell, self._types.get(name, ()))
                for name, cell in record.items()
                if name in self.columns and cell is not None and cell != ""
            }
            # Of a row that was left out the results may say nothing that is a column.
            if said or (record and not value.keys() >= _OF_RESULTS):
                yield number, said

    def _request(self, number: int, value: dict[str, Any]) -> dict[str, Any]:
        """The spec fields of one of OpenAI's batch requests, with its `custom_id`; none of none."""
        body, custom_id = value.get("body"), value.get("custom_id")
        if isinstance(custom_id, str) and custom_id:
            if (first := self.custom_ids.setdefault(custom_id, number)) != number:
                self.fault(number, "custom_id", f"{short(custom_id)} is that of line {first} too")
        if not (isinstance(body, dict) and isinstance(custom_id, str) and custom_id):
            self.fault(number, "", "a request has a `custom_id`, which is text, and a `body`")
            return {}
        if value.get("url", _OPENAI_URL) != _OPENAI_URL:
            self.fault(number, "url", f"only {_OPENAI_URL} is understood")
        self.columns.add("custom_id")
        record: dict[str, Any] = {"custom_id": custom_id}
        for key, part in body.items():
            sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(part)) if key == "size" else None
            if sides:
                record |= {"width": int(sides[1]), "height": int(sides[2])}
            elif key == "model" and not (isinstance(part, str) and self._is_model(part)):
                self._unknown[str(part)[:60]] = None
            elif key in _OPENAI_FIELDS:
                record[_OPENAI_FIELDS[key]] = part
            elif key == "size" and part not in (None, "auto"):
                self.fault(number, key, f"{short(part)} is not a size like 1024x1024")
            elif key != "size" and part is not None:
                self._ignored[key[:60]] = None
        return record

    def warnings(self) -> Iterator[str]:
        """What of a batch, or of the results of a job, has no meaning here."""
        if unknown := ", ".join(f"`{name}`" for name in self._unknown):
            yield f"{self._name}: no model here is called {unknown}: the default is taken"
        if ignored := ", ".join(f"`{name}`" for name in self._ignored):
            yield f"{self._name}: {ignored} has no meaning here"

    # -- columns and values ----------------------------------------------------------------------

    def _asked(self, names: Collection[str]) -> list[str]:
        """The names of columns but for those that only the results of an earlier job have."""
        ignored = {*_OF_RESULTS} if _OF_RESULTS.issubset(names) else {""}
        if len(ignored) > 1 and "pack" not in self._base.get("compose", {}):
            ignored |= {"subject", "variable"}
        self._ignored |= dict.fromkeys(name for name in names if name and name in ignored)
        return [name for name in names if name and name not in ignored]

    def _is_column(self, name: str) -> bool:
        known = name in self._fields and name not in _NO_COLUMNS
        return known or name in PARTS or name.startswith("x_")

    def _column(self, row: int, name: str, *, again: bool = False) -> None:
        """Take a column, or say why it is none, once."""
        message = ""
        if again and name in self.columns:
            message = f"{name!r} is a second column of this name"
        elif name in _NO_COLUMNS:
            message = f"{name!r} is no column: put it into the spec"
        elif name in self._base.get("matrix", {}):
            message = f"{name!r} is in the spec's `matrix` too: give one"
        elif name in PARTS and "pack" not in self._base.get("compose", {}):
            message = f"{name!r} is a part of a pack: give the spec a `compose: {{pack: …}}`"
        elif not self._is_column(name) or UNFIT.search(name):
            columns = [key for key in (*self._fields, *PARTS) if key not in _NO_COLUMNS]
            other = schemas.other_name(name)
            hint = did_you_mean(other if other in columns else name, columns, "yours begin with x_")
            message = f"unknown column {short(name)} ({hint})"
        if not message:
            self.columns.add(name)
        elif all(fault.message != message for fault in self.faults):
            self.faults.append(Fault(row, name[:60], message, of_all=True))

    def _value(self, row: int, name: str, cell: str, *, comma: bool) -> Any:
        """What a cell means in a field of its types; text where it is nothing else."""
        types, text = self._types.get(name, frozenset()), cell.strip()
        # Where lists are separated by semicolons, decimals have a comma.
        number = (text.replace(",", ".") if comma else text)[: MAX_DIGITS + 1]
        if len(cell) > MAX_SCALAR:
            self.fault(row, name, f"text of more than {MAX_SCALAR:,} characters")
        elif unfit := UNFIT.search(cell):
            self.fault(row, name, f"the character U+{ord(unfit.group()):04X} is not allowed")
        elif "boolean" in types and text.lower() in ("true", "false"):
            return text.lower() == "true"
        elif types & {"integer", "number"} and _NUMBER.fullmatch(number):
            whole = number.lstrip("+-").isdecimal()
            return int(number) if whole else _whole(float(number), types)
        elif types & {"array", "object"} and text[0] in "[{":
            try:
                return read(text.encode(), json=True).value
            except SpecInvalid as error:
                if name not in PARTS:  # these may be patterns
                    self.fault(row, name, f"not JSON: {error.problems[0].message}")
        return cell[1:] if _NEUTRALISED.match(cell) else cell

    def row(self, number: int, record: dict[str, Any]) -> Iterator[Row]:
        """The row of a record, if it makes a valid spec."""
        own = takewhile(lambda fault: fault.row == number, reversed(self.faults))
        before = {fault.column for fault in own}
        names = _OPENAI_NAMES if record.pop("custom_id", None) else {}
        self.faulty[number] = {**record}
        parts = {PARTS[name]: record.pop(name) for name in PARTS if name in record}
        merged = over(self._base, record)
        if parts:
            merged["compose"] = {**self._base["compose"], **parts}
        checked = check(Document(merged))
        for problem in checked.problems:
            path, message = problem.path, problem.message
            root = re.split(r"\W", path)[0]
            column = next((c for c, p in PARTS.items() if path == f"compose.{p}"), root)
            # What a faulty row lacks may be what could not be read.
            if column in before or (before and not path):
                continue
            if column in record or column in PARTS or not path:
                self.fault(number, names.get(column, column), message)
            else:
                self.fault(number, "", f"{path}: {message}")
        if not before and not checked.problems:
            del self.faulty[number]
            yield Row(number, {key: checked.value[key] for key in record}, parts)


def _csv(text: str, sign: str, **options: Any) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_BYTES)
    return csv.reader(io.StringIO(text, newline=""), delimiter=sign, **options)


def _types(schema: Any) -> frozenset[str]:
    """The names of the JSON types that a field takes."""
    if not isinstance(schema, dict):
        return frozenset()
    own = schema.get("type", ())
    found = {own} if isinstance(own, str) else {*own}
    found |= {"integer" for each in schema.get("enum", ()) if type(each) is int}
    return frozenset(found).union(*map(_types, schema.get("anyOf", ())))


def _whole(value: Any, types: Any) -> Any:
    """The value, 512.0 as 512 where a whole number is taken: programs write such columns so."""
    is_whole = isinstance(value, float) and "integer" in types and value.is_integer()
    return int(value) if is_whole else value
