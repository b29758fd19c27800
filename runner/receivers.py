"""Receivers of events: an address of apprise, a URL or a command, as the settings name them.

Specs name receivers and cannot make any. A try is bounded in time. No error has more of an
address than its host: the rest may be a secret.
"""

import base64
import hashlib
import hmac
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path, PurePath
from socket import SHUT_RDWR
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from runner.clock import now
from runner.errors import ReceiverAway, ReceiverRefuses
from runner.files import text_of
from runner.wire import SCHEMA

T = TypeVar("T")

SECONDS = 10.0
"""So long a try may take."""

NO_APPRISE = "apprise is not installed: install it beside fluxdrop, `pip install apprise`"
_BUSY = (408, 425, 429, 502, 503, 504)
_TYPES = {"succeeded": "success", "failed": "failure", "rejected": "failure"}


def envelope(home: Path, event: str, at: str) -> dict[str, Any]:
    """What every message begins with."""
    origin = {"host": platform.node(), "home": text_of(str(home))}
    return {"schema": SCHEMA, "event": event, "at": at, **origin}


def send(
    receiver: Mapping[str, Any], message_id: str, content: Mapping[str, Any], seconds: float
) -> None:
    """Tell a receiver, in one try. Raises ReceiverAway, and whatever apprise raises.

    Each try to tell the same has the same id.
    """
    # A path in it may be no UTF-8.
    body = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")
    if "url" in receiver:
        _post(receiver["url"], receiver.get("secret_env"), message_id, body, seconds)
    elif "command" in receiver:
        _run(receiver["command"], body + b"\n", seconds)
    else:
        _notify(receiver["apprise"], content, seconds)


def shown(receiver: Mapping[str, Any]) -> str:
    """A receiver in words, without what may be a secret."""
    if "command" in receiver:
        return f"the command {receiver['command'][0]}"
    if "apprise" in receiver:
        return f"apprise, {receiver['apprise'].partition(':')[0]}://…"
    parts = urlsplit(receiver["url"])
    signed = f", signed by ${receiver['secret_env']}" if "secret_env" in receiver else ""
    return f"{parts.scheme}://{parts.hostname}/…{signed}"


def lack(receiver: Mapping[str, Any]) -> str | None:
    """What a receiver needs that is not here, or None."""
    name = receiver.get("secret_env")
    if name and not os.environ.get(name):
        return f"the environment variable {name} is not set: it has to be where the runner starts"
    if "apprise" in receiver and importlib.util.find_spec("apprise") is None:
        return NO_APPRISE
    if "command" in receiver and shutil.which(receiver["command"][0]) is None:
        return f"there is no program {receiver['command'][0]}"
    return None


def signatures(message_id: str, at: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers by which a receiver knows that what it got is from here.

    Raises ValueError for a secret `whsec_…` that is no base64 or holds no byte.
    """
    key = whole = os.fsencode(secret)
    if secret.startswith("whsec_") and not (key := base64.b64decode(secret[6:], validate=True)):
        raise ValueError("an empty key")
    standard = hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-signature": f"v1,{base64.b64encode(standard).decode()}",
        "X-Fluxdrop-Signature": f"sha256={hmac.digest(whole, body, hashlib.sha256).hex()}",
    }


def _post(url: str, secret_env: str | None, message_id: str, body: bytes, seconds: float) -> None:
    parts, at = urlsplit(url), int(now())
    headers = {
        "content-type": "application/json",
        "connection": "close",
        "user-agent": "fluxdrop",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
    }
    if secret_env:
        # What is not signed is not sent: the receiver would take it for another's.
        secret = os.environ.get(secret_env)
        if not secret:
            raise ReceiverAway(f"the environment variable {secret_env} is not set")
        try:
            headers |= signatures(message_id, at, body, secret)
        except ValueError:
            raise ReceiverRefuses(f"the secret in {secret_env} is no base64") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)

    def post() -> int:
        connection.request("POST", target, body, headers)
        return connection.getresponse().status

    try:
        status = _within(seconds, post)
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ReceiverAway(f"{parts.hostname} does not answer ({why})") from None
    finally:
        with suppress(OSError, AttributeError):
            # It ends a call that hangs.
            connection.sock.shutdown(SHUT_RDWR)
        connection.close()
    if not 200 <= status < 300:
        elsewhere = ": give the URL where it leads" if 300 <= status < 400 else ""
        error_type = ReceiverAway if status in _BUSY else ReceiverRefuses
        raise error_type(f"{parts.hostname} answers {status}{elsewhere}")


def _within(seconds: float, act: Callable[[], T]) -> T:
    """What a call returns or raises. Raises TimeoutError, and leaves it, once that takes longer."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001 it is raised there
            future.set_exception(error)

    Thread(target=run, name="try to tell", daemon=True).start()
    return future.result(seconds)


def _run(command: list[str], body: bytes, seconds: float) -> None:
    name, out = PurePath(command[0]).name, subprocess.DEVNULL
    # Windows would look for a program only, and for no script.
    program = shutil.which(command[0]) or command[0]
    try:
        # A group of its own, to be killed with its children, and without our Ctrl-C.
        process = subprocess.Popen(
            [program, *command[1:]], stdin=subprocess.PIPE, stdout=out, stderr=out,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
    except OSError as error:
        raise ReceiverAway(f"{name} cannot be started: {error.strerror}") from None
    try:
        process.communicate(body, seconds)
    except subprocess.TimeoutExpired:
        raise ReceiverRefuses(f"{name} took longer than {seconds:g} s") from None
    finally:
        if process.poll() is None:
            _kill(process)
    if process.returncode:
        raise ReceiverRefuses(f"{name} ended with code {process.returncode}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command that was started here, and its children."""
    if sys.platform == "win32":
        tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(tree, capture_output=True, check=False)
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _notify(address: str, content: Mapping[str, Any], seconds: float) -> None:
    # Here: it takes a second, and need not be installed.
    try:
        import apprise
    except ImportError:
        raise ReceiverAway(NO_APPRISE) from None
    service = apprise.Apprise()
    if not service.add(address):
        raise ReceiverRefuses("apprise does not understand its address")
    title, text, kind = _in_words(content)
    notify = partial(service.notify, title=title, body=text, notify_type=kind)
    try:
        told = _within(seconds, notify)
    except TimeoutError:
        raise ReceiverAway(f"apprise took longer than {seconds:g} s") from None
    if not told:
        raise ReceiverAway("apprise could not tell it: `fluxdrop tell` prints what it says")


def _in_words(content: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, text and apprise's type of an event."""
    event, runner = content["event"], f"fluxdrop on {content['host']}"
    if "images" not in content:
        jobs = ", ".join(f"{count} {state}" for state, count in content.get("jobs", {}).items())
        kind = "warning" if event == "runner.trouble" else "info"
        return f"{runner}: {event}", content.get("note", jobs), kind
    made, state = content["images"], content["state"]
    text = f"{made['done']} of {made['total']} images"
    why = f": {content['message']}" if content["message"] else ""
    return f"{content['id']} {state}", text + why, _TYPES.get(state, "info")
