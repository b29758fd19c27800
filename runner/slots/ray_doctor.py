"""What `doctor --ray` tells: what is here, which cluster answers, and how a machine joins it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata

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

_Found = tuple[str, str, str | None, tuple[str, ...]]
"""A finding's name, what was found, what to do about it, and reasons or commands."""


def look(home: Home) -> Iterator[_Found]:
    """All that a cluster depends on."""
    try:
        require_ray()
    except UsageProblem as problem:
        yield "ray", "not installed", str(problem), ()
        return
    yield "ray", f"ray {metadata.version('ray')} on Python {sys.version.split()[0]}", None, ()
    place = token_place()
    yield "token", place or "none yet: the first command below makes one", None, ()
    try:
        cluster = cluster_of(home)
        if cluster.address == LOCAL:
            found = "a run with --ray starts one on this machine, which ends with it"
            yield "cluster", found, None, ()
        else:
            yield "cluster", f"{cluster.name} answers", None, tuple(_machines(cluster))
    except UsageProblem as problem:
        yield "cluster", "it cannot be used", str(problem), ()
    yield "ports", f"{_NAMED}, between all machines and to nobody else", None, ()
    yield "first machine", "run these, then `fluxdrop run --ray` there", None, _first(home)
    others = "the same Python, fluxdrop and Ray, the models in a FOLDER for HF_HOME, and"
    yield "others", others, None, _another()
    yield "service", "to start with the machine, under systemd", None, _service()


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
        "arguments, Restart=always, RestartSec=5, and User= of the one whose ~/.ray has the token",
    )
