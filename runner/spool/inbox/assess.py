"""Assesses a spec: reads, validates, composes, asks the models, counts.

The intake and every front end call `assess`, so that they say the same of a spec. It writes
nothing, reads only the packs and LoRA files that a spec names and looks which weights are on this
machine, and raises nothing because of a bad spec.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.errors import InputMissing, JobFailed, ModelMissing, PathNotAllowed
from runner.files import is_file, read_file
from runner.settings import Home
from runner.spool.inbox.inputs import (
    TABLE,
    Folders,
    hint_of,
    is_absolute,
    matching,
    named_paths,
    place_of,
    reading_copies,
    take,
)
from runner.spool.store.names import is_safe_id
from specs import rules, schemas
from specs.document import MAX_COLLECTED, Document, dotted
from specs.errors import Problem, SpecInvalid, in_order
from specs.expand import count, draw_base, needs_base
from specs.read import read
from specs.validate import Checked, check

if TYPE_CHECKING:
    from composer.plan import Plan
    from composer.table import Table

log = logging.getLogger(__name__)

_MOST_WARNED = 200
# The hundred findings that a plan lists, and how many there are.
_MOST_PROBLEMS = 101
_SIDES = ("width", "height")

Beside = Callable[[str], Path] | None
"""Where a table or an image may lie that is to be brought into the inbox, by its name."""


class Catalogue(Protocol):
    """What the intake needs to know of the models, without importing the engine."""

    def default_model(self, spec: Mapping[str, Any]) -> str: ...

    def problems(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]: ...

    def warnings(self, spec: Mapping[str, Any]) -> list[str]: ...

    def absent(self, specs: Iterable[Mapping[str, Any]], data: Path) -> list[str]: ...

    def parameters(self, model: str | None, kind: str) -> Mapping[str, Any]: ...

    def snapshot(self, repo: str, revision: str, data: Path) -> Path | None: ...


@dataclass(frozen=True)
class Assessment:
    """The result for one spec: what is to run (`reason` is None), or every problem with it.

    `composed` has, for each prompt of a `compose` or a `table`, its spec fields and what its images
    record of the pack and the row, which are not read again; `left_out`, of the same form, has no
    fields and why a row is left out. `plan` is there if the schema lets the
    spec pass and its prompts could be made and counted. `absent` says which weights a spec that may
    run lacks on this machine: that is no problem, and true of this moment only. `uncomposed` marks
    a drop that is yet to be assessed in another process; `awaits` says which table has to be there
    before that.
    """

    realised: Mapping[str, Any] = field(default_factory=dict)
    total: int = 0
    composed: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    left_out: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    base_seed: int | None = None
    explicit_id: str | None = None
    reason: str | None = None
    message: str | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    plan: Plan | None = None
    uncomposed: bool = False
    awaits: str = ""


def assess(
    data: bytes, name: str, home: Home, catalogue: Catalogue,
    *, weights: bool = False, beside: Beside = None,
) -> Assessment:  # fmt: skip
    """Assess the spec that a file of this name holds; every problem at once, with its place.

    The checks come in the order: syntax (alone), schema, paths, LoRAs, pack, prompts, forbidden
    words, models, count. `reason` is that of the first which found something. What one check
    found wrong no other speaks of again. With `weights`, `absent` has the models too, for which
    many files may have to be looked for. Raises OSError where a file that it needs, a LoRA's for
    one, cannot be looked at now.
    """
    value: Any = None
    try:
        document = _read(data, name)
        value = document.value
        return _assess(document, home, catalogue, weights=weights, beside=beside)
    except SpecInvalid as error:
        return _refusal([error], value)
    except OSError:
        # Nothing is known yet of what the spec names.
        raise
    except Exception:
        # A bug here must cost this spec only, not stop the intake.
        log.exception("assessing %s failed", name)
        message = "fluxdrop could not judge this spec (a bug): see the runner's log"
        refusal = _refusal([SpecInvalid("Internal", [Problem(0, 0, "", message)])], value)
        return replace(refusal, message=message)


def uncomposed(data: bytes, name: str, home: Home) -> Assessment | None:
    """The assessment of a spec with `compose` or a `table` before its prompts are made.

    None where `assess` is as quick: nothing is composed.
    """
    try:
        document = _read(data, name)
    except SpecInvalid:
        return None
    checked = check(document)
    if checked.value.keys().isdisjoint(("compose", TABLE)):
        return None
    value = document.value
    spec = _kept(value) if checked.problems else _with_defaults(checked.value, home)
    return Assessment(realised=spec, explicit_id=_id_in(value), uncomposed=True)


def _read(data: bytes, name: str) -> Document:
    return read(data, json=name.lower().endswith(".json"))


def _assess(
    document: Document, home: Home, catalogue: Catalogue, *, weights: bool, beside: Beside
) -> Assessment:
    checked = check(document)
    errors = [SpecInvalid("SchemaInvalid", checked.problems)] if checked.problems else []
    if not checked.value:
        return _refusal(errors, document.value)
    spec = _with_defaults(checked.value, home)
    absent: list[str] = []
    table, plan, awaits = None, None, ""
    collected = partial(_collected, errors, checked.document)
    with collected():
        _check_paths(checked, spec, home)
    with collected():
        unknown = rules.unknown_receivers(spec.get("notify"), home.settings.receivers)
        _refuse(checked, "SchemaInvalid", ((f"notify.{n}", why) for n, why in unknown))
    with collected():
        spec |= _with_loras(checked, spec, home, catalogue, absent)
    spec = _reliable(checked, spec)
    with collected():
        spec |= _with_pictures(checked, spec, home, beside)
    if TABLE in spec and "kind" in checked.value:
        with collected():
            data, awaits = _table_bytes(spec[TABLE], home, beside)
            table = None if awaits else _table(checked, spec, data, catalogue)
    if awaits and not errors:
        return Assessment(spec, explicit_id=_id_in(spec), awaits=awaits, warnings=(awaits,))
    with collected():
        plan = _planned(checked, spec, home, catalogue, table)
    if plan and table:
        plan = _checked_rows(checked, plan, home, catalogue, errors)
    if plan and not plan.faults and not checked.is_unsound("compose", "on_violation"):
        with collected():
            plan.reject()
    with collected():
        _check_forbidden(checked, home)
    prompts: Sequence[Mapping[str, Any]] = ()
    if plan:
        spec, prompts = {**plan.spec}, _with_model(plan, catalogue)
    elif "model" not in spec.get("matrix", {}):
        spec.setdefault("model", catalogue.default_model(spec))
    variants = [{**fields, **spec} for fields in prompts] or [spec]
    models = {variant.get("model") for variant in variants}
    if _has_model(checked, plan):
        found = _objections(checked, [] if table else variants, catalogue)
        with collected():
            _refuse(checked, "SchemaInvalid", dict.fromkeys((path, why) for _, path, why in found))
        with suppress(PermissionError):  # the runner's own, to whoever asks as another user
            absent += catalogue.absent(variants, home.data) if weights else ()
    total = 0
    if all(error.reason != "TooManyImages" for error in errors):
        with collected():
            total = count(spec, len(prompts) or 1)
    warnings = (*document.notes, *dict.fromkeys(_warnings(plan, variants, catalogue)))
    if checked.value.get("reuse") and any(map(needs_base, variants)):
        warnings += ("reuse: no seed is given, and no picture has one that is yet to be drawn",)
    plan = plan if total and not checked.problems else None
    if errors:
        refusal = _refusal(errors, document.value)
        return replace(refusal, warnings=warnings if plan else document.notes, plan=plan)
    records = plan.records() if plan else ()
    return Assessment(
        realised={"model": models.pop(), **spec} if plan and len(models) == 1 else spec,
        total=total,
        composed=tuple(zip(prompts, records, strict=True)),
        left_out=tuple(({}, row) for row in plan.rows_left_out()) if plan else (),
        base_seed=draw_base(total) if needs_base(spec) else None,
        explicit_id=_id_in(spec),
        warnings=warnings,
        absent=tuple(absent),
        plan=plan,
    )


@contextmanager
def _collected(errors: list[SpecInvalid], document: Document) -> Iterator[None]:
    """Note a SpecInvalid, its problems at their places in the spec, and go on."""
    try:
        yield
    except SpecInvalid as error:
        problems = [_in_spec(problem, document) for problem in error.problems]
        errors.append(SpecInvalid(error.reason, problems))


def _in_spec(problem: Problem, document: Document) -> Problem:
    path = problem.path
    steps = _steps(path.partition(":")[0])
    if path.startswith(f"{TABLE}: "):
        path = path.removeprefix(f"{TABLE}: ")
    elif "/" in path:  # a file of a pack
        steps = ["compose", "pack"]
        if problem.line:
            file, colon, rest = path.partition(":")
            path = f"{file}:{problem.line}:{problem.column}{colon}{rest}"
    return Problem(*document.locate(steps), path, problem.message)


def _steps(path: str) -> list[str | int]:
    return [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]


def _refuse(checked: Checked, reason: str, findings: Iterable[tuple[str, str]]) -> None:
    """Raise SpecInvalid for findings (path, message) about what no earlier check found wrong."""
    problems = [
        Problem(0, 0, dotted(_steps(path)), message)
        for path, message in findings
        if not checked.is_unsound(*_steps(path))
    ]
    if problems:
        raise SpecInvalid(reason, problems)


def _planned(
    checked: Checked, spec: Mapping[str, Any], home: Home, catalogue: Catalogue, table: Table | None
) -> Plan | None:
    """The composer's plan for a spec with `compose` or a `table`, whether it may run or not."""
    if "pack" not in spec["compose"] if "compose" in spec else table is None:
        return None
    if TABLE in spec and table is None:
        return None
    # Imported here: most specs compose nothing, and imports slow `fluxdrop check` down.
    from composer.choose import choose
    from composer.packs import read_pack
    from composer.plan import make_plan

    parts = [part for part in ("subjects", "variables") if checked.is_unsound("compose", part)]
    if parts:
        selected = {**spec["compose"], **dict.fromkeys(parts, ())}
        choose(read_pack(home.prompts, spec["compose"]["pack"]), selected)
        return None
    return make_plan(
        spec,
        home.prompts,
        table=table,
        forbidden=home.settings.forbidden,
        languages=home.settings.audit_languages,
        settings={"model": catalogue.default_model(spec)},
        model_defaults=lambda model: catalogue.parameters(model, str(spec.get("kind"))),
    )


def _with_model(plan: Plan, catalogue: Catalogue) -> tuple[Mapping[str, Any], ...]:
    """For each prompt, its spec fields with a model."""
    if "model" in plan.spec or "model" in plan.spec.get("matrix", {}):
        return plan.prompts
    models = (catalogue.default_model({**plan.spec, **fields}) for fields in plan.prompts)
    return tuple({"model": m, **fields} for m, fields in zip(models, plan.prompts, strict=True))


def _table_bytes(name: str, home: Home, beside: Beside) -> tuple[bytes, str]:
    """The bytes of a table; none, and what is waited for, while it is absent or being written."""
    try:
        place = place_of(name, home)
        near = beside(name) if beside and not is_absolute(name) else None
        if near and is_file(near):
            return read_file(near, follow=True), ""
        place, alike = Folders(home).find(place)
        if snapshot := take(place, home):
            return snapshot.public(name), ""
    except JobFailed as error:
        raise SpecInvalid(error.reason, [Problem(0, 0, TABLE, str(error))]) from None
    return b"", f"{name} is not there, or still being written{hint_of(alike)}: it is waited for"


def _table(checked: Checked, spec: Mapping[str, Any], data: bytes, catalogue: Catalogue) -> Table:
    """The rows of a table, each checked with what is sound of the spec."""
    from composer.table import read_table

    table = read_table(
        data, str(spec[TABLE]), hashlib.sha256(data).hexdigest(), spec,
        lambda model: bool(catalogue.parameters(model, str(spec["kind"]))),
    )  # fmt: skip
    # What an unsound spec lacks each row lacks.
    told = (fault for fault in table.faults if fault.column or not checked.problems)
    return replace(table, faults=tuple(told))


def _checked_rows(
    checked: Checked, plan: Plan, home: Home, catalogue: Catalogue, errors: list[SpecInvalid]
) -> Plan:
    """The plan of a table without its faulty rows, where they are skipped; adds to `errors`.

    The paths of rows, and what models object to in them, are checked here.
    """
    from composer.table import Fault

    assert plan.table is not None, "its rows are checked"
    faults = dict.fromkeys(plan.faults)
    for row in plan.table.rows:
        for path, why in _refused_paths(row.fields, home):
            faults[Fault(row.number, path.partition(".")[0], why, PathNotAllowed.reason)] = None
    of_spec: dict[tuple[str, str], None] = {}
    prompts = _with_model(plan, catalogue) if _has_model(checked, plan) else ()
    variants = ({**fields, **plan.spec} for fields in prompts)
    for number, path, why in _objections(checked, variants, catalogue):
        of_row, field = plan.owned[number][0].row, path.partition(".")[0]
        own = of_row.fields if of_row else {}
        column = next((each for each in (field, "model") if each in own), None)
        if of_row and column:
            why = why if column == field else f"{path}: {why}"
            faults[Fault(of_row.number, column, why)] = None
        else:
            of_spec[path, why] = None
    with _collected(errors, checked.document):
        _refuse(checked, "SchemaInvalid", of_spec)
    skips = plan.spec.get("on_error") == "skip" and not any(fault.of_all for fault in faults)
    if skips and len(faults) < MAX_COLLECTED:
        return plan.without([*faults])
    if faults:
        with _collected(errors, checked.document):
            raise plan.table.told([*faults])
    return replace(plan, faults=tuple(faults))


def _check_forbidden(checked: Checked, home: Home) -> None:
    if not home.settings.forbidden:
        return
    from composer.terms import MOST_FINDINGS, forbidden_in

    spec = checked.value
    varied = enumerate(spec.get("matrix", {}).get("prompt", ()))
    prompts = [("prompt", spec.get("prompt")), *((f"matrix.prompt.{n}", p) for n, p in varied)]
    found = (
        (path, sentence)
        for path, prompt in prompts
        if prompt
        for sentence in forbidden_in(prompt, home.settings.forbidden, home.settings.audit_languages)
    )
    _refuse(checked, "PromptForbidden", itertools.islice(found, MOST_FINDINGS))


def _has_model(checked: Checked, plan: Plan | None) -> bool:
    """Whether it is known which models make the images, whatever is wrong with the spec."""
    spec, unsound = checked.value, checked.unsound
    varied = "model" in spec.get("matrix", {})
    if varied or ("matrix", "model") in unsound:
        return varied
    if "model" in spec or ("model",) in unsound:
        return "model" in spec
    # The default depends on these.
    fields = [("matrix",), ("control",), ("matrix", "control")]
    composes = "compose" in checked.document.value
    return "kind" in spec and not unsound.intersection(fields) and not (composes and not plan)


def _objections(
    checked: Checked, variants: Iterable[Mapping[str, Any]], catalogue: Catalogue
) -> Iterator[tuple[int, str, str]]:
    """What models object to in each variant; of an unknown kind, what no kind can do."""
    kinds = [checked.value["kind"]] if "kind" in checked.value else schemas.kinds()
    known: dict[str, list[tuple[str, str]]] = {}
    for number, variant in enumerate(variants):
        if (key := _asked_of(variant)) not in known:
            first, *others = (catalogue.problems({**variant, "kind": kind}) for kind in kinds)
            known[key] = [each for each in first if all(each in other for other in others)]
        yield from ((number, path, why) for path, why in known[key])


def _asked_of(variant: Mapping[str, Any]) -> str:
    """What a model may object to: no text of a prompt, no seed, and no name of an image."""
    nameless = reading_copies(variant, "", {text: "-" for _, text in named_paths(variant)})
    asked = {k: v for k, v in nameless.items() if k not in ("prompt", "seed") and k[:2] != "x_"}
    return json.dumps(asked, sort_keys=True)


def _warnings(
    plan: Plan | None, variants: Sequence[Mapping[str, Any]], catalogue: Catalogue
) -> Iterator[str]:
    if plan is not None:
        yield from (*(plan.table.warnings if plan.table else ()), *plan.warnings, *plan.left_out)
    if plan is None or not plan.pack.id:
        varied = variants[0].get("matrix", {}).get("prompt", ())
        texts = [str(text) for text in (*(each.get("prompt") for each in variants), *varied)]
        if marked := [text for text in texts if "{" in text or "__" in text]:
            from composer.choices import unexpanded

            if found := next(filter(None, map(unexpanded, marked)), ""):
                yield f"prompt: {found} is drawn as it stands: choices are expanded in packs only"
    for variant in itertools.islice(variants, _MOST_WARNED):
        yield from catalogue.warnings(variant)


def _with_defaults(spec: Mapping[str, Any], home: Home) -> dict[str, Any]:
    realised = dict(spec)
    for key, value in home.settings.defaults.items():
        # `precision` is for the models that run in it: the task of each image has it.
        if key != "precision" and (key != "quality" or realised.get("format", "png") != "png"):
            realised.setdefault(key, value)
    for key in ("preview", "reuse", "window"):
        if value := getattr(home.settings, key):
            realised.setdefault(key, value)
    return realised


def _reliable(checked: Checked, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what an unsound part of it makes unreliable.

    That are the None in lists where places do not matter, `seeds` of which a part is unsound, and
    both sides where one is.
    """
    sides = any(path[-1] in _SIDES for path in checked.unsound)
    left_out = {"seeds"} & {path[0] for path in checked.unsound} | set(_SIDES if sides else ())
    kept = {name: part for name, part in spec.items() if name not in left_out}
    for name in kept.keys() & {"compose", "matrix"}:
        kept[name] = {
            key: [item for item in part if item is not None] if isinstance(part, list) else part
            for key, part in spec[name].items()
            if key not in left_out
        }
    return kept


def _check_paths(checked: Checked, spec: Mapping[str, Any], home: Home) -> None:
    _refuse(checked, PathNotAllowed.reason, _refused_paths(spec, home))


def _refused_paths(spec: Mapping[str, Any], home: Home) -> Iterator[tuple[str, str]]:
    for path, text in named_paths(spec):
        try:
            place_of(text, home)
        except PathNotAllowed as error:
            yield path, str(error)


def _with_pictures(
    checked: Checked, spec: Mapping[str, Any], home: Home, beside: Beside
) -> dict[str, Any]:
    """The matrix with the images that its patterns name now; elsewhere a pattern is refused."""
    patterns = (
        (path, f"{text!r} is a pattern, which names images in `matrix: {{image: …}}`: put it there")
        for path, text in named_paths(spec)
        if not path.startswith("matrix.") and matching(text, home, beside) != [text]
    )
    _refuse(checked, InputMissing.reason, patterns)
    varied = spec.get("matrix", {}).get("image", ())
    listed = [varied] if isinstance(varied, str) else varied
    found = {text: matching(text, home, beside) for text in listed}
    absent = (
        (f"matrix.image.{n}", f"no image matches {text!r}: put them into the inbox before the spec")
        for n, text in enumerate(listed)
        if not found[text]
    )
    _refuse(checked, InputMissing.reason, absent)
    images = [*dict.fromkeys(itertools.chain.from_iterable(found.values()))]
    return {"matrix": {**spec["matrix"], "image": images}} if images else {}


def _with_loras(
    checked: Checked, spec: Mapping[str, Any], home: Home, catalogue: Catalogue, absent: list[str]
) -> dict[str, Any]:
    """The spec's LoRAs, each with its hash; a missing file fails the job when it runs."""
    if not spec.get("loras"):
        return {}
    from runner.spool.inbox import loras

    needed = ("path", "repo", "file", "revision", "sha256")
    sound = [
        lora if lora and not any(checked.is_unsound("loras", n, key) for key in needed) else None
        for n, lora in enumerate(spec["loras"])
    ]
    pinned, faults = loras.recorded({"loras": sound}, home, catalogue.snapshot)
    absent += [str(error) for _, error in faults if isinstance(error, ModelMissing)]
    if invalid := [(p, error) for p, error in faults if not isinstance(error, ModelMissing)]:
        _refuse(checked, invalid[0][1].reason, [(path, str(error)) for path, error in invalid])
    return {} if faults else {"loras": pinned}


def _refusal(errors: Sequence[SpecInvalid], value: Any) -> Assessment:
    value = value if isinstance(value, dict) else {}
    problems = in_order(problem for error in errors for problem in error.problems)
    first = SpecInvalid(errors[0].reason, errors[0].problems, of=len(problems))
    if len(problems) > _MOST_PROBLEMS:
        more = Problem(0, 0, "", f"and {len(problems) - _MOST_PROBLEMS} more problems")
        problems = (*problems[:_MOST_PROBLEMS], more)
    return Assessment(
        reason=first.reason,
        message=f"{first}: mend the spec and drop it again",
        problems=problems,
        explicit_id=_id_in(value),
        realised=_kept(value),
    )


def _kept(value: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an invalid spec, if it is short: the caller's keys, the kind, `notify`."""
    kept: dict[str, Any] = {k: v for k, v in value.items() if k[:2] == "x_" or k == "notify"}
    if isinstance(value.get("kind"), str):
        kept["kind"] = value["kind"][:40]
    return kept if len(json.dumps(kept)) < 10_000 else {}


def _id_in(value: Mapping[str, Any]) -> str | None:
    job_id = value.get("id")
    return job_id if isinstance(job_id, str) and is_safe_id(job_id) else None
