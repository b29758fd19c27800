"""flux_search_gallery: straight from the gallery's index, which a runner may write meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.exceptions import ToolError

from runner.errors import UsageProblem
from runner.mcp_server.pictures import uri_of
from runner.settings import Home
from specs import schemas

if TYPE_CHECKING:
    from runner.gallery.store import Gallery

_USUAL, _MOST = 20, 100
_FACET: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 200}


@lru_cache(maxsize=1)
def arguments() -> dict[str, Any]:
    """The schema of what a search may ask."""
    return {
        "type": "object",
        "properties": {
            "text": {
                "type": "string",
                "maxLength": 2000,
                "description": "Words of the prompt, in any order; each may be the beginning of a"
                ' word. A word in double quotes must be whole ("red").',
            },
            "kind": {
                "enum": list(schemas.kinds()),
                "description": "What made it.",
            },
            "model": {**_FACET, "description": "The model's name (flux://models)."},
            "pack": {**_FACET, "description": "The prompt pack's id (flux://packs)."},
            "tag": {**_FACET, "description": "One of the job's tags."},
            "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "since": {
                "type": "string",
                "maxLength": 60,
                "description": "Made at this time or later: 2026-11-23, 2026-11-23T08:00, or an age"
                " such as 30m, 12h, 2d, 1w.",
            },
            "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _USUAL},
            "offset": {"type": "integer", "minimum": 0, "maximum": 10_000_000, "default": 0},
        },
        "additionalProperties": False,
    }


class Searching:
    """Answers searches; the index is opened by the first one."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._gallery: Gallery | None = None

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The newest pictures that fit everything asked."""
        from runner.gallery.search import search

        limit, offset = int(asked.get("limit", _USUAL)), int(asked.get("offset", 0))
        with self._lock:
            gallery = self._opened()
            try:
                found = search(gallery, **{**asked, "limit": limit, "offset": offset})
            except UsageProblem as error:
                raise ToolError(f"flux_search_gallery found nothing: {error}") from error
            missing, damaged = gallery.missing, gallery.damaged
        rows = [_row(row) for row in found["rows"]]
        after = offset + len(rows)
        answer = {
            "total": found["total"],
            "rows": rows,
            "next_offset": after if rows and after < found["total"] else None,
        }
        if missing:
            answer["message"] = "this home has no gallery yet: a runner makes it"
        elif damaged:
            mend = "ask the user to run `fluxdrop gallery rebuild`"
            answer["message"] = f"the gallery is damaged and may lack pictures: {mend}"
        return answer

    def _opened(self) -> Gallery:
        if self._gallery is None:
            from runner.gallery.store import FOLDER, Gallery

            self._gallery = Gallery(self._home.data / FOLDER)
        return self._gallery


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    job, index = str(row.get("job")), row.get("index")
    return {**row, "uri": uri_of(job, int(index)) if isinstance(index, int) else ""}
