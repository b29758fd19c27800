"""`python -m tests.mcp_server`: the public inspector and conformance suite, against a server.

Both are run with npm's `npx`, the first over standard input and output, the second over HTTP. A
runner is not needed. Exits 0 when everything passed, 1 when something did not, and 69 where there
is no npm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner.cli.init import make_home
from tests.harness import ROOT
from tests.mcp_server.support import NAMES, finished
from tests.mcp_server.wire import COMMAND, http
from tests.webhooks import free_port

INSPECTOR = ("@modelcontextprotocol/inspector",)
# The suite needs a newer Node.js than many systems have; npm brings one.
SUITE = ("-p", "node@22", "-p", "@modelcontextprotocol/conformance", "conformance")
SCENARIOS = (
    "server-initialize", "ping", "tools-list", "resources-list", "prompts-list",
    "completion-complete", "dns-rebinding-protection",
)  # fmt: skip
"""The scenarios that ask nothing of a server's own tools. The others call tools, resources and
prompts of fixed names, which a server that has only its own tools does not have."""

LOOKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--method", "tools/list"), '"flux_structural"'),
    (("--method", "resources/list"), '"flux://models"'),
    (("--method", "resources/templates/list"), '"flux://jobs/{id}/images/{n}"'),
    (("--method", "resources/read", "--uri", "flux://jobs/hero/status"), "succeeded"),
    (("--method", "prompts/list"), '"night_from_a_pack"'),
    (
        ("--method", "prompts/get", "--prompt-name", "night_from_a_pack",
         "--prompt-args", "pack=shapes"),
        "flux_generate with dry_run true",
    ),
    (
        ("--method", "tools/call", "--tool-name", "flux_generate", "--tool-arg",
         "prompt=a red circle", "--tool-arg", "model=tiny", "--tool-arg", "steps=2"),
        '"submitted"',
    ),
    (
        ("--method", "tools/call", "--tool-name", "flux_get_job", "--tool-arg", "job_id=hero"),
        '"image/webp"',
    ),
    (
        ("--method", "tools/call", "--tool-name", "flux_cancel_job", "--tool-arg", "job_id=hero"),
        '"was_over"',
    ),
    (
        ("--method", "tools/call", "--tool-name", "flux_search_gallery", "--tool-arg", "text=red"),
        '"total"',
    ),
)  # fmt: skip
"""What the inspector is asked for, and what its answer must contain."""


def main() -> int:
    """Run both; the exit code."""
    npx = shutil.which("npx")
    if npx is None:
        print("npx is not here: install Node.js with npm", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        make_home(home)
        finished(home, "hero", 2)
        passed = [_inspected(npx, home, *look) for look in LOOKS]
        port = free_port()
        # The suite is a page of this machine, and sends no token.
        hosts = ("localhost", "127.0.0.1")
        origins = [f"--allow-origin=http://{host}:{port}" for host in hosts]
        with http(home, *origins, port=port) as address:
            passed += [_conforms(npx, address, scenario) for scenario in SCENARIOS]
    print(f"{sum(passed)} of {len(passed)} passed")
    return 0 if all(passed) else 1


def _inspected(npx: str, home: Path, asked: tuple[str, ...], wanted: str) -> bool:
    server = [*COMMAND, "--home", str(home)]
    done = _run([npx, "-y", *INSPECTOR, "--cli", *server, *asked])
    if done.returncode == 0 and "tools/list" in asked:
        names = [tool["name"] for tool in json.loads(done.stdout)["tools"]]
        return _say(f"inspector {asked[1]}", tuple(names) == NAMES, done)
    # Structured answers come as JSON within JSON.
    plain = done.stdout.replace('\\"', '"')
    name = asked[3] if "call" in asked[1] else ""
    return _say(f"inspector {asked[1]} {name}", done.returncode == 0 and wanted in plain, done)


def _conforms(npx: str, address: str, scenario: str) -> bool:
    done = _run([npx, "-y", *SUITE, "server", "--url", address, "--scenario", scenario])
    return _say(
        f"conformance {scenario}", done.returncode == 0 and " 0 failed" in done.stdout, done
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:  # the suite writes its results where it stands
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", cwd=folder, timeout=600,
            env=environment,
        )  # fmt: skip


def _say(what: str, passed: bool, done: subprocess.CompletedProcess[str]) -> bool:
    print(f"{'ok  ' if passed else 'FAIL'} {what}", flush=True)
    if not passed:
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    return passed


if __name__ == "__main__":
    sys.exit(main())
