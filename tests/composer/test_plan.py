"""Bulk work: which items there are, in which order, and that nothing depends on chance."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import composer.assemble
import composer.plan
from composer.plan import make_plan
from composer.report import compose_json, plan_json
from composer.table import Row, Table
from composer.terms import forbidden_in
from composer.tokencount import Encoder, Reading
from specs import expand
from specs.errors import SpecInvalid
from tests.composer.helpers import spec, write_pack

ROOT = Path(__file__).parent.parent.parent


def test_all_means_every_subject_with_every_variable_in_natural_order(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "all"}), prompts)
    assert [(e.subject, e.variable) for e in plan.entries] == [
        (subject, variable) for subject in ("cup2", "cup10", "mug") for variable in ("day", "night")
    ]
    assert plan.count == 12
    assert [fields["seed"] for _, fields in plan.images()][:4] == [3, 9, 3, 9]


def test_names_may_be_one_or_a_list_and_the_order_is_the_packs(prompts: Path) -> None:
    plan = make_plan(spec({"subjects": ["mug", "cup2"], "variables": "night"}, seed=1), prompts)
    assert [e.subject for e in plan.entries] == ["cup2", "mug"]


def test_the_only_variable_needs_no_name_and_one_of_several_does(
    tmp_path: Path, prompts: Path
) -> None:
    write_pack(tmp_path, "cups", variables={"day": "by day"})
    assert make_plan(spec({"pack": "cups"}), prompts).entries[0].variable == "day"
    with pytest.raises(SpecInvalid, match="name some of day, night, or `all`"):
        make_plan(spec(), prompts)
    write_pack(tmp_path, "plates")
    assert make_plan(spec({"pack": "plates"}), prompts).entries[0].variable is None


def test_an_unknown_name_is_an_error_with_the_nearest_one(prompts: Path) -> None:
    with pytest.raises(SpecInvalid) as caught:
        make_plan(spec({"subjects": ["cup3"], "variables": "dusk"}), prompts)
    assert [p.path for p in caught.value.problems] == ["compose.subjects", "compose.variables"]
    assert "did you mean 'cup2'?" in caught.value.problems[0].message


def test_a_part_makes_the_same_images_as_the_whole(prompts: Path) -> None:
    whole = [*make_plan(spec({"variables": "all"}), prompts).images()]
    part = [*make_plan(spec({"subjects": "mug", "variables": "night"}), prompts).images()]
    assert part and all(image in whole for image in part)


def test_images_agree_with_what_a_job_expands_to(prompts: Path) -> None:
    given_spec = spec({"variables": "all"}, matrix={"steps": [2, 8], "guidance": [1.0, 3.5]})
    plan = make_plan(given_spec, prompts)
    assert plan.count == expand.count(plan.spec, len(plan.prompts)) == 48
    for index, (entry, fields) in enumerate(plan.images()):
        realised = expand.image(plan.spec, index, 0, plan.prompts)
        assert fields == realised
        assert realised["prompt"] == entry.prompt
        assert "seeds" not in realised


def test_seeds_that_differ_from_subject_to_subject_are_kept_apart(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, subjects={"a": "a mug", "b": "a cup"})
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    facts["subjects"] = {"b": {"defaults": {"seeds": {"start": 5, "count": 3}}}}
    facts["defaults"] = {"seeds": [1]}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    plan = make_plan(spec(), tmp_path)
    assert [(entry.subject, fields["seed"]) for entry, fields in plan.images()] == [
        ("a", 1), ("b", 5), ("b", 6), ("b", 7),
    ]  # fmt: skip
    plan = make_plan(spec(seed=7, count=2), tmp_path)
    assert [(entry.subject, fields["seed"]) for entry, fields in plan.images()] == [
        ("a", 7), ("a", 8), ("b", 7), ("b", 8),
    ]  # fmt: skip


def test_parameters_merge_in_the_order_of_the_contract(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, variables={"day": "by day"}, defaults={"steps": 3, "guidance": 3})
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    facts["subjects"] = {"mug": {"defaults": {"steps": 2, "model": "subject"}}}
    facts["variables"] = {"day": {"defaults": {"steps": 1, "aspect_ratio": "1:1"}}}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")

    def parameters(**fields: Any) -> Mapping[str, Any]:
        plan = make_plan(
            spec(None, **fields),
            tmp_path,
            settings={"precision": "bf16", "guidance": 9},
            model_defaults=lambda model: {"guidance": 8, "precision": "auto", "quality": 90},
        )
        return next(plan.images())[1]

    merged = parameters()
    assert (merged["steps"], merged["model"], merged["guidance"]) == (1, "subject", 3)
    assert (merged["precision"], merged["quality"]) == ("bf16", 90)
    assert (merged["width"], merged["height"]) == (1024, 1024)
    assert parameters(steps=50, width=512)["steps"] == 50
    assert parameters(width=512)["height"] == 512
    assert "seed" not in merged


def test_each_distinct_prompt_is_audited_once(
    prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = composer.assemble.audit

    def counting(prompt: str, *rest: Any) -> Any:
        seen.append(prompt)
        return real(prompt, *rest)

    monkeypatch.setattr(composer.assemble, "audit", counting)
    plan = make_plan(spec({"variables": "all"}, matrix={"steps": [1, 2]}), prompts)
    list(plan.images())
    assert len(seen) == len(set(seen)) == 6


def test_too_many_images_are_refused_before_the_first_prompt(
    prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*blocks: Any) -> None:
        raise AssertionError("a prompt was made")

    monkeypatch.setattr(composer.plan, "compose", never)
    with pytest.raises(SpecInvalid, match="split it"):
        make_plan(spec({"variables": "all"}, count=2000, seed=0), prompts)


def test_extra_is_its_own_block(prompts: Path) -> None:
    compose = {"subjects": "mug", "variables": "day", "extra": "no text"}
    made = compose_json(make_plan(spec(compose), prompts))
    assert made["prompt"] == "studio photo of, a mug, by day, no text"
    assert [b["block"] for b in made["blocks"]] == ["fixed", "subject", "variable", "extra"]
    assert made["audit"]["verdict"] == "ok"
    assert made["tokens"]["estimated"]


def test_every_image_records_where_its_prompt_came_from(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "all"}), prompts)
    assert len(plan.records()) == len(plan.prompts)
    record = next(
        record
        for record, fields in zip(plan.records(), plan.prompts, strict=True)
        if fields["prompt"] == plan.entries[-1].prompt
    )
    assert (record["pack"], record["pack_version"]) == ("mugs", "1.0.0")
    assert (record["subject"], record["variable"], record["audit"]) == ("mug", "night", "ok")
    assert len(record["pack_sha256"]) == 64


def test_the_plan_has_the_shape_that_callers_rely_on(prompts: Path) -> None:
    shown = plan_json(make_plan(spec({"variables": "day"}), prompts))
    assert shown.keys() >= {
        "count", "items", "skipped", "violations", "duplicates", "over_long", "warnings",
    }  # fmt: skip
    assert shown["items"][0].keys() >= {
        "subject", "variable", "seed", "prompt", "length", "verdict",
    }  # fmt: skip
    assert shown["estimate"].keys() == {"bytes"}
    assert json.loads(json.dumps(shown)) == shown


def test_the_room_on_the_disk_depends_on_size_and_format(prompts: Path) -> None:
    def room(**fields: Any) -> int:
        given = spec({"variables": "day"}, seed=1, **fields)
        return int(plan_json(make_plan(given, prompts))["estimate"]["bytes"])

    beside = 3 * 16_384
    small = room(width=512, height=512) - beside
    assert room(width=1024, height=1024) - beside == pytest.approx(4 * small, rel=0.001)
    assert room(width=512, height=512, format="jpeg") - beside == pytest.approx(small / 4, rel=0.01)
    large = {"width": 512, "height": 512, "upscale": 4}
    assert room(**large) - beside == pytest.approx(16 * small, rel=0.001)
    kept = 17 * small
    assert room(**large, keep_original=True) - beside == pytest.approx(kept, rel=0.001)
    columns = {**large, "keep_original": True, "format": "jpeg"}
    rows = tuple(Row(n, {**columns, "prompt": f"cup {n}"}) for n in range(2, 5))
    table = Table("rows.csv", "", rows, frozenset({"prompt", *columns}))
    plan = make_plan({"kind": "text2img", "table": "rows.csv", "seed": 1}, prompts, table=table)
    of_rows = plan_json(plan)["estimate"]["bytes"] - beside
    assert of_rows == pytest.approx((16 / 4 + 1) * small, rel=0.001), "the original is a PNG"


def test_the_first_prompt_is_read_with_the_encoders_of_its_own_model(tmp_path: Path) -> None:
    """Seen red: with those of the pack's model, and with every prompt of the choices made."""
    folder = write_pack(tmp_path, subjects={"mug": "a {red|blue} mug"}, defaults={"model": "pack"})
    facts = json.loads((folder / "pack.json").read_text("utf-8"))
    facts["subjects"] = {"mug": {"defaults": {"model": "own"}}}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    made = compose_json(
        make_plan(
            spec(choices="all", seed=1),
            tmp_path,
            model_defaults=lambda model: {"encoders": lambda: [words(str(model), 9)]},
        )
    )
    assert made["tokens"] == {"own": 6, "estimated": False}
    assert made["prompt"].endswith("a red mug")


def words(name: str, limit: int, **more: bool) -> Encoder:
    """An encoder with a token for each word."""
    return Encoder(name, limit, lambda text: Reading(len(text.split()), 5), counted=True, **more)


def test_long_prompts_warn_what_the_encoders_miss(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"a": "word " * 300, "b": "word " * 299})
    readers = [words("CLIP", 77, pooled=True), words("T5", 256)]
    plan = make_plan(spec(), tmp_path, model_defaults=lambda model: {"encoders": lambda: readers})
    assert sum("T5 tokens: the model sees the first 256" in w for w in plan.warnings) == 2
    (clip,) = (w for w in plan.warnings if "CLIP tokens" in w)
    assert "303 CLIP tokens" in clip and "(2 of 2 prompts are as long)" in clip
    assert plan_json(plan)["tokens"] == [
        {"model": None, "encoder": "CLIP", "limit": 77, "most": 303, "over": 2, "counted": True},
        {"model": None, "encoder": "T5", "limit": 256, "most": 303, "over": 2, "counted": True},
    ]


def test_each_model_of_a_plan_reads_with_its_own_encoders(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"mug": "word " * 100, "jug": "a jug"})
    limits = {"small": 64, "large": 512}
    readers = {name: [words("T5", limit)] for name, limit in limits.items()}
    plan = make_plan(
        spec(matrix={"model": ["small", "large"]}),
        tmp_path,
        model_defaults=lambda model: {"encoders": lambda: readers[str(model)]},
    )
    (warning,) = plan.warnings
    assert warning.startswith("small: compose: subject mug: 103 T5 tokens: the model sees the")
    assert [(row["model"], row["over"]) for row in plan_json(plan)["tokens"]] == [
        ("small", 1), ("large", 0),
    ]  # fmt: skip


def test_of_an_unknown_model_a_plan_estimates_as_for_flux(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"a": "word " * 600})
    plan = make_plan(spec(), tmp_path)
    rows = plan_json(plan)["tokens"]
    assert [(row["limit"], row["counted"]) for row in rows] == [(77, False), (512, False)]
    assert any("T5 tokens: the model sees the first 512" in w for w in plan.warnings)


SCRIPT = """
import json, sys
from pathlib import Path
from composer.plan import make_plan
from composer.report import plan_json
spec = {"kind": "text2img", "compose": {"pack": "mugs", "subjects": "all", "variables": "all"}}
print(json.dumps(plan_json(make_plan(spec, Path(sys.argv[1]), forbidden=["cup", "mug", "day"]))))
"""


def test_nothing_depends_on_the_hash_seed_of_python(prompts: Path) -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(prompts)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(answers) == 1


WORDS = st.lists(st.sampled_from(["mug", "logo", "no", "red", ",", "{x}", "%s"]), max_size=5)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    subjects=st.dictionaries(
        st.sampled_from("abcdef"), WORDS.map(" ".join), min_size=1, max_size=5
    ),
    variables=st.dictionaries(st.sampled_from("xyz"), WORDS.map(" ".join), max_size=3),
    skip=st.booleans(),
    seeds=st.integers(1, 3),
)
def test_any_pack_is_planned_and_its_numbers_agree(
    tmp_path_factory: pytest.TempPathFactory,
    subjects: dict[str, str],
    variables: dict[str, str],
    skip: bool,
    seeds: int,
) -> None:
    folder = tmp_path_factory.mktemp("prompts")
    write_pack(folder, subjects=subjects, variables=variables, forbidden=["logo"])
    compose = {"on_violation": "skip" if skip else "reject"}
    chosen = {"variables": "all"} if variables else {}
    plan = make_plan(spec({**compose, **chosen}, seed=0, count=seeds), folder)
    images = list(plan.images())
    assert len(images) == plan.count == len(plan.entries) * seeds
    assert len({repr(image) for image in images}) == len(images)
    full = sum(bool(t) for t in subjects.values()) * (
        sum(bool(t) for t in variables.values()) if variables else 1
    )
    left_out = len(plan.violations) if skip else 0
    assert len(plan.entries) + len(plan.duplicates) + left_out == full
    if skip:
        assert all(entry.report.ok for entry in plan.entries)
    assert all("{x}" in e.prompt for e in plan.entries if "{x}" in subjects[e.subject])


def test_a_plain_prompt_is_audited_against_the_settings() -> None:
    assert forbidden_in("a mug, no logo", ["logo"]) == forbidden_in("a mug", []) == []
    (said,) = forbidden_in("a mug with a logo", [{"term": "logo", "aliases": ["emblem"]}])
    assert said.startswith("'logo' is forbidden: character 14, 'a mug with a logo'")
