"""The server: who answers what, how outcomes become answers, and stdio.

Every call ends in one of three ways: an answer; a ToolError, whose text the model reads; or a
mistake of ours, of which the model learns only that it happened and the log has the rest. The
SDK's low-level server is used because the schemas of the arguments are the specs' own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import anyio
from anyio.to_thread import run_sync
from mcp.server.lowlevel import Server
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteResult,
    ListPromptsResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    ReadResourceResult,
    TextContent,
    Tool,
)

from runner.mcp_server import jobs, prompts, resources, submission, tools
from runner.mcp_server import search as searching
from runner.mcp_server.arguments import check
from runner.mcp_server.runner_presence import Attendance
from runner.settings import Home
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

NAME = "fluxdrop"


def build_server(home: Home, *, autostart: bool = False) -> Server[Any]:
    """The server of one home, ready for any transport; nothing is read before the first call."""
    door = _Door(home, autostart=autostart)
    return Server(
        NAME,
        version=version(NAME),
        title="fluxdrop",
        description="Pictures with FLUX on this machine: submit, follow, find.",
        instructions=tools.INSTRUCTIONS,
        on_list_tools=door.list_tools,
        on_call_tool=door.call_tool,
        on_list_resources=door.list_resources,
        on_list_resource_templates=door.list_templates,
        on_read_resource=door.read_resource,
        on_list_prompts=door.list_prompts,
        on_get_prompt=door.get_prompt,
        on_completion=door.complete,
    )


def serve_stdio(home: Home, *, autostart: bool = False) -> None:
    """Serve one client over standard input and output, until it goes."""
    server = build_server(home, autostart=autostart)

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(serve)


@lru_cache(maxsize=1)
def _tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in tools.tools()}


class _Door:
    """Answers the requests of any number of clients of one home."""

    def __init__(self, home: Home, *, autostart: bool) -> None:
        self._home = home
        self._attendance = Attendance(home, autostart=autostart)
        self._searching = searching.Searching(home)

    async def list_tools(self, context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=list(_tools().values()))

    async def call_tool(self, context: Any, params: Any) -> CallToolResult:
        if params.name not in _tools():
            names = ", ".join(_tools())
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:100]!r}; {names}")
        began = time.monotonic()
        try:
            answer, content = await self._answer(params.name, params.arguments or {}, context)
        except (ToolError, FluxdropError) as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        except MCPError:
            raise
        except Exception:
            log.exception("%s failed after %.1f s", params.name, time.monotonic() - began)
            text = f"{params.name} failed by a mistake of fluxdrop's own; the server's log has more"
            return CallToolResult(content=[TextContent(text=text)], is_error=True)
        text = json.dumps(answer, ensure_ascii=False)
        return CallToolResult(content=[TextContent(text=text), *content], structured_content=answer)

    async def _answer(
        self, name: str, given: Mapping[str, Any], context: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """What a tool answers, and the content that goes with it."""
        kind = tools.KIND_OF.get(name)
        if kind is not None:
            return await run_sync(submission.submit, self._home, self._attendance, kind, given), []
        asked = check(given, _tools()[name].input_schema, name)
        if name == "flux_get_job":
            report = context.session.report_progress
            return await jobs.get_job(self._home, self._attendance, asked, report)
        if name == "flux_cancel_job":
            return await jobs.cancel_job(self._home, self._attendance, asked), []
        return await run_sync(self._searching.search, asked), []

    async def list_resources(self, context: Any, params: Any) -> Any:
        return await run_sync(resources.listing, self._home, params.cursor if params else None)

    async def list_templates(self, context: Any, params: Any) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=resources.templates())

    async def read_resource(self, context: Any, params: Any) -> ReadResourceResult:
        found = await run_sync(resources.read, self._home, str(params.uri))
        return ReadResourceResult(contents=[found])

    async def list_prompts(self, context: Any, params: Any) -> ListPromptsResult:
        return ListPromptsResult(prompts=prompts.prompts())

    async def get_prompt(self, context: Any, params: Any) -> Any:
        return await run_sync(prompts.get, self._home, params.name, params.arguments or {})

    async def complete(self, context: Any, params: Any) -> CompleteResult:
        chosen = (params.context.arguments if params.context else None) or {}
        found = await run_sync(
            prompts.complete, self._home, params.argument.name, params.argument.value, chosen
        )
        return CompleteResult(completion=found)
