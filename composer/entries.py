"""What a plan is made of: one entry for each prompt, one item for each image, and their names.

Frozen values. The key of an item depends on what it is, never on its place in the run.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.assemble import Assembled
from composer.audit import Report
from composer.choose import Skipped
from composer.packs import Pack


@dataclass(frozen=True)
class Entry:
    """One prompt of a plan: its blocks, the fields it brings, its audit, and what it is beside."""

    subject: str
    variable: str | None
    assembled: Assembled
    report: Report
    fields: Mapping[str, Any]
    same_as: Entry | None = None

    @property
    def prompt(self) -> str:
        """The final prompt."""
        return self.assembled.prompt

    def named(self) -> dict[str, Any]:
        """Which combination it is, as other programs read it."""
        return {"subject": self.subject, "variable": self.variable}


@dataclass(frozen=True)
class Item:
    """One image of a plan: its spec fields, where its prompt came from, and a stable key."""

    entry: Entry
    parameters: Mapping[str, Any]
    seed: int | None
    key: str


def where(entry: Entry) -> str:
    variable = f", variable {entry.variable}" if entry.variable else ""
    return f"compose: subject {entry.subject}{variable}"


def key(pack: Pack, entry: Entry, parameters: Mapping[str, Any]) -> str:
    """A name for one image that depends on what it is, never on its place in the run."""
    facts = [pack.id, entry.subject, entry.variable, {**parameters, "prompt": entry.prompt}]
    canonical = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def alike(entry: Entry) -> str:
    """Equal for entries whose pictures would be the same."""
    prompt = " ".join(unicodedata.normalize("NFKC", entry.prompt).casefold().split())
    return json.dumps([prompt, {**entry.fields, "prompt": ""}], sort_keys=True)


def left_out(entry: Entry) -> Skipped:
    if entry.report.ok:
        reason = entry.assembled.too_long()
    else:
        terms = ", ".join(dict.fromkeys(repr(f.term) for f in entry.report.findings))
        reason = f"asks for {terms}, which is forbidden"
    file = next((s.file for s in entry.assembled.spans if s.block == "subject"), "")
    return Skipped(file, reason, entry.subject, entry.variable)
