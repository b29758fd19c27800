"""`results.csv` and `results.jsonl`: what became of each image, for other programs."""

from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.daemon import pages
from runner.daemon.results import COLUMNS, Results, _cell, _csv
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.store.outbox import Outbox
from tests.composer.helpers import write_pack
from tests.daemon.columns import daemon_of
from tests.harness import eventually
from tests.spool.conftest import Spool
from tests.spool.inbox.test_tables import put

BULK = """\
kind: text2img
model: tiny
seed: 7
count: 2
matrix: {prompt: ["=a, \\"red\\" circle\\nat night", "猫\\u2028\\u2029"]}
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
    assert raw[0]["prompt"] == '=a, "red" circle\nat night' and raw[2]["prompt"] == "猫\u2028\u2029"
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
    assert [row["prompt"] for row in in_jsonl(spool)][2:] == ["猫\u2028\u2029"] * 2


def test_the_prompts_of_a_pack_have_their_subjects_and_verdicts(spool: Spool) -> None:
    write_pack(spool.home.prompts, "two", subjects={"a": "a cat", "b": "a dog"})
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ncompose: {pack: two, subjects: all}\n")
    assert spool.end("hero")["state"] == "succeeded"
    assert [(row["subject"], row["verdict"]) for row in in_jsonl(spool)] == [
        ("a", "ok"),
        ("b", "ok"),
    ]


def test_what_the_matrix_varies_stands_behind_the_columns_of_every_job(spool: Spool) -> None:
    """Seen red: no line of three hundred photos said which it was of."""
    (spool.home.inbox / "p").mkdir()
    for name in ("Gr\u00f6\u00dfe.png", "b.png"):
        Image.new("RGB", (64, 64), "red").save(spool.home.inbox / "p" / name)
    spool.drop(
        "hero.yaml",
        "kind: redux\nmodel: tiny\nseed: 1\nmatrix: {image: 'p/*.png', steps: [1, 2]}\n",
    )
    assert spool.end("hero")["state"] == "succeeded"
    found = [(row["image"], row["steps"]) for row in in_jsonl(spool)]
    assert found == [("p/b.png", 1), ("p/b.png", 2), ("p/Gr\u00f6\u00dfe.png", 1),
                     ("p/Gr\u00f6\u00dfe.png", 2)]  # fmt: skip
    assert [*in_csv(spool)[0]] == [*COLUMNS, "image", "steps"]


def test_a_job_of_one_image_has_no_tables(spool: Spool) -> None:
    spool.drop("hero.yaml")
    spool.end("hero")
    assert not [*spool.home.job("hero").glob("results*")]


def test_the_lines_grow_while_the_job_runs_and_each_sidecar_is_read_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(pages, "_SHARE", 0.0)
    monkeypatch.setattr(pages, "pages_of", lambda status, over, shots, closed, _: ({}, closed))
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


def test_a_batch_of_openais_is_answered_in_its_own_form_request_by_request(spool: Spool) -> None:
    """Seen red: the request that was left out was in no line."""
    bodies: dict[str, dict[str, Any]] = {
        "one": {"prompt": "a red circle", "n": 2},
        "two": {"prompt": "a star", "size": "wide"},
        "three": {"prompt": "a blue square", "n": 2},
    }
    put(spool, "b.jsonl", "".join(
        json.dumps({"custom_id": name, "url": "/v1/images/generations", "body": body}) + "\n"
        for name, body in bodies.items()
    ))  # fmt: skip
    spool.device.failing["hero", 4] = ("OutOfMemory", "too large")
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ntable: b.jsonl\non_error: skip\n")
    assert spool.end("hero")["state"] == "failed"
    text = (spool.home.job("hero") / "results.openai.jsonl").read_text("utf-8")
    lines = [*map(json.loads, text.splitlines())]
    assert [line["custom_id"] for line in lines] == ["one", "two", "three"]
    assert [len(line["response"]["body"]["data"]) if line["response"] else 0 for line in lines] == [
        2, 0, 1,
    ]  # fmt: skip
    assert lines[0]["error"] is None and lines[0]["response"]["status_code"] == 200
    assert lines[1]["error"]["code"] == "SchemaInvalid" and "wide" in lines[1]["error"]["message"]
    assert lines[2]["error"] == {"code": "OutOfMemory", "message": "too large"}
    assert "custom_id" not in in_csv(spool)[0]


def test_a_row_that_is_left_out_is_a_row_of_the_results_also_after_a_retry(spool: Spool) -> None:
    """Seen red: the first hundred were told in the warnings, and none in the results."""
    put(spool, "p.csv", "prompt,width,seed,x_n\na,65,1,m\nb,64,2,\nc,a lot,3,\n")
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ntable: p.csv\non_error: skip\n")
    spool.end("hero")
    spool.drop("hero.retry", "")
    spool.end("hero-2")
    for job in ("hero", "hero-2"):
        rows = [(r["row"], r["state"], r["reason"], r["prompt"]) for r in in_jsonl(spool, job)]
        assert rows == [
            (2, "skipped", "SchemaInvalid", "a"),
            (3, "done", None, "b"),
            (4, "skipped", "SchemaInvalid", "c"),
        ]
        assert [row["seed"] for row in in_jsonl(spool, job)] == [1, 2, 3]
        assert in_jsonl(spool, job)[0]["x_n"] == "m"
    assert in_csv(spool)[0]["message"] == "width: 65 is not a multiple of 16 (64 and 80 are)"


def test_a_forbidden_row_is_left_out_with_its_reason(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", forbidden=["moon"])
    spool.start()
    put(spool, "p.csv", "prompt\na moon\na circle\n")
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ntable: p.csv\non_error: skip\n")
    spool.end("hero")
    spool.stop()
    assert [(row["row"], row["reason"]) for row in in_jsonl(spool)] == [
        (2, "PromptForbidden"), (3, None),
    ]  # fmt: skip


def test_a_table_of_one_row_has_results(spool: Spool) -> None:
    """Seen red: it had none."""
    put(spool, "p.csv", "prompt\na circle\n")
    spool.drop("hero.yaml", "kind: text2img\nmodel: tiny\ntable: p.csv\n")
    spool.end("hero")
    assert len(in_csv(spool)) == len(in_jsonl(spool)) == 1


def test_the_unmade_images_of_a_job_that_failed_have_its_reason(spool: Spool) -> None:
    """Seen red: they were `cancelled`, with no reason; and a job that never began had none."""
    spool.drop("hero.yaml", BULK + "image: never.png\nstrength: 0.5\n")
    spool.until(lambda: spool.status("hero").get("reason") == "WaitingForInput")
    (spool.home.inbox / "never.png").write_bytes(b"no picture")
    status = spool.end("hero")
    rows = in_jsonl(spool)
    assert [(row["state"], row["reason"], row["message"]) for row in rows] == [
        ("failed", "InputBad", status["message"])
    ] * 4


def test_a_fault_in_the_results_costs_no_contact_sheet(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: neither was written."""

    def fail(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Results, "of_job", fail)
    spool.drop("hero.yaml", BULK)
    status = spool.end("hero")
    assert (spool.home.job("hero") / "index.html").exists()
    assert pages.NO_RESULTS.format("ValueError") in status["warnings"]


class Locked(Disk):
    """On which another program has `results.jsonl` open, as Windows locks it."""

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if str(details.get("target", path)).endswith("results.jsonl"):
            raise PermissionError(errno.EACCES, "locked", "results.jsonl")


def test_results_that_another_program_has_open_cost_no_contact_sheet(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the sheet of a job that ended was not written, and its refresh raised."""
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(pages, "_SHARE", 0.0)
    idle_spool.start(Locked())
    idle_spool.drop("hero.yaml", BULK)
    status = idle_spool.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 4)
    assert "hero-0004" in (idle_spool.home.job("hero") / "index.html").read_text("utf-8")
    assert status["warnings"][1:] == [pages.NO_RESULTS.format("PermissionError")]


def test_columns_of_the_callers_own_come_after_ours() -> None:
    rows = [{**dict.fromkeys(COLUMNS), "x_sku": "-7"}, {**dict.fromkeys(COLUMNS), "x_n": 7}]
    head, first, second = _csv(rows).splitlines()
    assert head.endswith("verdict,x_sku,x_n")
    assert first.endswith(",'-7,") and second.endswith(",,7")


def _record(spool: Spool) -> Any:
    record = daemon_of(spool).ledger.newest("hero")
    assert record is not None
    return record


def test_a_job_that_is_held_back_shows_all_that_it_has(spool: Spool) -> None:
    """Seen red: one line of three, for as long as the pause took."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    for index in (1, 2, 3):
        spool.until(lambda index=index: spool.device.task and spool.device.task.index == index)
        if index == 3:
            (spool.home.inbox / "runner.pause").touch()
            spool.until(lambda: daemon_of(spool).intake.controls.paused)
        spool.device.finish()
    spool.until(lambda: spool.status("hero")["state"] == "queued")
    file = spool.home.job("hero") / "results.jsonl"
    spool.until(lambda: file.exists() and len(in_jsonl(spool)) == 3)
    (spool.home.inbox / "runner.pause").unlink()
    spool.device.by_hand = False
    assert spool.end("hero")["state"] == "succeeded"
