"""A bulk run worked out before its first image: what it makes, what it leaves out, and why.

    pack × compose ─► combinations ─► prompts (audited, once each) ─► × matrix × seeds ─► items

The prompts are made once; the items are counted by arithmetic and made one by one from their
number. Same pack, same order, same keys on every machine; a part makes the same items as the
whole. Nothing here needs a GPU, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from composer.assemble import assemble
from composer.audit import Finding, Report, Term, audit, parse_terms
from composer.choose import Skipped, choose
from composer.entries import Entry, Item, alike, key, left_out, where
from composer.packs import Block, Pack, read_pack
from composer.parameters import (
    BESIDE,
    ModelDefaults,
    common_seeds,
    encoders_of,
    entry_fields,
    no_defaults,
    own_seeds,
)
from composer.plan_tokens import Seen, models_of, read_prompts, token_warnings_of
from composer.terms import MOST_FINDINGS, describe, powerless, terms_for
from specs import expand
from specs.errors import Problem, SpecInvalid

_MOST_WARNINGS = 100
# So many combinations are looked at one by one to see which go together; more are too many anyhow.
_MOST_LOOKED_AT = 50_000


@dataclass(frozen=True)
class Plan:
    """What a spec with `compose` will do; `spec` and `prompts` are for `specs.expand`."""

    pack: Pack
    spec: Mapping[str, Any]
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    duplicates: tuple[Entry, ...]
    over_long: tuple[Entry, ...]
    violations: tuple[Entry, ...]
    rejects: bool
    warnings: tuple[str, ...]
    seen: tuple[Seen, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    model_defaults: ModelDefaults = no_defaults

    @cached_property
    def prompts(self) -> tuple[Mapping[str, Any], ...]:
        """One mapping a prompt (`prompt` and its fields), in the order of the images."""
        return tuple(
            fields for entry in self.entries for fields in own_seeds(self.spec, entry.fields)
        )

    @cached_property
    def owners(self) -> tuple[Entry, ...]:
        """The entry of each of `prompts`."""
        return tuple(e for e in self.entries for _ in own_seeds(self.spec, e.fields))

    @property
    def count(self) -> int:
        """How many images; TooManyImages above the limit of a job."""
        return expand.count(self.spec, len(self.prompts)) if self.prompts else 0

    @property
    def finding_count(self) -> int:
        """How many findings there are in all, also those beyond the list."""
        return sum(len(entry.report.findings) for entry in self.violations)

    def owner(self, index: int) -> Entry:
        """The entry that image `index` belongs to."""
        return self.owners[index * len(self.prompts) // self.count]

    def item(self, index: int) -> Item:
        """Image `index`, made from its number alone."""
        realised = expand.image(self.spec, index, 0, self.prompts)
        entry = self.owner(index)
        below = {**self.model_defaults(realised.get("model")), **self.settings}
        for name in BESIDE:
            below.pop(name, None)
        parameters = {**below, **realised}
        if expand.needs_base(self.spec) and "seeds" not in entry.fields:
            parameters.pop("seed", None)
        seed = parameters.get("seed")
        return Item(entry, parameters, seed, key(self.pack, entry, parameters))

    def items(self) -> Iterator[Item]:
        """Every image in order, one at a time."""
        return (self.item(index) for index in range(self.count))

    def record(self, index: int) -> dict[str, Any]:
        """What image `index` remembers of the pack it came from."""
        entry = self.owner(index)
        return {
            "pack": self.pack.id,
            "pack_version": self.pack.version,
            "pack_sha256": self.pack.sha256,
            "subject": entry.subject,
            "variable": entry.variable or "",
            "audit": entry.report.verdict,
        }

    def findings(self, most: int = MOST_FINDINGS) -> list[tuple[Entry, Finding]]:
        """The findings that block, at most `most` of them."""
        every = ((entry, f) for entry in self.violations for f in entry.report.findings)
        return [pair for pair, _ in zip(every, range(most), strict=False)]

    def reject(self) -> None:
        """Raise SpecInvalid when the plan must not run: forbidden, too long, or nothing left."""
        if self.rejects and self.violations:
            found = [
                Problem(0, 0, where(entry), describe(f.term, f.start, f.block, f.cue, entry.prompt))
                for entry, f in self.findings()
            ]
            if self.finding_count > len(found):
                more = f"{self.finding_count:,} findings in all; {len(found)} are listed"
                found.append(Problem(0, 0, "compose", more))
            raise SpecInvalid("PromptForbidden", found)
        if self.rejects and self.over_long:
            long = [
                Problem(0, 0, where(entry), entry.assembled.too_long())
                for entry in self.over_long[:MOST_FINDINGS]
            ]
            raise SpecInvalid("PromptTooLong", long)
        if not self.entries:
            why = "; ".join(f"{s.file} {s.reason}" for s in self.skipped[:5]) or "no combination"
            raise SpecInvalid(
                "NothingToRun", [Problem(0, 0, "compose", f"no image is left: {why}")]
            )


def make_plan(
    spec: Mapping[str, Any],
    prompts: Path | Pack,
    *,
    forbidden: Iterable[str | Mapping[str, Any] | Term] = (),
    settings: Mapping[str, Any] | None = None,
    model_defaults: ModelDefaults = no_defaults,
    on_prompt: Callable[[int, int], None] | None = None,
) -> Plan:
    """Work out a validated spec that has `compose`; `prompts` is the folder of packs.

    `forbidden` and `settings` (default parameters) come from the settings, `model_defaults` gives
    a model's own, and what reads its prompts. `on_prompt(done, most)` is called for every prompt
    and may raise to stop.
    """
    compose: Mapping[str, Any] = spec["compose"]
    pack = prompts if isinstance(prompts, Pack) else read_pack(prompts, str(compose["pack"]))
    choice = choose(pack, compose)
    if choice.most:  # refused before the first prompt is made
        expand.count(spec, choice.most if choice.most > _MOST_LOOKED_AT else choice.fitting(pack))
    work = _Work(pack, spec, parse_terms(forbidden), dict(settings or {}), model_defaults)
    skipped = list(choice.skipped)
    for done, combination in enumerate(choice.combinations(pack)):
        if on_prompt is not None:
            on_prompt(done, choice.most)
        if isinstance(combination, Skipped):
            skipped.append(combination)
        else:
            work.add(*combination)
    rejects = compose.get("on_violation", "reject") == "reject"
    if not rejects:
        skipped += [left_out(entry) for entry in (*work.violations, *work.over_long)]
    entries = [e for e in work.entries if rejects or e.report.ok and not e.assembled.over_by]
    seen = read_prompts(
        entries, lambda entry: models_of(spec, entry, work.model), encoders_of(model_defaults)
    )
    warnings = (
        *pack.warnings, *powerless(pack), *token_warnings_of(seen, len(entries)), *_advice(entries),
    )  # fmt: skip
    return Plan(
        pack=pack,
        spec=common_seeds(spec, [entry.fields for entry in entries]),
        entries=tuple(entries),
        skipped=tuple(skipped),
        duplicates=tuple(work.duplicates),
        over_long=tuple(work.over_long),
        violations=tuple(work.violations),
        rejects=rejects,
        warnings=tuple(warnings[:_MOST_WARNINGS]),
        seen=seen,
        settings=work.settings,
        model_defaults=model_defaults,
    )


@dataclass
class _Work:
    """The prompts of a plan as they are made."""

    pack: Pack
    spec: Mapping[str, Any]
    forbidden: tuple[Term, ...]
    settings: dict[str, Any]
    model_defaults: ModelDefaults
    entries: list[Entry] = field(default_factory=list)
    duplicates: list[Entry] = field(default_factory=list)
    over_long: list[Entry] = field(default_factory=list)
    violations: list[Entry] = field(default_factory=list)
    _audited: dict[Any, Report] = field(default_factory=dict)
    _seen: dict[str, Entry] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The model of what names none of its own."""
        given = self.pack.defaults.get("model", self.settings.get("model"))
        return None if given is None else str(given)

    def add(self, subject: Block, variable: Block | None) -> None:
        extra = str(self.spec["compose"].get("extra", ""))
        made = assemble(self.pack, subject, variable, extra)
        fields = entry_fields(
            self.pack, self.spec, subject, variable, self.settings, self.model_defaults
        )
        terms = terms_for(self.pack, subject, variable, self.forbidden)
        key = (made.prompt, made.spans, terms)
        if key not in self._audited:
            self._audited[key] = audit(made.prompt, terms, made.spans)
        report = self._audited[key]
        name = variable.name if variable else None
        entry = Entry(subject.name, name, made, report, {"prompt": made.prompt, **fields})
        first = self._seen.setdefault(alike(entry), entry)
        if first is not entry:
            twin = Entry(subject.name, name, made, report, entry.fields, same_as=first)
            self.duplicates.append(twin)
            return
        self.entries.append(entry)
        if entry.assembled.over_by:
            self.over_long.append(entry)
        if not report.ok:
            self.violations.append(entry)


def _advice(entries: Sequence[Entry]) -> Iterator[str]:
    """Each negated or merely unwelcome term once: FLUX may draw what a prompt says it must not."""
    said: dict[tuple[str, str, str], None] = {}
    for entry in entries:
        for finding in entry.report.advice:
            key = (finding.term, finding.cue, finding.block)
            if key not in said:
                said[key] = None
                cue = f" after {finding.cue!r}" if finding.cue else ""
                yield f"{where(entry)}: {finding.term!r}{cue} in {finding.block}: {finding.note}"
