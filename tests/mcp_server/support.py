"""An agent for tests: calls tools, and holds every answer to what the server promised."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from mcp import Client
from mcp.types import CallToolResult
from PIL import Image

from runner.mcp_server.server import build_server
from runner.mcp_server.tools import tools
from runner.settings import find_home

T = TypeVar("T")
NAMES = tuple(tools())


def play(scene: Callable[[], Awaitable[T]]) -> T:
    """Run one scene to its end."""
    return anyio.run(scene)


class Agent:
    """One client of the server."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.progress: list[tuple[float, float | None, str | None]] = []

    async def call(self, tool: str, **arguments: Any) -> CallToolResult:
        """A tool's result, whatever it is."""

        async def heard(done: float, total: float | None, message: str | None) -> None:
            self.progress.append((done, total, message))

        return await self.client.call_tool(tool, arguments, progress_callback=heard)

    async def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What a tool that must succeed answers; its text says the same as its structure."""
        result = await self.call(tool, **arguments)
        assert not result.is_error, result.content[0]
        assert json.loads(result.content[0].text) == result.structured_content
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """What a tool that must refuse says."""
        result = await self.call(tool, **arguments)
        assert result.is_error, result.structured_content
        return str(result.content[0].text)

    async def over(self, job: str, **more: Any) -> dict[str, Any]:
        """A job's answer once it has ended, waited for as an agent would."""
        for _ in range(4):
            found = await self.answer("flux_get_job", job_id=job, wait_seconds=50, **more)
            if found["state"] in ("succeeded", "failed", "cancelled", "rejected"):
                return found
        raise AssertionError(f"{job} does not end: {found}")

    async def until(self, job: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """A job's answer once something is true of it."""
        with anyio.fail_after(90):
            while True:
                found = await self.answer("flux_get_job", job_id=job, pictures="none")
                if holds(found):
                    return found
                await anyio.sleep(0.02)  # between two looks; the condition decides


@asynccontextmanager
async def agent(target: Any, **options: Any) -> AsyncIterator[Agent]:
    """A client of a home (in memory), or of any transport."""
    server = build_server(find_home(str(target))) if isinstance(target, Path) else target
    async with Client(server, **options) as client:
        yield Agent(client)


def picture(size: tuple[int, int] = (64, 64), colour: str = "red", form: str = "PNG") -> bytes:
    """A picture's bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def data_uri(data: bytes, media: str = "image/png") -> str:
    """The same as an argument."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def inbox_of(home: Path) -> list[str]:
    """Everything in the inbox that a runner would see, folders and their files included."""
    found = (path.relative_to(home / "inbox").as_posix() for path in (home / "inbox").rglob("*"))
    own = ("README.md", ".tmp", "mcp")
    return sorted(name for name in found if name not in own and name.count("/") != 1)


def finished(home: Path, job: str, count: int, **more: Any) -> dict[str, Any]:
    """A job of the outbox as a runner leaves it, with so many pictures."""
    folder = home / "outbox" / job
    (folder / "thumbs").mkdir(parents=True)
    outputs = []
    for number in range(1, count + 1):
        stem = f"{job}-{number:04d}"
        (folder / f"{stem}.png").write_bytes(picture(colour=f"#0000{number % 256:02x}"))
        (folder / "thumbs" / f"{stem}.webp").write_bytes(picture((16, 16), form="WEBP"))
        facts = {"sha256": f"{number:064x}", "width": 64, "height": 64}
        result = {"job": job, "index": number, "file": f"{stem}.png", **facts}
        sidecar = {"kind": "text2img", "prompt": "a red circle", "seed": number, "result": result}
        (folder / f"{stem}.json").write_text(json.dumps(sidecar), encoding="utf-8")
        thumb = f"thumbs/{stem}.webp"
        outputs.append({"file": f"{stem}.png", "sidecar": f"{stem}.json", "thumbnail": thumb,
                        "seed": number, **facts})  # fmt: skip
    at = "2026-11-23T08:00:00.000Z"
    status = {
        "schema": 1, "id": job, "kind": "text2img", "model": "tiny", "state": "succeeded",
        "reason": None, "message": None, "revision": 3, "attempt": 1, "priority": 0, "tags": [],
        "source": {"name": f"{job}.yaml", "sha256": "0" * 64, "bytes": 1}, "accepted_at": at,
        "started_at": at, "finished_at": at, "updated_at": at,
        "images": {"total": count, "done": count, "failed": 0, "skipped": 0, "reused": 0},
        "progress": None, "errors": [], "warnings": [], "outputs": outputs[-100:], **more,
    }  # fmt: skip
    write_status(home, status)
    return status


def write_status(home: Path, status: dict[str, Any]) -> None:
    """Replace a job's status, as a runner would."""
    folder = home / "outbox" / status["id"]
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".status.writing"
    aside.write_text(json.dumps(status), encoding="utf-8")
    aside.replace(folder / "status.json")
