"""`mcp`: the MCP server, over standard input and output or over HTTP on this machine.

Over stdio, standard output belongs to the protocol: all messages go to standard error.
"""

import argparse
import gc
import os
import sys
from typing import Any

from runner.cli.output import add_verb, print_message
from runner.logs import log_to_stderr
from runner.settings import find_home

PORT = 8421
TOKEN = "FLUXDROP_MCP_TOKEN"


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    mcp = add_verb(verbs, shared, "mcp", run_mcp, "serve agents: stdio, or HTTP")
    mcp.add_argument(
        "--http", nargs="?", const=PORT, type=int, metavar="PORT",
        help=f"streamable HTTP on this machine (port {PORT} unless given; 0: a free one)",
    )  # fmt: skip
    mcp.add_argument("--autostart", action="store_true", help="start a runner when none is there")
    mcp.add_argument("--host", default="127.0.0.1", help="serve HTTP on another address")
    tokens = mcp.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token",
        help=f"what clients must send as a bearer token (or set ${TOKEN}); default: one that is"
        " made once, kept in data/ and printed",
    )
    tokens.add_argument("--no-token", action="store_true", help="answer every caller")
    for name, meaning in (("host", "a name that a gateway passes on"), ("origin", "a web page")):
        mcp.add_argument(
            f"--allow-{name}", action="append", default=[], metavar=name.upper(),
            help=f"{meaning}; may be given again",
        )  # fmt: skip


def run_mcp(options: argparse.Namespace) -> int:
    """Serve until the client disconnects (stdio) or until stopped (HTTP)."""
    options.json = False  # an error as JSON would stand where the protocol is expected
    home = find_home(options.home)
    log_to_stderr()
    gc.disable()  # imports make objects, but hardly garbage
    from runner.mcp_server.server import serve_stdio

    gc.enable()
    if options.http is None:
        if sys.stdin.isatty():
            print_message(
                "waiting for an agent's messages on standard input: hosts start this command by"
                " themselves (Ctrl-D ends it); `fluxdrop mcp --http` serves on a port"
            )
        serve_stdio(home, autostart=options.autostart)
        return 0
    from runner.mcp_server.http import checked_access, serve_http, stored_token

    token = None if options.no_token else options.token or os.environ.get(TOKEN)
    if not token and not options.no_token:
        home.prepare()
        token = stored_token(home)
        print_message(f"clients send the header `Authorization: Bearer {token}`")
    access = checked_access(options.allow_host, options.allow_origin, token)
    serve_http(
        home, host=options.host, port=options.http, access=access,
        autostart=options.autostart, notify=print_message,
    )  # fmt: skip
    return 0
