"""The tables of cues: every entry does what the example of its table says."""

import json
import re
from pathlib import Path

import pytest

from composer.audit import audit
from composer.audit import lexicon as lexicon_module
from composer.audit.lexicon import LANGUAGES, Table, read_tables
from composer.plan import make_plan
from composer.report import audit_line
from composer.terms import forbidden_in
from runner.errors import UsageProblem
from runner.settings import load_settings
from tests.composer.helpers import spec, write_pack

ALL = [(code, table) for code in LANGUAGES for table in read_tables(code)]
FORMS = ("plural", "ending", "past", "unchanged")  # of terms
TABLES = [(code, table) for code, table in ALL if table.name not in FORMS]
TERM = re.compile(r"([+-])(\w+)")


def failures(code: str, table: Table) -> list[str]:
    """The entries of a table with which its example reads otherwise."""
    found = TERM.search(table.example)
    assert found, f"no term in the example of {table.name}: {table.example}"
    verdict = {"+": "violation", "-": "ok"}[found[1]]
    example = TERM.sub(found[2], table.example)
    entries = table.entries if "…" in example else ("",)
    return [
        prompt
        for prompt in (example.replace("…", entry) for entry in entries)
        if audit(prompt, [found[2]], languages=[code]).verdict != verdict
    ]


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_entry_of_a_table_reads_as_its_example_says(code: str) -> None:
    wrong = {t.example: failures(c, t) for c, t in TABLES if c == code}
    assert not {example: prompts for example, prompts in wrong.items() if prompts}


def test_every_language_has_a_table_for_each_effect_that_negates() -> None:
    for code in LANGUAGES:
        names = {table.name for language, table in TABLES if language == code}
        assert names >= {"no", "not", "without", "instead", "stop", "affirm", "gone", "answer"}


def test_every_table_is_read_by_a_rule() -> None:
    folder = Path(lexicon_module.__file__).parent
    rules = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    assert not {table.name for _, table in ALL if f'"{table.name}"' not in rules}


@pytest.mark.parametrize(
    ("code", "term", "text"),
    [
        ("en", "wolf", "two wolves"), ("en", "people", "a person"), ("de", "schild", "Schilder"),
        ("fr", "tableau", "des tableaux"), ("fr", "eau", "un verre d'eau"), ("es", "luz", "luces"),
        ("it", "cartello", "due cartelli"), ("pt", "pregão", "pregões"),
    ],
)  # fmt: skip
def test_a_term_is_found_in_the_plural_of_its_language(code: str, term: str, text: str) -> None:
    assert audit(text, [term], languages=[code]).verdict == "violation"


@pytest.mark.parametrize(
    ("prompt", "verdict"),
    [
        ("auf keinen Fall Logo vergessen", "violation"), ("auf Logo verzichten", "ok"),
        ("ohne das Logo auf der Tasse zu verdecken", "violation"),
        ("ohne auf Logo zu verzichten", "violation"), ("auf Logo nicht verzichten", "violation"),
        ("auf dem Logo ein Hut", "violation"),
        ("auf Logo verzichten wir nicht", "violation"), ("das Logo fehlt nicht", "violation"),
        ("Logo auf keinen Fall entfernen", "violation"),
        ("ohne Logo und ohne den Rand zu vergessen", "ok"),
        ("kein Logo zeigen und nichts vergessen", "ok"),
    ],
)  # fmt: skip
def test_a_verb_at_the_end_of_a_german_phrase_inverts_what_is_before_it(
    prompt: str, verdict: str
) -> None:
    assert audit(prompt, ["logo"], languages=["de"]).verdict == verdict


@pytest.mark.parametrize(
    ("code", "prompt", "verdict"),
    [
        ("pt", "substitua o boné por um logo", "violation"), ("pt", "substitua o logo", "ok"),
        ("fr", "garde le logo mais enlève le chapeau", "violation"),
        ("fr", "garde le chapeau mais enlève le logo", "ok"),
        ("es", "ningún otro logo que el nuestro", "violation"),
        ("de", "statt eines Hutes soll ein Logo auf die Kappe", "violation"),
        ("de", "das Logo erscheint nicht", "ok"), ("fr", "le logo n'apparaît pas", "ok"),
    ],
)  # fmt: skip
def test_other_languages_exchange_and_except_as_english_does(
    code: str, prompt: str, verdict: str
) -> None:
    assert audit(prompt, ["logo"], languages=[code]).verdict == verdict


def test_other_languages_are_read_only_where_they_are_asked_for() -> None:
    assert audit("eine Kappe ohne Logo", ["logo"]).verdict == "violation"
    assert audit("eine Kappe ohne Logo", ["logo"], languages=["de"]).verdict == "ok"
    assert audit("a cap without a logo", ["logo"], languages=["de"]).verdict == "ok"


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'nl' is no language of the audit: en, de"):
        audit("a logo", ["logo"], languages=["nl"])


def test_a_plan_and_a_single_prompt_are_audited_in_the_languages_of_the_settings(
    tmp_path: Path,
) -> None:
    write_pack(tmp_path, fixed="Foto ohne Text:", subjects={"mug": "eine Tasse ohne Logo"})
    plans = [
        make_plan(spec(), tmp_path, forbidden=["Text", "Logo"], languages=languages)
        for languages in (("en",), ("en", "de"))
    ]
    assert [plan.finding_count for plan in plans] == [2, 0]
    assert len(forbidden_in("eine Tasse ohne Logo", ["Logo"])) == 1
    assert forbidden_in("eine Tasse ohne Logo", ["Logo"], ["de"]) == []


def test_a_line_of_json_names_its_languages() -> None:
    line = {"id": 1, "prompt": "sin logo", "terms": ["logo"]}
    answers = [audit_line(json.dumps({**line, **more})) for more in ({}, {"languages": ["es"]})]
    assert [answer and answer["verdict"] for answer in answers] == ["violation", "ok"]
    wrong = audit_line(json.dumps({**line, "languages": ["nl"]}))
    assert wrong is not None and "'nl' is no language of the audit" in wrong["error"]


def test_every_language_of_the_audit_may_be_set(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text(f"audit_languages: [{', '.join(LANGUAGES)}]\n", encoding="utf-8")
    assert load_settings(file).audit_languages == tuple(LANGUAGES)
    file.write_text("audit_languages: [nl]\n", encoding="utf-8")
    with pytest.raises(UsageProblem, match="audit_languages"):
        load_settings(file)
