"""Assesses a drop: reads, validates, composes, checks against the models, counts.

Writes nothing, and reads only the packs and LoRA files that a spec names. `assess` returns an
Assessment whatever a spec contains; it raises nothing because of a bad spec.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.errors import ModelMissing, PathNotAllowed
from runner.settings import Home
from runner.spool.inbox.inputs import named_paths, place_of
from runner.spool.inbox.settle import Drop
from runner.spool.store.names import is_safe_id
from specs.document import dotted
from specs.errors import Problem, SpecInvalid
from specs.expand import count, draw_base, needs_base
from specs.read import Document, read
from specs.validate import validate

if TYPE_CHECKING:
    from composer.plan import Plan

log = logging.getLogger(__name__)

_MOST_WARNED = 200


class Catalogue(Protocol):
    """What the intake needs to know of the models, without importing the engine."""

    def default_model(self, spec: Mapping[str, Any]) -> str: ...

    def problems(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]: ...

    def warnings(self, spec: Mapping[str, Any]) -> list[str]: ...

    def parameters(self, model: str | None, kind: str) -> Mapping[str, Any]: ...

    def snapshot(self, repo: str, revision: str, data: Path) -> Path | None: ...


@dataclass(frozen=True)
class Assessment:
    """The result for one drop: a spec that can run (`reason` is None) or why it cannot.

    `composed` has, for each prompt of a `compose`, its spec fields and what its images record of
    the pack, which is not read again. `uncomposed` marks a drop that is yet to be assessed in
    another process.
    """

    realised: Mapping[str, Any] = field(default_factory=dict)
    total: int = 0
    composed: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    base_seed: int | None = None
    explicit_id: str | None = None
    reason: str | None = None
    message: str | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    uncomposed: bool = False


def assess(drop: Drop, home: Home, catalogue: Catalogue) -> Assessment:
    """Assess one drop; every error of a stage at once, with line and column."""
    if drop.refused:
        reason, message = drop.refused
        return Assessment(reason=reason, message=message)
    try:
        document = _document(drop)
    except SpecInvalid as error:
        return _refusal(error, {})
    value = document.value if isinstance(document.value, dict) else {}
    try:
        return _assess_document(document, home, catalogue)
    except SpecInvalid as error:
        return _refusal(error, value)
    except Exception:
        # A bug here must cost this spec only, not stop the intake.
        log.exception("assessing %s failed", drop.name)
        message = "fluxdrop could not judge this spec (a bug): see the runner's log"
        return Assessment(reason="Internal", message=message, explicit_id=_id_in(value))


def uncomposed(drop: Drop, home: Home) -> Assessment | None:
    """The assessment of a drop with `compose` before its prompts are made.

    None where `assess` is as quick: nothing is composed, or the spec is invalid.
    """
    try:
        spec = _with_defaults(validate(_document(drop)), home)
    except SpecInvalid:
        return None
    if "compose" not in spec:
        return None
    return Assessment(realised=spec, explicit_id=_id_in(spec), uncomposed=True)


def check(data: bytes, name: str, home: Home, catalogue: Catalogue) -> tuple[Problem, ...]:
    """The problems of a spec that has not been dropped; empty when it could run."""
    assessment = assess(Drop(name, data, (0, 0, len(data), 0, 0)), home, catalogue)
    if assessment.reason and not assessment.problems:
        return (Problem(0, 0, "", assessment.message or assessment.reason),)
    return assessment.problems


@dataclass(frozen=True)
class Preview:
    """The composer's plan for a spec with `compose`, and the problems and warnings of the spec."""

    plan: Plan
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def preview(data: bytes, home: Home, catalogue: Catalogue) -> Preview:
    """The preview of a spec that has not been dropped, even if its plan breaks rules.

    Raises SpecInvalid where no plan can be made.
    """
    document = read(data)
    realised = _with_defaults(validate(document), home)
    plan = planned(realised, home, catalogue)
    variants = [{**fields, **plan.spec} for fields, _ in _with_model(plan, catalogue)]
    problems: tuple[Problem, ...] = ()
    try:
        _check_paths(document, realised, home)
        _with_loras(document, realised, home, catalogue)
        _check_models(document, variants, catalogue)
    except SpecInvalid as error:
        problems = error.problems
    warnings = [text for v in variants[:_MOST_WARNED] for text in catalogue.warnings(v)]
    return Preview(plan, problems, tuple(dict.fromkeys([*plan.warnings, *warnings])))


def _document(drop: Drop) -> Document:
    return read(drop.data, json=drop.name.lower().endswith(".json"))


def _assess_document(document: Document, home: Home, catalogue: Catalogue) -> Assessment:
    realised = _with_defaults(validate(document), home)
    _check_paths(document, realised, home)
    realised |= _with_loras(document, realised, home, catalogue)
    plan = planned(realised, home, catalogue) if "compose" in realised else None
    if plan is not None:
        plan.reject()
        realised, composed = {**plan.spec}, _with_model(plan, catalogue)
        variants = [{**fields, **realised} for fields, _ in composed]
    else:
        if "model" not in realised.get("matrix", {}):
            realised.setdefault("model", catalogue.default_model(realised))
        composed, variants = (), [realised]
        _check_forbidden(document, realised, home)
    _check_models(document, variants, catalogue)
    total = count(realised, len(composed) or 1)
    return Assessment(
        realised={"model": variants[0].get("model"), **realised} if plan else realised,
        total=total,
        composed=composed,
        base_seed=draw_base(total) if needs_base(realised) else None,
        explicit_id=_id_in(realised),
        warnings=tuple(dict.fromkeys(_warnings(plan, variants, catalogue))),
    )


def planned(spec: Mapping[str, Any], home: Home, catalogue: Catalogue) -> Plan:
    """The composer's plan for a spec with `compose`, whether it may run or not."""
    # Imported here: most specs compose nothing, and imports slow `fluxdrop check` down.
    from composer.plan import make_plan

    return make_plan(
        spec,
        home.prompts,
        forbidden=home.settings.forbidden,
        settings={"model": catalogue.default_model(spec)},
        model_defaults=lambda model: catalogue.parameters(model, str(spec["kind"])),
    )


def _with_model(
    plan: Plan, catalogue: Catalogue
) -> tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]:
    """For each prompt, its spec fields with a model, and what its images record of the pack."""
    default = {"model": catalogue.default_model(plan.spec)}
    named = "model" in plan.spec or "model" in plan.spec.get("matrix", {})
    images_each = plan.count // max(len(plan.prompts), 1)
    return tuple(
        ({**({} if named else default), **fields}, plan.record(number * images_each))
        for number, fields in enumerate(plan.prompts)
    )


def _check_forbidden(document: Document, spec: Mapping[str, Any], home: Home) -> None:
    if not home.settings.forbidden:
        return
    from composer.terms import reject_forbidden

    prompts = [("prompt", spec.get("prompt"))]
    prompts += [
        (f"matrix.prompt.{n}", p) for n, p in enumerate(spec.get("matrix", {}).get("prompt", ()))
    ]
    for path, prompt in prompts:
        if prompt:
            try:
                reject_forbidden(prompt, home.settings.forbidden)
            except SpecInvalid as error:
                problems = [_at(document, path, problem.message) for problem in error.problems]
                raise SpecInvalid(error.reason, problems) from None


def _check_models(
    document: Document, variants: Sequence[Mapping[str, Any]], catalogue: Catalogue
) -> None:
    # No model objects to the text of a prompt: of variants that differ only there, one is checked.
    if len(variants) > 1:
        distinct: dict[str, Mapping[str, Any]] = {}
        for variant in variants:
            key = json.dumps({k: v for k, v in variant.items() if k != "prompt"}, sort_keys=True)
            distinct.setdefault(key, variant)
        variants = list(distinct.values())
    problems = dict.fromkeys(problem for v in variants for problem in catalogue.problems(v))
    if problems:
        raise SpecInvalid("SchemaInvalid", [_at(document, path, text) for path, text in problems])


def _warnings(
    plan: Plan | None, variants: Sequence[Mapping[str, Any]], catalogue: Catalogue
) -> Iterator[str]:
    if plan is not None:
        yield from plan.warnings
        yield from (f"left out: {skipped.file}: {skipped.reason}" for skipped in plan.skipped)
    for variant in itertools.islice(variants, _MOST_WARNED):
        yield from catalogue.warnings(variant)


def _with_defaults(spec: Mapping[str, Any], home: Home) -> dict[str, Any]:
    ignored = ("result", "$schema", "schema")
    realised = {key: value for key, value in spec.items() if key not in ignored}
    for key, value in home.settings.defaults.items():
        if key != "quality" or realised.get("format", "png") != "png":
            realised.setdefault(key, value)
    if home.settings.window:
        realised.setdefault("window", home.settings.window)
    return realised


def _check_paths(document: Document, spec: Mapping[str, Any], home: Home) -> None:
    problems = []
    for path, text in named_paths(spec):
        try:
            place_of(text, home)
        except PathNotAllowed as error:
            problems.append(_at(document, path, str(error)))
    if problems:
        raise SpecInvalid("PathNotAllowed", problems)


def _with_loras(
    document: Document, spec: Mapping[str, Any], home: Home, catalogue: Catalogue
) -> dict[str, Any]:
    """The spec's LoRAs, each with its hash; a missing file fails the job when it runs."""
    if not spec.get("loras"):
        return {}
    from runner.spool.inbox import loras

    pinned, faults = loras.recorded(spec, home, catalogue.snapshot)
    if invalid := [fault for fault in faults if fault.reason != ModelMissing.reason]:
        problems = [_at(document, fault.path, fault.message) for fault in invalid]
        raise SpecInvalid(invalid[0].reason, problems)
    return {} if faults else {"loras": pinned}


def _at(document: Document, path: str, message: str) -> Problem:
    steps = [int(part) if part.isdigit() else part for part in path.split(".") if part]
    line, column = document.locate(steps)
    return Problem(line, column, dotted(steps), message)


def _refusal(error: SpecInvalid, value: Mapping[str, Any]) -> Assessment:
    # Kept of an invalid spec, unless they are large: the caller's own keys and the kind.
    kept: dict[str, Any] = {k: v for k, v in value.items() if k.startswith("x_")}
    if isinstance(value.get("kind"), str):
        kept["kind"] = value["kind"][:40]
    return Assessment(
        reason=error.reason,
        message=f"{error}: mend the spec and drop it again",
        problems=error.problems,
        explicit_id=_id_in(value),
        realised=kept if len(json.dumps(kept)) < 10_000 else {},
    )


def _id_in(value: Mapping[str, Any]) -> str | None:
    job_id = value.get("id")
    return job_id if isinstance(job_id, str) and is_safe_id(job_id) else None
