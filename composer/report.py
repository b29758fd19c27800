"""The JSON shapes of `compose` and `compose --plan`, as other programs read them.

Keys may be added, never removed. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.assemble import assemble
from composer.audit import Report, Term, audit, parse_terms
from composer.choose import choose
from composer.packs import Pack, read_pack
from composer.terms import MOST_FINDINGS, terms_for
from composer.tokencount import Encoder, flux1_like, token_warnings, tokens_json
from specs.errors import Problem, SpecInvalid

if TYPE_CHECKING:
    from composer.plan import Plan

# Of a photograph; measured sizes of a PNG lie between one and two bytes a pixel.
_BYTES_A_PIXEL = {"png": 1.6, "jpeg": 0.4, "webp": 0.3}
# Sidecar, thumbnail, and what the picture tells of itself, in whole blocks of a disk.
_BYTES_BESIDE = 16_384


def compose_json(
    prompts: Path | Pack,
    compose: Mapping[str, Any],
    *,
    forbidden: Iterable[str | Mapping[str, Any] | Term] = (),
    encoders: Sequence[Encoder] | None = None,
) -> dict[str, Any]:
    """One prompt with its blocks and its audit: the first combination that `compose` names."""
    pack = prompts if isinstance(prompts, Pack) else read_pack(prompts, str(compose["pack"]))
    choice = choose(pack, compose)
    for combination in choice.combinations(pack):
        if isinstance(combination, tuple):
            subject, variable = combination
            break
    else:
        why = "; ".join(f"{s.file} {s.reason}" for s in choice.skipped) or "no combination is left"
        raise SpecInvalid("NothingToRun", [Problem(0, 0, "compose", why)])
    made = assemble(pack, subject, variable, str(compose.get("extra", "")))
    report = audit(
        made.prompt, terms_for(pack, subject, variable, parse_terms(forbidden)), made.spans
    )
    encoders = flux1_like() if encoders is None else encoders
    warnings = [made.too_long()] if made.over_by else []
    warnings += token_warnings(made.prompt, encoders)
    return {
        "prompt": made.prompt,
        "length": made.length,
        "over_by": made.over_by,
        "blocks": made.blocks_json(),
        "audit": report.to_json(),
        "pack": pack.id,
        "version": pack.version,
        "sha256": pack.sha256,
        "subject": subject.name,
        "variable": variable.name if variable else None,
        "tokens": tokens_json(made.prompt, encoders),
        "warnings": warnings,
    }


def audit_json(prompt: str, terms: Iterable[Any]) -> dict[str, Any]:
    """The audit of one prompt as other programs read it."""
    report: Report = audit(prompt, terms)
    return report.to_json()


def plan_json(
    plan: Plan, most_items: int | None = None, seconds_per_image: float | None = None
) -> dict[str, Any]:
    """A whole plan as other programs read it; `most_items` shortens the list, never the count."""
    count = plan.count
    listed = count if most_items is None else min(count, most_items)
    items: list[dict[str, Any]] = []
    pixels = 0
    for index in range(listed):
        item = plan.item(index)
        size = (item.parameters.get("width"), item.parameters.get("height"))
        pixels += int(size[0] or 1024) * int(size[1] or 1024)
        items.append(
            {
                **item.entry.named(),
                "seed": item.seed,
                "prompt": item.entry.prompt,
                "length": item.entry.assembled.length,
                "verdict": item.entry.report.verdict,
                "key": item.key,
            }
        )
    share = count / listed if listed else 0
    each = _BYTES_A_PIXEL[plan.spec.get("format", "png")]
    return {
        "pack": plan.pack.id,
        "version": plan.pack.version,
        "sha256": plan.pack.sha256,
        "count": count,
        "items": items,
        "skipped": [skipped.to_json() for skipped in plan.skipped],
        "violations": [
            {**entry.named(), **finding.to_json()}
            for entry, finding in plan.findings(MOST_FINDINGS)
        ],
        "violation_count": plan.finding_count,
        "duplicates": [
            {**entry.named(), "same_as": entry.same_as.named() if entry.same_as else None}
            for entry in plan.duplicates
        ],
        "over_long": [
            {
                **entry.named(),
                "length": entry.assembled.length,
                "over_by": entry.assembled.over_by,
                "longest": entry.assembled.longest.block,
                "file": entry.assembled.longest.file,
            }
            for entry in plan.over_long
        ],
        "warnings": list(plan.warnings),
        "tokens": [seen.to_json() for seen in plan.seen],
        "rejected": plan.rejects and bool(plan.violations or plan.over_long),
        "estimate": {
            "bytes": round(pixels * share * each) + count * _BYTES_BESIDE,
            "seconds": None if seconds_per_image is None else round(seconds_per_image * count, 1),
        },
    }
