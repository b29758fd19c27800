"""Choices, wildcard folders and samples in a bulk run: always the same prompts, and which."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer import wildcards
from composer.choices import parse
from composer.layers import read_file
from composer.plan import Plan, make_plan
from composer.report import compose_json, plan_json
from composer.table import Row, Table
from specs import expand
from specs.errors import SpecInvalid
from tests.composer.helpers import refused, spec, write_pack

ROOT = Path(__file__).parent.parent.parent
WILDCARDS = {
    "colour.txt": "# every colour\nred\n\n2::deep blue\r\n{big|small} green\n  # none\n",
    "nature/tree.txt": "\ufeffoak\n__colour__ elm\n",
    "nature/größe.txt": "hoch\nklein #1\n",
    "README.md": "{ not read",
    ".hidden.txt": "{ not read",
}


def write_wildcards(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    write_pack(
        tmp_path,
        fixed="photo in {soft|hard} light",
        subjects={"mug": "a __colour__ mug", "tree": "an {old|} __nature/tree__", "plain": "a cup"},
        variables={"day": "by day", "night": "{2$$ and $$stars|moon|fog} by night"},
        choices=True,
    )
    write_wildcards(tmp_path / "wildcards", dict(WILDCARDS))
    return tmp_path


def texts(plan: Plan) -> list[str]:
    return [entry.prompt for entry, _ in plan.images()]


def refusal(prompts: Path, **compose: Any) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        make_plan(spec({"variables": "all", **compose}, seed=1), prompts)
    return [f"{p.path}:{p.line}:{p.column} {p.message}" for p in caught.value.problems]


def test_each_seed_has_a_prompt_of_its_own(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "night"}, seed=5, count=8), prompts)
    assert plan.count == len(plan.prompts) == 24
    assert [fields["seed"] for _, fields in plan.images()] == [*range(5, 13)] * 3
    assert len(set(texts(plan))) > 12
    assert all("{" not in text and "__" not in text and "  " not in text for text in texts(plan))
    for index, (entry, fields) in enumerate(plan.images()):
        assert fields == expand.image(plan.spec, index, 0, plan.prompts)
        assert fields["prompt"] == entry.prompt


def test_the_prompt_of_a_seed_depends_on_nothing_else(prompts: Path) -> None:
    whole = make_plan(spec({"variables": "all"}, seeds=[1, 2, 3]), prompts)
    part = make_plan(spec({"subjects": "tree", "variables": "night"}, seeds=[3]), prompts)
    (image,) = part.images()
    assert image in [*whole.images()]
    made = compose_json(part)
    assert (made["prompt"], made["seed"]) == (image[1]["prompt"], 3)


def test_rows_of_a_table_read_each_block_and_each_wildcard_file_once(
    prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: all files and all blocks read again for each row."""
    read: list[Path] = []
    parsed: list[str] = []
    monkeypatch.setattr(wildcards, "read_file", lambda *a: read.append(a[1]) or read_file(*a))
    monkeypatch.setattr(wildcards, "parse", lambda text: parsed.append(text) or parse(text))
    rows = tuple(Row(n, {}, {"extra": f"no. {n}"}) for n in range(2, 22))
    table = Table("rows.csv", "", rows, frozenset())
    given = spec({"subjects": ["mug", "tree"], "variables": "day"}, seed=1, table="rows.csv")
    assert make_plan(given, prompts, table=table).count == 40
    assert len(read) == len(set(read)) == 2
    assert len(set(parsed)) == len(parsed) - parsed.count("") + 1


def test_one_seed_is_not_one_choice_for_all_combinations(tmp_path: Path) -> None:
    subjects = {f"s{n}": f"mug {n}" for n in range(60)}
    write_pack(tmp_path, fixed="{soft|hard|__light__} light", subjects=subjects, choices=True)
    write_wildcards(tmp_path / "wildcards", {"light.txt": "low\nhigh\n" + "low\n" * 8})
    plan = make_plan(spec(seed=1), tmp_path)
    counts = Counter(text.split()[0] for text in texts(plan))
    assert min(counts["soft"], counts["hard"]) > 8
    assert counts["low"] > 3 * counts["high"]


def test_the_matrix_varies_within_a_prompt(prompts: Path) -> None:
    given_spec = spec(
        {"subjects": "mug", "variables": "day"}, seeds=[4, 5], matrix={"steps": [2, 8]}
    )
    plan = make_plan(given_spec, prompts)
    assert [(fields["seed"], fields["steps"]) for _, fields in plan.images()] == [
        (4, 2),
        (4, 8),
        (5, 2),
        (5, 8),
    ]
    assert texts(plan)[0] == texts(plan)[1]


def test_seeds_of_the_pack_have_their_prompts_too(prompts: Path) -> None:
    file = prompts / "mugs" / "pack.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["defaults"] = {"seeds": {"start": 7, "count": 2}}
    facts["subjects"] = {"tree": {"defaults": {"seeds": [9]}}}
    file.write_text(json.dumps(facts), encoding="utf-8")
    plan = make_plan(spec({"variables": "day"}), prompts)
    assert [(entry.subject, fields["seed"]) for entry, fields in plan.images()] == [
        ("mug", 7), ("mug", 8), ("plain", 7), ("plain", 8), ("tree", 9),
    ]  # fmt: skip
    facts["defaults"] = {"seeds": {"start": 0, "count": 10_000}}
    file.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(SpecInvalid, match="split it"):
        make_plan(spec({"variables": "all"}), prompts)


def test_without_a_seed_consecutive_ones_are_drawn_and_it_is_said(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "day"}, count=2), prompts)
    seeds = [fields["seed"] for _, fields in plan.images()]
    assert seeds == [*range(seeds[0], seeds[0] + 6)]
    assert any("no seed is given" in warning for warning in plan.warnings)


def test_all_makes_a_prompt_of_every_choice(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "day", "choices": "all"}, seeds=[1, 2]), prompts)
    # 2 kinds of light; 4 colours, 2 × 5 trees, one cup.
    assert (len(plan.entries), plan.count) == (2 * (4 + 10 + 1), 60)
    assert texts(plan)[:3] == [
        "photo in soft light, a red mug, by day",
        "photo in soft light, a red mug, by day",
        "photo in soft light, a deep blue mug, by day",
    ]
    night = make_plan(spec({"variables": "night", "choices": "all"}, seed=1), prompts)
    assert night.count == 15 * 2 * 6


def test_a_product_that_is_too_large_is_refused_with_its_number(prompts: Path) -> None:
    extra = "".join(["{a|b}"] * 9)
    (said,) = refusal(prompts, choices="all", extra=extra)
    assert said.split()[1].replace(",", "") == str((15 * 2 + 15 * 2 * 6) * 512)


def test_a_spec_wins_over_its_pack_and_without_choices_a_warning_says_so(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "night", "choices": False}, seed=1), prompts)
    assert "a __colour__ mug" in texts(plan)[0]
    assert [w.partition(" is drawn")[0] for w in plan.warnings] == [
        "mugs/fixed_block.txt: {soft|hard}",
        "mugs/subjects/mug.txt: __colour__",
        "mugs/variable_night.txt: {2$$ and $$stars|moon|fog}",
        "mugs/subjects/tree.txt: {old|}",
    ]


def test_expanded_prompts_are_audited_and_recorded(prompts: Path) -> None:
    compose = {"subjects": "mug", "variables": "day", "choices": "all", "on_violation": "skip"}
    plan = make_plan(spec(compose, seed=1), prompts, forbidden=["blue"])
    assert len(plan.entries) == 6 and not any("blue" in text for text in texts(plan))
    seeded = make_plan(
        spec({**compose, "choices": True}, seed=0, count=20), prompts, forbidden=["blue"]
    )
    assert seeded.violations and len(seeded.entries) == 20 - len(seeded.violations)
    rejecting = {**compose, "choices": True, "on_violation": "reject"}
    error = refused(make_plan(spec(rejecting, seed=0, count=20), prompts, forbidden=["blue"]))
    seed = seeded.violations[0].fields["seed"]
    assert f"compose: subject mug, variable day, seed {seed}" in [p.path for p in error.problems]


def test_extra_is_expanded_and_its_faults_are_the_specs(prompts: Path) -> None:
    compose = {"subjects": "plain", "variables": "day", "choices": "all", "extra": "{x|__colour__}"}
    plan = make_plan(spec(compose, seed=1), prompts)
    assert plan.count == 2 * 5
    assert refusal(prompts, extra="a {b") == [
        "compose.extra:0:0 '{' is not closed (`\\{` is a plain brace)"
    ]


def test_a_subject_that_its_choices_leave_empty_is_skipped(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"mug": "{a mug|}"})
    plan = make_plan(spec({"choices": "all"}, seed=1), tmp_path)
    assert texts(plan) == ["studio photo of, a mug"]
    assert plan.skipped[0].reason == "its choices leave nothing of it"


def test_an_unknown_wildcard_is_an_error_with_file_line_and_the_nearest_name(prompts: Path) -> None:
    write_wildcards(prompts / "wildcards", {"a/pot.txt": "ok\nx  __colours__\n"})
    blocks = {
        "one": "# note\nfirst\n a  __tree__ and\n__nature/*x__",
        "two": "{a|__a/pot__",
        "three": "__nope__",
    }
    for name, text in blocks.items():
        (prompts / "mugs" / "subjects" / f"{name}.txt").write_text(text, encoding="utf-8")
    some = "(there are a/pot, colour, nature/größe, nature/tree)"
    assert refusal(prompts, subjects=["one", "two", "three"], extra="__a/*__") == [
        f"mugs/subjects/three.txt:1:1 there is no wildcard 'nope' {some}",
        "mugs/subjects/two.txt:1:1 '{' is not closed (`\\{` is a plain brace)",
        "wildcards/a/pot.txt:2:4 there is no wildcard 'colours' (did you mean 'colour'?)",
        "mugs/subjects/one.txt:3:5 there is no wildcard 'tree' (did you mean 'nature/tree'?)",
        "mugs/subjects/one.txt:4:1 there is no wildcard 'nature/*x' (did you mean 'nature/tree'?)",
    ]


def test_blocks_whose_choices_cannot_be_read_are_left_out_unless_they_are_named(
    prompts: Path,
) -> None:
    write_wildcards(prompts / "wildcards", {"open.txt": "a\n{b|c\n", "to.txt": "__open__"})
    for name, text in {
        "one": "{a|b",
        "two": "__nope__",
        "three": "__to__",
        "five": "__to__",
    }.items():
        (prompts / "mugs" / "subjects" / f"{name}.txt").write_text(text, encoding="utf-8")
    plan = make_plan(spec({"subjects": "all", "variables": "all"}, seed=1), prompts)
    assert len(texts(plan)) == 6
    lost = "'{' is not closed (`\\{` is a plain brace)"
    assert [(each.subject, each.reason) for each in plan.skipped] == [
        ("five", f"wildcards/open.txt:2:1: {lost}"),
        ("one", f"1:1: {lost}"),
        ("three", f"wildcards/open.txt:2:1: {lost}"),
        ("two", "1:1: there is no wildcard 'nope' (did you mean 'open'?)"),
    ]
    assert refusal(prompts, subjects=["three", "five"]) == [f"wildcards/open.txt:2:1 {lost}"]


@pytest.mark.parametrize(
    "name",
    ["hair+eyes", "women's", "a&b", "hair, long", "x@y", "100%", "sub\\tree", "e\u0301te\u0301",
     "\u092b\u0942\u0932", "\u0e44\u0e21\u0e49", "a#$b"],
)  # fmt: skip
def test_a_wildcard_is_called_whatever_its_file_is(tmp_path: Path, name: str) -> None:
    write_pack(tmp_path, subjects={"cup": f"a __{name}__ cup"}, fixed="", choices=True)
    assert "there is no wildcard" in refusal_of(tmp_path)
    write_wildcards(tmp_path / "wildcards", {f"{name}.txt".replace("\\", "/"): "red\n"})
    assert texts(make_plan(spec(seed=1), tmp_path)) == ["a red cup"]


def refusal_of(prompts: Path) -> str:
    with pytest.raises(SpecInvalid) as caught:
        make_plan(spec({"subjects": "cup"}, seed=1), prompts)
    return str(caught.value)


def test_of_thousands_of_unknown_wildcards_a_hundred_are_told(prompts: Path) -> None:
    block = " ".join(f"__x{n}__" for n in range(20_000))
    (prompts / "mugs" / "subjects" / "mug.txt").write_text(block, encoding="utf-8")
    assert len(refusal(prompts, subjects="mug")) == 100


def test_bad_wildcard_files_are_errors_where_they_are_used(prompts: Path) -> None:
    write_wildcards(
        prompts / "wildcards",
        {"latin.txt": b"caf\xe9", "none.txt": "# nothing\n", "open.txt": "a\n{b|c\n",
         "a.txt": "x\n__b__\n", "b.txt": "__a__\n", "me.txt": "{1|__me__}"},
    )  # fmt: skip
    make_plan(spec({"variables": "all"}, seed=1), prompts)
    said = "\n".join(refusal(prompts, extra="__latin__ __none__ __open__ __a__ __me__"))
    assert "wildcards/latin.txt:0:0 byte 0xe9 at offset 3 is not UTF-8" in said
    assert "wildcards/none.txt:0:0 holds no choice" in said
    assert "wildcards/open.txt:2:1 '{' is not closed" in said
    assert "wildcards/b.txt:1:1 wildcards lead in a circle" in said and "a → b → a" in said
    assert "wildcards/me.txt:1:4 wildcards lead in a circle" in said


def test_a_long_chain_of_wildcards_is_refused_not_followed(prompts: Path) -> None:
    files = {f"w{n}.txt": f"__w{n + 1}__" for n in range(300)}
    write_wildcards(prompts / "wildcards", {**files, "w300.txt": "end"})
    assert "through more than 10" in refusal(prompts, extra="__w0__")[0]
    assert (
        "end"
        in texts(make_plan(spec({"variables": "day", "extra": "__w291__"}, seed=1), prompts))[0]
    )


def test_a_pack_may_bring_wildcards_of_its_own(prompts: Path) -> None:
    write_wildcards(prompts / "mugs" / "wildcards", {"colour.txt": "golden"})
    write_pack(
        prompts, "child", fixed=None, extends="mugs", subjects={"x": "__colour__ __nature/*__"}
    )
    for pack in ("mugs", "child"):
        compose = {"pack": pack, "subjects": "mug", "variables": "day"}
        assert "a golden mug" in texts(make_plan(spec(compose, seed=1), prompts))[0]
    compose = {"pack": "child", "subjects": "x", "variables": "day", "choices": "all"}
    plan = make_plan(spec(compose, seed=1), prompts)
    assert [e.prompt.split(", ")[1] for e in plan.entries][:4] == [
        "golden hoch", "golden klein #1", "golden oak", "golden golden elm",
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_no_wildcard_is_read_outside_its_folder(prompts: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_wildcards(outside, {"secret.txt": "secret"})
    try:
        (prompts / "wildcards" / "link.txt").symlink_to(outside / "secret.txt")
    except OSError:
        pytest.skip("this system lets only administrators make links")
    (prompts / "wildcards" / "folder").symlink_to(outside)
    (prompts / "mugs" / "wildcards").symlink_to(outside)
    said = "\n".join(
        refusal(prompts, extra="__link__ __folder/secret__ __secret__ __../mugs/pack__")
    )
    assert "wildcards/link.txt:0:0 is a link that leaves" in said
    assert "the link mugs/wildcards leads out of it: put a copy there" in said
    for name in ("folder/secret", "secret", "../mugs/pack"):
        assert f"there is no wildcard {name!r}" in said


SCRIPT = """
import json, sys
from pathlib import Path
from composer.plan import make_plan
from composer.report import plan_json
compose = {"pack": "mugs", "subjects": "all", "variables": "all", "sample": 5}
for choices in (True, "all"):
    spec = {"kind": "text2img", "compose": {**compose, "choices": choices}, "seed": 3, "count": 2}
    print(json.dumps(plan_json(make_plan(spec, Path(sys.argv[1])))))
"""


def test_every_process_makes_the_same_of_a_wildcard_folder(prompts: Path) -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(prompts)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONUTF8": utf8},
            capture_output=True,
            check=True,
        ).stdout
        for seed, locale, utf8 in (("0", "C", "0"), ("1", "C.UTF-8", "1"), ("77", "tr_TR", "0"))
    }
    assert len(answers) == 1
    by_seed, every = map(json.loads, answers.pop().splitlines())
    assert (by_seed["count"], every["count"]) == (10, 10)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("prompts")
    many = {f"s{n}": f"thing {n}" for n in range(60)}
    write_pack(folder, subjects=many, variables={"a": "a {x|y|z}", "b": "b", "c": "c"})
    yield folder


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3), st.sampled_from([False, "all"]))
def test_a_larger_sample_contains_the_smaller(
    large: Path, one: int, other: int, seed: int, choices: Any
) -> None:
    small, big = sorted((one, other))
    compose = {"variables": "all", "sample_seed": seed, "choices": choices}
    plans = [make_plan(spec({**compose, "sample": n}, seed=1), large) for n in (small, big, 10_000)]
    few, many, every = map(texts, plans)
    assert len(few) == min(small, len(every)) and len(many) == min(big, len(every))
    assert set(few) <= set(many) <= set(every)
    assert [text for text in every if text in set(many)] == many


def test_samples_differ_by_their_seed_and_not_by_the_images_seed(large: Path) -> None:
    def sample(sample_seed: int, seed: int) -> list[str]:
        compose = {"variables": "all", "sample": 20, "sample_seed": sample_seed}
        return texts(make_plan(spec(compose, seed=seed), large))

    assert sample(1, 1) == sample(1, 2) != sample(2, 1)


def test_a_sample_of_too_many_is_taken_and_of_far_more_refused(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"a": "{a|b}" + "{0|1|2|3|4|5|6|7|8|9}" * 4}, choices="all")
    plan = make_plan(spec({"sample": 3}, seed=1), tmp_path)
    assert plan.count == 3
    with pytest.raises(SpecInvalid, match="at most 200,000 prompts"):
        make_plan(spec({"sample": 3, "extra": "{a|b|c|d}" * 2}, seed=1), tmp_path)


def test_names_may_be_patterns(large: Path) -> None:
    def chosen(subjects: Any) -> list[str]:
        plan = make_plan(spec({"subjects": subjects, "variables": ["b"]}, seed=1), large)
        return [entry.subject for entry in plan.entries]

    assert chosen("s1*") == ["s1", *(f"s{n}" for n in range(10, 20))]
    assert chosen(["s5?", "s3"]) == ["s3", *(f"s{n}" for n in range(50, 60))]
    with pytest.raises(SpecInvalid, match="no subject 'x\\*'"):
        chosen("x*")


def test_a_bad_file_is_skipped_unless_it_is_named(tmp_path: Path) -> None:
    write_pack(
        tmp_path,
        subjects={"bad": b"\xe9", "good": "a mug"},
        variables={"day": "x", "dusk": b"\xff"},
    )
    said = "byte 0xe9 at offset 0 is not UTF-8: save the file as UTF-8"
    for selected in ("all", "*d"):
        plan = make_plan(spec({"subjects": selected, "variables": "d*"}, seed=1), tmp_path)
        assert texts(plan) == ["studio photo of, a mug, x"]
        shown = plan_json(plan)
        assert [(s["file"], s["subject"]) for s in shown["skipped"]] == [
            ("mugs/subjects/bad.txt", "bad"),
            ("mugs/variable_dusk.txt", ""),
        ]
        assert f"mugs/subjects/bad.txt: {said} (left out)" in shown["warnings"]
        assert not plan.left_out
    with pytest.raises(SpecInvalid) as caught:
        make_plan(spec({"subjects": ["good", "bad"], "variables": "dusk"}, seed=1), tmp_path)
    assert [p.path for p in caught.value.problems] == [
        "mugs/subjects/bad.txt",
        "mugs/variable_dusk.txt",
    ]


def test_where_a_block_is_named_all_a_star_means_all_and_the_word_is_warned_of(
    tmp_path: Path,
) -> None:
    write_pack(tmp_path, subjects={"all": "a cup", "mug": "a mug"}, fixed="")
    named, every = (make_plan(spec({"subjects": s}, seed=1), tmp_path) for s in ("all", "*"))
    assert (texts(named), texts(every)) == (["a cup"], ["a cup", "a mug"])
    assert named.warnings == ("subjects: `all` is the one of that name: `'*'` is all",)
    assert not every.warnings


def test_where_all_variables_are_bad_no_prompt_is_made_without_one(tmp_path: Path) -> None:
    write_pack(tmp_path, variables={"day": b"\xe9"})
    assert refused(make_plan(spec(seed=1), tmp_path)).reason == "NothingToRun"
