"""What the audit reports: offsets, blocks, cues, rules, levels, and how terms match."""

import pytest

from composer.audit import Report, Span, audit
from composer.report import audit_line


def verdict(prompt: str, *terms: object) -> str:
    return audit(prompt, terms).verdict  # type: ignore[arg-type]


def only(report: Report) -> tuple[str, str]:
    (finding,) = (*report.findings, *report.advice)
    return finding.rule, finding.cue


def test_a_finding_names_term_place_cue_and_rule() -> None:
    report = audit("A mug, no text but two logos", ["logo"])
    (finding,) = report.findings
    assert "A mug, no text but two logos"[finding.start : finding.end] == "logos"
    assert (finding.cue, finding.rule) == ("but", "terminator") and finding in report.findings


def test_offsets_count_in_the_original_text_whatever_it_holds() -> None:
    prompt = "ﬁne 🎨 “lo\u200bgo” and lógo"
    starts = [(f.start, prompt[f.start : f.end]) for f in audit(prompt, ["logo"]).findings]
    assert starts == [(7, "lo\u200bgo"), (18, "lógo")]


def test_a_decomposed_letter_is_reported_with_its_mark() -> None:
    prompt = "a logo\u0301 here"
    (finding,) = audit(prompt, ["logo"]).findings
    assert prompt[finding.start : finding.end] == "logo\u0301"


def test_a_negated_mention_is_advice_and_never_blocks() -> None:
    report = audit("a mug without text", ["text"])
    assert report.ok and not report.findings
    assert only(report) == ("negated", "without")
    assert "describe what is wanted" in report.advice[0].note


def test_a_warning_term_is_advice_even_when_asked_for() -> None:
    report = audit("a hand", [{"term": "hand", "severity": "warn", "reason": "hides the design"}])
    assert report.ok
    assert report.advice[0].note == "hides the design"


def test_a_negation_ends_at_a_block_border() -> None:
    prompt = "no text, logos, tourists"
    spans = (Span("fixed", "f", 0, 14), Span("subject", "s", 16, 24))
    assert verdict(prompt, "tourist") == "ok"
    report = audit(prompt, ["tourist"], spans)
    assert report.verdict == "violation"
    assert report.findings[0].block == "subject"


def test_a_term_across_a_block_border_is_found() -> None:
    spans = (Span("fixed", "f", 0, 7), Span("subject", "s", 8, 11))
    assert audit("a price tag", ["price tag"], spans).verdict == "violation"


@pytest.mark.parametrize(
    ("prompt", "rule", "why"),
    [
        ("a logo", "affirmed", "nothing negates it"),
        ("no logo", "negated", "'no' negates it"),
        ("no text, logo", "list", "'no' negates the list that it is in"),
        ("no text, bold logo", "list-end", "'no' before it ends at the comma"),
        ("no hat (a logo on it)", "list-end", "'no' before it ends at the bracket"),
        ("no text and a bold logo", "list-end", "'no' before it ends at 'and'"),
        ("no text but a logo", "terminator", "'but' ends the negation before it"),
        ("do not hide the logo", "double-negation",
         "'do not hide' negates twice, which asks for it"),
        ("no doubt a logo", "pseudo", "'no doubt' negates nothing"),
        ("no glare on the logo", "presupposed",
         "'no' negates something else, and speaks of this as there"),
        ("no text except a logo", "exception", "'except' makes it the one thing left"),
        ("everything except the logo", "exception", "'everything except' leaves it out"),
        ("logo-free", "affix", "'-free' at the word negates it"),
        ("logo: none", "after", "': none' after it says that it is absent"),
        ("a stripe instead of a logo", "replacement",
         "'instead of' puts something else in its place"),
        ("Negative prompt: blurry, logo", "negative-list",
         "it is in the list after 'negative prompt'"),
    ],
)  # fmt: skip
def test_each_rule_says_its_name_and_why(prompt: str, rule: str, why: str) -> None:
    report = audit(prompt, ["logo"])
    (finding,) = (*report.findings, *report.advice)
    assert (finding.rule, finding.why) == (rule, why)
    assert finding.to_json()["why"] == why


@pytest.mark.parametrize(
    ("within", "beyond", "reached"),
    [
        ("a no-huge-old-logo cap", "a no-huge-old-red-logo cap", "ok"),
        ("an almost huge-old-red-logo-free cap", "an almost big-huge-old-red-logo-free cap",
         "violation"),
        ("logo-, tag-, dye- and text-free", "logo-, tag-, dye-, zip- and text-free", "ok"),
    ],
)  # fmt: skip
def test_an_affix_reaches_three_words_of_a_compound_or_list_and_no_further(
    within: str, beyond: str, reached: str
) -> None:
    other = {"ok": "violation", "violation": "ok"}[reached]
    assert (verdict(within, "logo"), verdict(beyond, "logo")) == (reached, other)


@pytest.mark.parametrize("text", ["logos", "LOGO", "logo's", "logoed", "lo-go", "logo-like"])
def test_a_word_is_found_in_its_forms(text: str) -> None:
    assert verdict(f"a {text} here", "logo") == "violation"


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("person", "people"), ("people", "person"), ("berry", "berries"), ("knife", "knives"),
        ("box", "boxes"), ("words", "word"), ("price tag", "pricetags"), ("tag", "tagged"),
        ("price tag", "price - tag".replace(" ", "")), ("human face", "human  faces"),
        ("café", "cafe"), ("naïve", "naïve"), ("文字", "看板の文字"), ("логотип", "логотип"),
    ],
)  # fmt: skip
def test_inflections_spellings_and_scripts(term: str, text: str) -> None:
    assert verdict(text, term) == "violation"


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("text", "texture"), ("art", "cart"), ("glasses", "a glass of water"), ("cat", "catalog"),
        ("logo", "logotypes"), ("C++", "C"), ("#1", "#12"), ("™", "TM"), ("us", "bus"),
    ],
)  # fmt: skip
def test_other_words_do_not_match(term: str, text: str) -> None:
    assert verdict(text, term) == "ok"


@pytest.mark.parametrize(
    ("term", "text"),
    [("™", "Mug™ on a table"), ("C++", "a C++ book"), ("#1", "the #1 mug"), ("©", "© 2026")],
)
def test_symbols_match_as_they_stand(term: str, text: str) -> None:
    assert verdict(text, term) == "violation"


@pytest.mark.parametrize(
    ("term", "text", "reached"),
    [
        ("logo", "logo付き", "violation"), ("text", "一个有text的杯子", "violation"),
        ("text", "テキストtext", "violation"), ("logo", "ป้ายlogoสวย", "violation"),
        ("텍스트", "텍스트가 있는 컵", "violation"), ("text", "text가 있는 컵", "violation"),
        ("로고", "회사로고", "violation"), ("가격 표", "가격표를 붙인 컵", "violation"),
        ("가격 표", "가격 표를 붙인 컵", "violation"), ("#1", "#1位", "violation"),
        ("tシャツ", "白いTシャツ", "violation"), ("logo", "1.5倍logo", "violation"),
        ("text", "一个texture杯子", "ok"), ("tシャツ", "printシャツ", "ok"),
        ("ロゴ", "noロゴ", "ok"),
    ],
)  # fmt: skip
def test_a_word_ends_where_a_script_without_blanks_begins(
    term: str, text: str, reached: str
) -> None:
    assert verdict(text, term) == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("🚫 logo", "ok"), ("❌ hat, logo", "ok"), ("logo ❌, hat ✅", "ok"),
        ("hat ❌, logo ✅", "violation"), ("❌ hat ✅ logo", "violation"),
        ("a 🚫 sign with a logo", "violation"), ("no © or logo", "ok"),
        ("❌frame logo", "violation"), ("❌frame, logo", "ok"), ("❌large logo", "ok"),
        ("hat ❎ logo ✅", "violation"), ("no logo ✅", "ok"), ("❌hats or logo", "ok"),
        ("❌ logo ✅ hat", "ok"),
        ("❌ frame logo", "ok"), ("logo ❎", "ok"), ("❎ logo", "ok"),
    ],
)  # fmt: skip
def test_a_symbol_negates_as_a_word_does(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize("arrow", ["->", "=>", ">", "→", "⇒", "➜"])
def test_an_arrow_leads_to_an_answer_as_a_colon_does(arrow: str) -> None:
    assert verdict(f"hat, logo {arrow} none", "logo") == "ok"
    assert verdict(f"hat, logo {arrow} none of the sides", "logo") == "violation"
    assert verdict(f"no hat {arrow} logo", "logo") == "violation"


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("0 logos", "ok"), ("a cap with 0 logos", "ok"), ("a cap, 0 hats, 0 logos", "ok"),
        ("page 0 logo", "violation"), ("0, logo", "violation"), ("0° sky, logo", "violation"),
        ("f/0 logo", "violation"), ("0 to 3 logos", "violation"), ("10 logos", "violation"),
    ],
)  # fmt: skip
def test_a_nought_negates_what_it_counts_and_nothing_else(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("0% logo", "ok"), ("0 % logo", "ok"), ("10% logo", "violation"),
        ("no hat, 24mm lens, f/2.8 logo", "violation"), ("no hat, 1/2 logo", "violation"),
    ],
)  # fmt: skip
def test_a_number_with_its_unit_is_one_word(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("logo (none)", "ok"), ("logo [no]", "ok"), ("logo (❌)", "ok"),
        ("logo (no hat)", "violation"), ("logo (none of the small ones)", "violation"),
        ("hat: none, logo: gold", "violation"), ("hat: no, logo", "violation"),
        ("logo no, hat yes", "ok"), ("logo No. 5", "violation"), ("[logo] none [hat] red", "ok"),
    ],
)  # fmt: skip
def test_an_answer_in_brackets_or_behind_a_colon_speaks_of_its_own_word(
    prompt: str, reached: str
) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("everything except the logo", "ok"), ("everything is shown except the logo", "ok"),
        ("everything is blue except the logo", "violation"),
        ("everyone holds a mug except the logo", "violation"),
        ("no other logo than ours", "violation"), ("no logo other than ours", "violation"),
        ("no other hat than a logo", "violation"), ("no other logo", "ok"),
    ],
)  # fmt: skip
def test_an_exception_is_left_out_only_of_what_is_shown(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("Avoid\n- hat\n- logo", "ok"), ("## Negative\n* hat\n* logo\n## Show\n* mug", "ok"),
        ("## Avoid\n* hat\n## Show\n* logo", "violation"), ("Avoid\nlogo", "violation"),
        ("Avoid: hat; show: logo", "violation"), ("Avoid: hat; mug; logo", "ok"),
    ],
)  # fmt: skip
def test_a_title_begins_a_list_and_the_next_title_ends_it(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("logos are painted over and are gone", "ok"), ("logo turned away and not visible", "ok"),
        ("the logo, which is old, is missing", "ok"),
        ("the logo, which is old, is red", "violation"),
        ("the logo would be wrong, it is forbidden", "ok"),
        ("logos are old and still there", "violation"), ("logo, hat not visible", "violation"),
    ],
)  # fmt: skip
def test_the_second_predicate_of_a_mention_counts_as_the_first(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize(
    ("term", "text", "reached"),
    [
        ("logo", "没有logo的杯子", "ok"), ("文字", "一个杯子，没有文字", "ok"),
        ("text", "textなし", "ok"),
        ("ロゴ", "ロゴのないマグ", "ok"), ("로고", "로고가 없는 컵", "ok"),
        ("logo", "不要去掉logo", "violation"),
        ("文字", "文字しかない", "violation"), ("문자", "문자가 있는 컵", "violation"),
        ("文字", "没有文字的杯子旁边有文字", "violation"),
    ],
)  # fmt: skip
def test_a_negation_written_beside_a_term_counts_once(term: str, text: str, reached: str) -> None:
    assert verdict(text, term) == reached


@pytest.mark.parametrize("text", ["ﾛｺﾞ", "ロコ\u3099", "ﾛｺ\u3099"])
def test_a_letter_written_in_parts_is_found_and_reported_whole(text: str) -> None:
    (finding,) = audit(f"{text}のマグ", ["ロゴ"]).findings
    assert (finding.start, finding.end) == (0, len(text))


@pytest.mark.parametrize("elided", ["d'eau", "l'eau", "d’eau", "qu'eau"])
def test_a_word_behind_an_elided_one_is_a_word_of_its_own(elided: str) -> None:
    (finding,) = audit(f"un verre {elided}", ["eau"]).findings
    assert finding.start == len("un verre ") + elided.index("e")


@pytest.mark.parametrize(
    ("prompt", "reached"),
    [
        ("no hat, no cap, logo", "violation"), ("no hat, no cap, no logo", "ok"),
        ("no hat, no cap or logo", "ok"), ("no hat, cap, logo", "ok"),
        ("no hat. no cap, logo", "ok"), ("no hat, never a cap, logo", "ok"),
        ("no hat or cap, logo", "violation"), ("no hat/cap, logo", "violation"),
        ("without hat, without cap, logo", "violation"), ("no hat or cap, mug or logo", "ok"),
        ("mug, no hat, cap, logo", "violation"), ("mug, no text, logo, mug", "ok"),
        ("mug, no hat, cap or logo", "ok"),
    ],
)  # fmt: skip
def test_a_bare_noun_after_a_list_that_is_complete_is_wanted(prompt: str, reached: str) -> None:
    assert verdict(prompt, "logo") == reached


@pytest.mark.parametrize("thing", ["it", "him", "the hat", "text", "this one"])
def test_what_comes_for_another_thing_is_wanted(thing: str) -> None:
    assert verdict(f"replace {thing} with a logo", "logo") == "violation"


def test_exact_means_this_form_only_and_substring_means_anywhere() -> None:
    assert verdict("logos", {"term": "logo", "match": "exact"}) == "ok"
    assert verdict("a LOGO", {"term": "logo", "match": "exact"}) == "violation"
    assert verdict("texture", {"term": "text", "match": "substring"}) == "violation"


def test_aliases_count_as_their_term() -> None:
    report = audit("bold lettering", [{"term": "text", "aliases": ["lettering"]}])
    assert [f.term for f in report.findings] == ["text"]


def test_an_allowed_phrase_excuses_only_itself() -> None:
    term = {"term": "text", "allow": ["copy space for text"]}
    assert verdict("copy-space for text on the left", term) == "ok"
    assert verdict("copy space for text, text on the wall", term) == "violation"
    assert verdict("copy space for text", "text") == "violation"


def test_a_term_is_data_and_never_a_pattern() -> None:
    assert verdict("aaaa", ".*", "a{2,}", "(") == "ok"
    assert verdict("what (is) this", "(") == "violation"


@pytest.mark.parametrize("term", ["", "  ", "\u200b", {"term": "x", "aliases": [""]}])
def test_a_term_that_nobody_sees_is_refused(term: object) -> None:
    with pytest.raises(ValueError, match="visible"):
        audit("x", [term])  # type: ignore[list-item]


def test_quoted_words_after_a_writing_verb_are_drawn_so_a_no_in_them_excuses_nothing() -> None:
    assert verdict('a sign that says "no logo"', "logo") == "violation"
    assert verdict('"A quiet park, no logo"', "logo") == "ok"
    assert verdict('Avoid "logo" and "text"', "logo") == "ok"


def test_a_possessive_opens_no_quotation() -> None:
    assert verdict("the artists' mug, no 'logo' here", "logo") == "ok"


def test_a_quoted_negation_does_not_leave_its_quotes() -> None:
    assert verdict('a sign that says "no dogs", dogs below', "dog") == "violation"


def test_every_mention_is_judged_and_one_is_enough() -> None:
    report = audit("no logo left, no logo right, one logo above", ["logo"])
    assert (len(report.findings), len(report.advice)) == (1, 2)


def test_long_lists_of_mentions_are_cut_but_all_are_judged() -> None:
    report = audit("no logo. " * 60 + "logo", ["logo"])
    assert report.verdict == "violation"
    assert len(report.advice) == 20


def test_the_same_prompt_gives_the_same_report() -> None:
    terms = ["logo", "text", "tourist"]
    assert audit("text, logos", terms) == audit("text, logos", list(terms))


def test_json_lines_go_in_and_out_in_order() -> None:
    lines = [
        '{"id": 1, "prompt": "no logo", "terms": ["logo"]}\n',
        "\n",
        '{"id": 2, "prompt": "a logo", "terms": ["logo"]}\n',
        "{broken\n",
        '{"id": 4, "prompt": 7, "terms": []}\n',
        '{"id": 5, "prompt": "x"}\n',
        "[1]\n",
    ]
    answers = [answer for answer in map(audit_line, lines) if answer is not None]
    assert [a.get("verdict", "error") for a in answers] == ["ok", "violation", *["error"] * 4]
    assert answers[1]["findings"][0].keys() >= {"term", "start", "end", "block", "cue", "rule"}
    assert answers[4]["error"].endswith("'terms' is missing")
