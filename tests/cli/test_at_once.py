"""Many clients at once: each is told of its own job."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runner import client
from runner.settings import Home
from tests.harness import Runner, fluxdrop, spec

_CLIENTS = 20


def test_of_twenty_clients_that_submit_files_of_one_name_each_is_told_its_own_job(
    runner: Runner,
) -> None:
    """Seen red: five were told of somebody else's."""
    home = Home(runner.home)

    def submit(seed: int) -> tuple[int, Any]:
        data = spec(seed=seed, steps=1).encode()
        drop = client.submit(home, data, "at-once.yaml")
        receipt = client.wait_for_receipt(home, drop, 60.0, data=data)
        assert receipt is not None
        return seed, receipt["job"]

    with ThreadPoolExecutor(_CLIENTS) as pool:
        told = dict(pool.map(submit, range(_CLIENTS)))
    assert all(job.startswith("at-once") and "~" not in job for job in told.values())
    for seed, job in told.items():
        runner.over(job)
        text = (runner.folder(job) / "spec.yaml").read_text(encoding="utf-8")
        assert json.dumps(seed) in text.split("seed: ")[1].split("\n")[0]
    assert max(Counter(told.values()).values()) == 1


def test_of_twenty_clients_that_run_a_job_again_each_is_told_its_own_job(runner: Runner) -> None:
    home = Home(runner.home)
    runner.succeeded(runner.drop("again", steps=1))

    def retry(number: int) -> str:
        receipt = client.wait_for_receipt(home, client.retry(home, "again"), 60.0)
        assert receipt is not None
        return str(receipt["job"])

    with ThreadPoolExecutor(_CLIENTS) as pool:
        told = list(pool.map(retry, range(_CLIENTS)))
    assert len(set(told)) == _CLIENTS
    for job in told:
        runner.over(job)


def test_a_receipt_of_other_bytes_is_somebody_elses(runner: Runner) -> None:
    home = Home(runner.home)
    runner.over(runner.drop("mine"))
    assert client.receipt(home, "mine.yaml", spec().encode()) is not None
    assert client.receipt(home, "mine.yaml", spec(seed=8).encode()) is None


def test_a_submitted_file_is_cancelled_by_its_own_name(runner: Runner, tmp_path: Path) -> None:
    file = tmp_path / "at-once-by-name.yaml"
    for seed, state in ((1, "succeeded"), (2, "cancelled")):
        steps = 1 if state == "succeeded" else 500
        file.write_text(spec(seed=seed, steps=steps), encoding="utf-8")
        job = fluxdrop("submit", str(file), home=runner.home).out.strip()
        if state == "succeeded":
            runner.over(job)
        else:
            done = fluxdrop("cancel", "at-once-by-name.yaml", home=runner.home)
            assert done.out.startswith("at-once-by-name.yaml: cancelled"), done
        assert runner.over(job)["state"] == state
    # Whoever has no command line writes the control file.
    job = fluxdrop("submit", str(file), home=runner.home).out.strip()
    runner.put("at-once-by-name.yaml.cancel")
    assert runner.over(job)["state"] == "cancelled"
