"""The entries of a plan, one for each prompt."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.assemble import Assembled
from composer.audit import Report
from composer.choose import Skipped
from composer.table import Row


@dataclass(frozen=True)
class Entry:
    """One prompt of a plan, its audit, its spec fields, and the row of a table that it is from."""

    subject: str
    variable: str | None
    assembled: Assembled
    report: Report
    fields: Mapping[str, Any]
    row: Row | None = None
    where: str = ""
    """The row in words."""

    @property
    def prompt(self) -> str:
        """The final prompt."""
        return self.assembled.prompt

    @property
    def path(self) -> str:
        """The combination, or the row, as the path of a problem."""
        if self.where:
            return f"table: {self.where}"
        variable = f", variable {self.variable}" if self.variable else ""
        seed = f", seed {self.fields['seed']}" if "seed" in self.fields else ""
        return f"compose: subject {self.subject}{variable}{seed}"

    def named(self) -> dict[str, Any]:
        """The combination as JSON for other programs."""
        row = {"row": self.row.number} if self.row else {}
        return {**row, "subject": self.subject, "variable": self.variable}


def duplicate_key(entry: Entry) -> str:
    """A text that is equal for entries with the same fields and equivalent prompts.

    Prompts that differ only in case, blanks or Unicode compatibility forms are equivalent.
    """
    prompt = " ".join(unicodedata.normalize("NFKC", entry.prompt).casefold().split())
    # Equal rows of a table are two all the same: each has its line in the results.
    row = entry.row and entry.row.number
    return json.dumps([prompt, {**entry.fields, "prompt": ""}, row], sort_keys=True)


def left_out(entry: Entry) -> Skipped:
    """The Skipped of an entry that is forbidden or too long."""
    if entry.report.ok:
        reason = entry.assembled.too_long()
    else:
        terms = ", ".join(dict.fromkeys(repr(f.term) for f in entry.report.findings))
        reason = f"asks for {terms}, which is forbidden"
    file = next((s.file for s in entry.assembled.spans if s.block == "subject"), "")
    file = entry.where or file
    return Skipped(file, reason, entry.subject, entry.variable)
