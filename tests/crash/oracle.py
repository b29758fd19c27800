"""The oracle: knows what was submitted, and says what is wrong with what came out.

Counts five ways to fail: lost, twice, torn, wrong, illegal. An empty answer is the only good one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from runner.settings import Home
from runner.spool.store.names import receipt_names
from runner.wire import PREVIEW, read_json
from tests.crash.scenario import Expected, Scenario

FINAL_STATES = {"succeeded", "failed", "cancelled", "rejected"}


def published(home: Home) -> dict[str, dict[str, Any] | None]:
    """Every status that a reader sees now; None for one that is not whole JSON."""
    found: dict[str, dict[str, Any] | None] = {}
    for file in home.outbox.glob("*/status.json"):
        try:
            found[file.parent.name] = json.loads(file.read_bytes())
        except ValueError:
            found[file.parent.name] = None
    return found


def faults_between(
    before: dict[str, dict[str, Any] | None], after: dict[str, dict[str, Any] | None]
) -> list[str]:
    """What readers of the first saw broken by the second."""
    found = [f"torn: {job}/status.json" for job, status in before.items() if status is None]
    for job, status in before.items():
        later = after.get(job)
        if status is None:
            continue
        if later is None:
            found.append(f"lost: {job} had a status and has none")
        elif status["state"] in FINAL_STATES and facts(status) != facts(later):
            found.append(f"illegal: {job} was {status['state']} and changed afterwards")
        elif later["revision"] < status["revision"]:
            found.append(f"illegal: the revision of {job} fell")
    return found


def faults(scenario: Scenario, home: Home) -> list[str]:
    """What is wrong once everything is over."""
    statuses = published(home)
    found = [f"lost: no job {job}" for job in scenario.jobs.keys() - statuses.keys()]
    found += [f"twice: job {job} should not be" for job in statuses.keys() - scenario.jobs.keys()]
    for job, expected in scenario.jobs.items():
        status = statuses.get(job)
        if status is not None:
            found += faults_of_job(home.job(job), status, expected)
    found += faults_of_drops(scenario, home, statuses)
    found += [f"torn: {path.name} was left" for path in home.root.rglob(".*.writing")]
    if scenario.forgotten:
        with closing(sqlite3.connect(home.data / "ledger.sqlite")) as connection:
            known = {row[0] for row in connection.execute("SELECT id FROM job")}
        receipts = {path.name.removesuffix(".yaml.json") for path in home.drops.iterdir()}
        left = (known | receipts).intersection(scenario.forgotten)
        found += [f"wrong: {job} is not forgotten" for job in left]
    return found


def faults_of_job(
    folder: Path, status: dict[str, Any], expected: Expected, *, colours: bool = True
) -> list[str]:
    """What is wrong with one job's folder; without `colours` its pictures are no flat colours."""
    job, found = folder.name, []
    if status["state"] not in expected.states:
        return [f"wrong: {job} is {status['state']} ({status['reason']}: {status['message']})"]
    outputs = status["outputs"]
    low, high = expected.pictures
    if not low <= len(outputs) <= high or len(outputs) != status["images"]["done"]:
        found.append(f"wrong: {job} lists {len(outputs)} pictures")
    pictures = {path.name for path in folder.glob(f"{job}-[0-9]*.png")}
    sidecars = [read_json(folder / output["sidecar"]) or {} for output in outputs]
    results = [each.get("result", {}) for each in sidecars]
    originals = [each.get("original", {}) for each in results]
    if sum("reused_from" in each for each in results) != status["images"].get("reused", 0):
        found.append(f"wrong: {job} counts other pictures as reused than are")
    if pictures != {each["file"] for each in (*outputs, *filter(None, originals))}:
        found.append(f"wrong: {job} has {sorted(pictures)} but lists others")
    seeds = [output["seed"] for output in outputs]
    if expected.seeds is not None and tuple(seeds) != expected.seeds[: len(seeds)]:
        found.append(f"wrong: {job} has seeds {seeds}")
    if expected.seeds is None and seeds and status["state"] == "succeeded":
        if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
            found.append(f"wrong: {job} has seeds {seeds} that do not follow each other")
    for output in outputs:
        found += _faults_of_image(folder, output, colours=colours)
    if (folder / PREVIEW).exists():
        found.append(f"torn: {job} has a preview left")
    explained = any("contact sheet" in warning for warning in status["warnings"])
    if outputs and not (folder / "index.html").is_file() and not explained:
        found.append(f"lost: {job} has no page")
    total = status["images"]["total"]
    explained |= any("tables of results" in warning for warning in status["warnings"])
    if outputs and total > 1 and not explained:
        found += [f"{fault} of {job}" for fault in _faults_of_results(folder, total)]
    return found


def _faults_of_results(folder: Path, total: int) -> list[str]:
    try:
        lines = (folder / "results.jsonl").read_text("utf-8").splitlines()
        cells = (folder / "results.csv").read_text("utf-8-sig").splitlines()
        states = [json.loads(line)["state"] for line in lines]
    except (OSError, ValueError) as error:
        return [f"torn: the results ({error})"]
    return [] if len(states) == len(cells) - 1 == total else ["wrong: the results"]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _faults_of_image(folder: Path, output: dict[str, Any], *, colours: bool) -> list[str]:
    picture, number = folder / output["file"], int(Path(output["file"]).stem[-4:])
    try:
        if _sha256(picture) != output["sha256"]:
            return [f"torn: {picture.name}"]
        with Image.open(picture) as image:
            colour = image.convert("RGB").getpixel((0, 0))
        sidecar = json.loads((folder / output["sidecar"]).read_bytes())
        original = sidecar["result"].get("original")
        if original and _sha256(folder / original["file"]) != original["sha256"]:
            return [f"torn: {original['file']}"]
        (folder / output["thumbnail"]).read_bytes()
    except (OSError, ValueError) as error:
        return [f"torn: {picture.name}: {error}"]
    if not colours:
        colour = (output["seed"] % 256, number % 256, 128)
    if colour != (output["seed"] % 256, number % 256, 128) or sidecar["seed"] != output["seed"]:
        return [f"wrong: {picture.name} is another image's picture"]
    return []


def faults_of_drops(
    scenario: Scenario, home: Home, statuses: dict[str, dict[str, Any] | None]
) -> list[str]:
    found = []
    for name, data in scenario.drops.items():
        if name.endswith((".png", ".cancel", ".clean", ".lend")):
            continue
        try:
            file = next(filter(Path.exists, (home.drops / each for each in receipt_names(name))))
            receipt = json.loads(file.read_bytes())
        except (StopIteration, OSError, ValueError) as error:
            found.append(f"lost: no receipt of {name}: {error}")
            continue
        status = statuses.get(receipt["job"]) or {"source": {}}
        if receipt["sha256"] != hashlib.sha256(data).hexdigest():
            found.append(f"wrong: the receipt of {name} is another drop's")
        if status["source"].get("sha256") != receipt["sha256"]:
            found.append(f"wrong: {name} was answered with job {receipt['job']}, which is not it")
        if (home.inbox / name).exists():
            found.append(f"twice: {name} is in the inbox again")
    return found


def facts(status: dict[str, Any]) -> dict[str, Any]:
    return {key: status[key] for key in ("state", "images", "outputs", "finished_at")}
