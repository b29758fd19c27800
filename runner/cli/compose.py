"""`compose` and `audit`: prompts from packs, bulk runs worked out beforehand, forbidden words.

Nothing here renders; `--queue` drops a spec into the inbox like any other caller.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from runner import client
from runner.cli.output import print_json, say
from runner.cli.submit import tell
from runner.errors import UsageProblem
from runner.settings import Home, find_home
from specs.errors import Problem, SpecInvalid


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    compose = verbs.add_parser("compose", parents=[shared], help="make prompts from a pack")
    compose.add_argument("pack", metavar="PACK", help="a folder in prompts/")
    compose.add_argument("--subject", action="append", metavar="S", help="may be given again")
    compose.add_argument("--variable", action="append", metavar="V", help="may be given again")
    compose.add_argument("--extra", metavar="TEXT", help="text added to every prompt")
    everything = "all subjects, and all variables, of which none is named"
    compose.add_argument("--all", action="store_true", help=everything)
    compose.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="fields",
        help="a field of the spec: steps=8, count=4, window=23:00-07:00",
    )  # fmt: skip
    compose.add_argument(
        "--on-violation", choices=("reject", "skip"), help="what a forbidden word does to the job"
    )
    way = compose.add_mutually_exclusive_group()
    way.add_argument("--plan", action="store_true", help="say what a bulk run would do")
    way.add_argument("--queue", action="store_true", help="drop it into the inbox")
    compose.set_defaults(run=run_compose, wait=False)
    audit = verbs.add_parser("audit", parents=[shared], help="look for forbidden words in a prompt")
    audit.add_argument("prompt", nargs="?", metavar="PROMPT", help="`-` is standard input")
    audit.add_argument("--term", action="append", metavar="T", help="default: the settings' own")
    lines = 'answer lines {"id","prompt","terms"} of standard input, one for one'
    audit.add_argument("--jsonl", action="store_true", help=lines)
    audit.set_defaults(run=run_audit)


def run_compose(options: argparse.Namespace) -> int:
    """Print one prompt and its audit, or plan or drop a bulk run."""
    home = find_home(options.home)
    spec = _spec(options, home)
    try:
        if options.plan:
            return _plan(options, home, spec)
        if options.queue:
            return _queue(options, home, spec)
        return _one(options, home, spec)
    except SpecInvalid as error:
        return _say_refused(options, error)


def _spec(options: argparse.Namespace, home: Home) -> dict[str, Any]:
    """The spec that the arguments stand for."""
    from composer.packs import read_pack

    compose: dict[str, Any] = {"pack": options.pack}
    for part in ("subject", "variable"):
        named = getattr(options, part)
        if named:
            compose[f"{part}s"] = named[0] if len(named) == 1 else named
        elif options.all:
            compose[f"{part}s"] = "all"
    if "subjects" not in compose:
        try:
            known = ", ".join(list(read_pack(home.prompts, options.pack).subjects)[:12])
        except SpecInvalid as error:
            raise UsageProblem(str(error)) from error
        raise UsageProblem(f"name a --subject, or take --all; {options.pack} has {known}")
    if options.extra is not None:
        compose["extra"] = options.extra
    if options.on_violation:
        compose["on_violation"] = options.on_violation
    return {"kind": "text2img", "compose": compose} | dict(_given(options.fields))


def _given(assignments: list[str]) -> Iterator[tuple[str, Any]]:
    """The fields of `--set`, their values read as a spec's are."""
    from specs.read import read

    for text in assignments:
        name, sign, value = text.partition("=")
        if not (sign and name.strip()) or name in ("compose", "prompt"):
            raise UsageProblem(f"--set takes a field of the spec as field=value, not {text!r}")
        try:
            read_back = read(f"{name}: {value}\n".encode("utf-8", "surrogateescape")).value
        except SpecInvalid as error:
            raise UsageProblem(f"--set {text}: {error.problems[0].message}") from error
        if not isinstance(read_back, dict) or list(read_back) != [name]:
            raise UsageProblem(f"--set takes one field at a time, not {text!r}")
        yield name, read_back[name]


def _bytes(spec: Mapping[str, Any]) -> bytes:
    """The spec as it would be dropped. Raises UsageProblem for one that no schema allows."""
    from specs.read import read
    from specs.validate import validate
    from specs.write import to_yaml

    try:
        data = to_yaml(spec)
        validate(read(data))
    except SpecInvalid as error:
        raise UsageProblem("; ".join(_sentences(error))) from error
    return data


def _one(options: argparse.Namespace, home: Home, spec: Mapping[str, Any]) -> int:
    from composer.packs import read_pack
    from composer.parameters import encoders_of
    from composer.report import compose_json
    from runner.catalogue import RegistryCatalogue
    from runner.cli.plan_report import tokens_text

    if options.fields:
        _bytes(spec)
    pack = read_pack(home.prompts, options.pack)
    catalogue = RegistryCatalogue(home.settings, home.data)
    model = spec.get("model") or pack.defaults.get("model") or catalogue.default_model(spec)
    told = compose_json(
        pack,
        spec["compose"],
        forbidden=home.settings.forbidden,
        encoders=encoders_of(lambda name: catalogue.parameters(name, str(spec["kind"])))(model),
    )
    ok = told["audit"]["verdict"] == "ok" and not told["over_by"]
    if options.json:
        print_json(told)
        return 0 if ok else 1
    print(told["prompt"])
    print()
    for block in told["blocks"]:
        print(f"  {block['block']:<9} {block['length']:>5}  {block['file']}")
    print(f"  {told['length']} characters, {tokens_text(told['tokens'])}")
    for warning in told["warnings"]:
        print(f"  {warning}")
    _print_audit(told["audit"], told["prompt"])
    return 0 if ok else 1


def _plan(options: argparse.Namespace, home: Home, spec: Mapping[str, Any]) -> int:
    from runner.catalogue import RegistryCatalogue
    from runner.cli.plan_report import print_plan, told_of
    from runner.spool.inbox.preview import preview

    ahead = preview(_bytes(spec), home, RegistryCatalogue(home.settings, home.data))
    told = told_of(ahead, home)
    if options.json:
        print_json(told)
    else:
        print_plan(told)
    return 1 if told["rejected"] else 0


def _queue(options: argparse.Namespace, home: Home, spec: Mapping[str, Any]) -> int:
    """Drop the spec, unless it would be refused: then nothing is dropped."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.preview import preview

    data = _bytes(spec)
    ahead = preview(data, home, RegistryCatalogue(home.settings, home.data))
    ahead.plan.reject()
    if ahead.problems:
        raise SpecInvalid("SchemaInvalid", ahead.problems)
    home.prepare()
    return tell(home, [client.submit(home, data, f"{options.pack}.yaml")], options)


def _say_refused(options: argparse.Namespace, error: SpecInvalid) -> int:
    if all(problem.path.startswith("compose.") for problem in error.problems):
        # What the arguments name is not there: `compose.subjects` is `--subject` here.
        raise UsageProblem("; ".join(_sentences(error))) from error
    if options.json:
        shown = [{"path": p.path, "message": p.message} for p in error.problems]
        print_json({"error": str(error), "reason": error.reason, "errors": shown})
    else:
        say(f"fluxdrop: {error.reason}")
        for sentence in _sentences(error):
            say(f"  {sentence}")
    return 1


def _sentences(error: SpecInvalid) -> list[str]:
    def sentence(problem: Problem) -> str:
        named = {"compose.subjects": "--subject", "compose.variables": "--variable"}
        path = named.get(problem.path, problem.path)
        return f"{path}: {problem.message}" if path else problem.message

    return [sentence(problem) for problem in error.problems]


def run_audit(options: argparse.Namespace) -> int:
    """Audit one prompt, or every line of standard input."""
    if options.jsonl:
        if options.prompt or options.term:
            raise UsageProblem("--jsonl reads prompts and terms from standard input")
        return _audit_lines()
    from composer.report import audit_json

    if options.prompt is None:
        raise UsageProblem("name a prompt, or `-` for standard input, or take --jsonl")
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    terms = options.term or find_home(options.home).settings.forbidden
    try:
        told = audit_json(prompt, terms)
    except ValueError as error:
        raise UsageProblem(str(error)) from error
    if options.json:
        print_json(told)
    else:
        if not terms:
            say("nothing is forbidden: name a --term, or set `forbidden` in fluxdrop.yaml")
        _print_audit(told, prompt)
    return 0 if told["verdict"] == "ok" else 1


def _audit_lines() -> int:
    """Answer line by line, so that another program may ask and wait for each answer.

    What is found stands in the answers; the exit code only says whether every line could be read.
    """
    from composer.audit.jsonl import audit_lines

    if hasattr(sys.stdout, "reconfigure"):
        # JSON is UTF-8 whatever the console speaks; a lone surrogate comes out as its escape.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    unread = False
    for number, raw in enumerate(sys.stdin.buffer):
        try:
            line = raw.decode("utf-8").removeprefix("" if number else "\ufeff")
        except UnicodeDecodeError as error:
            text = f"line {number + 1} is not UTF-8 (byte {error.start})"
            print(json.dumps({"id": None, "error": text}), flush=True)
            unread = True
            continue
        for answer in audit_lines([line]):
            print(answer, flush=True)
            unread |= '"error"' in answer and "error" in json.loads(answer)
    return 1 if unread else 0


def _print_audit(told: Mapping[str, Any], prompt: str) -> None:
    """The verdict in words: where, and why it counts."""
    from composer.terms import describe

    print(told["verdict"])
    for level in ("findings", "advice"):
        for found in told[level]:
            if level == "findings":
                text = describe(found["term"], found["start"], found["block"], found["cue"], prompt)
            else:
                after = f" after {found['cue']!r}" if found["cue"] else ""
                text = f"{found['term']!r}{after}: {found.get('note') or 'named, not asked for'}"
            print(f"  {'violation' if level == 'findings' else 'advice':<9}  {text}")
