"""The tasks of images: what one costs however large its job is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.daemon.tasks import TaskBuilder
from runner.settings import Home
from tests.spool.store.test_queries import job_of


class Counted(Sequence[Any]):
    """Ten thousand prompts that count how many of them are read."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.read = 0

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: Any) -> dict[str, str]:
        self.read += 1
        return {self._key: f"number {index}"}

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (self[index] for index in range(len(self)))


def test_an_image_reads_its_own_prompt_and_not_those_of_all_others(tmp_path: Path) -> None:
    """Seen red: a list of all of them was made for each image."""
    builder = TaskBuilder(Home(tmp_path))
    spec = {"kind": "text2img", "model": "tiny", "compose": {"pack": "many"}, "seed": 7, "count": 1}
    record = replace(job_of("bulk"), total=10_000, realised=spec)
    fields, origins = Counted("prompt"), Counted("subject")
    image = builder.build(record, (fields, origins), 5_001)
    assert (image.task.prompt, image.origin) == ("number 5000", {"subject": "number 5000"})
    assert (fields.read, origins.read) == (1, 1)
    ahead = [task.prompt for task in builder.prompts(record, (fields, origins), 5)]
    assert ahead == [f"number {n}" for n in range(5)]
    assert fields.read == 6
