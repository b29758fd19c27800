"""Tables of rows on their way through the intake: waited for, read, copied, and run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.catalogue import RegistryCatalogue
from runner.spool.inbox.assess import Assessment, assess
from specs.expand import image
from tests.composer.helpers import write_pack
from tests.harness import sidecars
from tests.spool.conftest import Spool

SPEC = "kind: text2img\nmodel: tiny\nsteps: 2\ntable: products.csv\n"
ROWS = "prompt,seed,x_sku\na red circle,5,0012\na blue square,9,\n"


def composed(spool: Spool, job: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The fields and the origin of each prompt, as the ledger has them."""
    assert spool.daemon is not None
    record = spool.daemon.ledger.newest(job)
    assert record is not None
    return list(zip(*spool.daemon.ledger.composed(record.seq), strict=True))


def assessed(spool: Spool, text: str) -> Assessment:
    """What is said of a spec in this home."""
    catalogue = RegistryCatalogue(spool.home.settings, spool.home.data)
    return assess(text.encode(), "night.yaml", spool.home, catalogue)


def put(spool: Spool, name: str, text: str) -> Path:
    """Put an input file into the inbox."""
    file = spool.home.inbox / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_each_row_is_made_and_its_sidecar_says_which_it_was(spool: Spool) -> None:
    put(spool, "products.csv", ROWS)
    spool.drop("night.yaml", SPEC)
    assert spool.end("night")["state"] == "succeeded"
    made = sidecars(spool.home.job("night"))
    assert [(each["prompt"], each["seed"]) for each in made] == [
        ("a red circle", 5),
        ("a blue square", 9),
    ]
    assert (made[0]["x_sku"], made[0]["result"]["row"], made[1]["result"]["row"]) == ("0012", 2, 3)
    assert (spool.home.job("night") / "inputs" / "products.csv").read_text() == ROWS
    assert (spool.home.inbox / "products.csv").read_text() == ROWS
    origin = composed(spool, "night")[0][1]
    assert {key: origin[key] for key in ("row", "x_sku", "audit", "table")} == {
        "row": 2, "x_sku": "0012", "audit": "ok", "table": "products.csv",
    }  # fmt: skip


def test_a_spec_waits_for_its_table_and_says_so(spool: Spool) -> None:
    spool.drop("night.yaml", SPEC)
    assert spool.daemon is not None
    intake = spool.daemon.intake
    spool.until(lambda: "night.yaml" in intake.waiting_files)
    assert intake.waiting_files == {"night.yaml": "waits for its table products.csv"}
    assert not spool.status("night")
    put(spool, "products.csv", ROWS)
    assert spool.end("night")["state"] == "succeeded"
    assert intake.waiting_files == {}


def test_a_spec_whose_key_is_written_with_escapes_waits_for_its_table_too(spool: Spool) -> None:
    spool.drop("night.json", '{"kind": "text2img", "model": "tiny", "t\\u0061ble": "products.csv"}')
    assert spool.daemon is not None
    intake = spool.daemon.intake
    spool.until(lambda: "night.json" in intake.waiting_files)
    put(spool, "products.csv", ROWS)
    assert spool.end("night")["images"]["done"] == 2


def test_a_table_that_does_not_come_is_answered_as_an_image_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", input_wait_seconds=0.2)
    spool.start()
    spool.drop("night.yaml", SPEC)
    status = spool.end("night")
    spool.stop()
    assert (status["state"], status["reason"]) == ("rejected", "InputMissing")
    assert status["message"].startswith("products.csv did not arrive within ")


def test_a_spec_that_waits_for_its_table_can_be_cancelled(spool: Spool) -> None:
    spool.drop("night.yaml", SPEC)
    assert spool.daemon is not None
    intake = spool.daemon.intake
    spool.until(lambda: intake.waiting_files)
    spool.drop("night.cancel", "")
    assert spool.end("night")["state"] == "cancelled"


def test_a_bare_table_in_the_inbox_is_no_job(spool: Spool) -> None:
    put(spool, "products.csv", ROWS)
    put(spool, "batch.jsonl", '{"prompt": "a"}\n')
    spool.drop("other.yaml")
    assert spool.end("other")["state"] == "succeeded"
    assert sorted(path.name for path in spool.home.outbox.glob("*/status.json")) == ["status.json"]
    assert (spool.home.inbox / "batch.jsonl").exists()


def test_each_faulty_row_is_named(idle_spool: Spool) -> None:
    put(idle_spool, "products.csv", "prompt,width\na,64\nb,65\nc,128\n")
    refused = assessed(idle_spool, SPEC)
    assert [(each.line, each.path, each.message) for each in refused.problems] == [
        (4, "products.csv: row 3, column width", "65 is not a multiple of 16 (64 and 80 are)"),
        (4, "products.csv: row 4, column width", "tiny makes only 64×64"),
    ]
    assert refused.reason == "SchemaInvalid"


def test_rows_that_are_skipped_are_listed_and_a_wrong_column_is_not(idle_spool: Spool) -> None:
    put(idle_spool, "products.csv", "prompt,image\na,\nb,../x.png\nc,\n")
    accepted = assessed(idle_spool, SPEC + "on_error: skip\n")
    assert accepted.total == 2
    assert "left out: products.csv: row 3, column image: '../x.png' may" in str(accepted.warnings)
    put(idle_spool, "products.csv", "prompt,imag\na,\n")
    assert assessed(idle_spool, SPEC + "on_error: skip\n").reason == "SchemaInvalid"


def test_rows_vary_slowest_then_the_pack_the_matrix_and_the_seeds(spool: Spool) -> None:
    write_pack(
        spool.home.prompts, "mugs", fixed="a red", separator=" ",
        subjects={"circle": "circle", "star": "star"}, variables={"day": "day", "night": "night"},
    )  # fmt: skip
    put(spool, "products.csv", "variable,subject,seed,x_a\nnight,circle,5,1\nday,,7,2\n")
    spool.drop(
        "night.yaml",
        "kind: text2img\nmodel: tiny\ncompose: {pack: mugs, subjects: all}\ntable: products.csv\n"
        "matrix: {steps: [1, 2]}\ncount: 2\n",
    )
    assert spool.end("night")["state"] == "succeeded"
    made = sidecars(spool.home.job("night"))
    names = [(m["result"]["row"], m["result"]["subject"], m["steps"], m["seed"]) for m in made]
    assert names[:4] == [(2, "circle", 1, 5), (2, "circle", 1, 6), (2, "circle", 2, 5),
                         (2, "circle", 2, 6)]  # fmt: skip
    assert len(names) == 12
    assert made[0]["prompt"] == "a red circle night"


def test_a_row_that_names_no_variable_or_what_the_pack_rules_out_is_a_faulty_row(
    idle_spool: Spool,
) -> None:
    """Seen red: the first refused the whole table, and the second was left out without a word."""
    write_pack(
        idle_spool.home.prompts, "mugs", subjects={"a": "a mug", "b": "a jug"},
        variables={"day": "day", "night": "night"},
    )  # fmt: skip
    manifest = idle_spool.home.prompts / "mugs" / "pack.json"
    rules = {"subjects": {"b": {"not_with": ["night"]}}}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | rules))
    put(idle_spool, "t.csv", "subject,variable\na,day\na,\nb,night\nb,day\n")
    spec = "kind: text2img\nmodel: tiny\ncompose: {pack: mugs}\ntable: t.csv\n"
    refused = assessed(idle_spool, spec)
    told = " ".join(problem.path for problem in refused.problems)
    assert "row 3, column variable" in told and "row 4" in told and "row 2" not in told
    accepted = assessed(idle_spool, spec + "on_error: skip\n")
    assert accepted.total == 2 and "does not go with 'night'" in str(accepted.warnings)


def test_a_retry_runs_the_rows_that_were_read_whatever_the_table_says_now(spool: Spool) -> None:
    file = put(spool, "products.csv", ROWS)
    spool.drop("night.yaml", SPEC)
    spool.end("night")
    file.write_text("prompt\nsomething else\n")
    spool.drop("night.retry", "")
    assert spool.end("night-2")["state"] == "succeeded"
    assert [each["prompt"] for each in sidecars(spool.home.job("night-2"))] == [
        "a red circle", "a blue square",
    ]  # fmt: skip
    assert (spool.home.job("night-2") / "inputs" / "products.csv").read_text() == ROWS


def test_images_in_rows_are_copied_and_waited_for(spool: Spool) -> None:
    spool.drop("first.yaml", SPEC.replace("table: products.csv", "prompt: a red circle"))
    spool.end("first")
    picture = spool.home.job("first") / "first-0001.png"
    put(spool, "products.csv", "image,x_n\nphotos/a.png,1\nphotos/b.png,2\n")
    (spool.home.inbox / "photos").mkdir()
    shutil.copy(picture, spool.home.inbox / "photos" / "a.png")
    spool.drop("night.yaml", "kind: redux\nmodel: tiny\ntable: products.csv\nsteps: 2\n")
    spool.until(lambda: spool.status("night").get("message") == "waiting for photos/b.png")
    shutil.copy(picture, spool.home.inbox / "photos" / "b.png")
    assert spool.end("night")["state"] == "succeeded"
    assert [each["image"] for each in sidecars(spool.home.job("night"))] == [
        "outbox/night/inputs/a.png", "outbox/night/inputs/a.png",
    ]  # fmt: skip
    shutil.rmtree(spool.home.inbox / "photos")
    # The copy of the table is replaced: the rows are those that were read all the same.
    (spool.home.job("night") / "inputs" / "products.csv").write_text("image\nother.png\n")
    spool.drop("night.retry", "")
    again = spool.end("night-2")
    assert (again["state"], again["images"]["done"]) == ("succeeded", 2)
    assert again["warnings"] == [
        "outbox/night/inputs/products.csv was changed after its rows were read"
    ]


@pytest.mark.parametrize("listed", ["photos/*.png", "[photos/b10.png, 'photos/b?.png']"])
def test_a_matrix_takes_patterns_of_images(spool: Spool, listed: str) -> None:
    spool.drop("first.yaml", SPEC.replace("table: products.csv", "prompt: a red circle"))
    spool.end("first")
    (spool.home.inbox / "photos").mkdir()
    for name in ("b10.png", "b2.PNG", "notes.txt", "~b3.png"):
        shutil.copy(spool.home.job("first") / "first-0001.png", spool.home.inbox / "photos" / name)
    spool.drop("night.yaml", f"kind: redux\nmodel: tiny\nsteps: 2\nmatrix: {{image: {listed}}}\n")
    assert spool.end("night")["images"]["done"] == 2
    assert spool.daemon is not None
    record = spool.daemon.ledger.newest("night")
    assert record is not None
    expected = ["photos/b2.PNG", "photos/b10.png"]
    named = record.realised["matrix"]["image"]
    assert named == (expected if listed[0] == "p" else expected[::-1])
    spool.drop("none.yaml", "kind: redux\nmodel: tiny\nmatrix: {image: 'x*.png'}\n")
    status = spool.end("none")
    assert (status["reason"], status["errors"][0]["path"]) == ("InputMissing", "matrix.image[0]")


def test_a_pattern_that_is_not_in_the_matrix_is_refused_with_its_place(spool: Spool) -> None:
    """Seen red: the job waited ten minutes for a file of this name."""
    spool.drop("hero.yaml", "kind: kontext\nmodel: tiny\nprompt: red\nimage: 'photos/*.jpg'\n")
    status = spool.end("hero")
    assert status["reason"] == "InputMissing"
    assert "image: 'photos/*.jpg' is a pattern" in status["message"]
    assert "matrix: {image: …}" in status["message"]


def test_requests_of_openai_keep_their_id_and_count(spool: Spool) -> None:
    body = {"model": "dall-e-3", "prompt": "a red circle", "n": 2, "style": "vivid"}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/images/generations", "body": each}
        for name, each in (("a", body), ("b", {**body, "n": 1}))
    ]
    put(spool, "batch.jsonl", "\n".join(map(json.dumps, lines)))
    spool.drop("night.yaml", "kind: text2img\nmodel: tiny\nsteps: 2\ntable: batch.jsonl\nseed: 3\n")
    assert spool.end("night")["state"] == "succeeded"
    made = [(fields["seed"], origin["custom_id"]) for fields, origin in composed(spool, "night")]
    assert made == [(3, "a"), (4, "a"), (3, "b")]


def test_the_results_of_a_table_have_its_rows_and_its_own_columns(spool: Spool) -> None:
    put(spool, "products.csv", ROWS + "a green star,,'=x\n")
    spool.drop("night.yaml", SPEC)
    assert spool.end("night")["state"] == "succeeded"
    folder = spool.home.job("night")
    spool.until((folder / "results.csv").exists)
    with (folder / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["prompt"], row["x_sku"]) for row in rows] == [
        ("2", "a red circle", "0012"), ("3", "a blue square", ""), ("4", "a green star", "'=x"),
    ]  # fmt: skip


def test_a_lost_ledger_takes_the_rows_from_the_copy_of_the_table(idle_spool: Spool) -> None:
    spool = idle_spool
    spool.start()
    put(spool, "products.csv", ROWS)
    spool.drop("runner.pause", "")
    spool.drop("night.yaml", SPEC)
    spool.until(lambda: (spool.home.job("night") / "inputs" / "products.csv").exists())
    spool.gone("night.yaml")
    spool.stop()
    for file in spool.home.data.glob("ledger*"):
        file.unlink()
    (spool.home.inbox / "products.csv").write_text("prompt\nsomething else\n")
    (spool.home.inbox / "runner.pause").unlink()
    spool.restart()
    assert spool.end("night")["state"] == "succeeded"
    assert [each["prompt"] for each in sidecars(spool.home.job("night"))] == [
        "a red circle", "a blue square",
    ]  # fmt: skip


def test_equal_rows_are_made_each_and_forbidden_ones_are_told_by_row(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", forbidden=["moon"])
    put(spool, "products.csv", "prompt,seed\na red circle,1\na moon,1\na red circle,1\n")
    refused = assessed(spool, SPEC)
    assert (refused.reason, [each.path for each in refused.problems]) == (
        "PromptForbidden", ["products.csv: row 3, column prompt"],
    )  # fmt: skip
    assert assessed(spool, SPEC + "on_error: skip\n").total == 2


def test_what_a_model_cannot_do_is_told_by_row_or_once_where_the_spec_says_it(
    idle_spool: Spool,
) -> None:
    put(idle_spool, "products.csv", "prompt,model\na red circle,\na blue star,klain\n")
    refused = assessed(idle_spool, SPEC + "width: 128\nheight: 64\n")
    assert [each.path for each in refused.problems] == [
        "products.csv: row 3, column model", "width",
    ]  # fmt: skip


def test_each_row_has_its_own_model_and_the_spec_or_the_default_where_it_names_none(
    idle_spool: Spool,
) -> None:
    put(idle_spool, "products.csv", "prompt,model\na red circle,tiny\na blue star,\n")
    found = assessed(idle_spool, SPEC.replace("model: tiny\n", ""))
    prompts = [fields for fields, _ in found.composed]
    made = [image(found.realised, n, 0, prompts)["model"] for n in range(2)]
    assert made == ["tiny", "klein"]


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ("kind: fill\nprompt: a star", "image,mask\na.png,b.png\n"),
        ("kind: fill\nprompt: a star\nimage: a.png", 'outpaint\n"{""left"": 16.0}"\n'),
        ("kind: control\nprompt: a star", "image,preprocessed\na.png,TRUE\n"),
        ("kind: text2img\nprompt: a star\nstrength: 0.5", "image\na.png\n"),
        ("kind: text2img\nprompt: a star\nquality: 80", "format\nwebp\n"),
        ("kind: text2img\nprompt: a star\nkeep_original: true", "upscale\n2\n"),
        ("kind: text2img\ncompose: {pack: mugs}", "subject\nmug\n"),
    ],
)
def test_what_the_spec_lacks_the_rows_may_have(idle_spool: Spool, fields: str, rows: str) -> None:
    write_pack(idle_spool.home.prompts)
    spec = f"{fields}\nmodel: tiny\ntable: products.csv\n"
    put(idle_spool, "products.csv", rows)
    accepted = assessed(idle_spool, spec)
    assert (accepted.problems, accepted.total) == ((), 1)
    put(idle_spool, "products.csv", "seed\n1\n")
    assert all("products.csv: row 2" in each.path for each in assessed(idle_spool, spec).problems)
    assert assessed(idle_spool, spec).reason in ("SchemaInvalid", "PackInvalid")
