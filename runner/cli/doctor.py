"""`doctor`: what this machine can run, and what to mend."""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from runner import client
from runner.cli.output import add_verb, print_answer, print_json, show, shown_slots, slot_line
from runner.clock import timestamp
from runner.errors import PlaceAway, UsageProblem
from runner.holds import disk_hold
from runner.settings import NAMES, VARIABLE, Home, find_home, variable_of
from specs.document import short
from specs.suggest import did_you_mean

_LITTLE_DISK = 2 * 1024**3
_PACKAGES = (
    *("torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "gguf", "peft"),
    *("pillow", "watchdog"),
)
_OTHER_VARIABLES = {"FLUXDROP_HOME", "FLUXDROP_MCP_TOKEN", "FLUXDROP_DEBUG", "FLUXDROP_LAST_END"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do where `ok` is false, `why` gives reasons."""

    name: str
    ok: bool
    found: str
    remedy: str | None = None
    why: tuple[str, ...] = ()


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    doctor = add_verb(verbs, shared, "doctor", run_doctor, "what this machine can run")
    text = "look at Ray and its cluster, and say how another machine joins it"
    doctor.add_argument("--ray", action="store_true", help=text)

    tell = add_verb(verbs, shared, "tell", run_tell, "send a receiver of the settings a test")
    tell.add_argument("name", metavar="RECEIVER")


def run_tell(options: argparse.Namespace) -> int:
    """Send one receiver a test, from here; it says how that went."""
    from runner.receivers import SECONDS, envelope, send, shown

    home = find_home(options.home)
    known, name = home.settings.receivers, options.name
    if name not in known:
        there = f"there are {', '.join(known)}" if known else "the settings have none"
        raise UsageProblem(f"no receiver {name!r}: {did_you_mean(name, known, there)}")
    # What apprise says is for the owner of the settings alone.
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    at = timestamp()
    content = {**envelope(home.root, "test", at), "note": "it works"}
    send(known[name], f"msg_test-{at}", content, SECONDS)
    print_answer(options, {"ok": True}, f"{name} was told, by {shown(known[name])}")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Look at everything that a night's work depends on."""
    home = find_home(options.home, mounted=False)
    findings = list(_ray(home) if options.ray else _findings(home))
    ok = all(finding.ok for finding in findings)
    if options.json:
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            show(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<14} {finding.found}")
            for reason in finding.why:
                show(f"     {'':<14}   {reason}")
            if finding.remedy:
                show(f"     {'':<14} → {finding.remedy}")
    return 0 if ok else 1


def _findings(home: Home) -> Iterator[Finding]:
    from runner.engine import speed
    from runner.engine.memory import machine

    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])
    yield Finding("packages", True, ", ".join(_versions()))
    yield from _settings(home)
    try:
        if unseen := client.unseen_runner(home):
            # A new folder would be in the way of the one that is put back.
            raise PlaceAway(unseen)
        home.prepare()
    except (PlaceAway, UsageProblem) as error:
        yield Finding("home", False, str(error))
        is_usable = False
    else:
        yield _disk(home)
        yield _writers(home)
        yield _runner(home)
        yield from _overlooked(home)
        yield from _receivers(home)
        is_usable = True
    device = machine.device(home.settings.device)
    yield Finding("device", device.remedy is None, device.found, device.remedy)
    yield from _devices(home)
    attention, *more = speed.available()
    yield Finding("speed", True, attention, None, tuple(more))
    if is_usable:
        yield from _weights(home)
        yield from _quantised(home)


def _ray(home: Home) -> Iterator[Finding]:
    from runner.cli import ray_doctor

    return ray_doctor.look(home)


def _versions() -> Iterator[str]:
    import importlib.metadata

    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} not installed"


def _settings(home: Home) -> Iterator[Finding]:
    """Which settings are given, and where; variables that are none."""
    why = tuple(
        # What has no `repr` may hold secrets.
        f"{each.name}: {short(getattr(home.settings, each.name)) if each.repr else 'given'} ({at})"
        for each in fields(home.settings)
        if each.name in NAMES and (at := home.settings.positions.get(each.name))
    )
    others = f"{len(NAMES) - len(why)} as by default"
    yield Finding("settings", True, f"{len(why)} given, {others}", None, why)
    known = {variable_of(name) for name in NAMES}
    secrets = {each.get("secret_env") for each in home.settings.receivers.values()}
    for name in sorted(os.environ):
        if name.startswith(VARIABLE) and name not in known | _OTHER_VARIABLES | secrets:
            meant = did_you_mean(name, known, "unset it, if it was to be one")
            yield Finding("environment", True, f"{name} is no setting", meant)


def _disk(home: Home) -> Finding:
    if hold := disk_hold(home, home.outbox):
        return Finding("disk", False, hold.message)
    free = shutil.disk_usage(home.outbox).free
    found = f"{free / 1024**3:.1f} GiB free in {home.outbox}"
    return Finding("disk", free > _LITTLE_DISK, found, None if free > _LITTLE_DISK else "free some")


def _writers(home: Home) -> Finding:
    from runner.spool.disk.platform import can_probe_writers, file_system_of

    name = file_system_of(home.inbox)
    on = f"on {name}, " if name else ""
    seconds = home.settings.settle_seconds
    if can_probe_writers(home.inbox):
        found = f"{on}specs are taken {seconds} s after their writer closed them"
        return Finding("inbox", True, found)
    unknown = home.settings.settle_seconds_unknown
    return Finding(
        "inbox", True, f"{on}where the system cannot say who writes a file, specs are taken after "
        f"{unknown} s without change; write aside and rename to be quicker",
    )  # fmt: skip


def _runner(home: Home) -> Finding:
    health = client.runner_health(home)
    if health is None:
        return Finding("runner", True, "none is running")
    found = f"pid {health['pid']} is {health['state']}, by {health['watch']}"
    if health["note"]:
        found += f": {health['note']}"
    faults = tuple(f"{fault['file']}: {fault['message']}" for fault in health["faults"])
    remedy = "mend or remove what is set aside" if faults else client.outdated_runner(home)
    shown = shown_slots(health)
    if not remedy and any(slot["state"] not in ("idle", "working") for slot in shown):
        remedy = "see the runner's log for what ended the slots that make no images"
    slots = map(slot_line, shown)
    return Finding("runner", remedy is None, found, remedy, (*faults, *slots))


def _overlooked(home: Home) -> Iterator[Finding]:
    from runner.cli.overlooked import MOST_LISTED, overlooked

    why = tuple(f"{file}: {reason}" for file, reason in overlooked(home))
    if why:
        or_more = " or more" if len(why) == MOST_LISTED else ""
        found = f"{len(why)}{or_more} in the inbox"
        yield Finding("not taken", False, found, "see each line", why)


def _receivers(home: Home) -> Iterator[Finding]:
    """Who is told of what, how that goes, and what is lacking for it."""
    from runner.receivers import lack, shown

    health = client.runner_health(home) or {}
    state = {each["name"]: each for each in health.get("receivers", ())}
    for name, receiver in home.settings.receivers.items():
        events = [event for event, names in home.settings.on.items() if name in names]
        found = f"{name}: {shown(receiver)}; told of {', '.join(events) or 'what specs ask for'}"
        going = state.get(name, {"error": None, "dropped": 0})
        why = (f"{going['dropped']:,} events were dropped",) if going["dropped"] else ()
        error = going["error"]
        # A runner has an environment of its own, and knows whether its secrets are there.
        remedy = lack(receiver) if error or name not in state else None
        if error and not remedy:
            remedy = f"{error}: mend that, and try it by `fluxdrop tell {name}`"
        yield Finding("receiver", remedy is None, found, remedy, why)


def _devices(home: Home) -> Iterator[Finding]:
    """The slots that the setting `devices` asks for; cards that lie idle without it."""
    from runner.engine.memory import machine
    from runner.slots.local import places

    if home.settings.ray is not None:
        found = "pictures are made on a Ray cluster, as the setting `ray` says"
        yield Finding("devices", True, f"{found}: `fluxdrop doctor --ray` looks at it")
        return
    count = len(machine.gpus())
    try:
        names = [place.name for place in places(home.settings)]
    except UsageProblem as error:
        yield Finding("devices", False, str(error), "name those that are here, or `auto`")
        return
    if home.settings.devices is not None:
        yield Finding("devices", True, f"pictures are made on {', '.join(names)}")
    elif count > 1 and home.settings.device in ("auto", "cuda"):
        uses = "both" if count == 2 else "all"
        found = f"this machine has {count} GPUs and one is used; `devices: auto` uses {uses}"
        yield Finding("devices", True, found)


def _weights(home: Home) -> Iterator[Finding]:
    """Which models are here, and how each would be held; without any, those that are usual."""
    from runner.engine.custom_entries import models_of, upscaler_of
    from runner.engine.hub import checkup
    from runner.engine.hub.library import Disk, absence, present
    from runner.engine.memory import machine
    from runner.engine.registry import default_model
    from runner.engine.resolved_task import explain_plan

    models = models_of(home.settings)
    here = [name for name, model in models.items() if present(model, home.data)]
    lacking = [name for name in models if name not in here]
    place = os.environ.get("HF_HOME", "")
    found = f"here: {', '.join(here)}; not here: {', '.join(lacking)} (looked in {place})"
    yield Finding("models", True, found)
    upscaler = upscaler_of(home.settings)
    state = checkup.check(upscaler, home.data)
    is_wrong = bool(state.damaged or (state.missing and home.settings.upscaler))
    found = absence(upscaler, home.data) or next(iter(state.advice), f"{upscaler.name} is here")
    yield Finding("upscaler", not is_wrong, found)
    kinds = {kind: None for model in models.values() for kind in model.serves}
    usual = dict.fromkeys(default_model({"kind": kind}, home.settings.models) for kind in kinds)
    own = [name for name in here if not models[name].builtin]
    has = machine.measure(home.settings.device, home.settings.gpu_memory_gb)
    for name in own or [name for name in usual if name in models]:
        plan, *why = explain_plan(Disk(home.data, models), models[name], has)
        fits = bool(why)
        remedy = None if fits or name not in own else "see `fluxdrop models` for another one"
        yield Finding("memory", remedy is None, plan, remedy, tuple(why))


def _quantised(home: Home) -> Iterator[Finding]:
    """What quantised weights take of the disk; they are made again when they are wanted."""
    folder = home.data / "quantised"
    files = [each for each in folder.rglob("*") if each.is_file()] if folder.is_dir() else []
    if files:
        size = sum(each.stat().st_size for each in files) / 1024**3
        found = f"{size:.1f} GiB in {folder}; what you delete there is made again"
        yield Finding("quantised", True, found)
