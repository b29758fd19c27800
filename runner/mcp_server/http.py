"""Streamable HTTP: a guard before everything, then the SDK's transport, then the server.

    Host ─► Origin ─► token ─► size ─► /mcp

The guard checks on loopback addresses too: a web page that makes its visitor's browser call this
machine sends a foreign Host or Origin and is refused. Sessions are not kept, so a restart of the
server breaks no client.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
_ANY_ADDRESS = ("", "0.0.0.0", "::")
_HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
_GRACE_SECONDS = 2


@dataclass(frozen=True)
class Access:
    """Who may call: host names of this server, origins of web pages, and the bearer token.

    The loopback names are always allowed; without a token none is asked for.
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
        """Whether pages of an Origin may call: those of this machine and of `origins`."""
        if header.lower() in (origin.lower().rstrip("/") for origin in self.origins):
            return True
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
    if not all(map(access.knows_origin, origins)):
        text = "pages of that Origin may not call this server; see --allow-origin\n"
        return PlainTextResponse(text, status_code=403)
    bearers = headers.getlist("authorization")
    if len(bearers) > 1 or not access.knows_bearer(bearers[0] if bearers else ""):
        text = "send the token: `Authorization: Bearer …`\n"
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

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = _refusal(access, Headers(scope=scope))
            await (refusal or app)(scope, receive, send)

    return guard


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
        own = () if host in _ANY_ADDRESS else (address,)
        access = Access((*access.hosts, *own), access.origins, access.token)
        is_loopback = host == "localhost" or host == "::1" or host.startswith("127.")
        if not is_loopback and access.token is None:
            notify("anyone who reaches this address may submit jobs: set a token with --token")
        notify(f"serving http://{address}:{listener.getsockname()[1]}{PATH}")
        config = uvicorn.Config(
            guarded_app(home, access, autostart=autostart),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
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
