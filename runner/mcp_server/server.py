"""The MCP server of a home: the handlers of requests, and stdio.

Every call of a tool ends in one of three ways: a result; an error whose text the model reads; or a
bug of fluxdrop, of which the model learns only that it happened, while the log has the traceback.
The SDK's low-level server is used because the schemas of the arguments are derived from those of
the specs.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import anyio
from anyio.to_thread import run_sync
from mcp.server.lowlevel import Server
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, ListToolsResult, TextContent

from runner.mcp_server import jobs, prompts, resources, submission
from runner.mcp_server.arguments import check
from runner.mcp_server.runner_presence import Attendance
from runner.mcp_server.search import GallerySearch
from runner.mcp_server.tools import INSTRUCTIONS, KIND_OF, tools
from runner.settings import Home
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

NAME = "fluxdrop"


def build_server(home: Home, *, autostart: bool = False) -> Server[Any]:
    """The server of one home, ready for any transport; nothing is read before the first call."""

    def in_thread(answer: Callable[[Home, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        """The handler that returns `answer(home, params)`, which reads files."""

        async def handle(context: Any, params: Any) -> Any:
            return await run_sync(answer, home, params)

        return handle

    return Server(
        NAME,
        version=version(NAME),
        title="fluxdrop",
        description="Pictures with FLUX on this machine: submit, follow, find.",
        instructions=INSTRUCTIONS,
        on_list_tools=in_thread(lambda *_: ListToolsResult(tools=list(tools().values()))),
        on_call_tool=_Calls(home, autostart=autostart).answer,
        on_list_resources=in_thread(resources.listing),
        on_list_resource_templates=in_thread(lambda *_: resources.templates()),
        on_read_resource=in_thread(resources.read),
        on_list_prompts=in_thread(lambda *_: prompts.listing()),
        on_get_prompt=in_thread(prompts.get),
        on_completion=in_thread(prompts.complete),
    )


def serve_stdio(home: Home, *, autostart: bool = False) -> None:
    """Serve one client over standard input and output, until it disconnects."""
    server = build_server(home, autostart=autostart)

    async def serve() -> None:
        async with stdio_server() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())

    anyio.run(serve)


class _Calls:
    """Answers the calls of tools, of any number of clients of one home."""

    def __init__(self, home: Home, *, autostart: bool) -> None:
        self._home = home
        self._attendance = Attendance(home, autostart=autostart)
        self._gallery_search = GallerySearch(home)

    async def answer(self, context: Any, params: Any) -> CallToolResult:
        if params.name not in tools():
            names = ", ".join(tools())
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:100]!r}; {names}")
        began = time.monotonic()
        try:
            result, content = await self._result(params.name, params.arguments or {}, context)
        except (ToolError, FluxdropError, OSError) as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        except MCPError:
            raise
        except Exception:
            log.exception("%s failed after %.1f s", params.name, time.monotonic() - began)
            text = f"{params.name} failed by a mistake of fluxdrop's own; the server's log has more"
            return CallToolResult(content=[TextContent(text=text)], is_error=True)
        text = json.dumps(result, ensure_ascii=False)
        return CallToolResult(content=[TextContent(text=text), *content], structured_content=result)

    async def _result(
        self, name: str, arguments: Mapping[str, Any], context: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """The result of a tool, and the content that goes with it."""
        home, attendance = self._home, self._attendance
        kind = KIND_OF.get(name)
        if kind is not None:
            return await run_sync(submission.submit, home, attendance, kind, arguments), []
        checked = check(arguments, tools()[name].input_schema, name)
        if name == "flux_get_job":
            report = context.session.report_progress
            return await jobs.get_job(home, attendance, checked, report)
        if name == "flux_cancel_job":
            return await jobs.cancel_job(home, attendance, checked), []
        return await run_sync(self._gallery_search.search, checked), []
