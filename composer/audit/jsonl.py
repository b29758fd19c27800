"""Audits many prompts in one process: JSON lines in, JSON lines out, in the same order.

The answer to a line that cannot be read has an `error`, and the other lines are still audited.
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
    request: Any = None
    try:
        request = json.loads(line)
        prompt = request["prompt"]
        if not isinstance(prompt, str):
            raise TypeError("prompt is not text")
        report = audit(prompt, request["terms"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line_id = request.get("id") if isinstance(request, dict) else None
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return {"id": line_id, "error": f'a line is {{"id", "prompt", "terms"}}: {reason}'}
    return {"id": request.get("id"), **report.to_json()}
