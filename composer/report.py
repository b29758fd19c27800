"""The JSON of `compose`, `compose --plan` and `audit --jsonl` for other programs.

Keys are added, and removed only with a line in CHANGELOG.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from composer.audit import audit
from composer.parameters import encoders_of
from composer.plan import Plan
from composer.tokencount import token_warnings, tokens_json

# For a photograph; measured PNG files have between one and two bytes a pixel.
_BYTES_A_PIXEL = {"png": 1.6, "jpeg": 0.4, "webp": 0.3}


def compose_json(plan: Plan) -> dict[str, Any]:
    """The first prompt of a plan, its blocks and its audit.

    Raises SpecInvalid (NothingToRun) if the plan has none.
    """
    if not plan.entries:
        plan.reject()
    entry = plan.entries[0]
    assembled, fields, pack = entry.assembled, {**plan.spec, **plan.prompts[0]}, plan.pack
    encoders = encoders_of(plan.model_defaults(fields.get("model", plan.settings.get("model"))))
    expanded = bool(plan.spec.get("choices", pack.choices))
    return {
        "prompt": entry.prompt,
        "length": len(entry.prompt),
        "over_by": assembled.over_by,
        "blocks": [
            {"block": span.block, "file": span.file, "length": span.length}
            for span in assembled.spans
        ],
        "audit": entry.report.to_json(),
        "pack": pack.id,
        "version": pack.version,
        "sha256": pack.sha256,
        "subject": entry.subject,
        "variable": entry.variable,
        **({"seed": entry.fields["seed"]} if "seed" in entry.fields else {}),
        "tokens": tokens_json(entry.prompt, encoders),
        "warnings": [
            *filter(None, [assembled.too_long()]),
            *assembled.warnings(expanded=expanded),
            *token_warnings(entry.prompt, encoders),
        ],
    }


def audit_line(line: str, languages: Sequence[str] = ()) -> dict[str, Any] | None:
    """Answer the line `{"id", "prompt", "terms"}` with `{"id", "verdict", "findings"}`.

    A line may have `languages` of its own, as the setting `audit_languages` has them.

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
        report = audit(prompt, request["terms"], languages=request.get("languages", languages))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line_id = request.get("id") if isinstance(request, dict) else None
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return {"id": line_id, "error": f'a line is {{"id", "prompt", "terms"}}: {reason}'}
    return {"id": request.get("id"), **report.to_json()}


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan with all its images; the findings are shortened, but counted in full."""
    items: list[dict[str, Any]] = []
    picture_bytes = 0.0
    for entry, fields in plan.images():
        pixels = int(fields.get("width") or 1024) * int(fields.get("height") or 1024)
        times = int(fields.get("upscale", 1))
        picture_bytes += pixels * times**2 * _BYTES_A_PIXEL[fields.get("format", "png")]
        if times > 1 and fields.get("keep_original"):
            picture_bytes += pixels * _BYTES_A_PIXEL["png"]
        items.append(
            {
                **entry.named(),
                "seed": fields.get("seed"),
                "prompt": entry.prompt,
                "length": len(entry.prompt),
                "verdict": entry.report.verdict,
            }
        )
    # The sidecar, the thumbnail and the picture's own metadata, in whole blocks of a disk.
    other_bytes = 16_384 * len(items)
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
        "estimate": {"bytes": round(picture_bytes) + other_bytes},
    }
