"""Streamable HTTP: a guard before everything, then the SDK's transport, then the server.

    Host ─► Origin ─► token ─► size ─► /mcp

The guard is there whatever address is served: a page of another site that reaches this machine
through its visitor's browser brings a foreign Host or Origin, and gets nothing. Sessions are not
kept, so a restart of the server breaks no client.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from runner.errors import UsageProblem
from runner.mcp_server.arguments import MOST_DATA_BYTES
from runner.mcp_server.server import build_server
from runner.settings import Home

PATH = "/mcp"
MOST_BODY_BYTES = 2 * (MOST_DATA_BYTES * 4 // 3) + 1024 * 1024
"""An image and a mask as data URIs, and room for the rest of the call."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ANY = ("", "0.0.0.0", "::")
_PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
_GRACE_SECONDS = 2


@dataclass(frozen=True)
class Access:
    """Who may call: the names this server answers to, the sites besides, and the token."""

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = None

    def names(self) -> tuple[str, ...]:
        """Every name that a Host header may have."""
        return (*_LOOPBACK, *(host.lower() for host in self.hosts))

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server; a name given without a port fits every port."""
        found = _PLACE.fullmatch(header.lower())
        return found is not None and not {found[0], found[1]}.isdisjoint(self.names())

    def knows_origin(self, header: str) -> bool:
        """Whether an Origin may call: this machine's own pages, and the sites that were named."""
        if header.lower() in (origin.lower().rstrip("/") for origin in self.origins):
            return True
        scheme, _, place = header.lower().partition("://")
        found = _PLACE.fullmatch(place)
        return scheme == "http" and found is not None and found[1] in _LOOPBACK

    def knows_bearer(self, header: str) -> bool:
        """Whether an Authorization header carries the token, compared in constant time."""
        if self.token is None:
            return True
        scheme, _, given = header.partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return scheme.lower() == "bearer" and same


class Guard:
    """Answers for the server whatever must not reach it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refused = self._refusal(Headers(scope=scope))
            await (refused or self._app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> PlainTextResponse | None:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._access.knows_host(hosts[0]):
            text = "this server does not answer to that Host; see --allow-host\n"
            return PlainTextResponse(text, status_code=421)
        if not all(map(self._access.knows_origin, origins)):
            text = "pages of that Origin may not call this server; see --allow-origin\n"
            return PlainTextResponse(text, status_code=403)
        bearers = headers.getlist("authorization")
        if len(bearers) > 1 or not self._access.knows_bearer(bearers[0] if bearers else ""):
            text = "send the token: `Authorization: Bearer …`\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})
        return None


def guarded_app(home: Home, access: Access, *, autostart: bool = False) -> ASGIApp:
    """The server of one home as an ASGI application, its guard around it."""
    names = access.names()
    # The transport checks the same once more, in case somebody serves it without the guard.
    security = TransportSecuritySettings(
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[
            *(f"http://{name}" for name in _LOOPBACK),
            *(f"http://{name}:*" for name in _LOOPBACK),
            *(origin.rstrip("/") for origin in access.origins),
        ],
    )
    app = build_server(home, autostart=autostart).streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=MOST_BODY_BYTES,
        transport_security=security,
    )
    return Guard(app, access)


def serve_http(
    home: Home,
    *,
    host: str,
    port: int,
    access: Access,
    autostart: bool,
    say: Callable[[str], None],
) -> None:
    """Serve until stopped. Raises UsageProblem when the address cannot be had."""
    with _bound(host, port) as listening:
        address = f"[{host}]" if ":" in host else host
        own = () if host in _ANY else (address,)
        access = Access((*access.hosts, *own), access.origins, access.token)
        if not _is_loopback(host) and access.token is None:
            say("anyone who reaches this address may submit jobs: set a token with --token")
        say(f"serving http://{address}:{listening.getsockname()[1]}{PATH}")
        config = uvicorn.Config(
            guarded_app(home, access, autostart=autostart),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])


def checked_access(hosts: Iterable[str], origins: Iterable[str], token: str | None) -> Access:
    """What the command line said about access. Raises UsageProblem for what could never match."""
    for host in hosts:
        if not _PLACE.fullmatch(host.lower()):
            raise UsageProblem(f"--allow-host takes a name like flux.example.com, not {host!r}")
    for origin in origins:
        scheme, _, place = origin.lower().rstrip("/").partition("://")
        if scheme not in ("http", "https") or not _PLACE.fullmatch(place):
            raise UsageProblem(f"--allow-origin takes a site like https://example.com: {origin!r}")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageProblem("a token is made of ASCII letters, digits and signs, without blanks")
    return Access(tuple(hosts), tuple(origins), token or None)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _bound(host: str, port: int) -> Any:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise UsageProblem(f"cannot serve on {host}:{port}: {error}") from error
