"""Over real HTTP: the guard before everything, and many clients at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.streamable_http import streamable_http_client

from runner.cli.mcp import PORT, TOKEN
from runner.errors import UsageProblem
from runner.mcp_server.http import MOST_BODY_BYTES, Access, checked_access
from tests.harness import Runner, fluxdrop
from tests.mcp_server.support import NAMES, agent, data_uri, picture, play
from tests.mcp_server.wire import http

pytestmark = pytest.mark.timeout(180)

HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {},
               "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def address(shared_runner: Runner) -> Iterator[str]:
    """One server for all tests of this file that need nothing special of it."""
    with http(shared_runner.home) as found:
        yield found


def post(address: str, content: bytes | None = None, **headers: str | bytes) -> httpx2.Response:
    """One message, with whatever headers."""
    body = json.dumps(HELLO).encode() if content is None else content
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx2.Client() as client:
        return client.post(address, content=body, headers={**ACCEPT, **named}, timeout=60)


def test_the_usual_port_is_the_documented_one() -> None:
    assert PORT == 8421


def test_a_call_from_this_machine_is_answered(address: str) -> None:
    port = address.split(":")[2].removesuffix("/mcp")
    for headers in (
        {}, {"Host": f"localhost:{port}"}, {"Host": "localhost"},
        {"Origin": f"http://localhost:{port}"}, {"Origin": "http://127.0.0.1:6274"},
    ):  # fmt: skip
        assert post(address, **headers).status_code == 200, headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 421), ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8421"}, 421), ({"Host": "localhost:8421.evil"}, 421),
        ({"Host": "0.0.0.0:8421"}, 421), ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403), ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "http://localhost:80@evil.example"}, 403),
        ({"Origin": "https://localhost:8421"}, 403), ({"Origin": "file://"}, 403),
        ({"Content_Type": "text/plain"}, 400),
    ],
)  # fmt: skip
def test_another_site_gets_nothing_by_any_path_or_method(
    address: str, headers: dict[str, str], code: int
) -> None:
    """Seen red: with a guard that knows every host, though the transport checks once more."""
    assert post(address, **headers).status_code == code
    if code != 400:
        with httpx2.Client() as client:
            for method in ("GET", "DELETE", "OPTIONS", "PUT"):
                for path in ("/mcp", "/", "/.well-known/x"):
                    url = address.removesuffix("/mcp") + path
                    assert client.request(method, url, headers=headers).status_code == code


def test_no_page_of_another_origin_may_read_an_answer(address: str) -> None:
    answer = post(address, Origin="http://localhost:3000")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_body_that_is_too_large_is_refused(address: str) -> None:
    assert post(address, b"x" * (MOST_BODY_BYTES + 1)).status_code == 413
    assert post(address, b"{" * 100_000).status_code == 400


def test_an_image_and_a_mask_of_the_largest_size_fit_into_one_call(address: str) -> None:
    data = picture()
    uri = data_uri(data + bytes(2_999_000 - len(data)))

    async def scene() -> dict[str, Any]:
        async with agent(address) as one:
            return await one.answer(
                "flux_fill", prompt="a red circle", model="tiny", image=uri, mask=uri, dry_run=True
            )

    assert play(scene)["image_count"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_guard_stands_on_every_address_and_names_can_be_allowed(home: Path, host: str) -> None:
    options = ("--host", host, "--allow-host", "flux.example.com", "--allow-host", "b.example:99",
               "--allow-origin", "https://app.example.com")  # fmt: skip
    with http(home, *options, **{TOKEN: "s3cret"}) as address:
        local = address.replace("0.0.0.0", "127.0.0.1")
        bearer = {"Authorization": "Bearer s3cret"}
        assert post(local, **bearer).status_code == 200
        assert post(local, Host="flux.example.com", **bearer).status_code == 200
        assert post(local, Host="flux.example.com:443", **bearer).status_code == 200
        assert post(local, Origin="https://app.example.com", **bearer).status_code == 200
        assert post(local, Host="b.example:99", **bearer).status_code == 200
        assert post(local, Host="b.example", **bearer).status_code == 421
        assert post(local, Host="evil.example", **bearer).status_code == 421
        assert post(local, Origin="https://evil.example", **bearer).status_code == 403
        for wrong in (b"Bearer s3cret2", b"Bearer", b"Basic s3cret", b"s3cret", b"Bearer \xe9"):
            said = post(local, Authorization=wrong)
            assert (said.status_code, said.headers["www-authenticate"]) == (401, "Bearer")
        assert post(local).status_code == 401


def test_a_client_with_the_token_works_as_any_other(home: Path) -> None:
    async def scene(address: str) -> list[str]:
        headers = {"Authorization": "Bearer s3cret"}
        async with httpx2.AsyncClient(headers=headers) as carrier:
            async with agent(streamable_http_client(address, http_client=carrier)) as one:
                return [tool.name for tool in (await one.client.list_tools()).tools]

    with http(home, "--token", "s3cret") as address:
        assert tuple(play(lambda: scene(address))) == NAMES


def test_what_could_never_match_is_wrong_usage(home: Path) -> None:
    for hosts, origins, token in (
        (["http://a.example"], [], None), (["a b"], [], None), ([], ["a.example"], None),
        ([], ["https://a.example/path"], None), ([], [], "a b"), ([], [], "ü"),
    ):  # fmt: skip
        with pytest.raises(UsageProblem):
            checked_access(hosts, origins, token)
    assert not Access(token="x").knows_bearer("")


def test_a_port_in_use_is_said_so(address: str, home: Path) -> None:
    port = address.split(":")[2].removesuffix("/mcp")
    done = fluxdrop("mcp", "--http", port, home=home)
    assert done.code == 2 and f"cannot serve on 127.0.0.1:{port}" in done.err


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
def test_twenty_clients_submit_and_wait_at_once(address: str, mode: str) -> None:
    async def scene() -> list[str]:
        done: list[str] = []

        async def one_client(number: int) -> None:
            async with agent(address, mode=mode) as one:
                answer = await one.answer(
                    "flux_generate", prompt="a red circle", model="tiny", seed=number, steps=1,
                    tags=[f"many-{mode}"],
                )  # fmt: skip
                ended = await one.over(answer["job_id"])
                assert ended["state"] == "succeeded" and ended["outputs"][0]["seed"] == number
                done.append(answer["job_id"])

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one_client, number)
        async with agent(address, mode=mode) as one:
            found = await one.answer("flux_search_gallery", tag=f"many-{mode}", limit=100)
            assert {row["job"] for row in found["rows"]} == set(done)
        return done

    jobs = play(scene)
    assert len(set(jobs)) == 20


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
def test_a_client_goes_on_after_the_server_was_restarted(home: Path, mode: str) -> None:
    first = http(home)
    address = first.__enter__()
    port = int(address.split(":")[2].removesuffix("/mcp"))

    async def scene() -> None:
        async with agent(address, mode=mode) as one:
            job = (await one.answer("flux_generate", prompt="x", model="tiny"))["job_id"]
            first.__exit__(None, None, None)
            with http(home, port=port):
                assert (await one.answer("flux_get_job", job_id=job))["state"] == "submitted"

    play(scene)
