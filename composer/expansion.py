"""Makes the blocks of a selection's prompts: expands their choices, or takes a sample of them.

With `choices: true` each seed of a combination has a prompt of its own, which depends on the seed
and on the names of subject and variable. With `choices: all` a combination has a prompt for every
choice. A sample is the first prompts in the order of a hash, so that a larger one has the smaller.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count, product
from math import prod
from operator import itemgetter
from typing import Any

from composer.assemble import Assembled, Parts
from composer.choices import Expander, Text, number
from composer.choose import ALL, Choice, Skipped, names_in
from composer.layers import Block
from composer.packs import Pack
from composer.parameters import seeds_of, without_seeds
from composer.wildcards import Wildcards
from specs import expand
from specs.errors import Problem, SpecInvalid
from specs.rules import COMPOSING

MOST_SAMPLED = 200_000
"""A sample is taken of at most this many prompts."""


class Expansion:
    """The prompts of a selection; with `by_seed` they depend on their seeds.

    `skipped` has what the selection leaves out. Raises SpecInvalid (PackInvalid) for choices that
    cannot be read, unless they are those of a subject or variable that is not named.
    """

    def __init__(
        self, pack: Pack, choice: Choice, selected: Mapping[str, Any], wildcards: Wildcards
    ) -> None:
        self._pack, self._choice, self.skipped = pack, choice, choice.skipped
        self._extra = Block("", "(extra)", " ".join(str(selected.get("extra", "")).split()))
        self._sample, self._sample_seed = selected.get("sample"), selected.get("sample_seed", 0)
        alls = (("subject", pack.subjects), ("variable", pack.variables))
        parts = (part for part, of in alls if ALL in of and selected.get(f"{part}s") == ALL)
        self._notes = [f"{part}s: `all` is the one of that name: `'*'` is all" for part in parts]
        mode = selected.get("choices", pack.choices)
        self._expanded = bool(mode)
        self.assembled: list[Assembled] = []
        """The prompts that were made of it."""
        self._texts: dict[str, Text] = {}
        self._expander = Expander(wildcards.options)
        has_choices = self._expanded and self._parse(wildcards, selected)
        self.by_seed, self._every = has_choices and mode != ALL, has_choices and mode == ALL
        self._made, self._nth = 0, count()

    def _parse(self, wildcards: Wildcards, selected: Mapping[str, Any]) -> bool:
        """Read all blocks, leave out those that cannot be used; whether one has a choice."""
        problems: list[Problem] = []
        has_choices = False

        def usable(block: Block | None, part: str = "") -> bool:
            nonlocal has_choices
            if block is None:
                return True
            before = len(problems)
            text = wildcards.text(block, problems)
            found = problems[before:]
            if found and part and block.name not in names_in(selected.get(f"{part}s", ALL)):
                del problems[before:]
                first = found[0]
                file = "" if first.path == block.file else f"{first.path}:"
                reason = f"{file}{first.line}:{first.column}: {first.message}"
                self.skipped += (Skipped(block.file, reason, **{part: block.name}),)
                return False
            self._texts[block.file] = text
            has_choices |= text not in ((), (block.text,))
            return True

        usable(self._pack.fixed)
        usable(self._extra)
        chosen = self._choice
        self._choice = replace(
            chosen,
            subjects=tuple(block for block in chosen.subjects if usable(block, "subject")),
            variables=tuple(block for block in chosen.variables if usable(block, "variable")),
        )
        if problems:
            paths = {self._extra.file: "compose.extra"}
            told = dict.fromkeys(problems)
            named = [replace(each, path=paths.get(each.path, each.path)) for each in told]
            raise SpecInvalid("PackInvalid", named)
        return has_choices

    def count(self) -> int:
        """The number of prompts, those that differ by seed as one."""
        total = self._choice.count(self._pack)
        if self._every and total <= MOST_SAMPLED:
            counts = (map(self._expander.count, self._read(p)) for p in self._combinations([]))
            total = sum(map(prod, counts))
        if self._sample is None:
            return total
        if total > MOST_SAMPLED:
            message = f"is taken of at most {MOST_SAMPLED:,} prompts: these are {total:,}"
            raise SpecInvalid("TooManyImages", [Problem(0, 0, "sample", message)])
        return min(total, int(self._sample))

    def prompts(self, skipped: list[Skipped]) -> Iterator[Parts]:
        """The blocks of each prompt in order; those that differ by seed are left to `seeded`.

        Adds to `skipped` the combinations that are ruled out.
        """
        found: Iterable[tuple[Parts, Sequence[str]]] = (
            (parts, texts)
            for parts in self._combinations(skipped)
            for texts in (
                product(*map(self._expander.every, self._read(parts))) if self._every else ((),)
            )
        )
        if self._sample is not None:
            start = f"{self._sample_seed}/"
            ranked = (
                (number(start + "\0".join((_names(each[0]), *each[1]))), at, each)
                for at, each in enumerate(found)
            )
            first = heapq.nsmallest(int(self._sample), ranked)
            found = (each for _, _, each in sorted(first, key=itemgetter(1)))
        return (_with_texts(parts, texts) if texts else parts for parts, texts in found)

    def seeded(
        self, spec: Mapping[str, Any], fields: Mapping[str, Any], parts: Parts
    ) -> Iterator[tuple[Parts, Mapping[str, Any]]]:
        """The prompts of one combination with their fields: several if they differ by seed.

        Raises SpecInvalid (TooManyImages) as soon as all are too many.
        """
        if not self.by_seed:
            yield parts, fields
            return
        seeds = seeds_of(spec, fields)
        self._made += len(seeds)
        expand.count(without_seeds(spec), self._made)
        texts = self._read(parts)
        for given in seeds:
            seed = self.base + next(self._nth) if given is None else given
            keys = (f"{seed}/{_names(parts)}/{place}" for place in range(len(texts)))
            drawn = map(self._expander.draw, texts, keys)
            yield _with_texts(parts, drawn), {**without_seeds(fields), "seed": seed}

    @cached_property
    def base(self) -> int:
        """The first seed where the spec has none, drawn once."""
        return expand.draw_base(expand.MAX_IMAGES)

    def warnings(self) -> Iterator[str]:
        """Those of the prompts and the selection, and that seeds were drawn for them."""
        yield from self._notes
        if "base" in vars(self):
            yield "no seed is given: every time other seeds are drawn, and with them other prompts"
        for each in self.assembled:
            yield from each.warnings(expanded=self._expanded)

    def _combinations(self, skipped: list[Skipped]) -> Iterator[Parts]:
        for each in self._choice.combinations(self._pack):
            if isinstance(each, Skipped):
                skipped.append(each)
            else:
                yield Parts(self._pack.fixed, *each, self._extra)

    def _read(self, parts: Parts) -> list[Text]:
        return [self._texts[block.file] for block in parts if block]


def selection(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec's `compose` selects, and how its prompts are made."""
    return {**spec.get("compose", {}), **{n: spec[n] for n in COMPOSING if n in spec}}


def _names(parts: Parts) -> str:
    return f"{parts.subject.name}/{parts.variable.name if parts.variable else ''}"


def _with_texts(parts: Parts, texts: Iterable[str]) -> Parts:
    """The same blocks with other texts, runs of blanks replaced by one as in a file."""
    cleaned = (" ".join(text.split()) for text in texts)
    return Parts._make(block and replace(block, text=next(cleaned)) for block in parts)
