"""`compose` and `audit`: prompts from packs, plans of bulk runs, forbidden words.

Nothing here renders; `--queue` drops a spec into the inbox like any other caller.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import client
from runner.cli.output import add_verb, print_json, print_line, print_message, show
from runner.cli.submit import report_drops
from runner.errors import UsageProblem
from runner.settings import Home, Settings, find_home, is_home
from specs.errors import SpecInvalid
from specs.read import read
from specs.write import to_yaml

if TYPE_CHECKING:
    from runner.spool.inbox.assess import Assessment


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    compose = add_verb(verbs, shared, "compose", run_compose, "make prompts from a pack")
    compose.add_argument("pack", metavar="PACK", help="a folder in prompts/")
    several = "or several (a,b) or a pattern (red*); may be given again"
    for part, metavar in (("subject", "S"), ("variable", "V")):
        compose.add_argument(
            f"--{part}",
            f"--{part}s",
            action="append",
            metavar=metavar,
            help=f"one {part}, {several}",
        )
    compose.add_argument("--extra", metavar="TEXT", help="text added to every prompt")
    all_help = "all subjects, and all variables, of which none is named"
    compose.add_argument("--all", action="store_true", help=all_help)
    compose.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="fields",
        help="a field of the spec: steps=8, count=4, window=23:00-07:00",
    )  # fmt: skip
    compose.add_argument(
        "--on-violation", choices=("reject", "skip"), help="what a forbidden word does to the job"
    )
    compose.add_argument(
        "--choices", nargs="?", const="true", choices=("true", "false", "all"),
        help="expand {a|b} and __wildcards__ by each seed (true), or into every prompt (all)",
    )  # fmt: skip
    compose.add_argument(
        "--sample", type=int, metavar="N", help="only N combinations, always the same"
    )
    compose.add_argument("--sample-seed", type=int, metavar="SEED", help="other prompts than these")
    compose.add_argument("--reuse", action="store_true", help="copy pictures that exist already")
    mode = compose.add_mutually_exclusive_group()
    mode.add_argument("--plan", action="store_true", help="say what a bulk run would do")
    mode.add_argument("--queue", action="store_true", help="drop it into the inbox")
    compose.set_defaults(wait=False)
    audit = add_verb(verbs, shared, "audit", run_audit, "look for forbidden words in a prompt")
    audit.add_argument("prompt", nargs="?", metavar="PROMPT", help="`-` is standard input")
    audit.add_argument("--term", action="append", metavar="T", help="default: the settings' own")
    jsonl_help = 'answer lines {"id","prompt","terms"} of standard input, one for one'
    audit.add_argument("--jsonl", action="store_true", help=jsonl_help)


def run_compose(options: argparse.Namespace) -> int:
    """Print one prompt and its audit, or plan or drop a bulk run."""
    home = find_home(options.home)
    spec = _spec(options, home)
    try:
        try:
            data = to_yaml(spec)
        except SpecInvalid as error:
            raise _usage(error) from error
        act = _print_plan if options.plan else _queue if options.queue else _print_prompt
        return act(options, home, data)
    except SpecInvalid as error:
        return _print_refusal(options, error)


def _spec(options: argparse.Namespace, home: Home) -> dict[str, Any]:
    """The spec that the arguments describe. Raises UsageProblem where no subject is named."""
    from composer.choose import ALL, EVERY
    from composer.packs import read_pack

    compose: dict[str, Any] = {"pack": options.pack}
    for part in ("subject", "variable"):
        given = ",".join(getattr(options, part) or ()).split(",")
        named = list(dict.fromkeys(name.strip() for name in given if name.strip()))
        if named:
            compose[f"{part}s"] = named[0] if len(named) == 1 else named
        elif options.all:
            compose[f"{part}s"] = EVERY
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
    how = {
        "choices": {"true": True, "false": False, "all": ALL}.get(options.choices),
        "sample": options.sample,
        "sample_seed": options.sample_seed,
        "reuse": options.reuse or None,
    }
    more = {name: value for name, value in how.items() if value is not None}
    return {"kind": "text2img", "compose": compose} | more | dict(_assigned(options.fields))


def _assigned(assignments: list[str]) -> Iterator[tuple[str, Any]]:
    """The fields of `--set`, their values read as in a spec. Raises UsageProblem."""
    for text in assignments:
        name, sign, value = text.partition("=")
        if not (sign and name.strip()) or name in ("compose", "prompt"):
            raise UsageProblem(f"--set takes a field of the spec as field=value, not {text!r}")
        try:
            document = read(f"{name}: {value}\n".encode("utf-8", "surrogateescape")).value
        except SpecInvalid as error:
            raise UsageProblem(f"--set {text}: {error.problems[0].message}") from error
        if not isinstance(document, dict) or list(document) != [name]:
            raise UsageProblem(f"--set takes one field at a time, not {text!r}")
        yield name, document[name]


def _print_prompt(options: argparse.Namespace, home: Home, data: bytes) -> int:
    """Print the first prompt of the spec, its blocks and its audit."""
    from composer.report import compose_json

    plan = _assessed(options, home, data).plan
    assert plan is not None, "else it is refused"
    composed = compose_json(plan)
    ok = composed["audit"]["verdict"] == "ok" and not composed["over_by"]
    if options.json:
        print_json(composed)
        return 0 if ok else 1
    show(composed["prompt"], many_lines=True)
    show()
    for block in composed["blocks"]:
        show(f"  {block['block']:<9} {block['length']:>5}  {block['file']}")
    seed = f", seed {composed['seed']}" if "seed" in composed else ""
    show(f"  {composed['length']} characters, {_tokens_text(composed['tokens'])}{seed}")
    for warning in composed["warnings"]:
        show(f"  {warning}")
    _print_audit(composed["audit"], composed["prompt"])
    return 0 if ok else 1


def _tokens_text(tokens: Mapping[str, Any]) -> str:
    """The tokens of one prompt in words: "about 17 CLIP and 16 T5 tokens (estimated)"."""
    names = {"clip": "CLIP", "t5": "T5", "qwen3": "Qwen3"}
    counts = [f"{count} {names.get(n, n)}" for n, count in tokens.items() if n != "estimated"]
    if tokens["estimated"]:
        return f"about {' and '.join(counts)} tokens (estimated)"
    return f"{' and '.join(counts)} tokens (counted)"


def _assessed(options: argparse.Namespace, home: Home, data: bytes) -> "Assessment":
    """The assessment of the spec, with its plan. Raises SpecInvalid where there is none."""
    from runner.catalogue import RegistryCatalogue
    from runner.spool.inbox.assess import assess

    catalogue = RegistryCatalogue(home.settings, home.data)
    assessment = assess(data, f"{options.pack}.yaml", home, catalogue, weights=True)
    if assessment.plan is None or (options.queue and assessment.reason):
        error = SpecInvalid(assessment.reason or "", assessment.problems)
        # What the schema refuses, an argument gets wrong.
        has_plan = assessment.plan is not None
        raise error if has_plan or error.reason != "SchemaInvalid" else _usage(error)
    return assessment


def _print_plan(options: argparse.Namespace, home: Home, data: bytes) -> int:
    from runner.cli.plan_report import plan_report, print_report

    report = plan_report(_assessed(options, home, data), home)
    if options.json:
        print_json(report)
    else:
        print_report(report)
    return 1 if report["rejected"] else 0


def _queue(options: argparse.Namespace, home: Home, data: bytes) -> int:
    """Drop the spec. Raises SpecInvalid, and drops nothing, where intake would reject it."""
    for text in _assessed(options, home, data).absent:
        print_message(f"warning: {text}")
    home.prepare()
    return report_drops(home, {client.submit(home, data, f"{options.pack}.yaml"): data}, options)


def _print_refusal(options: argparse.Namespace, error: SpecInvalid) -> int:
    if all(problem.path.startswith("compose.") for problem in error.problems):
        # An argument names something that the pack does not have: wrong usage, not a bad spec.
        raise _usage(error) from error
    if options.json:
        shown = [{"path": p.path, "message": p.message} for p in error.problems]
        print_json({"error": str(error), "reason": error.reason, "errors": shown})
    else:
        print_message(f"fluxdrop: {error.reason}")
        for sentence in _sentences(error):
            print_message(f"  {sentence}")
    return 1


def _usage(error: SpecInvalid) -> UsageProblem:
    return UsageProblem("; ".join(_sentences(error)))


def _sentences(error: SpecInvalid) -> list[str]:
    """The problems in words; a field that an argument sets has the argument's name."""
    arguments = {"compose.subjects": "--subject", "compose.variables": "--variable"}
    return [
        str(replace(problem, path=arguments.get(problem.path, problem.path)))
        for problem in error.problems
    ]


def run_audit(options: argparse.Namespace) -> int:
    """Audit one prompt, or every line of standard input."""
    if options.jsonl:
        if options.prompt or options.term:
            raise UsageProblem("--jsonl reads prompts and terms from standard input")
        return _audit_lines(_settings(options, needed=False).audit_languages)
    from composer.audit import audit

    if options.prompt is None:
        raise UsageProblem("name a prompt, or `-` for standard input, or take --jsonl")
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    settings = _settings(options, needed=not options.term)
    terms = options.term or settings.forbidden
    try:
        audited = audit(prompt, terms, (), settings.audit_languages).to_json()
    except ValueError as error:
        raise UsageProblem(str(error)) from error
    if options.json:
        print_json(audited)
    else:
        if not terms:
            hint = "name a --term, or set `forbidden` in fluxdrop.yaml"
            print_message(f"nothing is forbidden: {hint}")
        _print_audit(audited, prompt)
    return 0 if audited["verdict"] == "ok" else 1


def _settings(options: argparse.Namespace, *, needed: bool) -> Settings:
    """The settings of the home; the defaults where none is needed and there is none."""
    named = options.home or os.environ.get("FLUXDROP_HOME")
    if not (needed or named or is_home(Path.cwd())):
        return Settings()
    return find_home(options.home).settings


def _audit_lines(languages: Sequence[str]) -> int:
    """Answer each line before the next is read, so that a program may wait for each answer.

    The exit code is 1 where a line could not be read; findings are in the answers only.
    """
    from composer.report import audit_line

    if hasattr(sys.stdout, "reconfigure"):
        # JSON is UTF-8 whatever the console's encoding; a lone surrogate is written as its escape.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    unread = False
    for number, raw in enumerate(sys.stdin.buffer):
        try:
            line = raw.decode("utf-8").removeprefix("" if number else "\ufeff")
        except UnicodeDecodeError as error:
            text = f"line {number + 1} is not UTF-8 (byte {error.start})"
            print_line({"id": None, "error": text})
            unread = True
            continue
        answer = audit_line(line, languages)
        if answer is not None:
            print_line(answer)
            unread |= "error" in answer
    return 1 if unread else 0


def _print_audit(report: Mapping[str, Any], prompt: str) -> None:
    """The verdict, and for each term found where it is and why it counts or does not."""
    from composer.terms import describe

    show(report["verdict"])
    for found in report["findings"]:
        text = describe(found["term"], found["start"], found["block"], found["why"], prompt)
        show(f"  violation  {text}")
    for found in report["advice"]:
        note = found.get("note") or "named, not asked for"
        show(f"  advice     {found['term']!r} ({found['why']}): {note}")
