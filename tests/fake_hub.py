"""A hub on loopback: repositories, tokens and gates, storage on another port, and its bad days.

Answers as huggingface.co does to what `models pull` asks: the list of a repository's files, and the
files, of which weights are fetched from another host that must never see the token. What goes
wrong is said by a `Fault` for a file, or by `status` for everything.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin")
COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Repo:
    """A repository: its files, who may read it, and what is wrong with it."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    revision: str = "main"
    commit: str = COMMIT


@dataclass
class Fault:
    """What happens when a file is fetched, `times` times: its answer ends early, waits, or lies.

    With `wait`, the answer stops after so many bytes until `go_on` is set; `reached` says that it
    has stopped.
    """

    after: int = 0
    wait: bool = False
    status: int = 0
    content: bytes | None = None
    times: int = 10**6
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Seen:
    """One request that came: on which server, for what, from which byte on, with which token."""

    storage: bool
    path: str
    start: int
    token: str | None


class FakeHub:
    """Serves until it is closed; `url` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.accounts: dict[str, set[str]] = {}
        """Each token that the hub knows, with the gated and private repositories it may read."""
        self.faults: dict[str, Fault] = {}
        self.status = 0
        self.page: bytes | None = None
        """What is answered to everything, as a network does that wants a log-in first."""
        self.ranges = True
        """Whether a file can be asked for from a byte on."""
        self.seen: list[Seen] = []
        self._servers = [_Server(self, storage) for storage in (False, True)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fault in self.faults.values():
            fault.go_on.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def pipeline() -> dict[str, bytes]:
    """The files of a pipeline that looks whole, and that no library could load."""
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "image_encoder": [None, None],
    }
    return {
        "model_index.json": json.dumps(index).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": safetensors(50_000, 1),
        "tokenizer/tokenizer_config.json": b"{}",
        "tokenizer/tokenizer.json": b"{}",
        "transformer/config.json": b'{"in_channels": 64}',
        WEIGHTS: safetensors(300_000, 2),
    }


def safetensors(size: int, fill: int) -> bytes:
    """Weights of one tensor, as long as their header says."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * size


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, which is returned."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder as the files of a repository."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined when it closes: no thread outlives its test

    def __init__(self, hub: FakeHub, storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.storage = storage

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        hub.seen.append(Seen(self.server.storage, path, start, token))
        if hub.page is not None:
            self._answer(200, {"Content-Type": "text/html"}, hub.page)
        elif hub.status:
            self._answer(hub.status, {})
        elif token and token not in hub.accounts:
            wrong = "Invalid credentials in Authorization header"
            self._answer(401, {"X-Error-Message": wrong})
        elif self.server.storage:
            _, repo, name = self._parts(path, "/blobs/")
            self._send_file(name, hub.repos[repo].files[name], start)
        elif path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._list(repo, revision or "main", token)
        else:
            repo, commit, name = self._parts(path, "/resolve/")
            self._resolve(repo, commit, name, start, token)

    @staticmethod
    def _parts(path: str, middle: str) -> tuple[str, str, str]:
        repo, _, rest = path.strip("/").partition(middle)
        commit, _, name = rest.partition("/")
        return (repo, commit, name) if middle == "/resolve/" else ("", repo, rest)

    def _may_see(self, repo: str, token: str | None) -> bool:
        return repo in self.server.hub.accounts.get(token or "", set())

    def _list(self, repo: str, revision: str, token: str | None) -> None:
        found = self.server.hub.repos.get(repo)
        if found is None or (found.private and not self._may_see(repo, token)):
            self._answer(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (found.revision, found.commit):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [_sibling(name, data) for name, data in found.files.items()]
            gated = "manual" if found.gated else False
            about = {"id": repo, "sha": found.commit, "gated": gated, "siblings": siblings}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(about).encode())

    def _resolve(self, repo: str, commit: str, name: str, start: int, token: str | None) -> None:
        found = self.server.hub.repos[repo]
        if found.gated and not self._may_see(repo, token):
            self._answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif commit != found.commit or name not in found.files:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(LARGE):
            self._answer(302, {"Location": f"{self.server.hub.storage_url}/{repo}/blobs/{name}"})
        else:
            self._send_file(name, found.files[name], start)

    def _send_file(self, name: str, data: bytes, start: int) -> None:
        fault = self.server.hub.faults.get(name)
        start = start if self.server.hub.ranges else 0
        if fault is None or fault.times <= 0:
            self._send(data, start, len(data))
            return
        fault.times -= 1
        data = data if fault.content is None else fault.content
        if fault.status:
            self._answer(fault.status, {})
            return
        if fault.content is not None:
            self._send(data, start, len(data))
            return
        end = max(fault.after, start)
        self._send(data, start, end)
        self.wfile.flush()
        if fault.wait:
            fault.reached.set()
            fault.go_on.wait()
            self.wfile.write(data[end:])
        else:
            self.close_connection = True

    def _send(self, data: bytes, start: int, end: int) -> None:
        """The bytes up to `end`, under headers that promise all of them."""
        if start >= len(data) and start:
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:end])

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `seen`, and nobody reads a log."""


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    about = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(LARGE):
        sha = hashlib.sha256(data).hexdigest()
        about["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
    return about
