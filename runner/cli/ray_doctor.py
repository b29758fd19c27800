"""What `doctor --ray` tells: what is here, which cluster answers, and how a machine joins it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata

from runner.cli.doctor import Finding
from runner.errors import UsageProblem
from runner.settings import Home
from runner.slots.ray_cluster import (
    LOCAL,
    OBJECT_STORE,
    Cluster,
    cluster_of,
    join,
    require_ray,
    token_place,
)

_PORT = 6379
_PORTS = (
    "--node-manager-port=6380 --object-manager-port=6381"
    " --min-worker-port=10002 --max-worker-port=10101"
)
_NAMED = "6379 to 6381, and 10002 to 10101"
_MORE = f"--object-store-memory={OBJECT_STORE} --block"


def look(home: Home) -> Iterator[Finding]:
    """All that a cluster depends on."""
    try:
        require_ray()
    except UsageProblem as problem:
        yield Finding("ray", False, "not installed", str(problem))
        return
    found = f"ray {metadata.version('ray')} on Python {sys.version.split()[0]}"
    yield Finding("ray", True, found)
    found = token_place() or "none yet: the first command below makes one"
    yield Finding("token", True, found)
    try:
        cluster = cluster_of(home)
        if cluster.address == LOCAL:
            found = "a run with --ray starts one on this machine, which ends with it"
            yield Finding("cluster", True, found)
        else:
            machines = tuple(_machines(cluster))
            yield Finding("cluster", True, f"{cluster.name} answers", None, machines)
    except UsageProblem as problem:
        yield Finding("cluster", False, "it cannot be used", str(problem))
    yield Finding("ports", True, f"{_NAMED}, between all machines and to nobody else")
    found = "run these, then `fluxdrop run --ray` there"
    yield Finding("first machine", True, found, None, _first(home))
    found = "the same Python, fluxdrop and Ray, the models in a FOLDER for HF_HOME, and"
    yield Finding("others", True, found, None, _another())
    found = "to start with the machine, under systemd"
    yield Finding("service", True, found, None, _service())


def _machines(cluster: Cluster) -> Iterator[str]:
    ray = join(cluster)
    try:
        for node in ray.nodes():
            if node["Alive"]:
                gpus = int(node["Resources"].get("GPU", 0))
                yield f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {gpus} GPU"
    finally:
        ray.shutdown()


def _start(models: str, *options: str) -> str:
    """The command that makes a machine a part of a cluster; Ray hands its environment on."""
    environment = f"RAY_AUTH_MODE=token RAY_memory_monitor_refresh_ms=0 HF_HOME={models}"
    return f"{environment} ray start {' '.join(options)} {_PORTS} {_MORE}"


def _first(home: Home) -> tuple[str, ...]:
    models = os.environ.get("HF_HOME") or str(home.data / "hf-cache")
    head = ("--head", f"--port={_PORT}", "--include-dashboard=false", "--disable-usage-stats")
    return (
        "ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token",
        _start(shlex.quote(models), *head),
        f"in fluxdrop.yaml: `ray: HOST:{_PORT}`, with the address of this machine for HOST",
    )


def _another() -> tuple[str, ...]:
    return (
        "mkdir -pm 700 ~/.ray && scp HOST:.ray/auth_token ~/.ray/ && chmod 600 ~/.ray/auth_token",
        _start("FOLDER", f"--address=HOST:{_PORT}"),
    )


def _service() -> tuple[str, ...]:
    return (
        "[Service] with the variables as Environment=, ExecStart= the whole path of ray with its",
        "arguments, Restart=always, RestartSec=5, KillMode=mixed, and User= of the one whose",
        "~/.ray has the token",
    )
