"""Over real standard input and output: quick, light, and nothing but protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.launch import command
from tests.harness import Runner, eventually, fluxdrop
from tests.mcp_server.support import NAMES, agent, finished, play
from tests.mcp_server.wire import over_stdio, stdio

pytestmark = pytest.mark.timeout(180)

# Of the CPU time that the protocol's own package takes: how quick the machine is says nothing.
MOST = 1.6
PROTOCOL = "import mcp.server.lowlevel, mcp.server.stdio, time; print(time.process_time())"
HEAVY = {"torch", "numpy", "diffusers", "transformers", "accelerate", "huggingface_hub"}
REPORTER = """
import sys
from runner.cli import main
opened = []
sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e in ("open", "os.scandir") else None)
main(["mcp", *sys.argv[1:]])
import json
print(json.dumps({"modules": sorted(sys.modules), "opened": opened}), file=sys.stderr)
"""


def test_the_handshake_takes_little_more_than_the_import_of_the_protocol(home: Path) -> None:
    def once() -> float:
        with stdio(home) as server:
            answer = server.handshake()["result"]
            assert answer["serverInfo"]["name"] == "fluxdrop" and "flux_get_job" in str(answer)
            return server.cpu

    def imported() -> float:
        return float(subprocess.check_output([sys.executable, "-c", PROTOCOL], timeout=60))

    pairs = [(once(), imported()) for _ in range(3)]
    least = min(floor for _, floor in pairs)
    assert min(taken for taken, _ in pairs) < MOST * least, pairs


def test_nothing_heavy_is_loaded_and_no_gallery_before_the_first_search(home: Path) -> None:
    finished(home, "hero", 1)
    (home / "data" / "gallery").mkdir(exist_ok=True)
    with stdio(home, program=[sys.executable, "-c", REPORTER]) as server:
        server.handshake()
        server.send(id=1, method="tools/list")
        assert [tool["name"] for tool in server.reply(1)["result"]["tools"]] == list(NAMES)
        server.call(2, "flux_generate", prompt="x", model="tiny")
        server.call(3, "flux_edit", prompt="x", image="hero/hero-0001.png", model="tiny")
        server.call(4, "flux_get_job", job_id="hero", pictures="full")
        server.send(id=5, method="resources/read", params={"uri": "flux://models"})
        server.reply(5)
        code, said = server.leave()
        report = json.loads(said.splitlines()[-1])
    assert code == 0
    assert {name.partition(".")[0] for name in report["modules"]} & HEAVY == set()
    assert "tinydb" not in report["modules"]
    assert [name for name in report["opened"] if "gallery" in name and str(home) in name] == []


def test_standard_output_carries_protocol_only_whatever_comes_in(home: Path) -> None:
    with stdio(home) as server:
        server.handshake()
        server.send_raw(b"this is no JSON\n\xff\xfe\n[1, 2]\n{}\n")
        server.send_raw(b'{"jsonrpc": "2.0", "id": 1, "method": "nothing/there"}\n')
        assert "error" in server.reply(1)
        server.send(id=2, method="tools/call", params={"name": "flux_generate"})
        assert server.reply(2)["result"]["isError"] is True
        server.send(id=3, method="tools/call", params={"name": "flux_get_job", "arguments": 7})
        assert "error" in server.reply(3)
        assert server.call(4, "flux_get_job", job_id="never")["isError"] is False
        code, _ = server.leave()
    assert code == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in server.lines)


def test_an_error_before_the_start_goes_to_standard_error(tmp_path: Path) -> None:
    done = fluxdrop("mcp", "--json", home=tmp_path)
    assert (done.code, done.out) == (2, "") and "is not a fluxdrop home" in done.err


def test_a_message_is_answered_while_another_call_waits(home: Path) -> None:
    (home / "inbox" / "wait.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")
    with stdio(home) as server:
        server.handshake()
        asked = {"name": "flux_get_job", "arguments": {"job_id": "wait", "wait_seconds": 50}}
        server.send(id=1, method="tools/call", params=asked)
        server.send(id=2, method="tools/list")
        assert len(server.reply(2)["result"]["tools"]) == len(NAMES)
        server.send(method="notifications/cancelled", params={"requestId": 1})
        assert server.call(3, "flux_get_job", job_id="wait")["isError"] is False
        assert all(json.loads(line).get("id") != 1 for line in server.lines)


def end_of(home: Path) -> None:
    """End the runner of a home, and what keeps it alive."""
    pid = json.loads((home / "outbox" / "runner.json").read_bytes())["pid"]
    keeper = psutil.Process(pid).parent()
    assert keeper is not None and set(command()) < set(keeper.cmdline())
    os.kill(keeper.pid, signal.SIGTERM)
    keeper.wait(90)


def test_a_job_outlives_restarts_of_the_runner_and_of_the_server(
    home: Path, runner_of: Callable[..., Runner]
) -> None:
    """Submitted to nobody; taken, cut short, and taken up again by a runner that a server started.

    That runner outlives its server, too: a third server finds the end.
    """

    async def submit() -> str:
        async with agent(over_stdio(home)) as one:
            answer = await one.answer(
                "flux_generate", prompt="a red circle", model="tiny", matrix={"steps": [2, 60]}
            )
            assert answer["state"] == "submitted" and not answer["runner"]["running"]
            return str(answer["job_id"])

    job = play(submit)
    runner = runner_of(home).start()
    runner.until(job, lambda s: s["images"]["done"] == 1 and s["progress"])
    killed = runner.pid
    runner.kill()

    async def start() -> dict[str, Any]:
        async with agent(over_stdio(home, "--autostart")) as one:
            found = await one.answer("flux_get_job", job_id=job)
            again = await one.answer("flux_get_job", job_id=job)
            for each in (found, again):
                assert "a runner was started" in each["runner"]["message"]
            return found

    async def wait() -> tuple[dict[str, Any], dict[str, Any]]:
        async with agent(over_stdio(home)) as one:
            ended = await one.over(job)
            return ended, await one.answer("flux_search_gallery", text='"red"')

    found = play(start)
    assert found["state"] == "running" and found["images"]["done"] == 1
    try:
        eventually(
            lambda: runner.read("runner.json")["pid"] != killed,
            "the health file of the runner that the server started",
        )
        ended, searched = play(wait)
    finally:
        end_of(home)
    assert (ended["state"], ended["images"]["done"]) == ("succeeded", 2)
    assert searched["total"] == 2
