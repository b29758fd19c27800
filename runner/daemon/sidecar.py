"""The sidecar of an image: the realised spec that makes it again, and the engine facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.clock import timestamp
from runner.executor import Rendered
from runner.spool.inbox.inputs import reading_copies
from runner.spool.store.record import Record
from specs.expand import for_sidecar


@dataclass(frozen=True)
class FinishedImage:
    """A rendered image with its job, its realised spec, and what its sidecar says of its pack."""

    record: Record
    rendered: Rendered
    realised: Mapping[str, Any]
    origin: Mapping[str, Any]
    created_at: str = field(default_factory=timestamp)


def sidecar_of(image: FinishedImage, file: str) -> dict[str, Any]:
    """The sidecar without the picture's hash, which is known only once that is encoded."""
    record, rendered, realised = image.record, image.rendered, image.realised
    task = rendered.task
    facts = dict(rendered.facts)
    spec = for_sidecar(realised) | {
        "kind": task.kind,
        "model": task.model,
        "seed": task.seed,
        "steps": task.steps,
        "guidance": task.guidance,
    }
    realising = ("true_cfg", *(("strength",) if "image" in task.inputs else ()))
    spec |= {name: task.options[name] for name in realising if name in task.options}
    width, height = rendered.image.size
    before = {"width": width // task.upscale, "height": height // task.upscale}
    if {side: facts.pop(side, length) for side, length in before.items()} == before:
        # The size of a picture pasted back into its input may be none that a model can make;
        # without one it follows the input again.
        spec |= before
    if task.prompt:
        spec["prompt"] = task.prompt
    if "precision" in facts:
        spec["precision"] = facts.pop("precision")
    spec = reading_copies(spec, record.id, record.inputs)
    result = {
        "job": record.id,
        "index": task.index,
        "file": file,
        "width": width,
        "height": height,
        "created_at": image.created_at,
        "seconds": round(rendered.seconds, 3),
        **{name: value for name, value in facts.items() if value != spec.get(name)},
        # The spec has these already.
        **{name: value for name, value in image.origin.items() if name not in spec},
    }
    return {**spec, "result": result}
