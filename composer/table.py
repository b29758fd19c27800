"""Reads a table: CSV, TSV or JSONL of which each row is a prompt with its spec fields.

    bytes ─► rows ─► values of the spec's types ─► each merged over the spec, checked as a spec

Every fault has its row and column. A row has the number that a spreadsheet shows (the header is row
1), a line of JSONL that of an editor. OpenAI's batch JSONL is known by its keys. Reads no file.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn

from composer.layers import FileProblem, decode
from specs import schemas
from specs.document import MAX_COLLECTED, MAX_DIGITS, MAX_REPORTED, UNFIT, Document, short
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
    "kind id priority window not_before tags notes compose table on_error matrix loras"
    " schema $schema result".split()
)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_NEUTRALISED = re.compile(r"'(?=[=+\-@\t])")
_TEXT_OR_NAN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')
_REQUEST = frozenset({"custom_id", "method", "url", "body"})
_OPENAI_URL = "/v1/images/generations"
_OPENAI_FIELDS = {"prompt": "prompt", "n": "count", "output_format": "format", "seed": "seed"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row; `column` is empty where it is no single cell."""

    row: int
    column: str
    message: str
    reason: str = "SchemaInvalid"
    of_all: bool = False
    """Whether it is about the column, and so about each row."""


@dataclass(frozen=True)
class Row:
    """One row: its spec fields, and the parts of `compose` that it names."""

    number: int
    fields: Mapping[str, Any]
    parts: Mapping[str, Any] = field(default_factory=dict)
    custom_id: str | None = None


@dataclass(frozen=True)
class Table:
    """The rows of a table that can be made, its columns, and the faults of the others."""

    name: str
    sha256: str
    rows: tuple[Row, ...]
    columns: frozenset[str]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()

    def where(self, row: int, column: str = "") -> str:
        """A cell, in words: "products.csv: row 17, column width"."""
        lines = self.name.lower().endswith(".jsonl")
        place = f"{self.name}: {'line' if lines else 'row'} {row}"
        return f"{place}, {'key' if lines else 'column'} {column}" if column else place

    def told(self, faults: Sequence[Fault]) -> list[SpecInvalid]:
        """The errors for faults, one for each reason; of many faults the first are listed."""
        placed = sorted(faults, key=lambda fault: fault.row)
        by_reason: dict[str, list[Problem]] = {}
        for f in placed[:MAX_REPORTED]:
            problem = Problem(0, 0, f"table: {self.where(f.row, f.column)}", f.message)
            by_reason.setdefault(f.reason, []).append(problem)
        for f in placed[MAX_REPORTED:][:1]:
            least = "at least " if len(faults) >= MAX_COLLECTED else ""
            message = f"and {least}{len(faults) - MAX_REPORTED:,} more problems from here on"
            problem = Problem(0, 0, f"table: {self.where(f.row)}", message)
            by_reason.setdefault(f.reason, []).append(problem)
        return [SpecInvalid(reason, problems) for reason, problems in by_reason.items()]


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
    is_jsonl = name.lower().endswith(".jsonl")
    records = reader.lines(text) if is_jsonl else reader.cells(text, name.lower().endswith(".tsv"))
    rows: list[Row] = []
    combinations = prod(len(values) for values in spec.get("matrix", {}).values())
    for record in records:
        rows += reader.row(*record)
        if len(rows) * combinations > MAX_IMAGES:
            message = f"more than {MAX_IMAGES:,} images: a job has at most so many, so split it"
            reader.refuse("TooManyImages", message)
    if not rows and not reader.faults:
        reader.refuse("NothingToRun", "the table has no rows")
    return Table(
        name, sha256, tuple(rows), frozenset(reader.columns), tuple(reader.faults),
        tuple(reader.warnings()),
    )  # fmt: skip


class _Reader:
    def __init__(self, name: str, spec: Mapping[str, Any], is_model: Callable[[str], bool]) -> None:
        self._name = name
        self._is_model = is_model
        self._base = {k: v for k, v in spec.items() if k not in ("table", "on_error")}
        self._fields = schemas.bundle(spec["kind"])["properties"]
        self._types = {key: _types(part) for key, part in self._fields.items()}
        self.columns: dict[str, None] = {}
        self.faults: list[Fault] = []
        self._custom_ids: dict[str, int] = {}
        self._ignored: dict[str, None] = {}
        self._unknown: dict[str, None] = {}

    def refuse(self, reason: str, message: str) -> NoReturn:
        """Refuse the whole table."""
        raise SpecInvalid(reason, [Problem(0, 0, f"table: {self._name}", message)])

    def fault(self, row: int, column: str, message: str) -> None:
        self.faults.append(Fault(row, column, message))

    # -- records: the number of a row, and its values by column --------------------------------

    def cells(self, text: str, is_tsv: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of CSV or TSV; the delimiter is the one that gives the most known columns."""
        first, _, rest = text.partition("\n")
        if found := re.fullmatch(r'"?sep=(.)"?\s*', first):
            text = rest
        delimiters = found[1] if found else "\t" if is_tsv else ",;\t|"
        head = {sign: next(_until_error(text, sign), []) for sign in delimiters}
        sign = max(head, key=lambda s: sum(self._is_column(c.strip()) for c in head[s]))
        try:
            rows = list(_csv(text, sign))
        except csv.Error as error:
            if not is_tsv:
                number = sum(1 for _ in _until_error(text, sign)) + 1
                message = f'row {number}: its quotes do not match ({error}): write " as ""'
                self.refuse("BadYaml", message)
            # Some programs write tabs between texts as they are, and quote nothing.
            rows = list(_csv(text, sign, csv.QUOTE_NONE))
        names = [cell.strip() for cell in rows[0]] if rows else []
        if not any(names):
            self.refuse("NothingToRun", "the first row must name the columns")
        for name in filter(None, names):
            self._column(1, name, again=names.count(name) > 1)
        unfit = UNFIT.search(text) is not None
        for number, row in enumerate(rows[1:], start=2):
            record: dict[str, Any] = {}
            for place, cell in enumerate(row):
                if not cell.strip():
                    continue
                name = names[place] if place < len(names) else ""
                if not name:
                    message = f"the header has no such column: put text with {sign!r} in quotes"
                    self.fault(number, str(place + 1), message)
                elif unfit and (sign_found := UNFIT.search(cell)):
                    code = ord(sign_found.group())
                    self.fault(number, name, f"the character U+{code:04X} is not allowed")
                elif name in self.columns:
                    value = self._value(number, name, cell, comma=sign != ",")
                    record |= {} if value is None else {name: value}
            if record:
                yield number, record

    def lines(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of JSONL, each line by itself; NaN, as pandas writes it, is absent."""
        is_batch = None
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            if "NaN" in line or "Infinity" in line:
                line = _TEXT_OR_NAN.sub(lambda m: m[0] if m[0][0] == '"' else "null", line)
            try:
                value = read(line.encode(), json=True).value
            except SpecInvalid as error:
                for problem in error.problems:
                    self.fault(number, problem.path, f"{problem.message} (sign {problem.column})")
                continue
            if not isinstance(value, dict):
                self.fault(number, "", f"{short(value)} is not a mapping: each line is one")
                continue
            if is_batch is None:
                is_batch = {"custom_id", "body"} <= value.keys() <= _REQUEST
            record = self._request(number, value) if is_batch else value
            if record is None:
                continue
            for name in record:
                if name not in self.columns:
                    self._column(number, name)
            yield (
                number,
                {
                    name: _whole(cell, self._types.get(name, ()))
                    for name, cell in record.items()
                    if name in self.columns and cell is not None and cell != ""
                },
            )

    def _request(self, number: int, value: dict[str, Any]) -> dict[str, Any] | None:
        """The spec fields of one of OpenAI's batch requests, with its `custom_id`; None of none."""
        body, custom_id = value.get("body"), value.get("custom_id")
        if not (isinstance(body, dict) and isinstance(custom_id, str) and custom_id):
            self.fault(number, "", "a request has a `custom_id`, which is text, and a `body`")
            return None
        if value.get("url", _OPENAI_URL) != _OPENAI_URL:
            self.fault(number, "url", f"only {_OPENAI_URL} is understood")
        first = self._custom_ids.setdefault(custom_id, number)
        if first != number:
            self.fault(number, "custom_id", f"{short(custom_id)} is that of line {first} too")
        record: dict[str, Any] = {"custom_id": custom_id}
        for key, part in body.items():
            if key in _OPENAI_FIELDS:
                record[_OPENAI_FIELDS[key]] = part
            elif key == "size":
                sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(part))
                if sides:
                    record |= {"width": int(sides[1]), "height": int(sides[2])}
                elif part not in (None, "auto"):
                    self.fault(number, key, f"{short(part)} is not a size like 1024x1024")
            elif key == "model" and isinstance(part, str):
                if self._is_model(part):
                    record[key] = part
                else:
                    self._unknown[part[:60]] = None
            elif part is not None:
                self._ignored[key[:60]] = None
        self.columns["custom_id"] = None
        return record

    def warnings(self) -> Iterator[str]:
        """What of a batch has no meaning here."""
        if self._unknown:
            named = ", ".join(f"`{name}`" for name in self._unknown)
            yield f"{self._name}: no model here is called {named}: the default is taken"
        if self._ignored:
            named = ", ".join(f"`{name}`" for name in self._ignored)
            yield f"{self._name}: of the requests, {named} has no meaning here"

    # -- columns and values ----------------------------------------------------------------------

    def _is_column(self, name: str) -> bool:
        known = name in self._fields and name not in _NO_COLUMNS
        return known or name in PARTS or name.startswith("x_")

    def _column(self, row: int, name: str, *, again: bool = False) -> None:
        """Take a column, or say why it is none, once."""
        message = ""
        if again and name in self.columns:
            message = "a second column of this name"
        elif name in _NO_COLUMNS:
            message = f"{name!r} is no column: put it into the spec"
        elif name in self._base.get("matrix", {}):
            message = f"{name!r} is in the spec's `matrix` too: give one"
        elif name in PARTS and "pack" not in self._base.get("compose", {}):
            message = f"{name!r} is a part of a pack: give the spec a `compose: {{pack: …}}`"
        elif not self._is_column(name):
            columns = [key for key in (*self._fields, *PARTS) if key not in _NO_COLUMNS]
            other = schemas.other_name(name)
            hint = did_you_mean(other if other in columns else name, columns, "yours begin with x_")
            message = f"unknown column {short(name)} ({hint})"
        if message and not any(f.column == name and f.message == message for f in self.faults):
            self.faults.append(Fault(row, name, message, of_all=True))
        if not message:
            self.columns[name] = None

    def _value(self, row: int, name: str, cell: str, *, comma: bool) -> Any:
        """What a cell means in a field of its types; text where it is nothing else."""
        types, text = self._types.get(name, ("string",)), cell.strip()
        if "boolean" in types and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if not {"integer", "number"}.isdisjoint(types) and len(text) <= MAX_DIGITS:
            # Where lists are separated by semicolons, decimals have a comma.
            number = text.replace(",", ".") if comma else text
            if _NUMBER.fullmatch(number):
                whole = number.lstrip("+-").isdecimal()
                return int(number) if whole else _whole(float(number), types)
        if not {"array", "object"}.isdisjoint(types) and text[:1] in ("[", "{"):
            try:
                return read(text.encode(), json=True).value
            except SpecInvalid as error:
                self.fault(row, name, f"not JSON: {error.problems[0].message}")
                return None
        return _NEUTRALISED.sub("", cell, count=1) if cell[0] == "'" else cell

    def row(self, number: int, record: dict[str, Any]) -> Iterator[Row]:
        """The row of a record if it makes a valid spec, and only until too many are faulty."""
        if len(self.faults) >= MAX_COLLECTED:
            return
        is_sound = not self.faults or self.faults[-1].row != number
        custom_id = record.pop("custom_id", None)
        parts = {PARTS[name]: record.pop(name) for name in PARTS if name in record}
        merged = {**self._base, **record}
        if parts:
            merged["compose"] = {**self._base["compose"], **parts}
        checked = check(Document(merged))
        for problem in checked.problems:
            head = re.match(r"\w*", problem.path)[0]  # type: ignore[index]  # it always matches
            column = next((c for c, p in PARTS.items() if problem.path == f"compose.{p}"), head)
            own = column in record or column in PARTS
            path = f"{problem.path}: " if problem.path and not own else ""
            # What such a row lacks may be what could not be read.
            if own or path or is_sound:
                self.fault(number, column if own else "", f"{path}{problem.message}")
        if not self.faults or self.faults[-1].row != number:
            yield Row(number, {key: checked.value[key] for key in record}, parts, custom_id)


def _csv(text: str, sign: str, quoting: int = csv.QUOTE_MINIMAL) -> Iterator[list[str]]:
    lines = io.StringIO(text, newline="")
    csv.field_size_limit(MAX_BYTES)
    return csv.reader(lines, delimiter=sign, quoting=quoting, strict=True)  # type: ignore[arg-type]


def _until_error(text: str, sign: str) -> Iterator[list[str]]:
    rows = _csv(text, sign)
    while True:
        try:
            yield next(rows)
        except (StopIteration, csv.Error):
            return


def _types(schema: Any) -> frozenset[str]:
    """The names of the JSON types that a field takes."""
    if not isinstance(schema, dict):
        return frozenset()
    own = schema.get("type", ())
    found = {own} if isinstance(own, str) else {*own}
    if not own and "enum" in schema:
        found = {"integer" if isinstance(each, int) else "string" for each in schema["enum"]}
    branches = (_types(part) for key in ("anyOf", "oneOf") for part in schema.get(key, ()))
    return frozenset(found).union(*branches)


def _whole(value: Any, types: Any) -> Any:
    """The value, 512.0 as 512 where a whole number is taken: programs write such columns so."""
    is_whole = isinstance(value, float) and "integer" in types and value.is_integer()
    return int(value) if is_whole else value
