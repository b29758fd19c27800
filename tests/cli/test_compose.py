"""`compose` and `audit`: prompts, plans and drops from packs; forbidden words in any prompt."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.cli import plan_report
from runner.gallery.rebuild import row_of
from runner.gallery.store import FOLDER, Gallery
from specs.read import read
from specs.validate import validate
from tests.cli.here import Here
from tests.composer.helpers import write_pack
from tests.gallery.samples import sidecar
from tests.harness import PATIENCE, clean_environment, fluxdrop
from tests.test_startup import CPU_SECONDS, HEAVY, TRIES, run

pytestmark = pytest.mark.timeout(180)

ONE = ("compose", "shapes", "--subject", "red-circle", "--variable", "on-white")
BULK = ("compose", "shapes", "--all")


def dropped(home: Path) -> list[dict[str, Any]]:
    """The specs in the inbox, each checked as the runner checks it."""
    files = sorted((home / "inbox").glob("*.yaml"))
    return [dict(validate(read(file.read_bytes()))) for file in files]


def test_compose_prints_one_prompt_its_blocks_and_its_audit(here: Here) -> None:
    done = here(*ONE, "--extra", "with no text at all")
    first, *rest = done.out.splitlines()
    assert done.code == 0
    assert first == (
        "a simple picture of a large red circle on a white background with no text at all"
    )
    told = "\n".join(rest)
    for part in ("shapes/fixed_block.txt", "shapes/subjects/red-circle.txt", "(extra)", "ok",
                 "24 CLIP and 21 T5 tokens (counted)",
                 "'text' ('with no' negates it)"):  # fmt: skip
        assert part in told
    shape = here(*ONE, "--json").json
    assert {"prompt", "length", "blocks", "audit"} <= shape.keys()
    assert [block["block"] for block in shape["blocks"]] == ["fixed", "subject", "variable"]
    assert shape["audit"]["verdict"] == "ok" and shape["tokens"]["estimated"] is False


def test_a_plan_says_whether_its_tokens_were_counted_or_estimated(here: Here) -> None:
    models = ("--set", "matrix={model: [tiny, schnell]}", "--extra", "in a small blue circle " * 14)
    done = here(*BULK, *models, "--plan", "--json")
    rows = {(row["model"], row["encoder"]): row for row in done.json["tokens"]}
    assert [row["counted"] for row in rows.values()] == [True, True, False, False]
    assert [row["limit"] for row in rows.values()] == [77, 64, 77, 256]
    assert rows["tiny", "T5"]["over"] == 19 and rows["schnell", "T5"]["over"] == 0
    lost = [w for w in done.json["warnings"] if "what comes after is lost" in w]
    assert len(lost) == 19 and all(w.startswith("tiny: ") and "about" not in w for w in lost)
    said = here(*BULK, *models, "--plan").out
    assert "tiny: T5 sees 64, the longest prompt has 91, 19 prompts have more (counted)" in said
    assert "schnell: T5 sees 256, the longest prompt has about" in said and "(estimated)" in said


def test_compose_says_which_block_asks_for_what_is_forbidden(here: Here) -> None:
    done = here(*ONE, "--extra", "and bold letters")
    assert done.code == 1 and "in the extra block" in done.out and "violation" in done.out
    (found,) = here(*ONE, "--extra", "and bold letters", "--json").json["audit"]["findings"]
    assert (found["term"], found["block"]) == ("text", "extra")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shapes"], "--subject"),
        (["shapes", "--subject", "red-circel", "--variable", "on-white"], "'red-circle'?"),
        (["shapes", "--subject", "red-circle"], "--variable: the pack has 3"),
        (["shpaes", "--all"], "there is no pack 'shpaes'"),
        ([*BULK[1:], "--set", "steps"], "field=value"),
        ([*BULK[1:], "--set", "stpes=8", "--plan"], "did you mean 'steps'?"),
        ([*BULK[1:], "--set", "steps=many", "--plan"], "steps"),
        ([*BULK[1:], "--set", "notes=a\nseed: 7", "--plan"], "one field at a time"),
        ([*BULK[1:], "--set", "compose=x"], "field=value"),
        ([*BULK[1:], "--sample", "0", "--plan"], "sample: 0 is less than"),
        ([*BULK[1:], "--extra", "{a|b", "--choices", "--plan"], "compose.extra: '{' is not closed"),
        (["shapes", "--subjects", "x*", "--variables", "on-*", "--plan"], "no subject 'x*'"),
        ([*BULK[1:], "--plan", "--queue"], "--help"),
    ],
)
def test_what_the_arguments_get_wrong_is_said_and_is_2(
    here: Here, arguments: list[str], says: str
) -> None:
    done = here("compose", *arguments)
    assert done.code == 2 and says in done.err and done.out == "", done


def test_a_plan_counts_and_lists_all_that_a_bulk_run_would_do(here: Here) -> None:
    shape = here(*BULK, "--plan", "--json").json
    assert shape["count"] == len(shape["items"]) == 19 * 2
    assert shape["items"][0] == shape["items"][0] | {
        "subject": "black-star", "variable": "on-white", "seed": 1, "verdict": "ok",
        "length": len(shape["items"][0]["prompt"]),
    }  # fmt: skip
    assert [each["subject"] for each in shape["skipped"]] == ["black-star", "white-square"]
    for part in ("violations", "duplicates", "over_long", "warnings", "errors"):
        assert shape[part] == []
    assert shape["rejected"] is False and shape["estimate"]["free_bytes"] > 0
    done = here(*BULK, "--plan")
    assert done.code == 0
    for part in ("38 images of 19 prompts", "skipped     2", "does not go with 'on-black'",
                 "disk        about", "time        unknown", "this can run"):  # fmt: skip
        assert part in done.out


def test_a_plan_shows_what_is_wrong_with_each_combination(here: Here) -> None:
    subjects = {"mug": "a blue mug", "same": "A  blue mug", "long": "x" * 90, "sign": "a sign"}
    facts: dict[str, Any] = {"max_chars": 60, "forbidden": ["sign"], "separator": " "}
    write_pack(here.home / "prompts", subjects=subjects, **facts)
    bulk = ("compose", "mugs", "--all", "--set", "model=tiny", "--set", "seed=1", "--plan")
    done = here(*bulk, "--json")
    assert done.code == 1 and done.json["rejected"] is True
    (twin,), (long,), (bad,) = (done.json[key] for key in ("duplicates", "over_long", "violations"))
    assert (twin["subject"], twin["same_as"]["subject"]) == ("same", "mug")
    assert (long["subject"], long["file"]) == ("long", "mugs/subjects/long.txt")
    assert (bad["subject"], bad["term"], bad["block"]) == ("sign", "sign", "subject")
    said = here(*bulk).out
    assert "this would be rejected" in said and "same is mug again" in said
    mended = here(*bulk, "--on-violation", "skip", "--json")
    assert mended.code == 0 and mended.json["count"] == 1
    assert {each["subject"] for each in mended.json["skipped"]} == {"long", "sign"}


def test_names_may_be_lists_and_patterns_and_prompts_a_sample(here: Here) -> None:
    chosen = ("compose", "shapes", "--subjects", "red*, green-triangle", "--variables", "on-*")
    fields = ("--set", "seed=1", "--plan", "--json")
    items = here(*chosen, *fields).json["items"]
    assert {item["subject"] for item in items} == {"green-triangle", "red-circle"}
    assert len(items) == 6
    few = here(*chosen, "--sample", "2", *fields).json["items"]
    more = here(*chosen, "--sample", "4", *fields).json["items"]
    assert len(few) == 2 and len(more) == 4
    assert [item for item in items if item in more] == more
    assert all(item in more for item in few)
    other = here(*chosen, "--sample", "4", "--sample-seed", "1", *fields).json["items"]
    assert other != more


def test_choices_are_expanded_by_each_seed_or_all(here: Here) -> None:
    write_pack(here.home / "prompts", subjects={"mug": "a {red|blue} __size__ mug"})
    (here.home / "prompts" / "wildcards").mkdir()
    (here.home / "prompts" / "wildcards" / "size.txt").write_text(
        "large\nsmall\n", encoding="utf-8"
    )
    one = ("compose", "mugs", "--subject", "mug", "--set", "model=tiny")
    plain = here(*one)
    assert plain.code == 0 and "{red|blue} is drawn as it stands" in plain.out
    seeds = ("--set", "seeds=[1, 2, 3, 4, 5, 6]", "--plan")
    shape = here(*one, "--choices", *seeds, "--json").json
    texts = [item["prompt"] for item in shape["items"]]
    assert len(texts) == 6 and len(set(texts)) > 2 and "{" not in "".join(texts)
    assert here(*one, "--choices", "--set", "seed=4", "--json").json["prompt"] == texts[3]
    said = here(*one, "--choices", *seeds).out
    assert f"6 images of {len(set(texts))} prompts" in said
    every = here(*one, "--choices", "all", "--set", "seed=1", "--plan", "--json").json
    assert every["count"] == 4


def test_a_bad_file_is_left_out_with_a_warning_and_refused_by_its_name(here: Here) -> None:
    write_pack(here.home / "prompts", subjects={"mug": "a mug", "bad": b"\xe9"})
    (here.home / "prompts" / "mugs" / "subjects" / "Upper.TXT").write_bytes(b"x")
    bulk = (
        "compose",
        "mugs",
        "--all",
        "--set",
        "model=tiny",
        "--set",
        "seed=1",
        "--plan",
        "--json",
    )
    shape = here(*bulk).json
    said = "byte 0xe9 at offset 0 is not UTF-8: save the file as UTF-8"
    assert shape["count"] == 1
    assert [(each["file"], each["reason"]) for each in shape["skipped"]] == [
        ("mugs/subjects/bad.txt", said)
    ]
    assert f"mugs/subjects/bad.txt: {said} (left out)" in shape["warnings"]
    assert any("subjects/Upper.TXT not read" in warning for warning in shape["warnings"])
    done = here("compose", "mugs", "--subject", "bad", "--plan")
    assert done.code == 1 and f"mugs/subjects/bad.txt: {said}" in done.err


def test_a_plan_knows_what_its_model_cannot_do(here: Here) -> None:
    done = here(*BULK, "--set", "width=128", "--plan", "--json")
    assert done.code == 1 and done.json["rejected"] is True
    assert done.json["errors"] == [{"path": "width", "message": "tiny makes only 64×64"}]
    words = here(*BULK, "--extra", "with a zeppelin", "--plan", "--json")
    assert words.code == 0 and any("`zeppelin`" in w for w in words.json["warnings"])
    many = here(*BULK, "--set", "count=1000", "--plan")
    assert many.code == 1 and "TooManyImages" in many.err and "19,000" in many.err, many


def test_a_gallery_that_cannot_be_read_means_no_estimate_of_the_time(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: there was no plan."""

    def refused(gallery: Gallery, like: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(plan_report, "measured", refused)
    done = here(*BULK, "--plan", "--json")
    assert done.code == 0 and done.json["estimate"]["seconds"] is None
    assert os.strerror(errno.EIO) in done.err and "is not estimated" in done.err


def test_a_plan_estimates_time_from_what_this_home_has_measured(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate(*more: str) -> dict[str, Any]:
        shape: dict[str, Any] = here(*BULK, *more, "--plan", "--json").json["estimate"]
        return shape

    assert estimate()["seconds"] is None and estimate()["unmeasured"] == 38
    gallery = Gallery(here.home / "data" / FOLDER, writing=True)
    took = [(8, 1.0), (8, 2.0), (8, 30.0), (16, 8.0)]
    rows = [sidecar(n, model="tiny", steps=steps, result_seconds=seconds)
            for n, (steps, seconds) in enumerate(took, start=1)]  # fmt: skip
    gallery.add(*map(row_of, rows))
    known = estimate()
    assert (known["seconds_per_image"], known["seconds"]) == (2.0, 76.0)
    assert (known["measured_on"], known["exact"]) == (3, True)
    scaled = estimate("--set", "steps=32", "--set", "count=1")
    assert scaled["exact"] is False and scaled["seconds"] == 19 * 12.0
    both = estimate("--set", "matrix={steps: [8, 16]}")
    assert both["seconds"] == 38 * (2.0 + 8.0) and both["exact"] is True
    assert "about 1 min 16 s" in here(*BULK, "--plan").out
    enlarging = ("--set", "upscale=2", "--set", "width=64", "--set", "height=64")
    assert estimate(*enlarging)["unmeasured"] == 38, "none of those made was enlarged"
    for number, side in ((9, 128), (10, 64)):
        large = {"upscale": 2, "result_width": side, "result_height": side}
        made = sidecar(number, model="tiny", steps=8, result_seconds=5.0, **large)
        gallery.add(row_of(made))
    assert estimate(*enlarging)["seconds_per_image"] == 5.0
    assert estimate()["seconds"] == known["seconds"]
    monkeypatch.setattr(
        plan_report, "reuse_counts", lambda *_: {"new": 8, "reused": 19, "unknown": 11}
    )
    assert estimate()["seconds"] == known["seconds"] / 2, "what is copied takes no time"


def test_queue_drops_the_spec_that_was_planned(here: Here) -> None:
    fields = ("--set", "steps=4", "--set", "tags=[try, out]", "--set", "window=23:00-07:00")
    done = here(*BULK, "--on-violation", "skip", *fields, "--queue")
    assert (done.code, done.out) == (0, "shapes.yaml\n") and "no runner is running" in done.err
    (spec,) = dropped(here.home)
    assert spec == {
        "kind": "text2img",
        "compose": {
            "pack": "shapes", "subjects": "*", "variables": "*", "on_violation": "skip"
        },
        "steps": 4, "tags": ["try", "out"], "window": "23:00-07:00",
    }  # fmt: skip
    again = here(*ONE, "--queue", "--json")
    assert again.json == {"jobs": [], "drops": ["shapes-2.yaml"]}


def test_queue_drops_nothing_that_would_be_rejected(here: Here) -> None:
    for bad in (["--extra", "and text"], ["--set", "width=128"], ["--set", "seeds=[]"]):
        done = here(*BULK, *bad, "--queue")
        assert done.code in (1, 2) and done.out == "" and done.err
    shape = here(*BULK, "--extra", "and text", "--queue", "--json").json
    assert shape["reason"] == "PromptForbidden" and len(shape["errors"]) == 19
    assert dropped(here.home) == []


def test_absent_weights_are_told_and_the_plan_runs_all_the_same(here: Here) -> None:
    done = here(*BULK, "--set", "model=schnell", "--set", "width=1024", "--plan", "--json")
    assert done.code == 0 and done.json["rejected"] is False
    assert any("`fluxdrop models pull schnell` (" in text for text in done.json["warnings"])
    queued = here(*ONE, "--set", "model=schnell", "--queue", "--json")
    assert queued.code == 0 and queued.json["drops"] == ["shapes.yaml"]
    assert "warning: schnell is not on this machine" in queued.err
    assert "warning" not in here(*ONE, "--queue").err


def test_a_plan_says_all_that_is_wrong_at_once(here: Here) -> None:
    """Seen red: where the schema's problems end the assessment."""
    wrong = ("--set", "steps=0", "--set", "model=tinny", "--set", "window=7-9")
    for mode in ("--plan", "--queue"):
        done = here(*BULK, *wrong, mode)
        assert done.code == 2 and dropped(here.home) == []
        for part in ("steps: 0 is less", "did you mean 'tiny'?", "window: '7-9' is not"):
            assert part in done.err


def test_audit_says_where_why_and_what_would_be_better(here: Here) -> None:
    done = here("audit", "--term", "logo", "no logo on the mug, but a logo on the lid")
    assert done.code == 1
    first, violation, advice = done.out.splitlines()
    assert first == "violation" and "character 27" in violation and "advice" in advice
    shape = here("audit", "--term", "text", "without any text", "--json")
    assert shape.code == 0 and shape.json["verdict"] == "ok" and shape.json["findings"] == []
    assert here("audit", "--term", " ", "x").code == 2
    assert here("audit").code == 2


def test_audit_without_terms_uses_the_settings(here: Here) -> None:
    prompt = "a signed poster"
    assert "nothing is forbidden" in here("audit", prompt).err
    (here.home / "fluxdrop.yaml").write_text("forbidden: [poster]\n", encoding="utf-8")
    assert here("audit", prompt).code == 1
    assert here("audit", "--term", "mug", prompt).code == 0


def test_audit_jsonl_answers_every_line_in_order(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "prompt": "a wall, no text", "terms": ["text"]},
        {"id": "zwei ☂", "prompt": "bold TЕXT", "terms": ["text", {"term": "logo"}]},
        {"id": 3, "prompt": "no terms"},
    ]
    given = "\ufeff" + "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    done = fluxdrop("audit", "--jsonl", stdin=given.encode() + b"\xff\n", cwd=tmp_path)
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["id"] for answer in answers] == [1, "zwei ☂", 3, None]
    assert [answer.get("verdict") for answer in answers] == ["ok", "violation", None, None]
    assert answers[1]["findings"][0]["start"] == 5
    assert "'terms' is missing" in answers[2]["error"] and "not UTF-8" in answers[3]["error"]
    assert done.code == 1, "lines that could not be read"
    clean = fluxdrop("audit", "--jsonl", stdin=given.splitlines()[1].encode(), cwd=tmp_path)
    assert clean.code == 0, "what is found stands in the answers"


def test_an_audit_has_the_languages_of_its_home_and_no_verdict_where_its_settings_are_broken(
    home: Path,
) -> None:
    """Seen red: lines were read as English, and a --term hid what was wrong with the settings."""
    line = json.dumps({"id": 1, "prompt": "ein Becher ohne Text", "terms": ["text"]}).encode()
    settings = home / "fluxdrop.yaml"
    settings.write_text("audit_languages: [de]\n", encoding="utf-8")
    assert json.loads(fluxdrop("audit", "--jsonl", stdin=line, cwd=home).out)["verdict"] == "ok"
    settings.write_text("audit_languages: [pl]\n", encoding="utf-8")
    for given in (("--jsonl",), ("--term", "text", "ein Becher ohne Text")):
        done = fluxdrop("audit", *given, stdin=line, cwd=home)
        assert done.code == 2 and "'pl' is not one of" in done.err


def test_audit_jsonl_answers_before_the_next_line_comes(tmp_path: Path) -> None:
    """Seen red: without a flush after each answer (the test then times out)."""
    with subprocess.Popen(
        [sys.executable, "-m", "runner", "audit", "--jsonl"], cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(PYTHONUNBUFFERED=""),
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        for n in range(3):
            line = json.dumps({"id": n, "prompt": "a logo", "terms": ["logo"]})
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == n
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("command", [[*ONE], [*BULK, "--plan"], ["audit", "--term", "x", "y"]])
def test_composing_and_auditing_import_nothing_heavy(home: Path, command: list[str]) -> None:
    report = run(*command, cwd=home)
    assert report.code == 0 and report.modules & (HEAVY | {"PIL", "rich"}) == set()


@pytest.mark.parametrize("command", [[*ONE], ["audit", "--term", "x", "y"]])
def test_composing_and_auditing_take_little_cpu_time(home: Path, command: list[str]) -> None:
    best = min(run(*command, cwd=home).cpu for _ in range(TRIES))
    assert best < CPU_SECONDS, f"{command} takes {best:.3f} s of CPU time"
