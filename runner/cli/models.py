"""`models`, `models pull`, `models check`: list the registry, fetch weights, check them.

Listing imports nothing heavy. Weights are fetched by `models pull` only: no job ever downloads.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runner import exit_codes
from runner.cli.output import add_verb, print_json, print_message, show
from runner.engine.custom_entries import aids_of, models_of, upscaler_of
from runner.engine.hub.library import Disk
from runner.engine.hub.sources import Layout, Source, sources
from runner.engine.models import Model
from runner.errors import UsageProblem
from runner.settings import Home, find_home
from runner.terminal import size_text
from specs.errors import FluxdropError
from specs.suggest import did_you_mean

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    models_help = "the models there are; fetch one, or say what is missing"
    models = add_verb(verbs, shared, "models", run_models, models_help)
    ways = models.add_subparsers(dest="way", metavar="pull|check")
    pull = add_verb(ways, shared, "pull", run_pull, "fetch weights from the hub")
    names_help = "a name from `fluxdrop models`, or owner/name of a repository of LoRA files"
    pull.add_argument("names", nargs="+", metavar="NAME", help=names_help)
    pull.add_argument("--file", metavar="FILE", help="which file of owner/name")
    verify_help = "read every byte of what is here, and fetch damaged files again"
    pull.add_argument("--verify", action="store_true", help=verify_help)
    check = add_verb(ways, shared, "check", run_check, "what is missing, and what would fit")
    check.add_argument("names", nargs="*", metavar="NAME", help="without: every model, in short")


def run_models(options: argparse.Namespace) -> int:
    """List every model: its kinds, size and licence, and whether it is on this machine."""
    from runner.catalogue import model_rows

    rows = model_rows(find_home(options.home))
    if options.json:
        print_json({"models": rows})
        return 0
    widest = max(len(row["name"]) for row in rows)
    show(f"{'name':<{widest}} {'kinds':<39} {'size':>8}  {'here':<14} licence")
    for row in rows:
        kinds = " ".join(
            f"{kind}*" if kind in row["default_for"] else kind for kind in row["kinds"]
        )
        if not row["kinds"]:
            kinds = f"upscale, {row['scale'] or '?'}×"
        partly = f"{size_text(row['bytes_here'])} of it" if row["bytes_here"] else "no"
        here = "yes" if row["present"] else partly
        gated = ", gated" if row["gated"] else ""
        show(
            f"{row['name']:<{widest}} {kinds:<39} {size_text(row['bytes']):>8}  {here:<14}"
            f" {row['licence']}{gated}"
        )
    conditions = {row["licence"]: row["conditions"] for row in rows if row["conditions"]}
    for licence, condition in conditions.items():
        show(f"{licence} is {condition}")
    show("* the model of specs that name none; `fluxdrop models pull NAME` fetches a model")
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Fetch the files of the named models and repositories that are not here yet."""
    home = find_home(options.home)
    home.prepare()
    targets = _targets(options, home)
    models = models_of(home.settings)
    conditions = {name: models[name].conditions or None for name in targets if name in models}
    for name, condition in conditions.items():
        if condition and not options.json:
            print_message(f"{name}: {models[name].licence} is {condition}")
    again = " ".join(["fluxdrop models pull", *targets])
    again += f" --file {options.file}" if options.file else ""
    from runner.cli.pull_progress import Pulling

    with Pulling(home, again=again, quiet=options.json) as pulling:
        try:
            rows = pulling.run(targets, verify=options.verify)
        except KeyboardInterrupt:
            print_message(f"stopped: what has come is kept, `{again}` goes on with it")
            return exit_codes.INTERRUPTED
    ok = all(row["ok"] for row in rows)
    if options.json:
        told = [{**row, "conditions": conditions.get(row["name"])} for row in rows]
        print_json({"ok": ok, "models": told})
    for row in rows if not options.json else ():
        if row["ok"]:
            show(f"{row['name']} is here: {row['path'] or 'it is built in'}")
        else:
            print_message(f"fluxdrop: {row['error']}")
    return 0 if ok else 1


def run_check(options: argparse.Namespace) -> int:
    """Print what is missing of the named models, or of all; exit with 1 where one is not whole.

    Of models that neither a name here nor the settings ask for, only where something is here.
    """
    from runner.engine.hub import checkup

    home = find_home(options.home)
    models, aids = models_of(home.settings), aids_of(home.settings)
    rows: list[dict[str, Any]] = []
    named = {*home.settings.registry, *home.settings.models.values()}
    named |= {upscaler_of(home.settings).name} if home.settings.upscaler else set()
    for name in options.names or [*models, *aids]:
        if name not in models and name not in aids:
            raise _unknown(name, models)
        result = checkup.check(models.get(name) or aids[name], home.data)
        expected = options.names or result.here or name in named
        plan: list[str] = []
        if options.names and name in models:
            from runner.engine.memory import machine
            from runner.engine.resolved_task import explain_plan

            # How the model would be held on this machine, and why. Imports torch.
            measured = machine.measure(home.settings.device, home.settings.gpu_memory_gb)
            plan = explain_plan(Disk(home.data, models), models[name], measured)
        rows.append({
            "name": name,
            "ok": result.ok or not expected,
            "present": result.ok,
            "begun": result.here,
            "missing": list(result.missing),
            "damaged": list(result.damaged),
            "advice": list(result.advice),
            "plan": plan,
        })  # fmt: skip
    settings = [] if options.names else list(_wrong_defaults(home, models))
    ok = not settings and all(row["ok"] for row in rows)
    if options.json:
        print_json({"ok": ok, "models": rows, "settings": settings})
        return 0 if ok else 1
    for row in rows:
        _print_checkup(row, in_short=row["ok"] and not options.names)
    for sentence in settings:
        show(sentence)
    return 0 if ok else 1


def _wrong_defaults(home: Home, models: Mapping[str, Model]) -> Iterator[str]:
    """A sentence for each default model of the settings that is unknown or of another kind."""
    for kind, name in home.settings.models.items():
        if name not in models:
            yield f"fluxdrop.yaml: models.{kind}: {_unknown(name, models)}"
        elif kind not in models[name].serves:
            yield f"fluxdrop.yaml: models.{kind}: {name} does not serve {kind}"


def _print_checkup(row: Mapping[str, Any], *, in_short: bool) -> None:
    state = "here" if row["present"] else "only partly here" if row["begun"] else "not here"
    show(f"{row['name']}: {state}")
    for label in () if in_short else ("missing", "damaged"):
        for file in row[label]:
            show(f"  {label}  {file}")
    for sentence in () if in_short else row["advice"]:
        show(f"  → {sentence}")
    for line in row["plan"]:
        show(f"  {line}")


def _targets(options: argparse.Namespace, home: Home) -> dict[str, tuple[Source, ...]]:
    """The sources to fetch for each name. Raises UsageProblem for an unknown name."""
    models = models_of(home.settings)
    known = {**aids_of(home.settings), **models}
    targets: dict[str, tuple[Source, ...]] = {}
    for name in options.names:
        if name in known:
            targets[name] = sources(known[name])
        elif _REPO.fullmatch(name):
            targets[name] = (Source(name, layout=Layout.FILE, file=options.file or ""),)
        else:
            raise _unknown(name, models)
    if options.file and [*map(bool, map(_REPO.fullmatch, targets))] != [True]:
        raise UsageProblem("--file names a file of one repository: `models pull owner/name`")
    return targets


def _unknown(name: str, models: Mapping[str, Any]) -> FluxdropError:
    hint = did_you_mean(name, models, "`fluxdrop models` lists them")
    return UsageProblem(f"there is no model {name!r}: {hint}")
