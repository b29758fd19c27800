"""The audit on labelled prompts: the development set, and sets of our own.

`labelled_tuning` was used while the rules were written. The others were written before they were
first measured; the first figures (accuracy, recall, false alarms) are what to expect of prompts
that nobody has seen, and later rules were made from the errors of all but `labelled_blind`:

    labelled_blind    0.997  0.993  0.000      labelled_scenes   0.923  0.911  0.062
    labelled_hard     0.961  0.963  0.041      labelled_objects  0.971  0.988  0.052
    labelled_work     0.802  0.775  0.169      labelled_probe    0.933  0.967  0.105
    labelled_held     0.975  0.975  0.026      labelled_fresh    0.960  0.986  0.065
    labelled_probe_more  0.907  0.893  0.077

    labelled_users    0.974  0.984  0.038      users_abroad      0.978  0.978  0.022
    labelled_requests 0.921  0.961  0.127      requests_abroad   0.850  0.794  0.077
    labelled_briefs   0.912  0.923  0.102      labelled_orders   0.956  0.919  0.000
    labelled_pictures 0.907  0.875  0.057      labelled_shots    0.963  0.929  0.000

`labelled_users` and `labelled_requests` have what people write to image generators, in English and,
with `_abroad`, in other languages. The first pair was written before its writer had read the rules,
the second after the rules that it led to, with more of the kinds that are hard, and
`labelled_briefs`, `labelled_orders`, `labelled_pictures` and `labelled_shots` one after the other,
in all languages, each after the rules that the one before it led to. The second pair, these four,
`labelled_work` and the probes are of kinds that the rules missed when they were written.
`labelled_held` was written before the new rules, the probes and `labelled_fresh` after them, the
probes to break them. The sets of other languages were written before their tables by the same hand,
and the second ones after them:

    german_held       0.967  0.929  0.000      french_held       1.000  1.000  0.000
    spanish_held      0.967  1.000  0.062      italian_held      1.000  1.000  0.000
    portuguese_held   1.000  1.000  0.000
"""

from dataclasses import replace
from pathlib import Path

import pytest

from composer.audit import audit
from tests.bench.audit import LANGUAGES, Row, by_audit, load, main, measure

DATA = Path(__file__).parent / "data"
OURS = (
    "labelled_tuning",
    "labelled_blind",
    "labelled_hard",
    "labelled_scenes",
    "labelled_objects",
    "labelled_work",
    "labelled_probe",
    "labelled_probe_more",
    "labelled_held",
    "labelled_fresh",
    "labelled_users",
    "labelled_requests",
)
ABROAD = (
    "labelled_users_abroad",
    "labelled_requests_abroad",
    "labelled_briefs",
    "labelled_orders",
    "labelled_pictures",
    "labelled_shots",
)
HELD = tuple(f"{name}_held" for name in LANGUAGES)


def test_the_development_set_has_at_most_two_errors() -> None:
    found = measure(load(DATA / "negation_dev.tsv"), by_audit)
    assert found["errors"] <= 2


@pytest.mark.parametrize("name", (*OURS, *ABROAD, *LANGUAGES, *HELD))
def test_labelled_sets_meet_the_goals(name: str) -> None:
    found = measure(load(DATA / f"{name}.tsv"), by_audit)
    assert found["accuracy"] >= 0.97
    assert found["recall"] >= 0.98
    assert found["false_alarms"] <= 0.04


@pytest.mark.parametrize("name", OURS)
def test_a_prompt_in_english_reads_the_same_beside_any_other_language(name: str) -> None:
    rows = load(DATA / f"{name}.tsv")
    for code in LANGUAGES.values():
        wrong = [r.prompt for r in rows if by_audit(replace(r, languages=(code,))) != r.label]
        assert len(wrong) <= 0.03 * len(rows), (code, wrong)


@pytest.mark.parametrize("name", OURS)
def test_labelled_sets_are_balanced_and_without_contradictions(name: str) -> None:
    rows = load(DATA / f"{name}.tsv")
    violations = sum(row.label == "violation" for row in rows)
    assert 0.4 <= violations / len(rows) <= 0.6
    assert len({(row.prompt, row.term) for row in rows}) == len(rows)
    assert {row.label for row in rows} == {"violation", "ok"}


def test_our_sets_share_no_prompt_with_the_development_set() -> None:
    theirs = {row.prompt.casefold() for row in load(DATA / "negation_dev.tsv")}
    ours: list[Row] = []
    for name in OURS:
        ours += load(DATA / f"{name}.tsv")
    assert not {row.prompt.casefold() for row in ours} & theirs


def test_capital_letters_do_not_change_a_verdict() -> None:
    for row in load(DATA / "labelled_tuning.tsv"):
        if "BREAK" not in row.prompt and row.note != "evasion":
            assert audit(row.prompt.upper(), [row.term]).verdict == row.label, row.prompt


def test_the_bench_prints_all_three_ways_in_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    shown = capsys.readouterr().out
    assert all(f'"{name}"' in shown for name in ("audit", "window", "negspacy"))
