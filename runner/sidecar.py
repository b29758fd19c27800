"""The sidecar of an image: the realised spec that makes it again, plus the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.executor import Rendered
from runner.spool.clock import timestamp
from runner.spool.inputs import reading_copies
from runner.spool.record import Record
from specs.expand import for_sidecar


def sidecar_of(
    record: Record,
    rendered: Rendered,
    realised: Mapping[str, Any],
    file: str,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """The sidecar without the picture's hash, which is known only once it is encoded."""
    task = rendered.task
    facts = dict(rendered.facts)
    spec = for_sidecar(realised) | {
        "kind": task.kind,
        "model": task.model,
        "seed": task.seed,
        "steps": task.steps,
        "guidance": task.guidance,
    }
    if task.width and task.height:
        # Where the size follows the input it is no part of the spec: it would follow it again.
        spec |= {"width": task.width, "height": task.height}
    if task.prompt:
        spec["prompt"] = task.prompt
    if "precision" in facts:
        spec["precision"] = facts.pop("precision")
    spec = reading_copies(spec, record.id, record.inputs)
    result = {
        "job": record.id,
        "index": task.index,
        "file": file,
        "width": rendered.image.width,
        "height": rendered.image.height,
        "created_at": timestamp(),
        "seconds": round(rendered.seconds, 3),
        **{name: value for name, value in facts.items() if value != spec.get(name)},
        **origin,
    }
    return {**spec, "result": result}
