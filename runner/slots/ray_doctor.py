"""What `doctor --ray` tells: what is here, which cluster answers, and how a machine joins it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from runner.errors import UsageProblem
from runner.settings import Home
from runner.slots.ray_cluster import (
    LOCAL,
    OBJECT_STORE,
    QUIET,
    Cluster,
    cluster_of,
    join,
    require_ray,
    token_place,
)

PORTS = (
    "--node-manager-port=6380 --object-manager-port=6381"
    " --min-worker-port=10002 --max-worker-port=10101"
)
HEAD_PORT = 6379
_NAMED = "6379 to 6381, and 10002 to 10101"

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
    yield "first machine", "run these, then `fluxdrop run --ray` there", None, _first()
    yield "others", "the same Python, fluxdrop and Ray, and the models; then", None, _another()
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


def _start(*options: str) -> str:
    environment = " ".join(f"{name}={value}" for name, value in QUIET.items())
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    store = f"--object-store-memory={OBJECT_STORE}"
    return (
        f"RAY_AUTH_MODE=token {environment} {ray} start {' '.join(options)} {PORTS} {store} --block"
    )


def _first() -> tuple[str, ...]:
    return (
        "ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token",
        _start("--head", f"--port={HEAD_PORT}", "--include-dashboard=false"),
        f"in fluxdrop.yaml: ray: HOST:{HEAD_PORT}   (HOST is this machine's address)",
    )


def _another() -> tuple[str, ...]:
    return (
        "mkdir -pm 700 ~/.ray && scp HOST:.ray/auth_token ~/.ray/ && chmod 600 ~/.ray/auth_token",
        _start(f"--address=HOST:{HEAD_PORT}"),
    )


def _service() -> tuple[str, ...]:
    return (
        "[Service] ExecStart=/bin/sh -c 'exec env …' with the line that ends with --block,",
        "Restart=always, RestartSec=5, User=…, and HF_HOME where the models are not in ~/.cache",
    )
