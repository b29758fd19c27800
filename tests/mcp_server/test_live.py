"""Every tool with a real runner on the built-in model, over real stdio."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.harness import Runner
from tests.mcp_server.support import agent, data_uri, picture, play
from tests.mcp_server.wire import over_stdio

pytestmark = pytest.mark.timeout(240)


def test_a_story_from_words_to_variations_each_picture_the_next_ones_input(runner: Runner) -> None:
    async def scene() -> None:
        async with agent(over_stdio(runner.home)) as one:
            quick = {"model": "tiny", "steps": 2, "seed": 7}
            words = {"prompt": "a red circle on a blue background", **quick}
            draw = await one.answer("flux_generate", **words, count=2, id="mcp-draw")
            assert draw["runner"]["running"] is True
            # Named before it is made: the runner waits for it.
            made = "mcp-draw/mcp-draw-0001.png"
            white = data_uri(picture((64, 64), "white"))
            jobs = {
                "flux_edit": {**words, "image": made},
                "flux_fill": {**words, "image": made, "mask": white},
                "flux_structural": {**words, "image": "flux://jobs/mcp-draw/images/1"},
                "flux_variation": {**quick, "image": [made, data_uri(picture())]},
            }
            await one.over("mcp-draw")
            for tool, arguments in jobs.items():
                answer = await one.answer(tool, **arguments, tags=["mcp-story"])
                ended = await one.over(answer["job_id"])
                assert ended["state"] == "succeeded", ended
            assert one.progress[-1][0] <= (one.progress[-1][1] or 0)
            found = await one.answer("flux_search_gallery", tag="mcp-story")
            assert {row["kind"] for row in found["rows"]} == {"kontext", "fill", "control", "redux"}
            shown = await one.call("flux_get_job", job_id="mcp-draw", pictures="full", offset=1)
            image = Image.open(io.BytesIO(base64.b64decode(shown.content[1].data)))
            assert image.size == (64, 64) and image.format == "PNG"
            uri = found["rows"][0]["uri"]
            blob = (await one.client.read_resource(uri)).contents[0]
            path = runner.home / found["rows"][0]["file"]
            assert base64.b64decode(blob.blob) == path.read_bytes()

    play(scene)


def test_a_job_is_cancelled_in_mid_run_and_the_next_one_runs(runner: Runner) -> None:
    async def scene() -> list[dict[str, Any]]:
        async with agent(over_stdio(runner.home)) as one:
            words = {"prompt": "a red circle", "model": "tiny", "seed": 1}
            slow = (await one.answer("flux_generate", **words, steps=1000))["job_id"]
            await one.until(slow, lambda s: (s.get("progress") or {}).get("step", 0) > 3)
            cancelled = await one.answer("flux_cancel_job", job_id=slow)
            again = await one.answer("flux_cancel_job", job_id=slow)
            after = (await one.answer("flux_generate", **words, steps=1))["job_id"]
            ended = await one.over(after)
            late = await one.answer("flux_cancel_job", job_id=after)
            return [cancelled, again, ended, late, await one.over(slow)]

    cancelled, again, ended, late, slow = play(scene)
    assert (cancelled["outcome"], cancelled["state"]) == ("cancelled", "cancelled")
    assert (again["outcome"], late["outcome"]) == ("was_over", "was_over")
    assert ended["state"] == "succeeded" and slow["images"]["done"] == 0
    assert slow["outputs"] == []


def test_a_failed_job_says_what_to_do_and_keeps_its_word(runner: Runner) -> None:
    async def scene() -> dict[str, Any]:
        async with agent(over_stdio(runner.home)) as one:
            answer = await one.answer("flux_generate", prompt="a red circle", model="schnell")
            return await one.over(answer["job_id"])

    ended = play(scene)
    assert (ended["state"], ended["reason"]) == ("failed", "ModelMissing")
    assert "models pull" in ended["message"]


def test_a_repeated_call_finds_the_job_that_was_made_and_a_rejected_one_says_why(
    runner: Runner,
) -> None:
    runner.answer(runner.put("mcp-bad.yaml", "kind: text2img\nstpes: 1\n"))

    async def scene() -> None:
        async with agent(over_stdio(runner.home)) as one:
            call = {"prompt": "a red circle", "model": "tiny", "steps": 1, "id": "mcp-again"}
            first = await one.answer("flux_generate", **call)
            ended = await one.over(first["job_id"])
            again = await one.answer("flux_generate", **call)
            assert (again["job_id"], again["state"]) == ("mcp-again", "succeeded")
            after = await one.answer("flux_get_job", job_id="mcp-again")
            assert after["revision"] == ended["revision"]
            assert "another job's" in await one.refused("flux_generate", **{**call, "steps": 2})
            bad = await one.over("mcp-bad")
            assert (bad["state"], bad["reason"]) == ("rejected", "SchemaInvalid")
            assert "did you mean 'steps'?" in bad["errors"][-1]["message"]
            # What was rejected holds no id: the mended spec takes its place.
            mended = await one.answer("flux_generate", **{**call, "id": "mcp-bad"})
            assert (await one.over(mended["job_id"]))["state"] == "succeeded"

    play(scene)
