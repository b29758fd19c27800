"""flux_search_gallery: searches the gallery's index, which a runner may write at the same time."""

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.exceptions import ToolError

from runner.errors import UsageProblem
from runner.mcp_server.pictures import uri_of
from runner.settings import Home
from specs import schemas

if TYPE_CHECKING:
    from runner.gallery.store import Gallery

_DEFAULT_LIMIT, _MOST = 20, 100
_FACET: dict[str, Any] = {"type": "string", "minLength": 1}


def arguments() -> dict[str, Any]:
    """The schema of the arguments of a search."""
    return {
        "type": "object",
        "properties": {
            "text": {
                "type": "string",
                "maxLength": 2000,
                "description": "Words of the prompt or beginnings of them; one in double quotes is"
                " a whole word.",
            },
            "kind": {"enum": list(schemas.kinds())},
            "model": _FACET,
            "pack": _FACET,
            "tag": _FACET,
            "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295},
            "since": {
                "type": "string",
                "maxLength": 60,
                "description": "2026-11-23, 2026-11-23T08:00, or an age such as 30m, 12h, 2d, 1w.",
            },
            "until": {"type": "string", "maxLength": 60, "description": "Like `since`."},
            "size": {"type": "string", "maxLength": 20, "description": "As 1024x768."},
            "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _DEFAULT_LIMIT},
            "offset": {"type": "integer", "minimum": 0, "maximum": 10_000_000, "default": 0},
        },
        "additionalProperties": False,
    }


class GallerySearch:
    """Searches the gallery of a home, from any thread; the first search opens the index."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()

    @cached_property
    def _gallery(self) -> "Gallery":
        from runner.gallery.store import FOLDER, Gallery

        return Gallery(self._home.data / FOLDER)

    def search(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The newest pictures that match every argument of `query`.

        Raises ToolError where an argument cannot be read.
        """
        from runner.gallery.search import search

        limit, offset = int(query.get("limit", _DEFAULT_LIMIT)), int(query.get("offset", 0))
        with self._lock:
            try:
                page = search(self._gallery, **{**query, "limit": limit, "offset": offset})
            except UsageProblem as error:
                raise ToolError(f"flux_search_gallery found nothing: {error}") from error
            damaged, missing = self._gallery.damaged, self._gallery.missing
        rows = [_row(row) for row in page["rows"]]
        after = offset + len(rows)
        result = {
            "total": page["total"],
            "rows": rows,
            "next_offset": after if rows and after < page["total"] else None,
        }
        if damaged:
            remedy = "ask the user to run `fluxdrop gallery rebuild`"
            result["message"] = f"the gallery is damaged and may lack pictures: {remedy}"
        elif missing:
            result["message"] = "this home has no gallery yet: a runner makes it"
        return result


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    job, index = str(row.get("job")), row.get("index")
    return {**row, "uri": uri_of(job, int(index)) if isinstance(index, int) else ""}
