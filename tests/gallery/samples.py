"""Sidecars, pictures and whole outboxes to test with."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from runner.gallery.page.layout import shots_of
from runner.gallery.page.paging import pages_of
from runner.gallery.page.thumbs import thumbnail

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "</script><script>window.pwned = 1</script>",
    "</style><style>body{display:none}</style>",
    "<!-- <script> ]]> -->",
    "line\u2028separator\u2029and & 'quotes' \"both\"",
    "\u202eright to left\u202c שלום עולם",
    "${title} $title {{x}} %s \\u003c \\",
    "nul\x00bell\x07escape\x1b[31m",
    "javascript:window.pwned=1",
)


def write(path: Path, data: bytes) -> None:
    """Replace a file atomically, as the spool's door does."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)


def sidecar(index: int = 1, *, job: str = "hero", **changes: Any) -> dict[str, Any]:
    """The sidecar of one image; `result_…` changes go into its result."""
    facts = {k.removeprefix("result_"): v for k, v in changes.items() if k.startswith("result_")}
    spec = {k: v for k, v in changes.items() if not k.startswith("result_")}
    return {
        "schema": 1,
        "kind": "text2img",
        "model": "dev",
        "prompt": "a red fox in the snow",
        "seed": 6 + index,
        "steps": 28,
        "guidance": 3.5,
        "width": 64,
        "height": 64,
        "precision": "bf16",
        "tags": ["poster"],
        **spec,
        "result": {
            "job": job,
            "index": index,
            "file": f"{job}-{index:04}.png",
            "sha256": "ab" * 32,
            "width": 64,
            "height": 64,
            "created_at": f"2026-11-23T08:{index // 60 % 60:02}:{index % 60:02}.000Z",
            "seconds": 1.5,
            "model": {
                "repo": "black-forest-labs/FLUX.1-dev",
                "revision": "0ef5fff",
                "sha256": "58725940e3" + "0" * 54,
            },
            "dtype": "bfloat16",
            "device": "NVIDIA H200",
            "versions": {"fluxdrop": "0.1.0"},
            **facts,
        },
    }


def status(total: int = 1, *, job: str = "hero", **changes: Any) -> dict[str, Any]:
    """The status file of a job."""
    return {
        "schema": 1,
        "id": job,
        "kind": "text2img",
        "model": "dev",
        "state": "succeeded",
        "reason": None,
        "message": None,
        "tags": [],
        "accepted_at": "2026-11-23T08:00:00.000Z",
        "started_at": "2026-11-23T08:00:01.000Z",
        "finished_at": "2026-11-23T08:03:00.000Z",
        "images": {"total": total, "done": total, "failed": 0, "skipped": 0},
        "progress": None,
        "errors": [],
        "warnings": [],
        "outputs": [],
        **changes,
    }


def picture(size: tuple[int, int] = (64, 64), colour: str = "#c94f27") -> Image.Image:
    """A picture with one other pixel in it."""
    image = Image.new("RGB", size, colour)
    image.putpixel((0, 0), (1, 2, 3))
    return image


def put_job(outbox: Path, sidecars: list[dict[str, Any]], *, job: str = "hero") -> Path:
    """A finished job's folder with pictures, thumbnails, sidecars and status."""
    folder = outbox / job
    (folder / "thumbs").mkdir(parents=True)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    small = thumbnail(picture())
    for one in sidecars:
        stem = Path(one["result"]["file"]).stem
        (folder / one["result"]["file"]).write_bytes(buffer.getvalue())
        (folder / "thumbs" / f"{stem}.webp").write_bytes(small)
        put_json(folder / f"{stem}.json", one)
    put_json(folder / "status.json", status(len(sidecars), job=job))
    return folder


def put_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def job_pages(
    of: Mapping[str, Any],
    sidecars: Iterable[Mapping[str, Any]],
    failures: Iterable[Mapping[str, Any]] = (),
    beside: Iterable[str] = (),
) -> dict[str, str]:
    """All pages of a job by file name, from its status."""
    shots = {shot.index: shot for shot in shots_of(sidecars, failures)}
    return pages_of(
        of, sorted(shots), lambda numbers: [shots[n] for n in numbers], beside=[*beside]
    )[0]


def job_page(*given: Any, **more: Any) -> str:
    """The first page of a job."""
    return job_pages(*given, **more)["index.html"]


def put_page(outbox: Path, sidecars: list[dict[str, Any]], **changes: Any) -> Path:
    """A job with its pages; returns the first."""
    folder = put_job(outbox, sidecars)
    failures, beside = changes.pop("failures", ()), changes.pop("beside", ())
    pages = job_pages(status(len(sidecars), **changes), sidecars, failures, beside)
    for name, html in pages.items():
        (folder / name).write_text(html, encoding="utf-8")
    return folder / "index.html"


def pack(subjects: int, variables: int, seeds: int) -> list[dict[str, Any]]:
    """The sidecars of a bulk run with the built-in model."""
    places = [(s, v, n) for s in range(subjects) for v in range(variables) for n in range(seeds)]
    return [
        sidecar(
            i,
            seed=n,
            model="tiny",
            precision="fp32",
            prompt=f"an animal{s} in light{v}",
            result_subject=f"subject {s}",
            result_variable=f"variable {v}",
        )
        for i, (s, v, n) in enumerate(places, start=1)
    ]
