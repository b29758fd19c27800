"""Looking, waiting and cancelling: what the outbox says, never a guess."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import ImageContent
from PIL import Image

from runner.mcp_server.pictures import BUDGET
from tests.mcp_server.support import agent, finished, play, write_status
from tests.spool.faulty import refused

RUNNING = {"phase": "denoising", "image": 1, "step": 2, "steps": 4, "fraction": 0.25,
           "eta_seconds": 3.0}  # fmt: skip


def look(home: Path, **arguments: Any) -> tuple[dict[str, Any], list[Any]]:
    """An answer and the content beside its text."""

    async def scene() -> tuple[dict[str, Any], list[Any]]:
        async with agent(home) as one:
            result = await one.call("flux_get_job", **arguments)
            assert not result.is_error, result.content
            return result.structured_content, result.content[1:]

    return play(scene)


def test_large_pictures_are_made_smaller_until_one_answer_carries_them_and_it_says_so(
    home: Path,
) -> None:
    """Seen red: four pictures of 2.6 MB made an answer of 14 MB."""
    finished(home, "hero", 4)
    noise = io.BytesIO()
    Image.effect_noise((1400, 1000), 90).convert("RGB").save(noise, "PNG")
    for number in (1, 2, 3):
        (home / "outbox" / "hero" / f"hero-000{number}.png").write_bytes(noise.getvalue())
    result, content = look(home, job_id="hero", pictures="full")
    images = [part for part in content if isinstance(part, ImageContent)]
    assert len(images) == 4 and sum(len(image.data) for image in images) <= BUDGET
    said = re.findall(r"hero-000(\d)[.]png \((\d+)x(\d+)\)", result["pictures"])
    assert [number for number, *_ in said] == ["1", "2", "3"]
    for (_, width, height), image in zip(said, images, strict=False):
        shown = Image.open(io.BytesIO(base64.b64decode(image.data)))
        assert shown.size == (int(width), int(height)) and shown.width >= 300


@pytest.mark.parametrize(
    ("end", "hint"),
    [
        ({"state": "failed", "reason": "ModelMissing", "message": "pull it"}, "ModelMissing: pull"),
        ({"state": "cancelled"}, "under another id"),
        ({"state": "rejected"}, "mend what `errors` says"),
        ({"state": "succeeded"}, "show `outputs`"),
    ],
)
def test_next_names_a_step_that_helps_however_a_job_ended(
    home: Path, end: dict[str, Any], hint: str
) -> None:
    finished(home, "hero", 1, **end)
    assert hint in look(home, job_id="hero")[0]["next"]


def test_a_cancel_that_waits_for_a_runner_is_said(home: Path) -> None:
    async def scene() -> dict[str, Any]:
        async with agent(home) as one:
            await one.answer("flux_generate", id="hero", prompt="x", model="tiny")
            await one.answer("flux_cancel_job", job_id="hero")
            return await one.answer("flux_get_job", job_id="hero")

    assert "it is asked to stop" in play(scene)["next"]


@pytest.mark.parametrize(
    "job", ["never", "../drops", "drops", "a/b", "runner.json", "con", "☂", ".tmp", "x" * 150]
)
def test_an_id_that_was_never_seen_is_unknown_and_not_done(home: Path, job: str) -> None:
    drops = home / "outbox" / "drops"
    drops.mkdir(exist_ok=True)
    text = '{"id": "x", "state": "succeeded"}'
    (drops / "status.json").write_text(text, encoding="utf-8")
    answer, content = look(home, job_id=job, wait_seconds=50)
    assert (answer["id"], answer["state"], content) == (job, "unknown", [])
    assert "not known to be done" in answer["next"]


def test_a_job_is_submitted_while_its_file_waits(home: Path) -> None:
    (home / "inbox" / "hero.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")
    answer, _ = look(home, job_id="hero", wait_seconds=0.2)
    assert answer["state"] == "submitted" and "fluxdrop run" in answer["next"]


def test_the_status_comes_whole_with_the_pictures_as_thumbnails_and_links(home: Path) -> None:
    status = finished(home, "hero", 2, x_mine=7)
    answer, content = look(home, job_id="hero")
    assert {k: answer[k] for k in status if k != "outputs"} == {
        k: status[k] for k in status if k != "outputs"
    }
    assert [part.type for part in content] == ["image", "resource_link"] * 2
    thumbs = home / "outbox" / "hero" / "thumbs"
    assert base64.b64decode(content[0].data) == (thumbs / "hero-0001.webp").read_bytes()
    assert content[0].mime_type == "image/webp"
    link = content[1]
    assert (str(link.uri), link.mime_type) == ("flux://jobs/hero/images/1", "image/png")
    assert answer["outputs"][1]["path"] == "outbox/hero/hero-0002.png"
    assert answer["next_offset"] is None


def test_pictures_come_as_they_are_or_not_at_all_if_asked(home: Path) -> None:
    finished(home, "hero", 1)
    _, full = look(home, job_id="hero", pictures="full")
    whole = (home / "outbox" / "hero" / "hero-0001.png").read_bytes()
    assert base64.b64decode(full[0].data) == whole and full[0].mime_type == "image/png"
    _, none = look(home, job_id="hero", pictures="none")
    assert [part.type for part in none] == ["resource_link"]


@pytest.mark.parametrize("count", [9, 130])
def test_an_offset_walks_through_all_pictures_four_at_a_time(home: Path, count: int) -> None:
    """Beyond a hundred the status no longer lists them all: the sidecars do."""
    finished(home, "many", count)
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        answer, content = look(home, job_id="many", offset=offset)
        assert sum(part.type == "image" for part in content) <= 4
        seen += [row["file"] for row in answer["outputs"]]
        offset = answer["next_offset"]
        if count > 100 and offset == 8:
            offset = 124
    if count < 100:
        assert seen == [f"many-{n:04d}.png" for n in range(1, count + 1)]
    else:
        assert seen[:8] + seen[8:] == [
            f"many-{n:04d}.png" for n in (*range(1, 9), *range(125, 131))
        ]


def test_a_picture_too_large_for_a_message_is_linked_only(home: Path) -> None:
    finished(home, "hero", 1)
    (home / "outbox" / "hero" / "hero-0001.png").write_bytes(bytes(5_000_001))
    _, content = look(home, job_id="hero", pictures="full")
    assert [part.type for part in content] == ["resource_link"] and content[0].size == 5_000_001


def test_a_name_in_a_status_leads_out_of_no_folder(home: Path) -> None:
    """Seen red: without the look at where a file really lies."""
    (home / "secret.png").write_bytes(b"secret")
    status = finished(home, "hero", 1)
    status["outputs"][0] |= {"file": "../../secret.png", "thumbnail": "../../secret.png"}
    write_status(home, status)
    _, content = look(home, job_id="hero")
    assert [part.type for part in content] == ["resource_link"]


def test_waiting_ends_when_the_job_does_and_reports_how_far_it_is(home: Path) -> None:
    base = {**finished(home, "hero", 2), "outputs": [], "state": "queued"}
    base["images"] = {"total": 2, "done": 0, "failed": 0, "skipped": 0}
    write_status(home, base)

    async def scene() -> None:
        async with agent(home) as one, anyio.create_task_group() as group:
            ended: list[dict[str, Any]] = []

            async def wait() -> None:
                ended.append(await one.answer("flux_get_job", job_id="hero", wait_seconds=50))

            async def heard(count: int) -> None:
                while len(one.progress) < count:
                    await anyio.sleep(0.01)

            group.start_soon(wait)
            with anyio.fail_after(20):
                await heard(1)
                write_status(home, {**base, "state": "running", "progress": RUNNING})
                await heard(2)
                half = {"total": 2, "done": 1, "failed": 0, "skipped": 0}
                write_status(home, {**base, "state": "running", "images": half})
                await heard(3)
                # What goes back (a new attempt) is not told: progress only rises.
                write_status(home, {**base, "state": "queued"})
                write_status(home, {**base, "state": "failed", "reason": "OutOfMemory"})
                while not ended:
                    await anyio.sleep(0.01)
            assert ended[0]["state"] == "failed"
            said = [(done, total) for done, total, _ in one.progress]
            assert said == [(0.0, 2.0), (0.5, 2.0), (1.0, 2.0)]
            assert one.progress[1][2] == "image 1 of 2: denoising 2/4, about 3 s left"

    play(scene)


def test_waiting_goes_on_while_the_system_refuses_a_look(home: Path) -> None:
    """Seen red: one EIO ended the call."""
    queued = {**finished(home, "hero", 1), "state": "queued"}
    write_status(home, queued)

    async def scene() -> dict[str, Any]:
        async with agent(home) as one, anyio.create_task_group() as group:
            ended: list[dict[str, Any]] = []

            async def wait() -> None:
                ended.append(await one.answer("flux_get_job", job_id="hero", wait_seconds=50))

            group.start_soon(wait)
            with anyio.fail_after(20):
                while not one.progress:
                    await anyio.sleep(0.01)
                with refused(home / "outbox" / "hero" / "status.json", times=3) as left:
                    while left():
                        await anyio.sleep(0.01)
                write_status(home, {**queued, "state": "failed"})
                while not ended:
                    await anyio.sleep(0.01)
            return ended[0]

    assert play(scene)["state"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'job_id' is required"),
        ({"job_id": "a", "wait_seconds": 51}, "greater than the maximum of 50"),
        ({"job_id": "a", "wait_seconds": -1, "pictures": "big"}, "2 problems"),
        ({"job_id": "a", "pictures": "thumbnails"}, "did you mean 'thumbnail'?"),
        ({"job_id": 7}, "7 is not text"),
        ({"job_id": "a", "wait": 5}, "takes job_id, wait_seconds, pictures, offset"),
    ],
)
def test_bad_arguments_are_told_all_at_once(
    home: Path, arguments: dict[str, Any], said: str
) -> None:
    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused("flux_get_job", **arguments)

    assert said in play(scene)


def cancel(home: Path, job: str) -> dict[str, Any]:
    """What comes of one cancel."""

    async def scene() -> dict[str, Any]:
        async with agent(home) as one:
            return await one.answer("flux_cancel_job", job_id=job)

    return play(scene)


def test_cancelling_says_unknown_over_or_asked(home: Path) -> None:
    finished(home, "hero", 2)
    (home / "inbox" / "wait.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")
    for job in ("never", "../x", ".tmp"):
        assert cancel(home, job)["outcome"] == "unknown"
    over = cancel(home, "hero")
    assert (over["outcome"], over["state"]) == ("was_over", "succeeded")
    assert not list((home / "inbox").glob("*.cancel"))
    asked = cancel(home, "wait")
    assert (asked["outcome"], asked["state"]) == ("asked", "submitted")
    assert asked["runner"]["running"] is False
    assert (home / "inbox" / "wait.cancel").is_file()
