"""Bulk work: what is forbidden, empty, too long, ruled out or there twice, and how it is told."""

import json
from pathlib import Path

from composer.plan import make_plan
from composer.report import plan_json
from tests.composer.helpers import refused, spec, write_pack


def test_the_first_bad_combination_rejects_the_job_with_all_findings(tmp_path: Path) -> None:
    subjects = {f"s{n}": "a logo" if n % 2 else "a mug" for n in range(6)}
    write_pack(tmp_path, subjects=subjects, forbidden=["logo"])
    subjects_bad = make_plan(spec(), tmp_path)
    error = refused(subjects_bad)
    assert error.reason == "PromptForbidden"
    # The same prompt three times is one prompt: one finding, two duplicates.
    assert len(error.problems) == 1
    assert "'logo' is forbidden" in str(error)
    assert "in the subject block" in str(error)


def test_findings_are_listed_to_a_hundred_and_counted_in_all(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={f"s{n}": f"logo {n}" for n in range(130)}, forbidden=["logo"])
    plan = make_plan(spec(), tmp_path)
    assert plan.finding_count == 130
    error = refused(plan)
    assert len(error.problems) == 101
    assert "130 findings in all; 100 are listed" in error.problems[-1].message
    shown = plan_json(plan)
    assert (len(shown["violations"]), shown["violation_count"], shown["rejected"]) == (
        100,
        130,
        True,
    )


def test_skip_leaves_out_what_is_forbidden_and_goes_on(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"bad": "a logo", "good": "a mug"}, forbidden=["logo"])
    plan = make_plan(spec({"on_violation": "skip"}), tmp_path)
    plan.reject()
    assert [e.subject for e in plan.entries] == ["good"]
    assert [(s.file, s.reason) for s in plan.skipped] == [
        ("mugs/subjects/bad.txt", "asks for 'logo', which is forbidden")
    ]
    assert [e.subject for e in plan.violations] == ["bad"]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"bad": "a logo", "empty": "# only a note"}, forbidden=["logo"])
    error = refused(make_plan(spec({"on_violation": "skip"}), tmp_path))
    assert error.reason == "NothingToRun"
    assert "subjects/empty.txt is empty" in str(error)


def test_empty_and_disabled_blocks_are_skipped_and_listed(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, subjects={"a": "# nothing", "b": "a mug", "c": "a cup"})
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    facts["subjects"] = {"c": {"enabled": False}}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    plan = make_plan(spec(), tmp_path)
    assert [e.subject for e in plan.entries] == ["b"]
    assert [(s.subject, s.reason) for s in plan.skipped] == [
        ("a", "is empty"),
        ("c", "is switched off in pack.json"),
    ]


def test_only_with_and_not_with_rule_out_combinations(prompts: Path) -> None:
    file = prompts / "mugs" / "pack.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["subjects"] = {"mug": {"only_with": ["day"]}}
    facts["variables"] = {"day": {"not_with": ["cup2"]}}
    file.write_text(json.dumps(facts), encoding="utf-8")
    plan = make_plan(spec({"variables": "all"}), prompts)
    assert [(e.subject, e.variable) for e in plan.entries] == [
        ("cup2", "night"), ("cup10", "day"), ("cup10", "night"), ("mug", "day"),
    ]  # fmt: skip
    assert len(plan.skipped) == 2


def test_an_over_long_prompt_names_its_longest_block(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"long": "x" * 40, "short": "x"}, max_chars=50)
    plan = make_plan(spec(), tmp_path)
    assert refused(plan).reason == "PromptTooLong"
    (shown,) = plan_json(plan)["over_long"]
    assert (shown["over_by"], shown["longest"]) == (7, "subject")
    skipped = make_plan(spec({"on_violation": "skip"}), tmp_path)
    assert [e.subject for e in skipped.entries] == ["short"]
    assert "7 over the limit of 50" in skipped.skipped[0].reason


def test_duplicates_are_reported_and_run_once(tmp_path: Path) -> None:
    write_pack(tmp_path, subjects={"a": "A  mug", "b": "a mug", "c": "a cup"})
    plan = make_plan(spec(seed=1), tmp_path)
    assert plan.count == 2
    assert plan_json(plan)["duplicates"] == [
        {"subject": "b", "variable": None, "same_as": {"subject": "a", "variable": None}}
    ]


def test_settings_forbid_on_top_of_the_pack(prompts: Path) -> None:
    plan = make_plan(spec({"variables": "day"}), prompts, forbidden=["cup"])
    assert {e.subject for e in plan.violations} == {"cup2", "cup10"}


def test_a_subject_may_forbid_more_and_allow_phrases(tmp_path: Path) -> None:
    folder = write_pack(
        tmp_path, subjects={"a": "a window frame", "b": "a window frame."}, forbidden=["frame"]
    )
    facts = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    facts["subjects"] = {"a": {"allow": ["window frame"]}, "b": {"allow": ["frame"]}}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    plan = make_plan(spec(), tmp_path)
    assert [e.subject for e in plan.violations] == ["b"]
    assert any("allow a longer phrase" in warning for warning in plan.warnings)
    facts["x_allow_lifts_errors"] = True
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    assert not make_plan(spec(), tmp_path).violations


def test_a_negation_does_not_reach_the_next_block(tmp_path: Path) -> None:
    write_pack(tmp_path, fixed="no text", subjects={"a": "logos"}, forbidden=["logo", "text"])
    plan = make_plan(spec(), tmp_path)
    assert [f.term for f in plan.violations[0].report.findings] == ["logo"]
    assert any("reads no negatives" in warning for warning in plan.warnings)
