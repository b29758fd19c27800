"""The audit of many prompts in one process: JSON lines in, JSON lines out, in the same order.

A line that cannot be read is answered with an `error` and the rest go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from composer.audit.verdict import audit


def audit_lines(lines: Iterable[str]) -> Iterator[str]:
    """Answer each line `{"id", "prompt", "terms"}` with `{"id", "verdict", "findings"}`."""
    for line in lines:
        if line.strip():
            yield json.dumps(_answer(line), ensure_ascii=False)


def _answer(line: str) -> dict[str, Any]:
    given: Any = None
    try:
        given = json.loads(line)
        report = audit(_text(given["prompt"]), given["terms"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        name = given.get("id") if isinstance(given, dict) else None
        missing = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return {"id": name, "error": f'a line is {{"id", "prompt", "terms"}}: {missing}'}
    return {"id": given.get("id"), **report.to_json()}


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError("prompt is not text")
    return given
