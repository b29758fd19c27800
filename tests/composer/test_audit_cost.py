"""The audit's cost is linear, whatever the text, and no text makes it fail."""

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.audit import audit
from composer.audit.normalise import normalise
from composer.audit.tokens import tokenise
from tests.bench.audit import LARGE

WORDS = (
    "no not without logo logos text , . ; : and or but except nothing everything a the on of do "
    "remove hide forget free - -free ( ) \" ' / never any with none is visible removed \n "
    "| --no --ar 🚫 ✅ hardly ... instead use fully of following "
    "l\u200bogo lоgo"
).split(" ")


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict_with_offsets_inside_it(prompt: str) -> None:
    report = audit(prompt, ["logo", "a", {"term": "e", "match": "substring"}, "™"])
    for finding in (*report.findings, *report.advice):
        assert 0 <= finding.start < finding.end <= len(prompt)
    assert report.ok == (not report.findings)


@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_any_mix_of_cues_gets_a_verdict(words: list[str]) -> None:
    prompt = " ".join(words)
    report = audit(prompt, ["logo", "text"])
    spellings = {prompt[f.start : f.end] for f in (*report.findings, *report.advice)}
    assert spellings <= {"logo", "logos", "text", "l\u200bogo", "lоgo"}


@given(st.text(max_size=200))
def test_the_working_copy_knows_where_each_character_came_from(prompt: str) -> None:
    work = normalise(prompt)
    assert len(work.text) == len(work.offsets)
    assert list(work.offsets) == sorted(work.offsets)
    assert all(0 <= offset < len(prompt) for offset in work.offsets)
    tokens = tokenise(work)
    assert all(a.end <= b.start for a, b in zip(tokens, tokens[1:], strict=False))


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_plain_text_is_read_the_same_beside_other_letters(prompt: str) -> None:
    assert normalise(prompt + "木").text == normalise(prompt).text + "木"


@given(st.text(min_size=1, max_size=80), st.text(max_size=80))
def test_any_term_is_accepted_or_refused(term: str, prompt: str) -> None:
    try:
        audit(prompt, [term])
    except ValueError as error:
        assert "visible" in str(error)


@given(st.lists(st.sampled_from(["boats", "red", "lamp", "and", "sky"]), min_size=1, max_size=8))
def test_a_prompt_without_a_mention_is_always_ok(words: list[str]) -> None:
    assert audit(" ".join(words), ["logo", "text"]).verdict == "ok"


def _best(prompt: str, terms: list[object]) -> float:
    audit(prompt, terms)  # type: ignore[arg-type]
    times: list[float] = []
    for _ in range(7):
        start = time.process_time()
        audit(prompt, terms)  # type: ignore[arg-type]
        times.append(time.process_time() - start)
    return min(times)


MANY: list[object] = ["logo", "a", "text", *(f"thing number {n}" for n in range(97))]
DEEP: list[object] = ["a " * n + "b" for n in range(1, 40)] + ["a"] * 61
INSIDE: list[object] = [{"term": "a" * n, "match": "substring"} for n in range(1, 81)]
HOSTILE: dict[str, tuple[str, list[object]]] = {
    **{name: (part, MANY) for name, part in LARGE.items()},
    "deep phrases": ("a ", DEEP),
    "substrings": ("a", INSIDE),
    "exceptions": ("everything except nothing but ", MANY),
    "quotes": ("\"'", MANY),
    "lora": ("<lora:", MANY),
    "bullets": ("avoid:\n- logo\n", MANY),
    "letters": ("l o g o ", MANY),
    "places": ("logo of ", MANY),
    "joined": ("logo and ", MANY),
    "invisible": ("l\u200bo\u200bg\u200bo ", MANY),
    "numbers": ("1:1:", MANY),
    "symbols": ("🚫 logo ", MANY),
    "open brackets": ("no (logo ", MANY),
    "listed": ("avoid: logo; ", MANY),
    "ellipses": ("no... logo ", MANY),
    "predicates": ("logo is out of the question ", MANY),
    "adverbs": ("logo is very strictly ", MANY),
    "hardly": ("hardly a logo without ", MANY),
    "elided": ("l'logo ", MANY),
    "scripts": ("文logo로고", [*MANY, "文", "로고", "로 고"]),
    "signs": ("❌logo text ", MANY),
    "arrows": ("logo -> none ", MANY),
}


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer makes every line slower")
@pytest.mark.parametrize("name", HOSTILE)
def test_two_thousand_characters_against_a_hundred_terms_take_milliseconds(name: str) -> None:
    part, terms = HOSTILE[name]
    # The goal is 50 ms; the test leaves room for a slow or busy machine.
    assert _best((part * 2000)[:2000], terms) < 0.15


@pytest.mark.parametrize(
    "part", ["no logo, text and tourists on the deck but a lamp; ", "no logo ", "🚫 logo "]
)
def test_four_times_the_text_costs_about_four_times_the_time(part: str) -> None:
    short, long = ((part * 2_000)[:size] for size in (4_000, 16_000))
    assert _best(long, MANY) < 10 * _best(short, MANY)
