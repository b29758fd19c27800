"""`results.csv` and `results.jsonl`: what became of each image, for other programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from runner.daemon import pages
from runner.daemon.results import COLUMNS, _cell, _csv, _openai
from runner.spool.store.outbox import Outbox
from tests.composer.helpers import write_pack
from tests.daemon.columns import daemon_of
from tests.harness import eventually
from tests.spool.conftest import Spool

BULK = """\
kind: text2img
model: tiny
seed: 7
count: 2
matrix: {prompt: ["=a, \\"red\\" circle\\nat night", 猫]}
"""


def in_csv(spool: Spool, job: str = "hero") -> list[dict[str, str]]:
    data = (spool.home.job(job) / "results.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf") and b"\r\n" in data
    return [*csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))]


def in_jsonl(spool: Spool, job: str = "hero") -> list[dict[str, Any]]:
    text = (spool.home.job(job) / "results.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_bulk_job_has_a_row_for_each_image_in_both_files(spool: Spool) -> None:
    spool.device.failing["hero", 4] = ("OutOfMemory", "too large")
    spool.drop("hero.yaml", BULK)
    assert spool.end("hero")["state"] == "failed"
    raw, cells = in_jsonl(spool), in_csv(spool)
    assert [*raw[0]] == [*cells[0]] == [*COLUMNS]
    outputs = spool.status("hero")["outputs"]
    assert [row["file"] for row in raw] == [*(output["file"] for output in outputs), None]
    assert [row["sha256"] for row in raw[:3]] == [output["sha256"] for output in outputs]
    assert [row["seed"] for row in raw] == [7, 8, 7, 8]
    assert [row["state"] for row in raw] == ["done"] * 3 + ["failed"]
    assert (raw[3]["reason"], raw[3]["message"]) == ("OutOfMemory", "too large")
    assert raw[0]["prompt"] == '=a, "red" circle\nat night' and raw[2]["prompt"] == "猫"
    # A spreadsheet takes what begins with = for a formula; numbers stay numbers.
    assert cells[0]["prompt"] == "'" + raw[0]["prompt"]
    assert (cells[0]["seed"], cells[0]["width"]) == ("7", str(raw[0]["width"]))
    assert cells[3]["file"] == "" and float(cells[0]["seconds"]) >= 0


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_text_is_a_formula_and_no_number_a_text(text: str) -> None:
    assert _cell(text) == f"'{text}" and _cell(-1) == -1 and _cell("a=1") == "a=1"


def test_images_that_were_not_made_have_a_row_once_the_job_is_over(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    spool.drop("hero.cancel", "")
    assert spool.end("hero")["state"] == "cancelled"
    assert [row["state"] for row in in_jsonl(spool)] == ["done", *["cancelled"] * 3]
    assert [row["prompt"] for row in in_jsonl(spool)][2:] == ["猫"] * 2


def test_the_prompts_of_a_pack_have_their_subjects_and_verdicts(spool: Spool) -> None:
    write_pack(spool.home.prompts, "two", subjects={"a": "a cat", "b": "a dog"})
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ncompose: {pack: two, subjects: all}\n")
    assert spool.end("hero")["state"] == "succeeded"
    assert [(row["subject"], row["verdict"]) for row in in_jsonl(spool)] == [
        ("a", "ok"),
        ("b", "ok"),
    ]


def test_a_job_of_one_image_has_no_tables(spool: Spool) -> None:
    spool.drop("hero.yaml")
    spool.end("hero")
    assert not [*spool.home.job("hero").glob("results*")]


def test_the_lines_grow_while_the_job_runs_and_each_sidecar_is_read_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(pages, "_SHARE", 0.0)
    monkeypatch.setattr(pages, "pages_of", lambda status, over, shots, closed: ({}, closed))
    read: list[int] = []
    sidecars = Outbox.sidecars

    def noting(outbox: Outbox, job: str, numbers: Any = None) -> dict[int, dict[str, Any]]:
        read.extend(numbers or ())
        return sidecars(outbox, job, numbers)

    monkeypatch.setattr(Outbox, "sidecars", noting)
    lengths: list[int] = []

    def look(_: object) -> None:
        eventually(lambda: not daemon_of(spool).writer.waiting, "the writer")
        file = spool.home.job("hero") / "results.jsonl"
        lengths.append(len(file.read_text("utf-8").splitlines()) if file.exists() else 0)

    spool.device.on_start = look
    spool.drop("hero.yaml", BULK)
    assert spool.end("hero")["state"] == "succeeded"
    assert lengths[0] == 0 and lengths[2:] == [2, 3] and read == [1, 2, 3, 4]


def test_a_batch_of_openais_is_answered_in_its_own_form(spool: Spool) -> None:
    spool.drop("hero.yaml", BULK)
    spool.end("hero")
    rows = [dict(row, custom_id="one" if n < 2 else "two") for n, row in enumerate(in_jsonl(spool))]
    rows[3] |= {"state": "failed", "reason": "OutOfMemory", "message": "too large", "file": None}
    lines = [*map(json.loads, _openai(rows, _record(spool)).splitlines())]
    assert [line["custom_id"] for line in lines] == ["one", "two"]
    assert [len(line["response"]["body"]["data"]) for line in lines] == [2, 1]
    assert lines[0]["error"] is None and lines[0]["response"]["status_code"] == 200
    assert lines[1]["error"] == {"code": "OutOfMemory", "message": "too large"}
    assert "custom_id" not in _csv(rows)


def test_columns_of_the_callers_own_come_after_ours() -> None:
    rows = [{**dict.fromkeys(COLUMNS), "x_sku": "-7"}, {**dict.fromkeys(COLUMNS), "x_n": 7}]
    head, first, second = _csv(rows).splitlines()
    assert head.endswith("verdict,x_sku,x_n")
    assert first.endswith(",'-7,") and second.endswith(",,7")


def _record(spool: Spool) -> Any:
    record = daemon_of(spool).ledger.newest("hero")
    assert record is not None
    return record
