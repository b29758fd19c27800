"""The sidecar of an image: the realised spec that makes it again, and the engine facts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from composer.plan import ORIGIN
from runner.clock import timestamp
from runner.daemon.tasks import InFlight
from runner.executor import Rendered
from runner.spool.inbox.inputs import reading_copies
from runner.spool.store.record import Record
from runner.task import ImageTask
from specs.expand import for_sidecar

_REALISED = ("precision", "width", "height")


@dataclass(frozen=True)
class FinishedImage:
    """A rendered image with its job, its realised spec, and what its sidecar says of its pack.

    `keys` makes those by which it is found again, which may read its input images.
    """

    record: Record
    rendered: Rendered
    realised: Mapping[str, Any]
    origin: Mapping[str, Any]
    keys: Callable[[], Mapping[str, str]] = dict
    created_at: str = field(default_factory=timestamp)


def sidecar_of(image: FinishedImage, file: str) -> dict[str, Any]:
    """The sidecar without the picture's hash, which is known only once that is encoded."""
    record, rendered = image.record, image.rendered
    task = rendered.task
    facts = dict(rendered.facts)
    spec = realised_spec(task, image.realised)
    width, height = rendered.image.size
    before = {"width": width // task.upscale, "height": height // task.upscale}
    if {side: facts.pop(side, length) for side, length in before.items()} == before:
        # The size of a picture pasted back into its input may be none that a model can make;
        # without one it follows the input again.
        spec |= before
    if "precision" in facts:
        spec["precision"] = facts.pop("precision")
    spec = reading_copies(spec, record.id, record.inputs)
    keys = image.keys()
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
        **({"keys": dict(keys)} if keys else {}),
    }
    return {**spec, "result": result}


def realised_spec(task: ImageTask, realised: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an image as far as it is known before it is made."""
    spec = for_sidecar(realised) | {
        "kind": task.kind,
        "model": task.model,
        "seed": task.seed,
        "steps": task.steps,
        "guidance": task.guidance,
    }
    realising = ("true_cfg", *(("strength",) if "image" in task.inputs else ()))
    spec |= {name: task.options[name] for name in realising if name in task.options}
    if task.prompt:
        spec["prompt"] = task.prompt
    return spec


def copy_of(
    sidecar: Mapping[str, Any], record: Record, image: InFlight, file: str, original: str
) -> dict[str, Any]:
    """The sidecar of an image whose files are copied, from that of the picture.

    `file` and `original` are the names of the copies. Raises LookupError or TypeError where it is
    no sidecar.
    """
    spec = realised_spec(image.task, image.realised)
    spec |= {name: sidecar[name] for name in _REALISED if name in sidecar}
    source = sidecar["result"]
    result = {
        name: value
        for name, value in source.items()
        if name not in ORIGIN and not name.startswith("x_")
    }
    if "original" in source:
        result["original"] = {**source["original"], "file": original}
    result |= {
        "job": record.id,
        "index": image.task.index,
        "file": file,
        "created_at": timestamp(),
        "reused_from": {"job": source["job"], "file": source["file"]},
        **image.origin,
    }
    return {**reading_copies(spec, record.id, record.inputs), "result": result}
