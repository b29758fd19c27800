"""The JSON of `compose`, `compose --plan` and `audit --jsonl` for other programs.

Keys may be added, never removed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from composer.assemble import compose
from composer.audit import Term, audit, parse_terms
from composer.choose import choose
from composer.expansion import Expansion
from composer.packs import Pack
from composer.plan import Plan
from composer.tokencount import Encoder, token_warnings, tokens_json
from specs.errors import Problem, SpecInvalid

# For a photograph; measured PNG files have between one and two bytes a pixel.
_BYTES_A_PIXEL = {"png": 1.6, "jpeg": 0.4, "webp": 0.3}


def compose_json(
    pack: Pack,
    selected: Mapping[str, Any],
    *,
    forbidden: Iterable[str | Mapping[str, Any] | Term] = (),
    languages: tuple[str, ...] = (),
    encoders: Sequence[Encoder],
    seed: int = 0,
) -> dict[str, Any]:
    """The prompt of the first combination that `selected` names, its blocks and its audit.

    Its choices are those of `seed`. Raises SpecInvalid (NothingToRun) if no combination is left.
    """
    choice = choose(pack, selected)
    expansion = Expansion(pack, choice, selected)
    parts = next(expansion.prompts([]), None)
    if parts is None:
        why = "; ".join(f"{s.file} {s.reason}" for s in choice.skipped) or "no combination is left"
        raise SpecInvalid("NothingToRun", [Problem(0, 0, "compose", why)])
    parts, _ = next(expansion.seeded({"seed": seed}, {}, parts))
    subject, variable = parts.subject, parts.variable
    assembled, report = compose(pack, parts, parse_terms(forbidden), languages)
    warnings = [assembled.too_long()] if assembled.over_by else []
    warnings += expansion.warnings([assembled])
    warnings += token_warnings(assembled.prompt, encoders)
    return {
        "prompt": assembled.prompt,
        "length": len(assembled.prompt),
        "over_by": assembled.over_by,
        "blocks": [
            {"block": span.block, "file": span.file, "length": span.length}
            for span in assembled.spans
        ],
        "audit": report.to_json(),
        "pack": pack.id,
        "version": pack.version,
        "sha256": pack.sha256,
        "subject": subject.name,
        "variable": variable.name if variable else None,
        **({"seed": seed} if expansion.by_seed else {}),
        "tokens": tokens_json(assembled.prompt, encoders),
        "warnings": warnings,
    }


def audit_line(line: str) -> dict[str, Any] | None:
    """Answer the line `{"id", "prompt", "terms"}` with `{"id", "verdict", "findings"}`.

    A line may have `languages`, as the setting `audit_languages`.

    The answer to a line that cannot be read has an `error`; an empty line has no answer.
    """
    if not line.strip():
        return None
    request: Any = None
    try:
        request = json.loads(line)
        prompt = request["prompt"]
        if not isinstance(prompt, str):
            raise TypeError("prompt is not text")
        report = audit(prompt, request["terms"], languages=request.get("languages", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line_id = request.get("id") if isinstance(request, dict) else None
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return {"id": line_id, "error": f'a line is {{"id", "prompt", "terms"}}: {reason}'}
    return {"id": request.get("id"), **report.to_json()}


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan with all its items; the findings are shortened, but counted in full."""
    items: list[dict[str, Any]] = []
    pixels = 0
    for item in plan.items():
        width, height = item.parameters.get("width"), item.parameters.get("height")
        times = int(item.parameters.get("upscale", 1))
        kept = times > 1 and bool(plan.spec.get("keep_original"))
        pixels += int(width or 1024) * int(height or 1024) * (times**2 + kept)
        items.append(
            {
                **item.entry.named(),
                "seed": item.seed,
                "prompt": item.entry.prompt,
                "length": len(item.entry.prompt),
                "verdict": item.entry.report.verdict,
                "key": item.key,
            }
        )
    # The sidecar, the thumbnail and the picture's own metadata, in whole blocks of a disk.
    other_bytes = 16_384 * len(items)
    picture_bytes = round(pixels * _BYTES_A_PIXEL[plan.spec.get("format", "png")])
    return {
        "pack": plan.pack.id,
        "version": plan.pack.version,
        "sha256": plan.pack.sha256,
        "count": len(items),
        "items": items,
        "skipped": [asdict(skipped) for skipped in plan.skipped],
        "violations": [
            {**entry.named(), **finding.to_json()} for entry, finding in plan.findings()
        ],
        "violation_count": plan.finding_count,
        "duplicates": [
            {**entry.named(), "same_as": first.named()} for entry, first in plan.duplicates
        ],
        "over_long": [
            {
                **entry.named(),
                "length": len(entry.prompt),
                "over_by": entry.assembled.over_by,
                "longest": entry.assembled.longest.block,
                "file": entry.assembled.longest.file,
            }
            for entry in plan.over_long
        ],
        "warnings": list(plan.warnings),
        "tokens": [totals.to_json() for totals in plan.tokens],
        "rejected": plan.rejects and bool(plan.violations or plan.over_long),
        "estimate": {"bytes": picture_bytes + other_bytes},
    }
