"""Which Ray cluster, and how to join it: its token, its environment, and what is refused.

A cluster runs any code of whoever reaches its ports, so it must ask for a token.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import UsageProblem
from runner.settings import Home, Settings
from specs import schemas

log = logging.getLogger(__name__)

LOCAL = "local"
OBJECT_STORE = 100 * 1024**2
"""Bytes for what is on its way: pictures, and parts of files."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # It kills what loads a model at 95 % of the RAM.
    "RAY_memory_monitor_refresh_ms": "0",
}
_PROBE = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"", b"session", timeout=10)
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster by its address, or one that is started here and ends with us: `local`.

    `cpu_slots` is how many slots a machine has in a cluster without a GPU. `data` is the private
    folder of the home.
    """

    address: str = LOCAL
    token: bool = True
    cpu_slots: int = 1
    data: Path = Path()
    settings: Settings = field(default_factory=Settings)

    @property
    def name(self) -> str:
        return "the Ray cluster" if self.address == LOCAL else f"the Ray cluster {self.address}"


def cluster_of(home: Home, address: str | None = None) -> Cluster:
    """The cluster that the settings name, or the one at `address`; without both, a local one.

    Raises UsageProblem where Ray is not installed, no token is found, or this is no address.
    """
    given = home.settings.ray
    named = {"address": given} if isinstance(given, str) else dict(given or {})
    if address:
        named["address"] = address
    form = schemas.load("settings")["$defs"]["ray_address"]
    if not schemas.expression(form["pattern"]).search(named.setdefault("address", LOCAL)):
        raise UsageProblem(form["errorMessage"].format(value=repr(address)))
    if named["address"] == LOCAL:
        named.pop("token", None)  # one of our own can always ask for it
    cluster = Cluster(**named, data=home.data, settings=home.settings)
    require_ray()
    if cluster.address != LOCAL and cluster.token and token_place() is None:
        raise UsageProblem(
            f"{cluster.name} needs a token: copy ~/.ray/auth_token from its first machine"
            " (`fluxdrop doctor --ray` prints the commands)"
        )
    return cluster


def require_ray() -> None:
    """Raise UsageProblem where Ray is not installed."""
    if find_spec("ray") is None:
        raise UsageProblem("Ray is not installed: pip install 'fluxdrop[ray]'")


def token_place() -> str | None:
    """Where Ray finds the token of a cluster, None where it finds none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "$RAY_AUTH_TOKEN"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return str(file) if _has_text(file) else None


def join(cluster: Cluster) -> Any:
    """Connect this process to a cluster, as its driver. Raises UsageProblem.

    A local one ends with the thread that calls this.
    """
    os.environ.update(QUIET, RAY_AUTH_MODE="token" if cluster.token else "disabled")
    if cluster.address == LOCAL:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token(cluster.data / "ray-token"))
        how = {"object_store_memory": OBJECT_STORE, "include_dashboard": False, "num_cpus": 1}
    else:
        _look_before(cluster)
        how = {}
    import ray

    # Pages of Ray's own logs, about what slots tell in a sentence.
    ray._private.worker.print_to_stdstream = lambda *told, **how: log.info("Ray: %s", told)
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="error", **how)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageProblem(f"{cluster.name} cannot be used: {first}") from error
    return ray


def _own_token(file: Path) -> Path:
    """A file with a token that only its owner reads."""
    if not _has_text(file):
        aside = file.with_name(f"{file.name}.new")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as opened:
            opened.write(secrets.token_hex(32))
        aside.replace(file)
    return file


def _has_text(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _look_before(cluster: Cluster) -> None:
    """Raise UsageProblem where nothing answers, the token is wrong, or none is asked for."""
    host, _, port = cluster.address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        answers, is_refused = _ask(cluster.address, {})
    except (OSError, OverflowError, UnicodeError):  # the last two: no such port, no such name
        answers = is_refused = False
    if is_refused:
        raise UsageProblem(f"{cluster.name} has another token than {token_place()}")
    if not answers:
        raise UsageProblem(f"{cluster.name} does not answer")
    if cluster.token and _ask(cluster.address, {"RAY_AUTH_MODE": "disabled"})[0]:
        raise UsageProblem(
            f"{cluster.name} lets anybody in, who may run any program there: start it with"
            " RAY_AUTH_MODE=token, or allow it with the setting `ray: {token: false}`"
        )


def _ask(address: str, environment: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether a cluster answers, and whether it refuses what it is shown.

    In a process of its own: Ray ends one that waits too long, and keeps the token it once read.
    """
    command = [sys.executable, "-P", "-c", _PROBE, address]
    given = {**os.environ, **environment}
    try:
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return False, False
    return done.returncode == 0, "AuthenticationError" in done.stderr
