"""Plans a bulk run before its first image: what it makes, what it leaves out, and why.

    pack × compose ─► combinations ─► prompts (audited, once each) ─► × matrix × seeds ─► items

With `choices: true` a prompt belongs to a seed, and its images differ in the matrix only.

The prompts are made once; the items are counted by multiplication and made one at a time from their
index. The same pack gives the same order and the same keys on every machine, and a part of a run
makes the same items as the whole run. Needs no GPU and writes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from composer.assemble import Assembled, Parts, compose
from composer.audit import Finding, Report, Term, parse_terms
from composer.choose import Skipped, choose
from composer.entries import Entry, Item, duplicate_key, item_key, left_out
from composer.expansion import Expansion
from composer.layers import MOST_WARNED
from composer.packs import Pack, read_pack
from composer.parameters import (
    NOT_FIELDS,
    ModelDefaults,
    common_seeds,
    entry_fields,
    no_defaults,
    own_seeds,
)
from composer.plan_tokens import EncoderTotals, count_tokens, token_warnings_of
from composer.terms import MOST_FINDINGS, describe, ineffective_allows
from specs import expand
from specs.errors import Problem, SpecInvalid


@dataclass(frozen=True)
class Plan:
    """The plan of a spec with `compose`; `spec` and `prompts` are the arguments for `specs.expand`.

    `duplicates` have the entry each is equal to, which is made in its place. `violations` and
    `over_long` are the prompts that are forbidden or too long. Where `rejects` is
    true they refuse the whole job, and `entries` contains them; else they are left out.
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

    def owner(self, index: int) -> Entry:
        """The entry that image `index` belongs to."""
        return self.owned[index * len(self.prompts) // self.count][0]

    def item(self, index: int) -> Item:
        """Image `index` (from 0)."""
        realised = expand.image(self.spec, index, 0, self.prompts)
        entry = self.owner(index)
        below = {**self.model_defaults(realised.get("model")), **self.settings}
        for name in NOT_FIELDS:
            below.pop(name, None)
        parameters = {**below, **realised}
        if expand.needs_base(self.spec) and not {"seed", "seeds"} & entry.fields.keys():
            parameters.pop("seed", None)
        seed = parameters.get("seed")
        return Item(entry, parameters, seed, item_key(self.pack, entry, parameters))

    def items(self) -> Iterator[Item]:
        """All images in order, made one at a time."""
        return (self.item(index) for index in range(self.count))

    def records(self) -> list[dict[str, Any]]:
        """The origin of each of `prompts`, for its sidecars: pack, combination and verdict."""
        return [
            {
                "pack": self.pack.id,
                "pack_version": self.pack.version,
                "pack_sha256": self.pack.sha256,
                "subject": entry.subject,
                "variable": entry.variable or "",
                "audit": entry.report.verdict,
            }
            for entry, _ in self.owned
        ]

    @property
    def left_out(self) -> tuple[str, ...]:
        """A sentence for each file or combination that is skipped, besides those warned of."""
        bad = {problem.path for problem in self.pack.bad.values()}  # these are in `warnings`
        return tuple(f"left out: {s.file}: {s.reason}" for s in self.skipped if s.file not in bad)

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
            problem = Problem(0, 0, "compose", f"no image is left: {why}")
            raise SpecInvalid("NothingToRun", [problem])


def make_plan(
    spec: Mapping[str, Any],
    prompts: Path,
    *,
    forbidden: Iterable[str | Mapping[str, Any] | Term] = (),
    languages: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    model_defaults: ModelDefaults = no_defaults,
) -> Plan:
    """Plan a validated spec that has `compose`; `prompts` is the folder of packs.

    `forbidden` terms, the `languages` of their audit and `settings` (default parameters) come from
    the settings file; `model_defaults` gives a model's default parameters and its text encoders.
    Raises SpecInvalid for a pack or a selection that cannot be used, and for too many images.
    """
    selected: Mapping[str, Any] = spec["compose"]
    pack = read_pack(prompts, str(selected["pack"]))
    choice = choose(pack, selected)
    expansion = Expansion(pack, choice, selected)
    expand.count(spec, expansion.count())  # refused before the first prompt is made
    terms, settings = parse_terms(forbidden), dict(settings or {})
    skipped = list(choice.skipped)
    by_key: dict[str, Entry] = {}
    duplicates: list[tuple[Entry, Entry]] = []
    for combination in expansion.prompts(skipped):
        subject, variable = combination.subject, combination.variable
        of_pack = entry_fields(pack, spec, subject, variable, settings, model_defaults)
        composed: dict[Parts, tuple[Assembled, Report]] = {}
        name = variable.name if variable else None
        for parts, fields in expansion.seeded(spec, of_pack, combination):
            if not parts.subject.text:
                reason = "its choices leave nothing of it"
                skipped.append(Skipped(subject.file, reason, subject.name, name))
                continue
            if parts not in composed:
                composed[parts] = compose(pack, parts, terms, languages)
            assembled, report = composed[parts]
            fields = {"prompt": assembled.prompt, **fields}
            entry = Entry(subject.name, name, assembled, report, fields)
            first = by_key.setdefault(duplicate_key(entry), entry)
            if first is not entry:
                duplicates.append((entry, first))
    entries = list(by_key.values())
    violations = tuple(entry for entry in entries if not entry.report.ok)
    over_long = tuple(entry for entry in entries if entry.assembled.over_by)
    rejects = selected.get("on_violation", "reject") == "reject"
    if not rejects:
        skipped += [left_out(entry) for entry in (*violations, *over_long)]
        entries = [e for e in entries if e.report.ok and not e.assembled.over_by]
    model = pack.defaults.get("model", settings.get("model"))
    tokens = count_tokens(entries, spec, model, model_defaults)
    warnings = (
        *pack.warnings,
        *ineffective_allows(pack),
        *islice(dict.fromkeys(expansion.warnings(e.assembled for e in entries)), MOST_WARNED),
        *token_warnings_of(tokens, len(entries)),
        *_advice(entries),
    )
    return Plan(
        pack=pack,
        spec=common_seeds(expansion.spec(spec), [entry.fields for entry in entries]),
        entries=tuple(entries),
        skipped=tuple(skipped),
        duplicates=tuple(duplicates),
        over_long=over_long,
        violations=violations,
        rejects=rejects,
        warnings=tuple(warnings[:100]),
        tokens=tokens,
        settings=settings,
        model_defaults=model_defaults,
    )


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
                yield f"{entry.path}: {finding.term!r}{cue} in {finding.block}: {finding.note}"
