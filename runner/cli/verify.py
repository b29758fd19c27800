"""`verify`: make an image again from its sidecar and compare the pixels.

Where no runner runs, this process renders it, holding the runner's locks meanwhile; else the
running one does, through the inbox, and what it made is taken away again afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import client
from runner.cli.output import print_json, say
from runner.errors import JobFailed, RunnerNeeded, UsageProblem
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.wire import read_json
from specs.errors import FluxdropError

if TYPE_CHECKING:
    from PIL.Image import Image

_LOOK_SECONDS = 2.0
# What changes pixels, in the order in which it is worth being told.
_VERSIONS = ("fluxdrop", "torch", "diffusers", "transformers", "pillow", "python")


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    verify = verbs.add_parser("verify", parents=[shared], help="make an image again and compare")
    what = "the sidecar of a picture, or the picture"
    verify.add_argument("sidecar", metavar="SIDECAR", help=what)
    verify.add_argument("--save", metavar="FILE", help="keep the new picture")
    verify.set_defaults(run=run_verify)


def run_verify(options: argparse.Namespace) -> int:
    """Render a sidecar again; 0 where every pixel is the same."""
    home = find_home(options.home)
    home.prepare()
    sidecar, picture = _before(Path(options.sidecar))
    try:
        if client.runner_health(home) is None:
            again, facts = _rendered_here(home, sidecar)
        else:
            again, facts = _rendered_there(home, sidecar)
    except _NotMade as error:
        told: dict[str, Any] = {"identical": False, "max_difference": None, "reason": str(error)}
    else:
        if options.save:
            Path(options.save).write_bytes(again)
        told = _compared(sidecar, picture.read_bytes(), again, facts)
    if options.json:
        print_json(told)
    elif told["identical"]:
        print("identical")
    else:
        far = told["max_difference"]
        print("different" if far is None else f"different by up to {far} of 255")
        print(f"  {told['reason']}")
    return 0 if told["identical"] else 1


class _NotMade(FluxdropError):
    """The image could not be made again; the text says why."""


def _before(given: Path) -> tuple[dict[str, Any], Path]:
    """The sidecar and the picture of which one was named."""
    from runner.gallery.metadata import read

    beside = given.with_suffix(".json")
    source = beside if given.suffix.lower() != ".json" and beside.is_file() else given
    if source.suffix.lower() == ".json":
        sidecar = read_json(source)
        if sidecar is None:
            raise UsageProblem(f"{source} cannot be read as a sidecar")
    else:
        sidecar = read(source)
    result = sidecar.get("result")
    file = result.get("file") if isinstance(result, Mapping) else None
    if source is given and given.suffix.lower() == ".json":
        if not isinstance(file, str) or os.path.basename(file) != file:
            raise UsageProblem(f"{given} is no sidecar: its result names no file")
        given = given.with_name(file)
    if not given.is_file():
        raise UsageProblem(f"{given} is not there: the sidecar's picture is what is compared")
    return sidecar, given


def _spec(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar as a spec, checked as one that is dropped."""
    from specs.read import read
    from specs.validate import validate
    from specs.write import to_yaml

    checked = validate(read(to_yaml({k: v for k, v in sidecar.items() if k != "result"})))
    return dict(checked)


def _rendered_here(home: Home, sidecar: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    """The picture and the facts of its run, made by this process."""
    from runner.catalogue import RegistryCatalogue
    from runner.engine.gpu_thread import of_home
    from runner.executor import Failed, Progressed, Rendered, StoppedEarly
    from runner.job import InputImage
    from runner.spool.inbox import loras
    from runner.spool.inbox.inputs import IMAGE_FIELDS, place_of

    spec = _spec(sidecar)
    catalogue = RegistryCatalogue(home.settings, home.data)
    wrong = catalogue.problems(spec)
    if wrong:
        raise _NotMade("; ".join(f"{path}: {message}" for path, message in wrong))
    inputs = {}
    for name in IMAGE_FIELDS:
        given = spec.get(name)
        each = given if isinstance(given, list) else [given] if given else []
        items = [{"path": item} if isinstance(item, str) else item for item in each]
        if items:
            inputs[name] = tuple(
                InputImage(place_of(item["path"], home), float(item.get("weight", 1.0)))
                for item in items
            )
    spec.pop("timeout", None)
    try:
        worn = loras.for_task(spec, home, catalogue.snapshot)
    except JobFailed as error:
        raise _NotMade(f"it could not be made again: {error.reason}: {error}") from error
    task = catalogue.task({"seed": 0, **spec}, job="verify", index=1, inputs=inputs, loras=worn)
    with _held(home):
        executor = of_home(home)
        try:
            executor.start(executor.slots()[0].name, [task])
            while isinstance(event := executor.events.get(), Progressed):
                pass
        finally:
            executor.close()
    if isinstance(event, Rendered):
        return _encoded(event.image, sidecar), event.facts
    assert isinstance(event, Failed | StoppedEarly)
    why = f"{event.reason}: {event.message}" if isinstance(event, Failed) else "it was stopped"
    raise _NotMade(f"it could not be made again: {why}")


@contextmanager
def _held(home: Home) -> Iterator[None]:
    """The home and the GPU, as a runner holds them: two at once would share its memory."""
    from runner.engine.memory.machine import gpu_in_use
    from runner.spool.disk.locks import locks_of

    locks = locks_of(home, gpu_in_use(home.settings.device))
    try:
        for lock in locks:
            lock.acquire()
        yield
    finally:
        for lock in locks:
            lock.release()


def _rendered_there(home: Home, sidecar: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    """The picture and the facts of its run, made by the runner that is running."""
    from specs.write import to_yaml

    spec = _spec(sidecar)
    data = to_yaml({**spec, "tags": ["verify"], "priority": 50})
    drop = client.submit(home, data, "verify.yaml")
    while (receipt := client.wait_for_receipt(home, drop, _LOOK_SECONDS)) is None:
        _require_working(home)
    job = receipt["job"]
    try:
        while (status := client.wait_until_over(home, job, _LOOK_SECONDS))["state"] not in (
            FINAL_STATES
        ):
            _require_working(home)
            if status.get("reason") == "OutsideWindow":
                raise UsageProblem("the settings' window is closed: verify while it is open")
        if status["state"] != "succeeded":
            said = status["message"] or "; ".join(e["message"] for e in status["errors"])
            raise _NotMade(f"it could not be made again: {status['reason']}: {said}")
        output = status["outputs"][0]
        made = read_json(home.job(job) / output["sidecar"]) or {}
        facts = {**made.get("result", {}), "precision": made.get("precision")}
        return (home.job(job) / output["file"]).read_bytes(), facts
    finally:
        _forget(home, job)


def _require_working(home: Home) -> None:
    health = client.runner_health(home)
    if health is None:
        raise RunnerNeeded("the runner has stopped: run `fluxdrop verify` again")
    if health["state"] == "paused":
        raise UsageProblem(f"{health['note']}; then verify again")


def _forget(home: Home, job: str) -> None:
    """Take the job that only compared away again, from the outbox and from the gallery."""
    from runner.gallery.store import FOLDER, Gallery
    from runner.spool.disk.disk import Disk

    if client.status(home, job)["state"] not in FINAL_STATES:
        client.cancel(home, job)
        if client.wait_until_over(home, job, _LOOK_SECONDS)["state"] not in FINAL_STATES:
            say(f"{job} is still in the outbox")
            return
    shutil.rmtree(home.job(job), ignore_errors=True)
    (home.drops / "verify.yaml.json").unlink(missing_ok=True)
    gallery = Gallery(home.data / FOLDER, Disk().replace)
    if not gallery.missing:
        gallery.remove(f"{job}-0001")


def _encoded(image: Image, sidecar: Mapping[str, Any]) -> bytes:
    """The picture as the file it would be: formats with losses change pixels."""
    from runner.gallery.metadata import encode

    kind = sidecar.get("format", "png")
    return encode(image, {}, format=kind, quality=sidecar.get("quality"), level="none")


def _compared(
    sidecar: Mapping[str, Any], before: bytes, after: bytes, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """How far the pixels of two files are apart, and what may be behind it."""
    from PIL import Image, ImageChops, ImageStat

    old = Image.open(io.BytesIO(before)).convert("RGB")
    new = Image.open(io.BytesIO(after)).convert("RGB")
    told: dict[str, Any] = {"identical": False, "max_difference": None, "mean_difference": None}
    if old.size == new.size:
        apart = ImageChops.difference(old, new)
        statistics = ImageStat.Stat(apart)
        told["max_difference"] = max(high for _, high in statistics.extrema)
        told["mean_difference"] = round(sum(statistics.mean) / 3, 3)
        told["identical"] = told["max_difference"] == 0
    told["changed"] = _changes(sidecar, facts)
    if told["identical"]:
        return {**told, "reason": None}
    return {**told, "reason": _reason(sidecar, before, (old.size, new.size), told["changed"])}


def _reason(
    sidecar: Mapping[str, Any],
    before: bytes,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    changed: list[str],
) -> str:
    result = sidecar["result"] if isinstance(sidecar.get("result"), Mapping) else {}
    said = []
    if result.get("sha256") and hashlib.sha256(before).hexdigest() != result["sha256"]:
        said.append("the picture's file was changed after it was made")
    if sizes[0] != sizes[1]:
        said.append("it was {}×{} and is {}×{}".format(*sizes[0], *sizes[1]))
    said += changed
    return "; ".join(said) or (
        "same versions, device and weights: the sidecar was changed, or the device does not "
        "compute the same twice"
    )


def _changes(sidecar: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the picture was made, of all that changes pixels."""
    from runner.gallery.formatting import mapping

    result = mapping(sidecar.get("result"))
    before, now = mapping(result.get("versions")), mapping(facts.get("versions"))
    pairs = [
        *((f"{name} was", before.get(name), now.get(name)) for name in _VERSIONS),
        ("the device was", result.get("device"), facts.get("device")),
        ("the precision was", sidecar.get("precision"), facts.get("precision")),
        ("numbers were", result.get("dtype"), facts.get("dtype")),
    ]
    changed = [f"{what} {a}, is {b}" for what, a, b in pairs if a and b and a != b]
    was = str(mapping(result.get("model")).get("hash") or "")
    is_ = str(mapping(facts.get("model")).get("hash") or "")
    if was and is_ and was != is_:
        changed.append(f"the model's hash was {was[:12]}…, is {is_[:12]}…")
    return changed
