"""Measures the audit: accuracy and time on labelled prompts, beside two simpler ways.

`python -m tests.bench audit` prints the table; `--json` prints the figures alone. `window` is the
usual regular expression (a term within three words after no, not or without), `negspacy` is
negspaCy on a blank English pipeline, with the one of its own rule sets that does best on the
development set; a term is known in the singular and with -s and -es, as it is to `window`. It needs
no model, only `pip install -e '.[bench]'`, and is left out where it is not installed.
"""

import argparse
import importlib.util
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.audit import audit
from composer.audit.lexicon import LANGUAGES as NAMES

DATA = Path(__file__).parent.parent / "composer" / "data"
DEVELOPMENT = DATA / "negation_dev.tsv"
LANGUAGES = {f"labelled_{name}": code for code, name in NAMES.items() if code != "en"}
"""The labelled sets of other languages, with the language that they are read with."""


@dataclass(frozen=True)
class Row:
    """One labelled prompt: does it ask for the term?"""

    prompt: str
    term: str
    label: str
    note: str
    languages: tuple[str, ...] = ()


def load(file: Path) -> list[Row]:
    """The rows of a labelled set; `\\n` in a prompt stands for a line end.

    The languages of a row are those of its file, or what its note has the code of.
    """
    rows: list[Row] = []
    code = LANGUAGES.get(file.stem.removesuffix("_held"))
    for line in file.read_text(encoding="utf-8").split("\n"):
        if line:
            prompt, term, label, note = line.split("\t")
            languages = tuple({code, note} & {*LANGUAGES.values()})
            rows.append(Row(prompt.replace("\\n", "\n"), term, label, note, languages))
    return rows


Judge = Callable[[Row], str]


def by_audit(row: Row) -> str:
    """The audit of this project."""
    return audit(row.prompt, [row.term], languages=row.languages).verdict


def by_window(row: Row) -> str:
    """A mention is excused by no, not or without up to three words before it."""
    prompt, term = row.prompt, row.term
    word = rf"\b{re.escape(term)}(?:e?s)?\b"
    excused = rf"\b(?:no|not|without)\W+(?:\w+\W+){{0,3}}?(?={word})"
    mentions = {match.start() for match in re.finditer(word, prompt, re.I)}
    covered = {match.end() for match in re.finditer(excused, prompt, re.I)}
    return "violation" if mentions - covered else "ok"


def negspacy() -> Judge | None:
    """negspaCy with rules of its own; None where it is not installed."""
    if importlib.util.find_spec("negspacy") is None or importlib.util.find_spec("spacy") is None:
        return None
    import spacy
    from negspacy.negation import Negex  # noqa: F401 (registers its pipe)
    from negspacy.termsets import termset

    rules = termset("en_clinical_sensitive").get_patterns()
    language: Any = spacy.blank("en")
    language.add_pipe("sentencizer")
    ruler = language.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    language.add_pipe("negex", config={"ent_types": ["TERM"], "neg_termset": rules})

    def judge(row: Row) -> str:
        prompt, term = row.prompt, row.term
        ruler.clear()
        ruler.add_patterns(
            [{"label": "TERM", "pattern": form} for form in (term, f"{term}s", f"{term}es")]
        )
        found = language(prompt).ents
        return "violation" if any(not entity._.negex for entity in found) else "ok"

    return judge


def measure(rows: list[Row], judge: Judge) -> dict[str, float]:
    """Accuracy, recall of violations, share of false alarms, and time for one prompt."""
    seconds: list[float] = []
    wrong = {"violation": 0, "ok": 0}
    for row in rows:
        start = time.perf_counter()
        verdict = judge(row)
        seconds.append(time.perf_counter() - start)
        wrong[row.label] += verdict != row.label
    violations = sum(row.label == "violation" for row in rows)
    return {
        "rows": len(rows),
        "errors": wrong["violation"] + wrong["ok"],
        "accuracy": round(1 - (wrong["violation"] + wrong["ok"]) / len(rows), 4),
        "recall": round(1 - wrong["violation"] / max(1, violations), 4),
        "false_alarms": round(wrong["ok"] / max(1, len(rows) - violations), 4),
        "milliseconds": round(statistics.median(seconds) * 1000, 3),
    }


def by_kind(rows: list[Row]) -> dict[str, tuple[int, int]]:
    """For each kind of row, how many the audit gets wrong, and of how many."""
    kinds: dict[str, tuple[int, int]] = {}
    for row in rows:
        wrong, of = kinds.get(row.note, (0, 0))
        kinds[row.note] = (wrong + (by_audit(row) != row.label), of + 1)
    return kinds


LONG = "quiet harbour at dawn, no boats or tourists; soft light on water without a logo, a lamp. "
LARGE = {
    "prose": LONG,
    "negators": "no not without ",
    "lists": "no logo, ",
    "one letter": "a ",
    "hyphens": "logo-",
    "brackets": "((((",
}


def measure_large(terms: int = 100, characters: int = 2000) -> dict[str, float]:
    """Milliseconds for the longest prompt against many terms, friendly and not."""
    many = ["logo", "boat", "tourist", *(f"thing number {n}" for n in range(terms - 3))]
    times: dict[str, float] = {}
    for name, part in LARGE.items():
        prompt = (part * characters)[:characters]
        audit(prompt, many)
        best = min(_timed(prompt, many) for _ in range(5))
        times[name] = round(best * 1000, 2)
    return times


def _timed(prompt: str, terms: list[str]) -> float:
    start = time.perf_counter()
    audit(prompt, terms)
    return time.perf_counter() - start


def _table(rows: list[Row]) -> Iterator[tuple[str, dict[str, float] | None]]:
    yield "audit", measure(rows, by_audit)
    yield "window", measure(rows, by_window)
    other = negspacy()
    yield "negspacy", measure(rows, other) if other else None


def main(argv: list[str]) -> int:
    """Measure one labelled set, by default the development set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench audit", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEVELOPMENT, help="another labelled set")
    parser.add_argument("--errors", action="store_true", help="list what the audit gets wrong")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    rows = load(given.data)
    table = dict(_table(rows))
    large = measure_large()
    if given.json:
        figures = {"data": given.data.name, "table": table, "large_milliseconds": large}
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{given.data.name}: {len(rows)} prompts")
    print(f"{'':10} accuracy  recall  false alarms  errors  ms a prompt")
    for name, found in table.items():
        if found is None:
            print(f"{name:10} not installed: pip install -e '.[bench]'")
            continue
        print(
            f"{name:10} {found['accuracy']:8.3f} {found['recall']:7.3f} "
            f"{found['false_alarms']:13.3f} {found['errors']:7.0f} {found['milliseconds']:12.3f}"
        )
    shown = ", ".join(f"{name} {value} ms" for name, value in large.items())
    print(f"2,000 characters against 100 terms: {shown}")
    for kind, (wrong, of) in by_kind(rows).items():
        print(f"  {kind}: {wrong} of {of} wrong")
    if given.errors:
        for row in rows:
            if by_audit(row) != row.label:
                print(f"  {row.label}: {row.term!r} in {row.prompt!r}")
    return 0
