"""`models`, `models pull`, `models check`: the registry, fetching weights, saying what is missing.

Listing imports nothing heavy. Fetching is asked for here only: no job ever downloads.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.cli.output import print_json, say
from runner.errors import UsageProblem
from runner.settings import Home, find_home
from specs.errors import FluxdropError
from specs.suggest import did_you_mean

if TYPE_CHECKING:
    from runner.engine.hub.sources import Source
    from runner.engine.models import Model

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
_STOPPED = 130


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    about = "the models there are; fetch one, or say what is missing"
    models = verbs.add_parser("models", parents=[shared], help=about)
    models.set_defaults(run=run_models)
    ways = models.add_subparsers(dest="way", metavar="pull|check")
    pull = ways.add_parser("pull", parents=[shared], help="fetch weights from the hub")
    what = "a name from `fluxdrop models`, or owner/name of a repository of LoRA files"
    pull.add_argument("names", nargs="+", metavar="NAME", help=what)
    pull.add_argument("--file", metavar="FILE", help="which file of owner/name")
    verify = "read every byte of what is here, and fetch damaged files again"
    pull.add_argument("--verify", action="store_true", help=verify)
    pull.set_defaults(run=run_pull)
    check = ways.add_parser("check", parents=[shared], help="what is missing, and what would fit")
    check.add_argument("names", nargs="*", metavar="NAME", help="without: every model, in short")
    check.set_defaults(run=run_check)


def run_models(options: argparse.Namespace) -> int:
    """List the registry."""
    from runner.catalogue import model_rows

    rows = model_rows(find_home(options.home))
    if options.json:
        print_json({"models": rows})
        return 0
    widest = max(len(row["name"]) for row in rows)
    print(f"{'name':<{widest}} {'kinds':<39} {'size':>8}  {'here':<14} licence")
    for row in rows:
        kinds = " ".join(
            f"{kind}*" if kind in row["default_for"] else kind for kind in row["kinds"]
        )
        partly = f"{_size(row['bytes_here'])} of it" if row["bytes_here"] else "no"
        here = "yes" if row["present"] else partly
        gated = ", gated" if row["gated"] else ""
        print(
            f"{row['name']:<{widest}} {kinds:<39} {_size(row['bytes']):>8}  {here:<14}"
            f" {row['licence']}{gated}"
        )
    print("* the model of specs that name none; `fluxdrop models pull NAME` fetches a model")
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """Fetch what is named and not here yet."""
    home = find_home(options.home)
    home.prepare()
    targets = _targets(options, home)
    again = " ".join(["fluxdrop models pull", *targets])
    again += f" --file {options.file}" if options.file else ""
    from runner.cli.pull_progress import Pulling

    with Pulling(home, again=again, quiet=options.json) as pulling:
        try:
            rows = pulling.run(targets, verify=options.verify)
        except KeyboardInterrupt:
            say(f"stopped: what has come is kept, `{again}` goes on with it")
            return _STOPPED
    ok = all(row["ok"] for row in rows)
    if options.json:
        print_json({"ok": ok, "models": rows})
    for row in rows if not options.json else ():
        if row["ok"]:
            print(f"{row['name']} is here: {row['path'] or 'it is built in'}")
        else:
            say(f"fluxdrop: {row['error']}")
    return 0 if ok else 1


def run_check(options: argparse.Namespace) -> int:
    """Say what is missing of the named models, or of all of them in short."""
    from runner.engine.custom_entries import models_of
    from runner.engine.entries import ESTIMATORS
    from runner.engine.hub import checkup

    home = find_home(options.home)
    models = models_of(home.settings)
    rows: list[dict[str, Any]] = []
    for name in options.names or models:
        if name in models:
            found = checkup.check_model(models[name], home.data)
        elif name in ESTIMATORS:
            found = checkup.check_estimator(ESTIMATORS[name], home.data)
        else:
            raise _unknown(name, models)
        # A model that nobody has begun to fetch is no fault, unless it was asked about.
        expected = options.names or found.here or name in home.settings.registry
        rows.append({
            "name": name,
            "ok": found.ok or not expected,
            "present": found.ok,
            "begun": found.here,
            "missing": list(found.missing),
            "damaged": list(found.damaged),
            "advice": list(found.advice),
            "plan": _plan(models, name, home) if options.names and name in models else [],
        })  # fmt: skip
    settings = [] if options.names else list(_wrong_defaults(home, models))
    ok = not settings and all(row["ok"] for row in rows)
    if options.json:
        print_json({"ok": ok, "models": rows, "settings": settings})
        return 0 if ok else 1
    for row in rows:
        _print_checkup(row, in_short=row["ok"] and not options.names)
    for sentence in settings:
        print(sentence)
    return 0 if ok else 1


def _wrong_defaults(home: Home, models: Mapping[str, Model]) -> Iterator[str]:
    """What the settings' default models cannot be."""
    for kind, name in home.settings.models.items():
        if name not in models:
            yield f"fluxdrop.yaml: models.{kind}: {_unknown(name, models)}"
        elif kind not in models[name].serves:
            yield f"fluxdrop.yaml: models.{kind}: {name} does not serve {kind}"


def _print_checkup(row: Mapping[str, Any], *, in_short: bool) -> None:
    state = "here" if row["present"] else "only partly here" if row["begun"] else "not here"
    print(f"{row['name']}: {state}")
    for label in () if in_short else ("missing", "damaged"):
        for file in row[label]:
            print(f"  {label}  {file}")
    for sentence in () if in_short else row["advice"]:
        print(f"  → {sentence}")
    for line in row["plan"]:
        print(f"  {line}")


def _plan(models: Mapping[str, Model], name: str, home: Home) -> list[str]:
    """How the model would be held on this machine, and why; this is what imports torch."""
    from runner.engine import memory
    from runner.engine.memory import machine

    has = machine.measure(home.settings.device, home.settings.gpu_memory_gb)
    return memory.lines(models[name], has, models=models)


def _targets(options: argparse.Namespace, home: Home) -> dict[str, tuple[Source, ...]]:
    """What each name stands for. Raises UsageProblem for a name that nothing has."""
    from runner.engine.custom_entries import models_of
    from runner.engine.entries import ESTIMATORS
    from runner.engine.hub.sources import Layout, Source, estimator_source, sources

    models = models_of(home.settings)
    found: dict[str, tuple[Source, ...]] = {}
    for name in options.names:
        if name in models:
            found[name] = sources(models[name])
        elif name in ESTIMATORS:
            found[name] = (estimator_source(ESTIMATORS[name]),)
        elif _REPO.fullmatch(name):
            found[name] = (Source(name, layout=Layout.FILE, file=options.file or ""),)
        else:
            raise _unknown(name, models)
    if options.file and [*map(bool, map(_REPO.fullmatch, found))] != [True]:
        raise UsageProblem("--file names a file of one repository: `models pull owner/name`")
    return found


def _unknown(name: str, models: Mapping[str, Any]) -> FluxdropError:
    hint = did_you_mean(name, models, "`fluxdrop models` lists them")
    return UsageProblem(f"there is no model {name!r}: {hint}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
