"""A table through a real runner that is killed in the middle: each row has its picture."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.harness import Runner, eventually, fluxdrop, sidecars, spec

pytestmark = pytest.mark.timeout(300)


def test_a_table_is_whole_after_a_kill_in_the_middle_of_it(home: Path) -> None:
    colours = ("red", "blue", "green", "yellow")
    with (home / "inbox" / "products.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["prompt", "seed", "x_sku", ""])
        writer.writerows([f"a {colours[n % 4]} circle", n, f"{n:04}", ""] for n in range(24))
    whole = {"prompt": None, "seed": None, "table": "products.csv"}
    (home / "night.yaml").write_text(spec(**whole), encoding="utf-8")
    checked = fluxdrop("check", str(home / "night.yaml"), home=home)
    assert (checked.code, checked.err.strip()) == (0, "all well")
    runner = Runner(home).start()
    job = runner.drop("night", **whole)
    eventually(lambda: runner.status(job)["images"]["done"] > 5, "some pictures")
    runner.kill()
    assert runner.status(job)["images"]["done"] < 24
    runner = Runner(home).start()
    eventually(lambda: runner.status(job)["state"] == "succeeded", "its end")
    runner.stop()
    made = sidecars(runner.folder(job))
    found = [(each["result"]["row"], each["seed"], each["x_sku"]) for each in made]
    assert found == [(n + 2, n, f"{n:04}") for n in range(24)]
    assert all((runner.folder(job) / each["result"]["file"]).stat().st_size for each in made)
