"""Checking: every problem at once, in the order of the file, in words that help."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from specs.document import Document
from specs.errors import SpecInvalid
from specs.read import read
from specs.schemas import kinds
from specs.validate import validate

Told = tuple[int, int, str, str]


def told(text: str, schema: str | None = None) -> list[Told]:
    with pytest.raises(SpecInvalid) as caught:
        validate(read(text.encode()), schema)
    assert caught.value.reason == "SchemaInvalid"
    return [(p.line, p.column, p.path, p.message) for p in caught.value.problems]


def one(line: str) -> Told:
    problems = told(f"kind: text2img\nprompt: a\n{line}\n")
    assert len(problems) == 1, problems
    return problems[0]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
kind: fill
stpes: 4
steps: 500000
image: [a]
matrix: {width: [64, 100]}
mask: m.png
outpaint: {left: -1}
format: jpg
"""
    assert told(text) == [
        (1, 1, "", "'prompt' is required for fill (or 'compose')"),
        (2, 1, "stpes", "unknown key 'stpes' (did you mean 'steps'?)"),
        (3, 8, "steps", "500000 is greater than the maximum of 1000"),
        (4, 8, "image", "['a'] is not text: give one, without a list"),
        (5, 22, "matrix.width[1]", "100 is not a multiple of 16 (96 and 112 are)"),
        (7, 1, "outpaint", "'mask' and 'outpaint' exclude each other: give one"),
        (7, 18, "outpaint.left", "-1 is less than the minimum of 0"),
        (8, 9, "format", "'jpg' is not one of png, jpeg, webp (did you mean 'jpeg'?)"),
    ]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("steps: 0", (3, 8, "steps", "0 is less than the minimum of 1")),
        ("steps: 4.5", (3, 8, "steps", "4.5 is not a whole number")),
        ("steps: true", (3, 8, "steps", "true is not a whole number")),
        ("steps:", (3, 7, "steps", "null is not a whole number")),
        ("guidance: much", (3, 11, "guidance", "'much' is not a number")),
        ("model: 7", (3, 8, "model", "7 is not text: put it in quotes")),
        ("seeds: 7", (3, 8, "seeds", "7 is not a list or a mapping")),
        ("seeds: {start: 1}", (3, 8, "seeds.count", "'count' is required in 'seeds'")),
        ("seeds: [5, 6, 5]", (3, 15, "seeds[2]", "duplicate value 5 (the first is number 1)")),
        ("seeds: [5, x]", (3, 12, "seeds[1]", "'x' is not a whole number")),
        ("seeds: []", (3, 8, "seeds", "this is empty")),
        ("tags: [a, '']", (3, 11, "tags[1]", "this is empty")),
        ("num_inference_steps: 4", (3, 1, "num_inference_steps",
                                    "unknown key 'num_inference_steps' (did you mean 'steps'?)")),
        ("not-before: x", (3, 1, "not-before",
                           "unknown key 'not-before' (did you mean 'not_before'?)")),
        ("zzz: 4", (3, 1, "zzz", "unknown key 'zzz'")),
        ("mask: a.png", (3, 1, "mask", "'mask' is not a field of text2img (it belongs to fill)")),
        ("strength: 0.5", (3, 1, "strength",
                           "'strength' says how far to go from an 'image': give one as well")),
        ("matrix: {strength: [1]}", (3, 1, "matrix",
                                     "'strength' says how far to go from an 'image': give one as"
                                     " well")),
        ("matrix: {precision: [bf16]}", (3, 10, "matrix.precision",
                         "'precision' cannot be in a matrix: give it beside the matrix, for all"
                         " its images")),
        ("strength: 0\nimage: a.png", (3, 11, "strength",
                         "0 is not from 0.01 to 1: 0 would give the picture back as it is, 1 keeps"
                         " nothing of it")),
        ("true_cfg_scale: 4", (3, 1, "true_cfg_scale",
                               "unknown key 'true_cfg_scale' (did you mean 'true_cfg'?)")),
        ("loras: [{wieght: 1, path: a}]", (3, 10, "loras[0].wieght",
                                           "unknown key 'wieght' (did you mean 'weight'?)")),
        ("loras: [{weight: 1}]", (3, 9, "loras[0]", "a LoRA needs 'path' or 'repo'")),
        ("loras: [1]", (3, 9, "loras[0]", "1 is not a mapping")),
        ("quality: 80", (3, 10, "quality",
                         "'quality' works with `format: jpeg` or `format: webp` only")),
        ("keep_original: true", (3, 16, "keep_original",
                                 "'keep_original' keeps the picture before 'upscale': give one")),
        ("window: 7-9", (3, 9, "window",
                         "'7-9' is not a span of hours: write it as \"23:00-07:00\"")),
        ("not_before: 2026-02-30T00:00", (3, 13, "not_before",
                                          "'2026-02-30T00:00': day is out of range for month")),
        ("not_before: 9999-12-31T23:59:59-14:00", (
            3, 13, "not_before", "'9999-12-31T23:59:59-14:00': it lies outside the years 1970 to "
            "9000: write one like 2026-12-24T22:00")),
        ("window: '22:00-22:00'", (3, 9, "window", "'22:00-22:00': it opens and closes at the same "
                                   "minute: write 00:00-24:00 for all hours")),
        ("id: con", (3, 5, "id", "'con' is a device on Windows and cannot name a folder there")),
        ("id: Drops", (3, 5, "id", "'Drops' is a name that the outbox uses itself")),
        ("count: 0", (3, 8, "count", "0 is less than the minimum of 1")),
        ("schema: 2", (3, 9, "schema", "2 is not 1")),
    ],
)  # fmt: skip
def test_each_mistake_has_its_place_and_its_sentence(line: str, expected: Told) -> None:
    assert one(line) == expected


def test_a_seed_that_passes_the_end_is_told_with_the_count() -> None:
    problems = told("kind: redux\nimage: a\nseed: 4294967295\ncount: 2\n")
    assert problems == [
        (4, 8, "count", "seed 4294967295 plus 2 images passes the last seed, 4294967295")
    ]
    assert validate(read(b"kind: redux\nimage: a\nseed: 4294967295\ncount: 1\n"))


def test_of_two_fields_that_exclude_each_other_the_second_is_pointed_at() -> None:
    assert told("kind: redux\nimage: a\nseeds: [1]\nseed: 1\n")[0][:3] == (4, 1, "seed")
    assert told("kind: redux\nimage: a\nseed: 1\nseeds: [1]\n")[0][:3] == (4, 1, "seeds")


@pytest.mark.parametrize(
    "kind, missing", [("kontext", "image"), ("control", "image"), ("redux", "image")]
)
def test_a_missing_field_is_told_with_the_kind(kind: str, missing: str) -> None:
    assert (1, 1, missing, f"'{missing}' is required for {kind}") in told(f"kind: {kind}\n")


def test_a_missing_kind_lists_the_kinds() -> None:
    assert told("prompt: a\n") == [
        (1, 1, "kind", f"'kind' is required: one of {', '.join(kinds())}")
    ]


def test_a_misspelt_kind_is_still_checked_as_the_kind_that_was_meant() -> None:
    assert told("prompt: a\nkind: text2image\nsteps: 0\n") == [
        (2, 7, "kind", "'text2image' is not a kind (did you mean 'text2img'?)"),
        (3, 8, "steps", "0 is less than the minimum of 1"),
    ]
    assert told("knd: redux\n") == [
        (1, 1, "image", "'image' is required for redux"),
        (1, 1, "knd", "unknown key 'knd' (did you mean 'kind'?)"),
    ]


def test_thirty_problems_are_told_as_twenty_and_a_count() -> None:
    lines = "".join(f"wrong{n:02}: 1\n" for n in range(30))
    problems = told(f"kind: redux\nimage: a\n{lines}")
    assert len(problems) == 21
    assert [problem[0] for problem in problems[:20]] == list(range(3, 23))
    assert problems[20] == (23, 1, "wrong20", "and 10 more problems from here on")
    assert sum(len(problem[3]) for problem in problems) < 8_000


def test_long_values_are_cut_in_messages_and_paths() -> None:
    key = "k" * 60_000
    for line in (f"format: {key}", f"? {key}\n: 1", f"seeds: {['a' * 99] * 99}"):
        for problem in told(f"kind: redux\nimage: a\n{line}\n"):
            assert len(problem[2]) < 80 and len(problem[3]) < 200


def test_whole_floats_become_integers_where_integers_are_meant_and_only_there() -> None:
    spec = validate(
        read(
            b"kind: fill\nprompt: a\nimage: a\nsteps: 4.0\nguidance: 3.0\nwidth: 1.6e2\n"
            b"height: 64\noutpaint: {left: 16.0}\nmatrix: {width: [64.0, 8e1], guidance: [1.0]}\n"
            b"seeds: {start: 1.0, count: 2}\nx_mine: {a: 1.0}\ntimeout: 10.0\n"
        )
    )
    found = [spec["steps"], spec["width"], spec["outpaint"]["left"], spec["matrix"]["width"][1]]
    assert found == [4, 160, 16, 80] and all(type(number) is int for number in found)
    assert type(spec["seeds"]["start"]) is int
    kept = [spec["guidance"], spec["matrix"]["guidance"][0], spec["x_mine"]["a"], spec["timeout"]]
    assert all(type(number) is float for number in kept)


def test_what_is_ignored_is_gone_what_is_mine_stays_and_nothing_is_filled_in() -> None:
    text = b"$schema: x\nschema: 1\nresult: {a: 1}\nkind: redux\nimage: a\nx_b: [1]\n"
    document = read(text)
    assert validate(document) == {"kind": "redux", "image": "a", "x_b": [1]}
    assert "result" in document.value


@pytest.mark.parametrize(
    "image", ["a.png", ["a.png", "b.png"], [{"path": "a.png", "weight": 0.5}, "b.png"]]
)
@pytest.mark.parametrize("kind", ["kontext", "redux"])
def test_where_the_model_takes_several_images_a_list_is_fine(kind: str, image: Any) -> None:
    spec = {"kind": kind, "prompt": "a", "image": image}
    assert validate(Document(spec)) == spec


@pytest.mark.parametrize(
    "fields",
    [
        {"compose": {"pack": "a", "subjects": "all"}},
        {"compose": {"pack": "a", "subjects": ["b"], "variables": "c", "extra": "x"}},
        {"matrix": {"prompt": ["a", "b"], "steps": [1, 2]}},
        {"prompt": "a", "matrix": {"prompt": ["b"]}, "count": 5},
        {"prompt": "a", "matrix": {"upscale": [2, 4]}, "keep_original": True},
        {"prompt": "a", "window": "23:00-07:00", "not_before": "2026-11-23T22:00:00.5+01:00"},
        {"prompt": "a", "window": "23:00 - 07:00", "not_before": "1970-01-01T00:00Z"},
        {"prompt": "a", "window": "22:00-24:00", "not_before": "9000-12-31T23:59Z"},
        {"prompt": "a", "not_before": "2026-11-23 22:00", "format": "webp", "quality": 80},
        {"prompt": "a\nb", "id": "A-1.b_c", "loras": [{"repo": "a/b", "weight": -1, "name": "x"}]},
    ],
)
def test_what_the_contract_allows_is_allowed(fields: dict[str, Any]) -> None:
    assert validate(Document({"kind": "text2img", **fields}))


def test_reading_and_checking_one_spec_takes_less_than_a_millisecond() -> None:
    data = b"kind: text2img\nmodel: tiny\nprompt: a red circle\nseed: 7\nsteps: 4\ntags: [a, b]\n"
    validate(read(data))
    start = time.process_time()
    for _ in range(50):
        validate(read(data))
    assert (time.process_time() - start) / 50 < 0.001


def test_checking_from_a_cold_start_is_quick_and_importing_is_light() -> None:
    light = (
        "import sys\nimport specs.read, specs.validate, specs.expand, specs.write, specs.times\n"
        "import specs.schemas\nassert not {'yaml', 'jsonschema', 'referencing'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", light], check=True, timeout=30)
    cold = (
        "import time\nfrom specs.read import read\nfrom specs.validate import validate\n"
        "validate(read(b'kind: fill\\nprompt: a\\nimage: a\\nmask: b\\n'))\n"
        "print(time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", cold], check=True, capture_output=True, text=True, timeout=30
    )
    assert float(done.stdout) < 0.6  # 0.2 s measured; the rest is for a busy machine


def test_threads_can_check_at_the_same_time() -> None:
    wrong: list[str] = []

    def work() -> None:
        for _ in range(30):
            spec = validate(read(b"kind: redux\nimage: a\nsteps: 4.0\n"))
            if spec["steps"] != 4:
                wrong.append("x")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong


_WEIGHT = "each picture of `redux` and each LoRA has its own: `image: [{path: …, weight: 0.5}]`"
_OWN = "it is the model's own: leave it out"


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("redux", "weight: 0.5", f"unknown key 'weight' ({_WEIGHT})"),
        ("redux", "strength: 0.5", "'strength' is not a field of redux (it belongs to control,"
                                   f" fill, text2img): {_WEIGHT}"),
        ("redux", "image: {path: a.png}", "{'path': 'a.png'} is not text or a list: put it into a"
                                          " list"),
        ("redux", "image: [{path: a.png, strength: 2}]", "unknown key 'strength' (did you mean"
                                                         " 'weight'?)"),
        ("text2img", "image: [a.png]", "['a.png'] is not text: give one, without a list"),
        ("text2img", "loras: [ink.safetensors]", "'ink.safetensors' is not a mapping: write {path:"
                                                 " 'ink.safetensors'}"),
        ("text2img", "loras: [{path: a, strength: 1}]", "unknown key 'strength' (did you mean"
                                                        " 'weight'?)"),
        ("text2img", "loras: [{path: a, strength_model: 1}]", "unknown key 'strength_model' (did"
                                                              " you mean 'weight'?)"),
        ("text2img", "batch_size: 4", "unknown key 'batch_size' (did you mean 'count'?)"),
        ("text2img", "noise_seed: 4", "unknown key 'noise_seed' (did you mean 'seed'?)"),
        ("text2img", "checkpoint: dev", "unknown key 'checkpoint' (did you mean 'model'?)"),
        ("text2img", "Sampler: euler", f"unknown key 'Sampler' ({_OWN})"),
        ("text2img", "scheduler: simple", f"unknown key 'scheduler' ({_OWN})"),
        ("fill", "mask_blur: 4", "unknown key 'mask_blur' (the edge is made soft inside the mask:"
                                 " leave it out)"),
        ("fill", "grow_mask_by: 4", "unknown key 'grow_mask_by' (paint the mask larger instead)"),
        ("fill", "padding: 32", "unknown key 'padding' (`fill` works on the region around the mask,"
                                " or with `whole: true` on the whole picture)"),
    ],
)  # fmt: skip
def test_another_programs_word_is_answered_with_ours(kind: str, line: str, message: str) -> None:
    given = "".join(
        f"{field}: {field}.png\n"
        for field in {"fill": ("image", "mask"), "redux": ("image",)}.get(kind, ())
        if not line.startswith(f"{field}:")
    )
    ((*_, found),) = told(f"kind: {kind}\nprompt: a\n{given}{line}\n")
    assert found == message


@pytest.mark.parametrize(
    ("kind", "told_of", "checked_as"),
    [
        ("img2img", "`text2img` with an `image`", "text2img"),
        ("inpaint", "`fill` with a `mask`", "fill"),
        ("outpaint", "`fill` with `outpaint`", "fill"),
        ("edit", "`kontext`", "kontext"),
    ],
)
def test_another_programs_kind_is_answered_with_ours_and_checked_as_that(
    kind: str, told_of: str, checked_as: str
) -> None:
    problems = told(f"kind: {kind}\nimage: a.png\nmask: 5\n")
    assert (1, 7, "kind", f"{kind!r} is not a kind (here it is {told_of})") in problems
    others = " ".join(message for *_, message in problems)
    assert f"is required for {checked_as}" in others


def test_the_same_file_is_suggested_as_the_mask_of_a_picture_that_has_none() -> None:
    ((*_, message),) = told("kind: fill\nprompt: a\nimage: a.png\n")
    assert message.startswith("'mask' is required for fill (or 'outpaint'): where the image is tr")


def test_other_programs_words_lead_to_fields_and_kinds_that_there_are() -> None:
    from specs import schemas

    common = schemas.load("common")
    fields = {*common["$defs"]["loras"]["items"]["properties"]}
    fields |= {field for kind in kinds() for field in schemas.load(kind)["properties"]}
    for other in common["otherNames"].values():
        assert other in fields or " " in other or other.strip("`") in kinds()
