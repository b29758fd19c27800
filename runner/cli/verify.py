"""`verify`: make an image again from its sidecar and compare the pixels.

Where no runner is running, this process renders the image and holds the runner's locks meanwhile.
Else the runner renders it as a job of its own, which is removed again afterwards.
"""

import argparse
import hashlib
import io
import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

from runner import client
from runner.cli.output import add_verb, print_answer, print_message
from runner.clock import now
from runner.errors import JobFailed, RunnerBusy, RunnerNeeded, UsageProblem
from runner.files import is_file, kind_of, read_file, sha256_of
from runner.gallery.formatting import mapping
from runner.job import FINAL_STATES
from runner.settings import Home, find_home
from runner.spool.store import lending
from runner.spool.store.names import CLEAN_NAME
from runner.stop_signals import taken_by
from runner.wire import read_json
from specs.errors import FluxdropError
from specs.read import read as read_spec
from specs.validate import validate
from specs.write import to_yaml

_CANCEL_SECONDS = 2.0
_LOOK_SECONDS = 1.0
# The packages whose versions change pixels, in the order in which they are reported.
_VERSIONS = ("fluxdrop", "torch", "diffusers", "transformers", "pillow", "python")
_SUBJECTS = {
    "recipe": "it was made by recipe", "device": "the device was", "dtype": "numbers were",
    "precision": "the precision was", "hash": "the model's hash was",
}  # fmt: skip


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    verify = add_verb(verbs, shared, "verify", run_verify, "make an image again and compare")
    sidecar_help = "the sidecar of a picture, or the picture"
    verify.add_argument("sidecar", metavar="SIDECAR", help=sidecar_help)
    verify.add_argument("--save", metavar="FILE", help="keep the new picture")


def run_verify(options: argparse.Namespace) -> int:
    """Make the image of a sidecar again; 0 where every pixel is the same."""
    home = find_home(options.home)
    home.prepare()
    file = Path(options.sidecar)
    if not kind_of(file) and file.parts[:1] == ("outbox",):
        file = home.outbox.joinpath(*file.parts[1:])
    sidecar, picture = _sidecar_and_picture(file)
    render = _render_here if client.runner_health(home) is None else _render_by_runner
    try:
        again, engine_facts = render(home, sidecar)
    except _NotMade as error:
        # Who verifies has dropped nothing.
        why = re.sub(r": [^:]*\bdrop [a-z ]+ again$", "", str(error))
        result: dict[str, Any] = {"identical": False, "max_difference": None, "reason": why}
    else:
        if options.save:
            Path(options.save).write_bytes(again)
        result = _comparison(sidecar, read_file(picture, follow=True), again, engine_facts)
        original = mapping(mapping(sidecar.get("result")).get("original"))
        small = picture.with_name(os.path.basename(str(original.get("file"))))
        if original and is_file(small) and sha256_of(small) != original.get("sha256"):
            both = [result["reason"], f"{small.name} was changed after it was made"]
            result |= {"identical": False, "reason": "; ".join(filter(None, both))}
    lines = ["identical"]
    if not result["identical"]:
        most = result["max_difference"]
        by = "" if most is None else f" by up to {most} of 255"
        lines = [f"different{by}", f"  {result['reason']}"]
    print_answer(options, result, *lines)
    return 0 if result["identical"] else 1


class _NotMade(FluxdropError):
    """The image could not be made again; the text says why."""


def _sidecar_and_picture(file: Path) -> tuple[dict[str, Any], Path]:
    """The sidecar and the picture, of which `file` is one.

    Where no sidecar lies beside a picture, its metadata are read. Raises UsageProblem.
    """
    from runner.gallery.metadata import read

    if not kind_of(file):
        raise UsageProblem(f"there is no file {file}: name a picture or a sidecar of the outbox")
    is_sidecar = file.suffix.lower() == ".json"
    beside = file if is_sidecar else file.with_suffix(".json")
    if is_sidecar or is_file(beside):
        sidecar = read_json(beside)
        if sidecar is None:
            raise UsageProblem(f"{beside} cannot be read as a sidecar: name another file")
    else:
        sidecar = read(file)
    picture = file
    if is_sidecar:
        name = mapping(sidecar.get("result")).get("file")
        if not isinstance(name, str) or os.path.basename(name) != name:
            raise UsageProblem(f"{file} is no sidecar, for it names no file: name a picture")
        picture = file.with_name(name)
    if not is_file(picture):
        raise UsageProblem(f"{picture} is not there: put back what the sidecar is compared with")
    return sidecar, picture


def _spec(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The sidecar as a spec, validated like one from the inbox. Raises SpecInvalid."""
    spec = {k: v for k, v in sidecar.items() if k not in ("result", "preview")}
    return dict(validate(read_spec(to_yaml(spec))))


def _render_here(home: Home, sidecar: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    """The picture's file and the engine facts, made by this process.

    Raises _NotMade, and RunnerBusy where another process renders for the home or on the GPU.
    """
    from runner.catalogue import RegistryCatalogue
    from runner.daemon.tasks import inputs_of
    from runner.executor import Event, Failed, Progressed, Rendered, StoppedEarly
    from runner.gallery.metadata import encode
    from runner.slots.local import LocalSlots
    from runner.spool.disk.locks import home_lock
    from runner.spool.inbox import loras
    from runner.spool.inbox.inputs import place_of

    if (lent := client.current_lend(home)) and not lending.is_over(lent, now()):
        raise UsageProblem(f"{lending.hold_of(lent).message}; then verify again")
    spec = _spec(sidecar)
    catalogue = RegistryCatalogue(home.settings, home.data)
    if problems := catalogue.problems(spec):
        raise _NotMade("; ".join(f"{path}: {message}" for path, message in problems))
    inputs = inputs_of(spec, lambda text: place_of(text, home))
    spec.pop("timeout", None)
    try:
        used = loras.for_task(spec, home, catalogue.snapshot)
    except JobFailed as error:
        raise _NotMade(f"it could not be made again: {error.reason}: {error}") from error
    task = catalogue.task({"seed": 0, **spec}, job="verify", index=1, inputs=inputs, loras=used)
    with ExitStack() as held:
        # The locks of a runner: two processes would share the GPU's memory.
        slots = LocalSlots(home, alone=True)
        for lock in (home_lock(home), slots):
            lock.acquire()
            held.callback(lock.release)
        executor = slots.executor(home)
        try:
            executor.start(executor.slots()[0].name, [task])
            event: Event | None = None
            while event is None or isinstance(event, Progressed):
                if home.threads.broken is not None:
                    raise _NotMade(f"it could not be made again: {home.threads.broken}")
                with suppress(Empty):
                    event = executor.events.get(timeout=_LOOK_SECONDS)
        finally:
            executor.close()
    if isinstance(event, Rendered):
        # The pixels of the file are compared, not those of the image: JPEG and WebP change them.
        file_format, quality = sidecar.get("format", "png"), sidecar.get("quality")
        data = encode(event.image, {}, format=file_format, quality=quality, level="none")
        return data, event.facts
    assert isinstance(event, Failed | StoppedEarly)
    why = f"{event.reason}: {event.message}" if isinstance(event, Failed) else "it was stopped"
    raise _NotMade(f"it could not be made again: {why}")


def _render_by_runner(home: Home, sidecar: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any]]:
    """The picture's file and the engine facts, made by the runner that is running.

    Raises _NotMade; RunnerNeeded and UsageProblem where the runner does not work on it.
    """
    spec = _spec(sidecar)
    data = to_yaml({**spec, "tags": ["verify"], "priority": 50, "reuse": False})
    # Each is like Ctrl-C: what was dropped is taken back.
    with taken_by(signal.default_int_handler):
        drop = client.submit(home, data, "verify.yaml")
        try:
            receipt = client.wait_for_receipt(home, drop, None, partial(_require_working, home))
            assert receipt is not None
            job = receipt["job"]
            status = client.wait_until_over(home, job, None, partial(_require_working, home, job))
            if status["state"] != "succeeded" or not status["outputs"]:
                message = status["message"] or "; ".join(e["message"] for e in status["errors"])
                raise _NotMade(f"it could not be made again: {status['reason']}: {message}")
            output = status["outputs"][0]
            made = read_json(home.job(job) / output["sidecar"]) or {}
            engine_facts = {**mapping(made.get("result")), "precision": made.get("precision")}
            return read_file(home.job(job) / output["file"]), engine_facts
        finally:
            _take_back(home, drop)


def _require_working(home: Home, job: str = "") -> None:
    health = client.runner_health(home)
    if health is None:
        raise RunnerNeeded("the runner has stopped: run `fluxdrop verify` again")
    if health["state"] in ("paused", "lent"):
        raise UsageProblem(f"{health['note']}; then verify again")
    if client.status(home, job).get("reason") == "OutsideWindow":
        raise UsageProblem("the settings' window is closed: verify while it is open")


def _take_back(home: Home, drop: str) -> None:
    """Remove the drop that was for the comparison, or its job from the outbox and the gallery."""
    from runner.cli.run import opened
    from runner.gallery.store import FOLDER, Gallery

    (home.inbox / drop).unlink(missing_ok=True)
    receipt = client.wait_for_receipt(home, drop, _CANCEL_SECONDS)
    if receipt is None:
        return
    job = receipt["job"]
    if client.status(home, job)["state"] not in FINAL_STATES:
        client.cancel(home, job)
        client.wait_until_over(home, job, _CANCEL_SECONDS)
        if client.runner_health(home) is None:
            with suppress(RunnerBusy), opened(home):
                # A runner obeys what lies there as it begins, and writes the end before it leaves.
                pass
        if client.status(home, job)["state"] not in FINAL_STATES:
            print_message(f"{job} is still in the outbox: it is cancelled when its turn comes")
            return
    shutil.rmtree(home.job(job), ignore_errors=True)
    for name in (drop, f"{job}.cancel"):
        (home.drops / f"{name}.json").unlink(missing_ok=True)
    gallery = Gallery(home.data / FOLDER, writing=True)
    if not gallery.missing:
        gallery.remove(f"{job}-0001")
    if client.runner_health(home):
        # It counts the job and shows it until it has forgotten it.
        client.clean(home)
        client.wait_until_obeyed(home, CLEAN_NAME, _CANCEL_SECONDS)


def _comparison(
    sidecar: Mapping[str, Any], before: bytes, after: bytes, engine_facts: Mapping[str, Any]
) -> dict[str, Any]:
    """How much the pixels of two picture files differ, and what may be the reason.

    `max_difference` and `mean_difference` are of 8-bit RGB values, None where the sizes differ.
    """
    from PIL import Image, ImageChops, ImageStat

    old = Image.open(io.BytesIO(before)).convert("RGB")
    new = Image.open(io.BytesIO(after)).convert("RGB")
    changed = _changes(sidecar, engine_facts)
    result: dict[str, Any] = {"identical": False, "max_difference": None, "mean_difference": None}
    result |= {"changed": changed, "reason": None}
    reasons = []
    expected = mapping(sidecar.get("result")).get("sha256")
    if expected and hashlib.sha256(before).hexdigest() != expected:
        reasons.append("the picture's file was changed after it was made")
    if old.size == new.size:
        statistics = ImageStat.Stat(ImageChops.difference(old, new))
        result["max_difference"] = max(high for _, high in statistics.extrema)
        result["mean_difference"] = round(sum(statistics.mean) / 3, 3)
        result["identical"] = result["max_difference"] == 0
    else:
        reasons.append("it was {}×{} and is {}×{}".format(*old.size, *new.size))
    if not result["identical"]:
        result["reason"] = "; ".join([*reasons, *changed]) or (
            "same versions, device and weights: the sidecar"
            f"{' or an input picture' if 'image' in sidecar else ''} was changed, or the device"
            " does not compute the same twice"
        )
    return result


def _changes(sidecar: Mapping[str, Any], engine_facts: Mapping[str, Any]) -> list[str]:
    """A sentence for everything that changes pixels and is another than in the sidecar."""
    from runner.gallery.keys import facts_of

    result = mapping(sidecar.get("result"))
    both = facts_of(sidecar), facts_of({**engine_facts, "result": engine_facts})
    for facts, source in zip(both, (result, engine_facts), strict=True):
        facts["hash"] = _model_hash(source)
    before, now = mapping(result.get("versions")), mapping(engine_facts.get("versions"))
    pairs = [(_SUBJECTS.get(n, f"{n} was"), *(_text(f[n]) for f in both)) for n in both[0]]
    pairs[1:1] = [(f"{n} was", _text(before.get(n)), _text(now.get(n))) for n in _VERSIONS]
    changes = [f"{subject} {a}, is {b}" for subject, a, b in pairs if a and b and a != b]
    if _model_hash(result, of_samples=True) and _model_hash(engine_facts):
        changes.append("the sidecar's hash of the model is of an older kind, and tells nothing")
    return changes


def _text(fact: Any) -> str:
    return "" if fact is None else str(fact)


def _model_hash(facts: Mapping[str, Any], *, of_samples: bool = False) -> str:
    """The beginning of the hash, enough to tell one model from another.

    "" where there is none, or where it is of the other kind: once it was of samples of the files.
    """
    # Here, for no other command should wait for what it imports.
    from runner.engine.weights.fingerprint import KIND

    found = str(mapping(facts.get("model")).get("hash") or "")
    digits = found.removeprefix(KIND)
    return f"{digits[:12]}…" if found and (digits == found) == of_samples else ""
