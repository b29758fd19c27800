"""One prompt from blocks: the joined text, where each part came from, lengths and tokens."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.assemble import Assembled, Parts, assemble
from composer.layers import Block, clean
from composer.packs import Pack, read_pack
from composer.sizes import resolve_size
from composer.tokencount import Encoder, Reading, estimate, flux1_like, token_warnings, tokens_json
from tests.composer.helpers import write_pack


def block(part: str, text: str) -> Block:
    return Block(part, f"mugs/{part}.txt", text)


def pack(**facts: object) -> Pack:
    return Pack(
        "mugs", "Mugs", "1.0.0", "0" * 64, block("fixed", "a photo"), {}, {}, **facts  # type: ignore[arg-type]
    )  # fmt: skip


def assembled(
    own: Pack, subject: Block, variable: Block | None = None, extra: str = ""
) -> Assembled:
    extra = " ".join(extra.split())
    return assemble(own, Parts(own.fixed, subject, variable, Block("", "(extra)", extra)))


def test_fixed_subject_variable_and_extra_are_joined_in_order() -> None:
    made = assembled(pack(), block("subject", "a mug"), block("variable", "by day"), " on  slate ")
    assert made.prompt == "a photo, a mug, by day, on slate"
    assert [s.block for s in made.spans] == ["fixed", "subject", "variable", "extra"]


def test_order_and_separator_belong_to_the_pack() -> None:
    own = pack(order=("subject", "fixed", "variable", "extra"), separator=" | ")
    assert assembled(own, block("subject", "a mug")).prompt == "a mug | a photo"


def test_an_empty_block_leaves_no_separator() -> None:
    assert assembled(pack(), block("subject", "a mug"), block("variable", ""), "").prompt == (
        "a photo, a mug"
    )


@pytest.mark.parametrize("end", [".", "!", "?", "…", "。", '."', "?)", ".”"])
def test_no_comma_stands_behind_a_sentence(end: str) -> None:
    sentence = block("subject", f"An engraving{end}")
    assert assembled(pack(), sentence, block("variable", "by day")).prompt == (
        f"a photo, An engraving{end} by day"
    )
    own = pack(separator=" | ")
    assert assembled(own, sentence, block("variable", "day")).prompt.endswith(f"{end} | day")


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\u2066", "\u00ad", "\ufeff", "\U000e0041"])
def test_a_hidden_character_is_reported_with_its_file(char: str) -> None:
    (said,) = assembled(pack(), block("subject", f"a {char}gum")).warnings(expanded=False)
    assert said.startswith(f"mugs/subject.txt: holds U+{ord(char):04X} (")
    assert said.endswith("behind 'a '")


@pytest.mark.parametrize(
    "text", ["👩\u200d🎨 at work", "می\u200cخواهم", "a ❤\ufe0f mug", "naïve café"]
)
def test_characters_that_scripts_and_emoji_need_are_not_reported(text: str) -> None:
    assert not list(assembled(pack(), block("subject", text)).warnings(expanded=False))


@pytest.mark.parametrize("text", ["a {red|blue} mug", "a __colour__ mug", "{2$$a|b|c}"])
def test_choices_that_are_not_expanded_are_reported(text: str) -> None:
    made = assembled(pack(), block("subject", text))
    (said,) = made.warnings(expanded=False)
    assert said.startswith("mugs/subject.txt: ") and "`choices: true`" in said
    assert not list(made.warnings(expanded=True))
    plain = assembled(pack(), block("subject", "{box} %s __ a | b snake_case"))
    assert not list(plain.warnings(expanded=False))


def test_too_long_names_the_longest_block_and_by_how_much() -> None:
    made = assembled(pack(max_chars=20), block("subject", "x" * 30))
    assert made.over_by == 19
    assert made.too_long() == (
        "39 characters, 19 over the limit of 20: shorten the longest block, subject "
        "(mugs/subject.txt, 30 characters)"
    )
    assert assembled(pack(max_chars=39), block("subject", "x" * 30)).too_long() == ""


TEXTS = st.text(max_size=40).map(clean)


@given(
    TEXTS,
    TEXTS,
    TEXTS,
    st.text(max_size=8),
    st.permutations(["fixed", "subject", "variable", "extra"]),
)
def test_the_spans_are_the_blocks_and_between_them_is_the_separator(
    subject: str, variable: str, extra: str, separator: str, order: list[str]
) -> None:
    own = pack(separator=separator, order=tuple(order))
    made = assembled(own, block("subject", subject), block("variable", variable), extra)
    given_texts = {
        "fixed": "a photo", "subject": subject, "variable": variable, "extra": extra,
    }  # fmt: skip
    wanted = [part for part in order if given_texts[part]]
    assert [span.block for span in made.spans] == wanted
    assert [made.prompt[s.start : s.end] for s in made.spans] == [given_texts[p] for p in wanted]
    if separator != ", ":
        assert made.prompt == separator.join(given_texts[part] for part in wanted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.text(
        st.characters(
            blacklist_categories=("Cs", "Cc"), blacklist_characters="#\ufeff\ufffe\uffff"
        ),
        max_size=60,
    )
)
def test_what_is_in_a_file_is_in_the_prompt(tmp_path: Path, text: str) -> None:
    if not (tmp_path / "mugs").exists():
        write_pack(tmp_path)
    (tmp_path / "mugs" / "subjects" / "mug.txt").write_text(text, encoding="utf-8", newline="")
    read = read_pack(tmp_path, "mugs")
    assert assembled(
        read, read.subjects["mug"]
    ).prompt.split() == f"studio photo of, {text}".split() or (not text.strip())


PROSE = (
    "Editorial photograph of a narrow stone bridge over a mountain brook, in morning light, "
    "thin mist above the water, moss on the parapet, a lone hiker with a red backpack in the "
    "distance, muted natural colours, shallow depth of field and a calm, reflective mood. "
)


def test_an_estimate_says_that_it_is_one_and_is_about_right() -> None:
    text = (PROSE * 9)[:2000]
    found = tokens_json(text, flux1_like())
    assert found["estimated"] is True
    assert 380 <= found["clip"] <= 480  # 2,000 characters of English prose measured 431
    assert found["clip"] <= found["t5"] <= 560


@pytest.mark.parametrize(
    ("name", "text", "measured"),
    [
        ("CLIP", "木" * 100, 202),
        ("CLIP", "сонце " * 20, 142),
        ("Qwen3", "木" * 100, 112),
        ("Qwen3", "сонце " * 20, 72),
        ("Qwen3", "조용한 항구의 아침 " * 10, 93),
    ],
)
def test_other_scripts_are_estimated_within_a_quarter(name: str, text: str, measured: int) -> None:
    assert abs(estimate(name, text) / measured - 1) < 0.25


def test_a_count_says_that_it_is_none_that_was_estimated() -> None:
    encoders = [Encoder("T5", 64, lambda text: Reading(3, len(text)), counted=True)]
    assert tokens_json("a mug", encoders) == {"t5": 3, "estimated": False}
    assert tokens_json("a mug", [*encoders, *flux1_like()[:1]])["estimated"] is True


def test_warnings_say_what_the_encoders_do_not_see() -> None:
    text = "first words that are seen, and others"
    encoders = [
        Encoder("CLIP", 77, lambda text: Reading(90, 11), counted=True, pooled=True),
        Encoder("T5", 256, lambda text: Reading(300, 25), counted=True),
    ]
    clip, t5 = token_warnings(text, encoders)
    assert clip == (
        "90 CLIP tokens: CLIP, which only sums the prompt up, sees the first 77, "
        "up to '…first words'"
    )
    assert t5 == (
        "300 T5 tokens: the model sees the first 256, up to '…first words that are seen'; "
        "what comes after is lost"
    )
    assert token_warnings("a mug", flux1_like()) == ()
    assert token_warnings("word " * 80, flux1_like())[0].startswith("about 82 CLIP tokens")


def test_letters_that_t5_was_not_taught_are_named() -> None:
    (warning,) = token_warnings("a cat, кіт, at the café", flux1_like())
    assert warning == "T5 may not know 'кіт': say it in plain English"


def test_an_aspect_ratio_becomes_a_size() -> None:
    assert resolve_size([{"aspect_ratio": "16:9"}]) == {"width": 1360, "height": 768}
    assert resolve_size([{"aspect_ratio": "1:1"}], 64 * 64) == {"width": 64, "height": 64}
    assert resolve_size([{"width": 512}, {"aspect_ratio": "2:1"}]) == {"width": 512, "height": 256}
    assert resolve_size([{"aspect_ratio": "1:1"}, {"width": 64, "height": 32}]) == {
        "width": 1024,
        "height": 1024,
    }
    assert resolve_size([{"aspect_ratio": "16:9"}], only=((64, 64),)) == {"width": 64, "height": 64}


@given(st.integers(1, 60), st.integers(1, 60), st.integers(64 * 64, 4096 * 1024))
def test_every_size_is_a_legal_one(wide: int, high: int, pixels: int) -> None:
    for side in resolve_size([{"aspect_ratio": f"{wide}:{high}"}], pixels).values():
        assert side % 16 == 0
        assert 64 <= side <= 4096
