"""A pack that grows by a subject costs that subject's images; a real runner with `tiny`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.here import Here
from tests.composer.helpers import write_pack
from tests.harness import Runner, eventually, sidecars

pytestmark = pytest.mark.timeout(180)

BULK = ("compose", "mugs", "--all", "--set", "model=tiny", "--set", "steps=2", "--set", "seed=3")


def test_a_pack_that_grows_by_a_subject_costs_only_its_images(
    runner_of: Callable[[Path], Runner], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen red: with the setup's key left out of the sidecar."""
    runner, here = runner_of(home).start(), Here(home, capsys)
    subjects = {"a": "a red star", "b": "a blue circle", "c": "a green square"}
    pack = write_pack(home / "prompts", subjects=subjects, fixed="a picture of")

    def planned(*more: str) -> dict[str, int]:
        found: dict[str, int] = here(*BULK, *more, "--plan", "--json").json["reuse"]
        return found

    def made(*more: str) -> str:
        (job,) = here(*BULK, *more, "--queue", "--json").json["jobs"]
        assert runner.over(job)["state"] == "succeeded"
        return job

    assert planned("--reuse") == {"new": 3, "reused": 0, "unknown": 0}
    first = made()
    assert "reuse" not in here(*BULK, "--plan", "--json").json
    eventually(lambda: planned("--reuse")["reused"] == 3, "the plan to know what was made")
    (pack / "subjects" / "d.txt").write_text("a yellow star")
    assert planned("--reuse") == {"new": 1, "reused": 3, "unknown": 0}
    assert "1 new, 3 reused, 0 unknown" in here(*BULK, "--reuse", "--plan").out
    second = made("--reuse")
    assert runner.status(second)["images"]["reused"] == 3
    assert "4/4 (3 reused)" in here("status", second).out
    for old, new in zip(
        sidecars(runner.folder(first)), sidecars(runner.folder(second)), strict=False
    ):
        assert new["result"]["reused_from"] == {"job": first, "file": old["result"]["file"]}
        pictures = [runner.folder(s["result"]["job"]) / s["result"]["file"] for s in (old, new)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    copy = runner.folder(second) / f"{second}-0001.json"
    assert here("verify", str(copy)).code == 0

    runner.stop()
    spec = runner.folder(second) / "spec.yaml"
    found = here("check", str(spec), "--json").json
    assert found["files"][0]["reuse"] == {"new": 0, "reused": 4, "unknown": 0}
    runner.start()
    third = made("--reuse")
    assert runner.status(third)["images"]["reused"] == 4
    assert runner.read("runner.json")["models"] == [], "all was copied, and a model was loaded"
    (runner.folder(first) / f"{first}-0001.png").unlink()
    assert planned("--reuse") == {"new": 0, "reused": 4, "unknown": 0}, "there are other copies"
