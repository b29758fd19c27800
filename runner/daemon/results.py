"""The results of a bulk job as tables: a row for each image, for spreadsheets and programs.

`results.jsonl` grows while the job runs. When it ends `results.csv` is written, and where its table
was one of OpenAI's batches, `results.openai.jsonl`.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from runner.spool.inbox.inputs import TABLE
from runner.spool.store.outbox import Outbox
from runner.spool.store.queries import Queries
from runner.spool.store.record import Record
from specs import expand

COLUMNS = (
    *("row", "subject", "variable", "prompt", "seed", "file", "sha256", "width", "height"),
    *("state", "reason", "message", "seconds", "verdict"),
)
TABLES = CSV, JSONL, OPENAI = "results.csv", "results.jsonl", "results.openai.jsonl"
_FORMULA = ("=", "+", "-", "@", "\t")

Row = dict[str, Any]


class Results:
    """Makes the tables of jobs; what it has read of a running job is kept until that is over."""

    def __init__(self, ledger: Queries, outbox: Outbox) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._rows: dict[int, dict[int, Row]] = {}

    def of_job(self, record: Record) -> dict[str, str]:
        """The files of a job by name; none of one that has no results."""
        if not has_results(record):
            return {}
        prompts, origins = self._ledger.composed(record.seq)
        rows = self._rows.setdefault(record.seq, {})
        first = next(number for number in itertools.count(1) if number not in rows)
        over = self._ledger.images(record.seq, first)
        new = [number for number in over if number not in rows]
        sidecars = self._outbox.sidecars(record.id, new)
        rest = range(first, record.total + 1) if record.is_final else new
        unmade = _over(record.state, record.end_reason, record.end_message)
        varied = [name for name in record.realised.get("matrix", ()) if name not in COLUMNS]
        for number in (number for number in rest if number not in rows):
            index = number - 1
            spec = expand.image(record.realised, index, record.base_seed or 0, prompts or None)
            origin = origins[index * len(origins) // record.total] if origins else {}
            row = _row(spec, origin, over.get(number, unmade), sidecars.get(number))
            rows[number] = row | {name: spec.get(name) for name in varied}
        found = [rows[number] for number in sorted(rows)]
        if left := self._ledger.rows_left_out(record.seq):
            found += [_row(r, r, _over("skipped", r["reason"], r["message"]), None) for r in left]
            found.sort(key=lambda row: int(row["row"]))
        files = {JSONL: "".join(_line(_shown(row)) for row in found)}
        if record.is_final:
            files[CSV] = _csv(found)
            if any("custom_id" in row for row in found):
                files[OPENAI] = _openai(found, record)
        return files

    def forget(self, seq: int) -> None:
        """Drop what is kept of a job."""
        self._rows.pop(seq, None)


def has_results(record: Record) -> bool:
    """Whether a job is one of several images, or of a table."""
    return record.total > 1 or TABLE in record.realised


def _over(outcome: str, reason: str | None, message: str | None) -> dict[str, Any]:
    return {"outcome": str(outcome), "reason": reason, "message": message}


def _row(
    spec: Mapping[str, Any],
    origin: Mapping[str, Any],
    over: Any,
    sidecar: Mapping[str, Any] | None,
) -> Row:
    """The row of an image that is over, or that an ended job has not made, or of one left out."""
    result = (sidecar or {}).get("result", {})
    more = {name: origin[name] for name in origin if name == "custom_id" or name[:2] == "x_"}
    return {
        "row": origin.get("row"),
        "subject": origin.get("subject"),
        "variable": origin.get("variable") or None,
        "prompt": (sidecar or spec).get("prompt"),
        "seed": (sidecar or spec).get("seed"),
        **{name: result.get(name) for name in ("file", "sha256", "width", "height")},
        "state": over["outcome"],
        "reason": over["reason"],
        "message": over["message"],
        "seconds": result.get("seconds"),
        "verdict": origin.get("audit"),
        **more,
    }


def _shown(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "custom_id"}


def _csv(rows: Sequence[Row]) -> str:
    """The rows as spreadsheets open them: UTF-8 with a mark, and no text is a formula."""
    own = dict.fromkeys(name for row in map(_shown, rows) for name in row if name not in COLUMNS)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([*COLUMNS, *own])
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in (*COLUMNS, *own)])
    return "\ufeff" + stream.getvalue()


def _cell(value: Any) -> Any:
    # A table takes one apostrophe away in front of these.
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA):
        return f"'{value}"
    return _json(value) if isinstance(value, (list, dict, bool)) else value


def _openai(rows: Iterable[Row], record: Record) -> str:
    """The rows in the form of OpenAI's batch results, one line for each request."""
    requests: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("custom_id") is not None:
            requests.setdefault(str(row["custom_id"]), []).append(row)
    created = int(datetime.fromisoformat(record.finished_at or record.accepted_at).timestamp())
    lines = []
    for number, (custom_id, images) in enumerate(requests.items(), 1):
        data = [{"url": each["file"]} for each in images if each["state"] == "done"]
        failed = next((each for each in images if each["state"] != "done"), None)
        error = None
        if failed is not None:
            code = failed["reason"] or failed["state"]
            error = {"code": code, "message": failed["message"] or f"an image is {code}"}
        part = f"{record.id}-{number}"
        body = {"created": created, "data": data}
        response = {"status_code": 200, "request_id": part, "body": body} if data else None
        line = {"id": f"batch_req_{part}", "custom_id": custom_id, "response": response}
        lines.append(_line({**line, "error": error}))
    return "".join(lines)


def _line(value: Row) -> str:
    """A line of JSONL, without the characters that many readers take for the end of a line."""
    return _json(value).translate(_LINE_ENDS) + "\n"


_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
_json = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode
