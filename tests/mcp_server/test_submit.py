"""Submitting: one spec for a good call, nothing for a bad one, and every problem at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from specs.read import read
from specs.validate import validate
from tests.mcp_server.support import (
    agent,
    data_uri,
    finished,
    inbox_of,
    picture,
    play,
    write_status,
)
from tests.spool.faulty import refused

GOOD: dict[str, Any] = {"prompt": "a red circle on a blue background", "model": "tiny"}


def spec_of(home: Path, job: str) -> dict[str, Any]:
    """The spec that waits in the inbox for a job, read as the runner reads it."""
    return validate(read((home / "inbox" / f"{job}.yaml").read_bytes()))


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
def test_a_good_call_leaves_one_spec_and_answers_with_its_job(home: Path, mode: str) -> None:
    async def scene() -> dict[str, Any]:
        async with agent(home, mode=mode) as one:
            return await one.answer("flux_generate", **GOOD, count=3, tags=["a"], x_mine={"k": 1})

    answer = play(scene)
    job = answer["job_id"]
    assert inbox_of(home) == [f"{job}.yaml"]
    assert spec_of(home, job) == {
        "kind": "text2img", "id": job, **GOOD, "count": 3, "tags": ["a"], "x_mine": {"k": 1},
        "seed": answer["seed"],
    }  # fmt: skip
    assert (answer["state"], answer["image_count"]) == ("submitted", 3)
    assert answer["status_file"] == str(home / "outbox" / job / "status.json")
    assert answer["runner"]["running"] is False and "fluxdrop run" in answer["runner"]["message"]


def test_a_bad_call_says_everything_that_is_wrong_and_drops_nothing(home: Path) -> None:
    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused(
                "flux_fill", prompt="", stpes=4, steps=5000, seed=1, seeds=[2], id="a/b",
                image="data:image/png;base64,AAAA", mask="/etc/passwd", outpaint={"left": 1},
                kind="fill",
            )  # fmt: skip

    said = play(scene)
    assert said.startswith("Nothing was submitted: ")
    for part in (
        "- prompt: this is empty", "did you mean 'steps'?", "- steps: 5000 is greater than",
        "'seed' and 'seeds' exclude each other", "- id: 'a/b' cannot be an id",
        "- image: this cannot be read as", "- mask: '/etc/passwd' is outside", "'outpaint' exclude",
        "- kind: this belongs to spec files",
    ):  # fmt: skip
        assert part in said, part
    assert inbox_of(home) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": "x", "model": "tinny"}, "did you mean 'tiny'?"),
        ({"prompt": "x", "model": "tiny", "width": 4096}, "tiny"),
        ({"prompt": "x", "count": 10_000, "matrix": {"steps": [1, 2]}}, "20,000 images"),
        ({"compose": {"pack": "nothing", "subjects": "all"}}, "there is no pack 'nothing'"),
        ({"prompt": "a\x00b"}, "U+0000 is not allowed"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": "x", "x_deep": [[[[]]] for _ in range(30_000)]}, "the limit is 262,144"),
        ({"prompt": "x", "dry_run": "yes"}, "dry_run: true or false"),
        ({"prompt": "x", "id": "con"}, "a device on Windows"),
        ({"prompt": "x", "id": 7}, "id: 7 is not text"),
        ({}, "'prompt' is required"),
    ],
)
def test_models_packs_counts_and_odd_values_are_refused_in_words(
    home: Path, arguments: dict[str, Any], said: str
) -> None:
    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_generate", **arguments)

    if "surrogate" in said:  # no transport carries it; a caller within the process might
        arguments = {"prompt": "x", "notes": "\ufffe"}
        said = "U+FFFE is not allowed"
    assert said in play(scene)
    assert inbox_of(home) == []


PROMPTS = (
    "x\nid: other\nkind: fill", "a: b", "- a\n- b", "{a: 1}", "*alias", "&anchor x",
    "!!python/x",
    "--- \n...", "%TAG ! x", "'\"\\", "yes", "null", "7", "café ☂ \U0001f600 \u2028 x", "#no",
    "<<: *a", "\ttab", "a\r\nb", "$(rm -rf /)", "{{ x }}", "1e3", "~",
)  # fmt: skip


def test_a_prompt_is_a_prompt_whatever_yaml_would_make_of_it(home: Path) -> None:
    async def scene() -> list[str]:
        async with agent(home) as one:
            calls = [{"prompt": each, "model": "tiny", "notes": each} for each in PROMPTS]
            return [(await one.answer("flux_generate", **call, seed=7))["job_id"] for call in calls]

    for prompt, job in zip(PROMPTS, play(scene), strict=True):
        assert spec_of(home, job) == {
            "kind": "text2img", "id": job, "prompt": prompt, "model": "tiny", "notes": prompt,
            "seed": 7,
        }  # fmt: skip


def test_null_means_left_out_as_many_hosts_send_it(home: Path) -> None:
    async def scene() -> dict[str, Any]:
        async with agent(home) as one:
            return await one.answer("flux_generate", **GOOD, tags=None, id=None, dry_run=None)

    assert "tags" not in spec_of(home, play(scene)["job_id"])


def test_the_seed_is_known_before_the_job_has_run_and_the_same_when_the_call_is_repeated(
    home: Path,
) -> None:
    async def scene() -> list[dict[str, Any]]:
        async with agent(home) as one:
            calls = [await one.answer("flux_generate", id="hero", **GOOD) for _ in range(2)]
            others = ({"seed": 7}, {"seeds": [1]}, {"matrix": {"steps": [1, 2]}})
            return calls + [await one.answer("flux_generate", **GOOD, **each) for each in others]

    first, again, *others = play(scene)
    assert first["first_picture"] == "hero/hero-0001.png" and first["model"] == "tiny"
    assert first["seed"] == again["seed"] == spec_of(home, "hero")["seed"]
    # Each of several combinations has a seed of its own, as without an agent.
    assert not any("seed" in other for other in others)
    assert "seed" not in spec_of(home, others[-1]["job_id"])


def test_weights_that_are_not_here_are_said_before_the_job_is_queued_and_what_is(
    home: Path,
) -> None:
    async def scene() -> list[dict[str, Any]]:
        async with agent(home) as one:
            call = {"prompt": "x", "model": "klein"}
            return [await one.answer("flux_generate", **call, dry_run=dry) for dry in (True, False)]

    for answer in play(scene):
        assert "fluxdrop models pull klein" in answer["warnings"][-1]
        assert "ask the user to fetch" in answer["next"] and "(tiny)" in answer["next"]


def test_a_picture_that_a_job_will_not_make_is_refused_with_the_names_of_those_it_will(
    home: Path,
) -> None:
    async def scene() -> str:
        async with agent(home) as one:
            await one.answer("flux_generate", id="hero", **GOOD)
            await one.answer("flux_edit", prompt="x", model="tiny", image="hero/hero-0001.png")
            return await one.refused("flux_edit", prompt="x", model="tiny", image="hero/1.png")

    assert "are named hero-0001.png" in play(scene)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"model": "dall-e-3"}, "(on this machine are: tiny)"),
        ({"aspect_ratio": "16:9"}, "give `width` and `height`"),
        ({"size": "1024x1024"}, "give `width` and `height`"),
        ({"image_url": "x.png"}, "did you mean 'image'?"),
        ({"batch_size": 2}, "did you mean 'count'?"),
        ({"num_images": 2}, "did you mean 'count'?"),
        ({"style": "vivid"}, "say it in the `prompt`"),
        ({"image": "https://example.com/a.png"}, "URLs are never fetched"),
    ],
)
def test_what_other_services_take_is_refused_with_our_word_for_it(
    home: Path, arguments: dict[str, Any], hint: str
) -> None:
    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_generate", prompt="x", **arguments)

    assert hint in play(scene)


def test_the_same_call_with_the_same_id_runs_nothing_twice(home: Path) -> None:
    async def scene() -> list[dict[str, Any]]:
        async with agent(home) as one:
            calls = [await one.answer("flux_generate", id="hero", **GOOD) for _ in range(2)]
            # The runner takes it: the bytes are beside the status from now on.
            status = finished(home, "hero", 1)
            (home / "inbox" / "hero.yaml").replace(home / "outbox" / "hero" / "spec.yaml")
            calls.append(await one.answer("flux_generate", id="hero", **GOOD))
            other = await one.refused("flux_generate", id="hero", prompt="another", model="tiny")
            assert "id: 'hero' is another job's" in other
            cased = await one.refused("flux_generate", id="HERO", prompt="another", model="tiny")
            assert "'hero' is another job's" in cased
            # A rejected job holds nothing.
            write_status(home, {**status, "state": "rejected"})
            calls.append(await one.answer("flux_generate", id="hero", **GOOD))
            found = await one.answer("flux_get_job", job_id="hero")
            assert found["state"] == "submitted"
            return calls

    calls = play(scene)
    assert [call["job_id"] for call in calls] == ["hero"] * 4
    assert [call["state"] for call in calls] == ["submitted", "submitted", "succeeded", "submitted"]
    assert inbox_of(home) == ["hero.yaml"]


def test_a_spec_that_cannot_be_read_is_not_taken_for_another_jobs(home: Path) -> None:
    """Seen red: the second call was told that its id was another job's."""

    async def scene() -> str:
        async with agent(home) as one:
            await one.answer("flux_generate", id="hero", **GOOD)
            with refused(home / "inbox" / "hero.yaml"):
                return await one.refused("flux_generate", id="hero", **GOOD)

    assert os.strerror(errno.EIO) in play(scene)


def test_an_id_that_waits_in_the_inbox_is_taken_whatever_its_case(home: Path) -> None:
    (home / "inbox" / "Cat.yml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")

    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_generate", id="cat", **GOOD)

    assert "id: 'Cat' is another job's" in play(scene)


def test_chosen_ids_are_readable_safe_and_never_the_same(home: Path) -> None:
    async def scene() -> list[str]:
        async with agent(home) as one:
            prompts = ["Été: un café!", "日本", "../../etc/passwd", "a" * 500, "drops", "CON"] * 4
            answers = [await one.answer("flux_generate", prompt=p, model="tiny") for p in prompts]
            return [answer["job_id"] for answer in answers]

    jobs = play(scene)
    assert len(set(jobs)) == len(jobs) == len(inbox_of(home))
    assert jobs[0].startswith("ete-un-cafe-") and jobs[1].startswith("text2img-")
    assert jobs[2].startswith("etc-passwd-")


def test_a_dry_run_tells_the_whole_and_leaves_nothing(home: Path) -> None:
    compose = {"pack": "shapes", "subjects": "all", "variables": "all"}

    async def scene() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        async with agent(home) as one:
            return (
                await one.answer("flux_generate", **GOOD, count=4, id="a-1", dry_run=True),
                await one.answer(
                    "flux_generate", compose=compose, model="tiny", reuse=True, dry_run=True
                ),
                await one.answer(
                    "flux_edit", **GOOD, image=data_uri(picture()), dry_run=True,
                    matrix={"prompt": ["one", "two"], "steps": [2, 4]},
                ),
            )  # fmt: skip

    plain, packed, edited = play(scene)
    assert (plain["image_count"], plain["job_id"], plain["state"]) == (4, None, "dry_run")
    said = plain["dry_run"]
    assert said["spec"] == {"kind": "text2img", "id": "a-1", **GOOD, "count": 4}
    assert validate(read(said["spec_yaml"].encode())) == said["spec"]
    assert [row["prompt"] for row in said["prompts"]] == [GOOD["prompt"]]
    assert said["audit"] == said["prompts"][0]["audit"]["verdict"] == "ok"
    assert packed["image_count"] == 38 and packed["dry_run"]["prompt_count"] == 19
    assert len(packed["dry_run"]["prompts"]) == 19 and len(packed["dry_run"]["left_out"]) == 2
    assert packed["dry_run"]["left_out_count"] == 2
    assert packed["dry_run"]["prompts"][0]["subject"] == "black-star"
    assert packed["dry_run"]["reuse"] == {"new": 38, "reused": 0, "unknown": 0}
    assert "reuse" not in plain["dry_run"]
    assert edited["image_count"] == 4
    assert [row["prompt"] for row in edited["dry_run"]["prompts"]] == ["one", "two"]
    assert inbox_of(home) == [] and list((home / "outbox").iterdir()) == []


def test_a_forbidden_word_is_named_before_anything_runs(home: Path) -> None:
    (home / "fluxdrop.yaml").write_text("forbidden: [blood]\n", encoding="utf-8")

    async def scene() -> str:
        async with agent(home) as one:
            fine = await one.answer("flux_generate", prompt="no blood", model="tiny", dry_run=True)
            assert fine["dry_run"]["audit"] == "ok"
            return await one.refused("flux_generate", prompt="a pool of blood", model="tiny")

    assert "blood" in play(scene)
    assert inbox_of(home) == []


def test_absent_weights_are_told_and_refuse_nothing(home: Path) -> None:
    async def scene() -> list[dict[str, Any]]:
        async with agent(home) as one:
            call = {"prompt": "a red circle", "model": "dev"}
            return [
                await one.answer("flux_generate", **call, dry_run=True),
                await one.answer("flux_generate", **call),
                await one.answer("flux_generate", **GOOD),
            ]

    rehearsed, absent, builtin = play(scene)
    assert rehearsed["warnings"] == absent["warnings"] and builtin["warnings"] == []
    assert "`fluxdrop models pull dev` (" in absent["warnings"][0]
    assert inbox_of(home) == sorted(f"{each['job_id']}.yaml" for each in (absent, builtin))


def test_an_inbox_that_cannot_be_written_is_said_in_words(home: Path) -> None:
    for path in (home / "inbox").iterdir():
        path.unlink() if path.is_file() else path.rmdir()
    (home / "inbox").rmdir()
    (home / "inbox").write_text("in the way", encoding="utf-8")

    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_generate", **GOOD)

    assert "cannot write into" in play(scene)
