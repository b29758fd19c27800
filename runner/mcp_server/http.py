"""Streamable HTTP: a guard before everything, then the SDK's transport, then the server.

    connections, time ─► Host ─► Origin, Sec-Fetch-Site ─► token ─► size, time ─► /mcp

The guard checks on loopback addresses too: a web page that makes its visitor's browser call this
machine sends a foreign Host or Origin and is refused, and other users of this machine have no
token. Sessions are not kept, so a restart of the server breaks no client.
"""

import asyncio
import contextlib
import hmac
import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import uvicorn
from mcp.server.transport_security import (
    RequestBodyLimitMiddleware,
    TransportSecuritySettings,
)
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.errors import UsageProblem
from runner.mcp_server.arguments import MOST_DATA_BYTES
from runner.mcp_server.server import build_server
from runner.settings import Home

PATH = "/mcp"
MOST_BODY_BYTES = 2 * (MOST_DATA_BYTES * 4 // 3) + 1024 * 1024
"""An image and a mask as data URIs, and room for the rest of the call."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
_TOKEN_FILE = "mcp-token"
MOST_CONNECTIONS = 256
# The head of a request is some hundred bytes; a body of 9 MB takes a minute over a slow line.
_HEAD_SECONDS = 15.0
_BODY_SECONDS = 120.0


@dataclass(frozen=True)
class Access:
    """Who may call: host names of this server, origins of web pages, and the bearer token.

    The loopback names are always allowed. Without a token none is asked for, and web pages of this
    machine must be named, too: any program may serve one.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = None

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server; a name without a port matches every port."""
        match = _HOST_AND_PORT.fullmatch(header.lower())
        names = {*_LOOPBACK, *(host.lower() for host in self.hosts)}
        return match is not None and not names.isdisjoint({match[0], match[1]})

    def knows_origin(self, header: str) -> bool:
        """Whether pages of an Origin may call: of `origins`, with a token of this machine too."""
        if header.lower() in (origin.lower().rstrip("/") for origin in self.origins):
            return True
        if self.token is None:
            return False
        scheme, _, host = header.lower().partition("://")
        match = _HOST_AND_PORT.fullmatch(host)
        return scheme == "http" and match is not None and match[1] in _LOOPBACK

    def knows_bearer(self, header: str) -> bool:
        """Whether an Authorization header carries the token, compared in constant time."""
        if self.token is None:
            return True
        scheme, _, token = header.partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self.token.encode())
        return scheme.lower() == "bearer" and same


def _refusal(access: Access, headers: Headers) -> PlainTextResponse | None:
    """The answer to a request that must not reach the server; None for one that may."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not access.knows_host(hosts[0]):
        text = "this server does not answer to that Host; see --allow-host\n"
        return PlainTextResponse(text, status_code=421)
    # A browser says so even of requests that have no Origin, such as those for a picture.
    site = headers.get("sec-fetch-site", "none").lower()
    is_foreign = site not in ("none", "same-origin") and not origins
    if is_foreign or not all(map(access.knows_origin, origins)):
        text = "pages of that Origin may not call this server; see --allow-origin\n"
        return PlainTextResponse(text, status_code=403)
    bearers = headers.getlist("authorization")
    if len(bearers) > 1 or not access.knows_bearer(bearers[0] if bearers else ""):
        text = (
            "send the header `Authorization: Bearer …` with the token that the server was given by"
            " --token or $FLUXDROP_MCP_TOKEN, else the one in data/mcp-token of its home\n"
        )
        return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})
    return None


def guarded_app(home: Home, access: Access, *, autostart: bool = False) -> ASGIApp:
    """The server of one home as an ASGI application behind the guard."""
    # The guard has checked Host and Origin already.
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = build_server(home, autostart=autostart).streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=MOST_BODY_BYTES,
        transport_security=unchecked,
    )

    # Reads the body before the server begins, so that nothing of it waits for a slow one.
    limited = RequestBodyLimitMiddleware(app, MOST_BODY_BYTES)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "http":
            answer = _refusal(access, Headers(scope=scope)) or limited
            try:
                await answer(scope, _in_time(receive), send)
            except _TooSlow:
                late = PlainTextResponse("the request did not come in time\n", status_code=408)
                await late(scope, receive, send)

    return guard


class _TooSlow(Exception):
    """The body of a request did not come in time."""


def _in_time(receive: Receive) -> Receive:
    """Receives a request. Raises _TooSlow where its body takes longer than `_BODY_SECONDS`."""
    until = anyio.current_time() + _BODY_SECONDS

    async def receive_in_time() -> Message:
        nonlocal until
        with anyio.CancelScope(deadline=until):
            message = await receive()
            if not message.get("more_body"):
                until = math.inf
            return message
        raise _TooSlow

    return receive_in_time


class _Protocol(H11Protocol):
    """Closes connections beyond a number, and those on which no request begins in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Give the client some seconds to begin a request, from its first byte on."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)


def stored_token(home: Home) -> str:
    """The token of a home, made at the first call; only the runner's user may read its file.

    Raises UsageProblem where it cannot be read or written.
    """
    file = home.data / _TOKEN_FILE
    aside = home.data / f".{_TOKEN_FILE}.{secrets.token_hex(8)}"
    try:
        with contextlib.suppress(FileNotFoundError):
            if token := file.read_text(encoding="ascii").strip():
                return token
            raise ValueError("it is empty: remove it")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(f"{secrets.token_urlsafe(24)}\n")
        try:
            # Another server may just be making one: the first is that of both.
            os.link(aside, file)
        except FileExistsError:
            pass
        except OSError:  # no hard links on this file system
            os.replace(aside, file)
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"cannot keep a token in {file}: {getattr(error, 'strerror', None) or error}: start it"
            " as the home's user, give a token with --token or $FLUXDROP_MCP_TOKEN, or take"
            " --no-token"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def serve_http(
    home: Home,
    *,
    host: str,
    port: int,
    access: Access,
    autostart: bool,
    notify: Callable[[str], None],
) -> None:
    """Serve until stopped; `notify` gets messages for the user, the address among them.

    Raises UsageProblem where the address cannot be used.
    """
    with _listening(host, port) as listener:
        address = f"[{host}]" if ":" in host else host
        own = () if host in ("", "0.0.0.0", "::") else (address,)
        access = Access((*access.hosts, *own), access.origins, access.token)
        if access.token is None:
            is_loopback = host in ("localhost", "::1") or host.startswith("127.")
            who = "on this machine" if is_loopback else "who reaches this address"
            notify(f"anyone {who} may submit jobs: leave --no-token out to ask for a token")
        notify(f"serving http://{address}:{listener.getsockname()[1]}{PATH}")
        config = uvicorn.Config(
            guarded_app(home, access, autostart=autostart),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            http=_Protocol,
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listener])


def checked_access(hosts: Iterable[str], origins: Iterable[str], token: str | None) -> Access:
    """The access that the command line allows. Raises UsageProblem for what could never match."""
    for host in hosts:
        if not _HOST_AND_PORT.fullmatch(host.lower()):
            raise UsageProblem(f"--allow-host takes a name like flux.example.com, not {host!r}")
    for origin in origins:
        scheme, _, address = origin.lower().rstrip("/").partition("://")
        if scheme not in ("http", "https") or not _HOST_AND_PORT.fullmatch(address):
            raise UsageProblem(f"--allow-origin takes a site like https://example.com: {origin!r}")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageProblem("a token is made of ASCII letters, digits and signs, without blanks")
    return Access(tuple(hosts), tuple(origins), token or None)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise UsageProblem(f"cannot serve on {host}:{port}: {error}") from error
