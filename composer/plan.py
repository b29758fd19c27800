"""Plans a bulk run before its first image: what it makes, what it leaves out, and why.

    table × pack × compose ─► combinations ─► prompts (audited once) ─► × matrix × seeds ─► images

With `choices: true` a prompt belongs to a seed, and its images differ in the matrix only.

The prompts are made once; the images are counted by multiplication and made one at a time from
their index. The same pack gives the same order on every machine, and a part of a run has the same
images as the whole run. Needs no GPU and writes nothing.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from composer.assemble import Assembled, Parts, compose
from composer.audit import Finding, Report, Term, audit, parse_terms
from composer.choose import Skipped, choose
from composer.entries import Entry, duplicate_key, left_out
from composer.expansion import Expansion, selection
from composer.layers import MOST_WARNED, Block
from composer.packs import Pack, read_pack
from composer.parameters import (
    SEEDS,
    ModelDefaults,
    common_seeds,
    entry_fields,
    no_defaults,
    own_seeds,
    without_seeds,
)
from composer.plan_tokens import EncoderTotals, count_tokens, token_warnings_of
from composer.table import PARTS, Fault, Row, Table, over
from composer.terms import MOST_FINDINGS, describe, ineffective_allows
from composer.wildcards import Wildcards
from specs import expand
from specs.errors import Problem, SpecInvalid

ORIGIN = frozenset({
    "audit", "pack", "pack_version", "pack_sha256", "subject", "variable", "table", "table_sha256",
    "row", "custom_id",
})  # fmt: skip
"""The names of what `Plan.records` has, besides the caller's own fields."""

_LISTED = 100
_LONG = 500
_NO_PACK = Pack("", "", "", "", fixed=Block("", "", ""), subjects={}, variables={})


@dataclass(frozen=True)
class Plan:
    """The plan of a spec with `compose` or a `table`; `spec` and `prompts` are for `specs.expand`.

    `faults` are those of the rows, which `without` leaves out: `dropped` has these.
    `duplicates` have the entry each is equal to, which is made in its place. `violations` and
    `over_long` are the prompts that are forbidden or too long. Where `rejects` is true they
    refuse the whole job, and `entries` contains them; else they are left out.
    """

    pack: Pack
    spec: Mapping[str, Any]
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    duplicates: tuple[tuple[Entry, Entry], ...]
    over_long: tuple[Entry, ...]
    violations: tuple[Entry, ...]
    rejects: bool
    warnings: tuple[str, ...]
    tokens: tuple[EncoderTotals, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_defaults: ModelDefaults = no_defaults
    table: Table | None = None
    faults: tuple[Fault, ...] = ()
    dropped: tuple[Fault, ...] = ()

    @cached_property
    def owned(self) -> tuple[tuple[Entry, Mapping[str, Any]], ...]:
        """The mappings of `prompts`, each with its entry."""
        return tuple((e, fields) for e in self.entries for fields in own_seeds(self.spec, e.fields))

    @cached_property
    def prompts(self) -> tuple[Mapping[str, Any], ...]:
        """The mappings of the prompts (`prompt` and other fields), in the order of the images."""
        return tuple(fields for _, fields in self.owned)

    @property
    def count(self) -> int:
        """The number of images. Raises SpecInvalid (TooManyImages) above the limit of a job."""
        return expand.count(self.spec, len(self.prompts)) if self.prompts else 0

    @property
    def finding_count(self) -> int:
        """The number of all findings, including those that are not listed."""
        return sum(len(entry.report.findings) for entry in self.violations)

    def images(self) -> Iterator[tuple[Entry, dict[str, Any]]]:
        """The entry and the parameters of each image in order; no seed where it is to be drawn."""
        for index in range(self.count):
            realised = expand.image(self.spec, index, 0, self.prompts)
            entry, own = self.owned[index * len(self.prompts) // self.count]
            if expand.needs_base(self.spec) and "seed" not in own:
                realised.pop("seed", None)
            yield entry, {**self.model_defaults(realised.get("model")), **self.settings, **realised}

    def records(self) -> list[dict[str, Any]]:
        """The origin of each of `prompts`, for its sidecars: row, pack, combination, verdict."""
        return [self._record(entry) for entry, _ in self.owned]

    def _record(self, entry: Entry) -> dict[str, Any]:
        record: dict[str, Any] = {"audit": entry.report.verdict}
        if self.pack.id:
            record |= {
                "pack": self.pack.id,
                "pack_version": self.pack.version,
                "pack_sha256": self.pack.sha256,
                "subject": entry.subject,
                "variable": entry.variable or "",
            }
        if self.table and entry.row:
            record |= {
                "table": self.table.name,
                "table_sha256": self.table.sha256,
                "row": entry.row.number,
                **{key: part for key, part in entry.fields.items() if key.startswith("x_")},
            }
            if entry.row.number in self.table.custom_ids:
                record["custom_id"] = self.table.custom_ids[entry.row.number]
        return record

    def rows_left_out(self) -> list[dict[str, Any]]:
        """Of each row that is left out its number, why, and what tells it, for the results."""
        said: dict[int, Mapping[str, Any]] = {}
        if self.table and self.dropped:
            said = {**self.table.faulty, **{row.number: row.fields for row in self.table.rows}}
        rows: dict[int, dict[str, Any]] = {}
        for fault in sorted(self.dropped, key=lambda fault: fault.row):
            message = f"{fault.column}: {fault.message}" if fault.column else fault.message
            own = said.get(fault.row, {}).items()
            told = {name: v for name, v in own if name in ("prompt", "seed") or name[:2] == "x_"}
            row = {"row": fault.row, **told, "reason": fault.reason, "message": message}
            known = rows.setdefault(fault.row, row)
            if known is not row and len(known["message"]) < _LONG:
                known["message"] += f"; {message}"
            if self.table and fault.row in self.table.custom_ids:
                known["custom_id"] = self.table.custom_ids[fault.row]
        return [*rows.values()]

    def without(self, faults: Sequence[Fault]) -> "Plan":
        """The plan without the rows that are faulty, which are listed."""
        assert self.table is not None, "rows are a table's"
        numbers = {fault.row for fault in faults}
        left = (entry for entry in self.entries if not entry.row or entry.row.number not in numbers)
        skipped = (Skipped(self.table.where(f.row, f.column), f.message) for f in faults)
        return replace(
            self, entries=tuple(left), skipped=(*self.skipped, *skipped), faults=(),
            dropped=(*self.dropped, *faults),
        )  # fmt: skip

    @property
    def left_out(self) -> tuple[str, ...]:
        """A sentence for each file or combination that is skipped, besides those warned of."""
        bad = {problem.path for problem in self.pack.bad.values()}  # these are in `warnings`
        left = [skipped for skipped in self.skipped if skipped.file not in bad]
        told = [f"left out: {skipped.file}: {skipped.reason}" for skipped in left[:_LISTED]]
        more = len(left) - len(told)
        return (*told, *([f"left out: {more:,} more"] if more else []))

    def findings(self) -> list[tuple[Entry, Finding]]:
        """The first findings that block, at most `MOST_FINDINGS`, each with its entry."""
        found = ((entry, f) for entry in self.violations for f in entry.report.findings)
        return list(islice(found, MOST_FINDINGS))

    def reject(self) -> None:
        """Raise SpecInvalid if the plan must not run.

        The reasons are PromptForbidden, PromptTooLong, and NothingToRun where no prompt is left.
        """
        if self.rejects and self.violations:
            problems = [
                Problem(0, 0, entry.path, describe(f.term, f.start, f.block, f.why, entry.prompt))
                for entry, f in self.findings()
            ]
            if self.finding_count > len(problems):
                more = f"{self.finding_count:,} findings in all; {len(problems)} are listed"
                problems.append(Problem(0, 0, "compose", more))
            raise SpecInvalid("PromptForbidden", problems)
        if self.rejects and self.over_long:
            problems = [
                Problem(0, 0, entry.path, entry.assembled.too_long())
                for entry in self.over_long[:MOST_FINDINGS]
            ]
            raise SpecInvalid("PromptTooLong", problems)
        if not self.entries:
            why = "; ".join(f"{s.file} {s.reason}" for s in self.skipped[:5]) or "no combination"
            path = "table" if self.table else "compose"
            problem = Problem(0, 0, path, f"no image is left: {why}")
            raise SpecInvalid("NothingToRun", [problem])


def make_plan(
    spec: Mapping[str, Any],
    prompts: Path,
    *,
    table: Table | None = None,
    forbidden: Iterable[str | Mapping[str, Any] | Term] = (),
    languages: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    model_defaults: ModelDefaults = no_defaults,
) -> Plan:
    """Plan a validated spec that has `compose` or a `table`; `prompts` is the folder of packs.

    A row wins over the spec, which then has none of the fields that are columns. `forbidden` terms,
    the `languages` of their audit and `settings` (default parameters) come from the settings file;
    `model_defaults` gives a model's default parameters and its text encoders. Raises SpecInvalid
    for a pack or a selection that cannot be used, and for too many images.
    """
    selected: Mapping[str, Any] = spec.get("compose", {})
    pack = read_pack(prompts, str(selected["pack"])) if selected else _NO_PACK
    making = _Making(
        spec, pack, parse_terms(forbidden), languages, dict(settings or {}), model_defaults, table
    )
    rows = [*making.select()]
    by_seed = any(expansion.by_seed for expansion in making.expansions.values())
    for expansion in making.expansions.values():
        expansion.by_seed = by_seed
    making.make(rows)
    entries = list(making.by_key.values())
    violations = tuple(entry for entry in entries if not entry.report.ok)
    over_long = tuple(entry for entry in entries if entry.assembled.over_by)
    rejects = "skip" not in (selected.get("on_violation"), table and spec.get("on_error"))
    if not rejects:
        making.leave_out((*violations, *over_long))
        entries = [e for e in entries if e.report.ok and not e.assembled.over_by]
    model = pack.defaults.get("model", making.settings.get("model"))
    tokens = count_tokens(entries, spec, model, model_defaults)
    told = chain.from_iterable(each.warnings() for each in making.expansions.values())
    warnings = (
        *pack.warnings,
        *ineffective_allows(pack),
        *islice(dict.fromkeys(told), MOST_WARNED),
        *token_warnings_of(tokens, len(entries)),
        *_advice(entries),
    )
    common = without_seeds(making.rest) if by_seed else making.rest
    return Plan(
        pack=pack,
        spec=common_seeds(common, [entry.fields for entry in entries]),
        entries=tuple(entries),
        skipped=tuple(making.skipped),
        duplicates=tuple(making.duplicates),
        over_long=over_long,
        violations=violations,
        rejects=rejects,
        warnings=tuple(warnings[:100]),
        tokens=tokens,
        settings=making.settings,
        model_defaults=model_defaults,
        table=table,
        faults=tuple(making.faults),
        dropped=tuple(making.dropped),
    )


@dataclass
class _Making:
    """The entries of a plan while they are made, and what is left out of them."""

    spec: Mapping[str, Any]
    pack: Pack
    terms: tuple[Term, ...]
    languages: tuple[str, ...]
    settings: dict[str, Any]
    model_defaults: ModelDefaults
    table: Table | None
    skipped: dict[Skipped, None] = field(default_factory=dict)
    dropped: dict[Fault, None] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    by_key: dict[str, Entry] = field(default_factory=dict)
    duplicates: list[tuple[Entry, Entry]] = field(default_factory=list)
    expansions: dict[str, Expansion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = frozenset(self.table.columns if self.table else ())
        self.own_seeded = not columns.isdisjoint(SEEDS)
        self.columns = columns.union(SEEDS if self.own_seeded else ())
        """Those of the table; all fields for seeds, where it has one of them."""
        self.rest = {key: value for key, value in self.spec.items() if key not in self.columns}
        """The spec without the fields that are columns."""

    def select(self) -> Iterator[tuple[Row, Expansion | None]]:
        """The rows that can be made, each with what it selects of the pack; equal ones share it."""
        self.faults += self.table.faults if self.table else ()
        wildcards = Wildcards(self.pack.wildcards)
        for row in self.table.rows if self.table else (Row(0, {}),):
            named = {**selection(self.spec), **row.parts}
            key = json.dumps(named, sort_keys=True)
            try:
                if self.pack.id and key not in self.expansions:
                    choice = choose(self.pack, named)
                    made = self.expansions[key] = Expansion(self.pack, choice, named, wildcards)
                    self.skipped |= dict.fromkeys(made.skipped)
                yield row, self.expansions.get(key)
            except SpecInvalid as error:
                self.faults += _faults_of(error, row, self.columns)

    def make(self, rows: Iterable[tuple[Row, Expansion | None]]) -> None:
        """Make the entries of the rows in order. Raises SpecInvalid before they are too many."""
        total = 0
        for row, expansion in rows:
            of_row = over(self.spec, row.fields)
            prompts_of = expansion.count() if expansion else 1
            total += prompts_of * (expand.seeds_each(of_row) if self.own_seeded else 1)
            expand.count(self.rest, total)
            own = {key: value for key, value in of_row.items() if key in self.columns}
            origin: tuple[Row | None, str] = (None, "")
            if self.table:
                origin = row, self.table.where(row.number, "" if expansion else "prompt")
            found: list[Skipped] = []
            if expansion:
                made = [*self._of_pack(expansion, own, origin, found)]
            else:
                # That of the spec is audited once, by itself.
                report = audit(row.fields.get("prompt", ""), self.terms, (), self.languages)
                prompt = Assembled(str(of_row.get("prompt", "")), (), self.pack.max_chars)
                made = [Entry("", None, prompt, report, own, *origin)]
            for entry in made:
                first = self.by_key.setdefault(duplicate_key(entry), entry)
                if first is not entry:
                    self.duplicates.append((entry, first))
            if self.table and not made:
                reason = next((s.reason for s in found), "what it selects is empty or switched off")
                self.faults.append(Fault(row.number, "", reason, "PackInvalid"))
            else:
                self.skipped |= dict.fromkeys(found)

    def _of_pack(
        self, expansion: Expansion, own: Mapping[str, Any], origin: tuple[Row | None, str],
        found: list[Skipped],
    ) -> Iterator[Entry]:  # fmt: skip
        """The prompts of a selection, each text audited once; adds to `found` what is left out."""
        for combination in expansion.prompts(found):
            subject, variable = combination.subject, combination.variable
            added = entry_fields(
                self.pack, self.spec, subject, variable, self.settings, self.model_defaults
            )
            composed: dict[Parts, tuple[Assembled, Report]] = {}
            name = variable.name if variable else None
            for parts, fields in expansion.seeded(self.spec, {**own, **added}, combination):
                if not parts.subject.text:
                    reason = "its choices leave nothing of it"
                    found.append(Skipped(subject.file, reason, subject.name, name))
                    continue
                if parts not in composed:
                    composed[parts] = compose(self.pack, parts, self.terms, self.languages)
                assembled, report = composed[parts]
                expansion.assembled.append(assembled)
                fields = {"prompt": assembled.prompt, **fields}
                yield Entry(subject.name, name, assembled, report, fields, *origin)

    def leave_out(self, entries: Iterable[Entry]) -> None:
        """List the entries that are forbidden or too long, and their rows."""
        for entry in entries:
            why = left_out(entry)
            self.skipped[why] = None
            if entry.row and self.table:
                reason = "PromptTooLong" if entry.report.ok else "PromptForbidden"
                self.dropped[Fault(entry.row.number, "prompt", why.reason, reason)] = None


def _faults_of(error: SpecInvalid, row: Row, columns: Container[str]) -> Iterator[Fault]:
    """The faults of the names in a row. Raises the error where the spec has them."""
    names = {f"compose.{part}": name for name, part in PARTS.items()}
    for problem in error.problems:
        name = names.get(problem.path, "")
        if name not in columns:
            raise error
        yield Fault(row.number, name, problem.message, error.reason)


def _advice(entries: Sequence[Entry]) -> Iterator[str]:
    """A warning for each negated or merely discouraged term, once for each cue and block.

    FLUX may draw what a prompt says it must not.
    """
    reported: set[tuple[str, str, str]] = set()
    for entry in entries:
        for finding in entry.report.advice:
            key = (finding.term, finding.cue, finding.block)
            if key not in reported:
                reported.add(key)
                cue = f" after {finding.cue!r}" if finding.cue else ""
                place = entry.where or entry.path
                yield f"{place}: {finding.term!r}{cue} in {finding.block}: {finding.note}"
