"""Over real HTTP: the guard before everything, and many clients at once."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx2
import pytest
from mcp.client.streamable_http import streamable_http_client

from runner.cli import main
from runner.cli.mcp import PORT, TOKEN
from runner.errors import UsageProblem
from runner.mcp_server.http import MOST_BODY_BYTES, Access, checked_access, stored_token
from runner.settings import Home
from tests.harness import ROOT, Runner, clean_environment, fluxdrop
from tests.mcp_server.support import NAMES, agent, data_uri, picture, play
from tests.mcp_server.wire import COMMAND, http

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
    for headers in ({}, {"Host": f"localhost:{port}"}, {"Host": "localhost"},
                    {"Sec_Fetch_Site": "none"}, {"Sec_Fetch_Site": "same-origin"}):  # fmt: skip
        assert post(address, **headers).status_code == 200, headers


def test_pages_of_this_machine_may_call_with_the_token_only(address: str, home: Path) -> None:
    """Seen red: without a token, every page that any program of this machine serves could call."""
    pages = ("http://127.0.0.1:6274", "http://localhost:3000", "http://[::1]:80")
    for origin in pages:
        assert post(address, Origin=origin).status_code == 403
    with http(home, "--token", "s3cret") as other:
        for origin in pages:
            site = {"Origin": origin, "Sec_Fetch_Site": "same-site"}
            assert post(other, **site, Authorization="Bearer s3cret").status_code == 200
            assert post(other, **site).status_code == 401


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "anything"])
def test_what_a_browser_says_comes_from_another_site_is_refused(address: str, site: str) -> None:
    """Seen red: a request for a picture has no Origin."""
    assert post(address, Sec_Fetch_Site=site).status_code == 403


def test_a_token_is_asked_for_unless_told_otherwise_and_kept_private(home: Path) -> None:
    """Seen red: any user of the machine could submit."""
    told = []
    for _ in range(2):
        process = subprocess.Popen(
            [*COMMAND, "--http", "0", "--home", str(home)], cwd=ROOT, stderr=subprocess.PIPE,
            env=clean_environment(), text=True, encoding="utf-8",
        )  # fmt: skip
        assert process.stderr is not None
        try:
            bearer, serving = process.stderr.readline(), process.stderr.readline()
            told.append(bearer.split("Bearer ")[1].rstrip("`\n"))
            address = serving.split()[-1]
            assert post(address).status_code == 401
            assert post(address, Authorization=f"Bearer {told[-1]}").status_code == 200
        finally:
            process.kill()
            process.communicate()
    assert told[0] == told[1] and len(told[0]) >= 32
    file = home / "data" / "mcp-token"
    assert file.read_text(encoding="ascii").strip() == told[0]
    if os.name != "nt":
        assert file.stat().st_mode & 0o777 == 0o600
    assert fluxdrop("mcp", "--http", "--token", "a", "--no-token", home=home).code == 2


def test_another_user_is_told_how_to_serve_without_the_token_of_the_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: that a folder, which is there, cannot be made."""
    (home / "data").chmod(0o700)

    def refused(path: Path, *more: object, **options: object) -> NoReturn:
        # Permissions do not stop root.
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refused)
        patch.setattr(Path, "read_text", refused)
        assert main(["mcp", "--http", "0", "--home", str(home)]) == 2
    said = capsys.readouterr().err
    assert "mcp-token: Permission denied" in said
    assert all(way in said for way in ("--token", TOKEN, "--no-token", "as the home's user"))


def test_who_sends_no_token_is_told_where_it_is_and_not_the_token(home: Path) -> None:
    with http(home, "--token", "s3cret") as address:
        for headers in ({}, {"Authorization": "Bearer s3cre"}):
            answer = post(address, **headers)
            assert answer.status_code == 401 and "data/mcp-token" in answer.text
            assert "--token" in answer.text and TOKEN in answer.text
            assert "s3cret" not in answer.text


def test_servers_that_make_a_token_at_once_have_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: each had its own, and the file that of the last."""
    tokens: list[str] = []
    make = secrets.token_urlsafe

    def meanwhile(size: int) -> str:
        monkeypatch.setattr(secrets, "token_urlsafe", make)
        tokens.append(stored_token(Home(home)))
        return make(size)

    monkeypatch.setattr(secrets, "token_urlsafe", meanwhile)
    tokens.append(stored_token(Home(home)))
    assert tokens[0] == tokens[1] == stored_token(Home(home))
    assert [file.name for file in (home / "data").glob("*mcp-token*")] == ["mcp-token"]


def test_a_token_that_cannot_be_kept_is_said_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.data / "mcp-token").mkdir(parents=True)
    with pytest.raises(UsageProblem, match="cannot keep a token in .*--token"):
        stored_token(home)
    (home.data / "mcp-token").rmdir()
    (home.data / "mcp-token").write_bytes(b"")
    with pytest.raises(UsageProblem, match="it is empty: remove it"):
        stored_token(home)
    (home.data / "mcp-token").unlink()
    assert len(stored_token(home)) >= 32 and stored_token(home) == stored_token(home)


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


LIMITED = """
import sys
from runner.mcp_server import http
http._HEAD_SECONDS, http._BODY_SECONDS, http.MOST_CONNECTIONS = {limits}
from runner.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def limited(home: Path, limits: str) -> Iterator[tuple[str, int]]:
    """The address and port of a server with these seconds for a head, for a body, and clients."""
    arguments = ["mcp", "--http", "0", "--no-token", "--home", str(home)]
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED.format(limits=limits), *arguments], cwd=ROOT,
        stderr=subprocess.PIPE, env=clean_environment(), text=True, encoding="utf-8",
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = [process.stderr.readline() for _ in range(2)]
        address = said[-1].split()[-1]
        assert "serving" in said[-1] and "anyone on this machine" in said[0]
        yield address, int(address.split(":")[2].removesuffix("/mcp"))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def hasty(home: Path) -> Iterator[tuple[str, int]]:
    """A server that waits for nobody."""
    with limited(home, "0.4, 0.8, 99") as found:
        yield found


def closed(client: socket.socket) -> bytes:
    """What a server says until it closes a connection."""
    client.settimeout(30)
    said = b""
    try:
        while part := client.recv(4096):
            said += part
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""), (b"POST /mcp HTT", b""), (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n", b""),
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b" 408 "),
        (b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\n\r\nGET", b" 421 "),
    ],
)  # fmt: skip
def test_a_request_that_stalls_is_not_waited_for(
    hasty: tuple[str, int], sent: bytes, answer: bytes
) -> None:
    """Seen red: each of these held its connection for ever, but for the last one's answer."""
    with socket.create_connection(("127.0.0.1", hasty[1])) as client:
        began = time.monotonic()
        client.sendall(sent)
        assert answer in closed(client)
        assert time.monotonic() - began < 20
    assert post(hasty[0]).status_code == 200


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(hasty: tuple[str, int]) -> None:
    with socket.create_connection(("127.0.0.1", hasty[1])) as client:
        client.settimeout(0.1)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 30:
                client.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if client.recv(1) == b"":
                        break
        assert time.monotonic() - began < 20


def test_connections_beyond_the_limit_are_closed_and_room_is_made(home: Path) -> None:
    with limited(home, "99, 99, 3") as (address, port), contextlib.ExitStack() as stack:
        first = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)
        ]
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as client:
                assert closed(client) == b""
        for client in first:
            client.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            assert b" 421 " in closed(client)
        assert post(address).status_code == 200


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
