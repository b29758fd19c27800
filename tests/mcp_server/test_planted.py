"""Whatever lies in the outbox in the place of a runner's files, an agent gets an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import client
from runner.gallery.rebuild import rebuild
from runner.gallery.store import FOLDER, Gallery
from tests.mcp_server.support import agent, play
from tests.planted import HEALTH, SIDECAR, STATUS, variants

pytestmark = pytest.mark.timeout(300)


def test_a_planted_file_is_answered_by_every_look(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: "a mistake of fluxdrop's own"."""
    monkeypatch.setattr(client, "is_held", lambda home: False)
    job = home / "outbox" / "cat"
    job.mkdir(parents=True)
    files = {
        job / "status.json": {**STATUS, "state": "running"},
        job / "cat-0001.json": SIDECAR,
        home / "outbox" / "runner.json": HEALTH,
    }

    def put(file: Path, content: object) -> None:
        file.write_text(json.dumps(content), encoding="utf-8")

    async def scene() -> None:
        async with agent(home) as one:
            for planted, whole in files.items():
                for content in variants(whole):
                    put(planted, content)
                    if planted.name == "cat-0001.json":
                        # More than the status lists: the sidecars are read.
                        put(job / "status.json", {**STATUS, "outputs": []})
                        rebuild(Gallery(home / "data" / FOLDER, writing=True), home / "outbox")
                        await one.answer("flux_search_gallery", kind="text2img")
                        await one.answer("flux_search_gallery")
                    answer = await one.answer("flux_get_job", job_id="cat", pictures="full")
                    assert answer["id"] == "cat", content
                    await one.answer("flux_cancel_job", job_id="none")
                    await one.client.list_resources()
                put(planted, whole)

    play(scene)
