"""Reading: the gallery, the resources, the prompt and its completions; and mistakes of our own."""

from __future__ import annotations

import base64
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from runner.gallery.rebuild import row_of
from runner.gallery.store import FILE, FOLDER, Gallery
from runner.mcp_server import submission
from runner.mcp_server.search import GallerySearch
from runner.settings import find_home
from specs import schemas
from tests.mcp_server.support import agent, finished, play
from tests.spool.faulty import refused


def fill_gallery(home: Path, count: int) -> Gallery:
    """A gallery as a runner writes it."""
    gallery = Gallery(home / "data" / FOLDER, writing=True)
    for n in range(1, count + 1):
        result = {"job": "hero", "index": n, "file": f"hero-{n:04d}.png",
                  "created_at": f"2026-11-23T08:00:{n % 60:02d}Z"}  # fmt: skip
        gallery.add(row_of({"kind": "text2img", "model": "tiny", "seed": n, "tags": ["a"],
                            "prompt": f"a red circle {n}", "result": result}))  # fmt: skip
    return gallery


def test_the_gallery_answers_newest_first_page_by_page_while_it_grows(home: Path) -> None:
    async def scene() -> None:
        async with agent(home) as one:
            empty = await one.answer("flux_search_gallery")
            assert empty["total"] == 0 and "no gallery yet" in empty["message"]
            gallery = fill_gallery(home, 30)
            first = await one.answer("flux_search_gallery", text="red circle", tag="a")
            assert (first["total"], len(first["rows"]), first["next_offset"]) == (30, 20, 20)
            top = first["rows"][0]
            assert (top["id"], top["uri"]) == ("hero-0030", "flux://jobs/hero/images/30")
            assert top["file"] == "outbox/hero/hero-0030.png"
            last = await one.answer("flux_search_gallery", offset=20, model="tiny")
            assert (len(last["rows"]), last["next_offset"]) == (10, None)
            assert (await one.answer("flux_search_gallery", seed=7))["total"] == 1
            assert (await one.answer("flux_search_gallery", kind="fill"))["total"] == 0
            gallery.remove("hero-0030")
            assert (await one.answer("flux_search_gallery"))["total"] == 29

    play(scene)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"since": "yesterday"}, "a date is written like 2026-11-23"),
        ({"kind": "text2image"}, "did you mean 'text2img'?"),
        ({"limit": 0, "offset": -1, "seed": "x"}, "3 problems"),
        ({"query": "x"}, "unknown key 'query'"),
    ],
)
def test_a_search_that_cannot_be_meant_is_told_how_to_ask(
    home: Path, arguments: dict[str, Any], said: str
) -> None:
    fill_gallery(home, 1)

    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_search_gallery", **arguments)

    assert said in play(scene)


def test_resources_list_models_packs_schemas_and_the_newest_jobs_page_by_page(home: Path) -> None:
    for n in range(30):
        finished(home, f"job-{n}", 1)
        os.utime(home / "outbox" / f"job-{n}", ns=(n * 10**9, n * 10**9))

    async def scene() -> list[str]:
        async with agent(home) as one:
            first = await one.client.list_resources()
            second = await one.client.list_resources(cursor=first.next_cursor)
            assert second.next_cursor is None
            with pytest.raises(MCPError, match="is not a cursor"):
                await one.client.list_resources(cursor="x")
            return [str(each.uri) for each in (*first.resources, *second.resources)]

    listed = play(scene)
    kinds = [f"flux://schema/{kind}" for kind in schemas.kinds()]
    fixed = ["flux://models", "flux://packs", *kinds]
    assert listed[: len(fixed)] == fixed
    jobs = listed[len(fixed) :]
    assert jobs[:2] == ["flux://jobs/job-29/status", "flux://jobs/job-29/images/1"]
    assert len(jobs) == len(set(jobs)) == 60


def test_a_job_that_cannot_be_read_is_left_out_of_the_list_and_named_in_the_log(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: there was no list."""
    for job in ("a", "b"):
        finished(home, job, 1)
    file = home / "outbox" / "a" / "status.json"

    async def listed() -> list[str]:
        async with agent(home) as one:
            return [str(each.uri) for each in (await one.client.list_resources()).resources]

    with refused(file):
        left = play(listed)
    assert "flux://jobs/b/status" in left and "flux://jobs/a/status" not in left
    assert f"{file.parent} is left out: {os.strerror(errno.EIO)}" in caplog.text
    with refused(file.parent, reads=["lstat"]):
        assert [each for each in play(listed) if "/jobs/" in each] == left[-2:]


def test_every_address_can_be_read(home: Path) -> None:
    finished(home, "hero", 1)
    (home / "inbox" / "wait.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")

    async def scene() -> dict[str, Any]:
        async with agent(home) as one:
            found: dict[str, Any] = {}
            for path in ("models", "packs", "schema/fill", "jobs/hero/status", "jobs/wait/status"):
                read = (await one.client.read_resource(f"flux://{path}")).contents[0]
                assert read.mime_type == "application/json"
                found[path] = json.loads(read.text)
            image = (await one.client.read_resource("flux://jobs/hero/images/1")).contents[0]
            found["image"] = image.mime_type, base64.b64decode(image.blob)
            return found

    found = play(scene)
    tiny = next(m for m in found["models"]["models"] if m["name"] == "tiny")
    assert tiny["present"] is True and set(tiny["kinds"]) == set(schemas.kinds())
    shapes = next(p for p in found["packs"]["packs"] if p["id"] == "shapes")
    assert "red-circle" in shapes["subjects"] and "on-black" in shapes["variables"]
    assert found["schema/fill"] == schemas.bundle("fill")
    assert found["jobs/hero/status"]["state"] == "succeeded"
    assert found["jobs/wait/status"] == {"id": "wait", "state": "submitted"}
    assert found["image"] == (
        "image/png",
        (home / "outbox" / "hero" / "hero-0001.png").read_bytes(),
    )


NOWHERE = (
    "flux://jobs/never/status", "flux://jobs/hero/images/2", "flux://jobs/hero/images/x",
    "flux://jobs/..%2F..%2Fdata/status", "flux://jobs/../status", "flux://schema/nothing",
    "flux://schema/..%2F..%2Fpyproject", "flux://data", "file:///etc/passwd", "flux://",
    "flux://jobs/hero/images/" + "9" * 300, "flux://jobs/drops/status",
)  # fmt: skip


def test_what_is_not_there_is_not_found_and_nothing_else_is_read(home: Path) -> None:
    finished(home, "hero", 1)

    async def scene() -> None:
        async with agent(home) as one:
            for uri in NOWHERE:
                with pytest.raises(MCPError, match="there is no resource") as caught:
                    await one.client.read_resource(uri)
                assert caught.value.code == -32602

    play(scene)


def test_a_pack_that_cannot_be_read_says_why_and_hides_no_other(home: Path) -> None:
    (home / "prompts" / "broken").mkdir()
    (home / "prompts" / "broken" / "pack.json").write_text("{", encoding="utf-8")

    async def scene() -> list[dict[str, Any]]:
        async with agent(home) as one:
            read = (await one.client.read_resource("flux://packs")).contents[0]
            return list(json.loads(read.text)["packs"])

    packs = {pack["id"]: pack for pack in play(scene)}
    assert "error" in packs["broken"] and "subjects" in packs["shapes"]


def test_the_prompt_turns_a_pack_into_a_plan_for_a_night(home: Path) -> None:
    async def scene() -> tuple[str, list[str], list[str], list[str]]:
        async with agent(home) as one:
            (listed,) = (await one.client.list_prompts()).prompts
            assert listed.title == "A night from a pack"
            chosen = {"pack": "shapes", "variables": "on-black, on-white", "window": "23:00-07:00"}
            got = await one.client.get_prompt(listed.name, chosen)
            for bad in ({}, {"pack": "../x"}, {"pack": "shapes", "mood": "dark"}):
                with pytest.raises(MCPError):
                    await one.client.get_prompt(listed.name, bad)
            with pytest.raises(MCPError, match="there is no prompt"):
                await one.client.get_prompt("day", {})
            ref = PromptReference(type="ref/prompt", name=listed.name)
            packs = await one.client.complete(ref, {"name": "pack", "value": "sh"})
            names = await one.client.complete(
                ref, {"name": "variables", "value": "on-"}, context_arguments={"pack": "shapes"}
            )
            finished(home, "hero", 1)
            jobs = await one.client.complete(
                ResourceTemplateReference(type="ref/resource", uri="flux://jobs/{id}/status"),
                {"name": "id", "value": "HE"},
            )
            text = got.messages[0].content.text
            return text, *(each.completion.values for each in (packs, names, jobs))

    text, packs, names, jobs = play(scene)
    compose = '{"pack": "shapes", "variables": ["on-black", "on-white"], "subjects": "all"}'
    assert f"compose {compose}" in text and 'window "23:00-07:00"' in text
    assert packs == ["shapes"] and names == ["on-black", "on-white", "on-yellow"]
    assert jobs == ["hero"]


def test_a_mistake_of_ours_shows_the_model_no_more_than_that(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(submission, "submit", broken)

    async def scene() -> str:
        async with agent(home) as one:
            with pytest.raises(MCPError, match="there is no tool"):
                await one.call("flux_delete")
            return await one.refused("flux_generate", prompt="x")

    said = play(scene)
    assert "secret" not in said and "mistake of fluxdrop's own" in said
    assert "a secret path" in caplog.text


def test_what_the_system_refuses_is_told_to_the_model_as_that(home: Path) -> None:
    """Seen red: "a mistake of fluxdrop's own"."""
    finished(home, "hero", 1)

    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_get_job", job_id="hero")

    with refused(home / "outbox" / "hero" / "status.json"):
        assert os.strerror(errno.EIO) in play(scene)


def test_a_damaged_gallery_is_told_as_damaged_and_not_as_missing(home: Path) -> None:
    """Seen red: "this home has no gallery yet"."""
    fill_gallery(home, 5)
    (home / "data" / FOLDER / FILE).write_bytes(b"no database " * 1000)
    answer = GallerySearch(find_home(home)).search({})
    assert answer["total"] == 0 and "damaged" in answer["message"]
