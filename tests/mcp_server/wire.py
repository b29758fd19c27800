"""Servers as processes of their own: over standard input and output, and over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mcp import StdioServerParameters

from runner.cli.mcp import TOKEN
from tests.harness import PATIENCE, ROOT, clean_environment

COMMAND = [sys.executable, "-m", "runner", "mcp"]


def over_stdio(home: Path, *options: str) -> StdioServerParameters:
    """What a host's settings say: the command that it starts."""
    arguments = [*COMMAND[1:], "--home", str(home), *options]
    environment = clean_environment()
    return StdioServerParameters(command=COMMAND[0], args=arguments, env=environment, cwd=str(ROOT))


@dataclass
class Stdio:
    """A server whose every byte is looked at."""

    process: subprocess.Popen[bytes]
    lines: list[bytes] = field(default_factory=list)

    def send(self, **message: Any) -> None:
        """Send one message."""
        self.send_raw(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def reply(self, number: int) -> dict[str, Any]:
        """The answer to a request; everything that is read is kept."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.lines.append(line)
            message = json.loads(line)
            if message.get("id") == number:
                return dict(message)
        raise AssertionError("the server has gone")

    def handshake(self, revision: str = "2025-06-18") -> dict[str, Any]:
        """Begin as every host does."""
        about = {"name": "test", "version": "1"}
        params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": about}
        self.send(id=0, method="initialize", params=params)
        answer = self.reply(0)
        self.send(method="notifications/initialized")
        return answer

    def call(self, number: int, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's result."""
        self.send(id=number, method="tools/call", params={"name": tool, "arguments": arguments})
        return dict(self.reply(number)["result"])

    @property
    def cpu(self) -> float:
        """Seconds of CPU time until now."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def leave(self) -> tuple[int, str]:
        """Go away; the server's exit code and what it said to standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        self.lines += out.splitlines(keepends=True)
        return self.process.returncode, err.decode()


@contextmanager
def stdio(home: Path, *options: str, program: list[str] | None = None) -> Iterator[Stdio]:
    """A server over standard input and output."""
    process = subprocess.Popen(
        [*(program or COMMAND), "--home", str(home), *options], cwd=ROOT, env=clean_environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Stdio(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def http(home: Path, *options: str, port: int = 0, **environment: str) -> Iterator[str]:
    """A server over HTTP; its address. It asks for a token only where one is given."""
    if "--token" not in options and TOKEN not in environment:
        options = ("--no-token", *options)
    process = subprocess.Popen(
        [*COMMAND, "--http", str(port), "--home", str(home), *options], cwd=ROOT,
        env=clean_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = ""
        while "serving" not in said:
            said = process.stderr.readline().decode()
            assert said, "the server ended at once"
        yield said.split()[-1]
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)
        assert out == b"", "standard output belongs to the protocol"
    finally:
        process.kill()
        process.communicate()
