"""Packs written to disk for the tests, and the specs that compose them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from composer.plan import Plan
from specs.errors import SpecInvalid


def write_pack(
    prompts: Path,
    pack_id: str = "mugs",
    *,
    fixed: str | bytes | None = "studio photo of",
    subjects: Mapping[str, str | bytes] | None = None,
    variables: Mapping[str, str | bytes] | None = None,
    **facts: Any,
) -> Path:
    """Write one pack and return its folder."""
    folder = prompts / pack_id
    (folder / "subjects").mkdir(parents=True)
    whole = {"schema_version": 1, "id": pack_id, "name": pack_id, "version": "1.0.0", **facts}
    (folder / "pack.json").write_text(json.dumps(whole), encoding="utf-8")
    blocks: dict[str, str | bytes] = {} if fixed is None else {"fixed_block.txt": fixed}
    given = {"mug": "a blue mug"} if subjects is None else subjects
    blocks.update({f"subjects/{name}.txt": text for name, text in given.items()})
    blocks.update({f"variable_{name}.txt": text for name, text in (variables or {}).items()})
    for name, text in blocks.items():
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def spec(compose: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A spec that composes the pack `mugs`, unless it says otherwise."""
    whole = {"pack": "mugs", "subjects": "all", **(compose or {})}
    return {"kind": "text2img", "compose": whole, **fields}


def refused(plan: Plan) -> SpecInvalid:
    """What a plan that must not run raises."""
    with pytest.raises(SpecInvalid) as caught:
        plan.reject()
    return caught.value
