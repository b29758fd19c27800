"""The benches of speed measure what they say: each runs here on as little as will do.

Their figures mean nothing at that size; that they come, and that the contestants did the same
work, is what is tested. The figures are tested for themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from runner.engine.entries import MODEL_REGISTRY
from tests.bench import (
    gpu,
    gpu_child,
    gpu_table,
    latency,
    loop,
    mixed,
    overhead,
    precision,
    rehearsal,
    saving,
)
from tests.bench.__main__ import benchmarks
from tests.bench.figures import Goal, Spread, shown
from tests.bench.library import MODELS, PARTS, PRIOR
from tests.bench.stand_in import SMALLEST, Foundry
from tests.bench.turns import Stage

Heard = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Contestants have a process of their own elsewhere: what they set there is put back here."""
    import torch

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other in so small products
    yield
    torch.set_num_threads(threads)


def play(act: Callable[..., Any], **given: Any) -> tuple[Any, Heard]:
    """Let a contestant play in this process, alone; what it returns, and all that it told."""
    ours, theirs = Pipe()
    ours.send("go")
    said = act(Stage(theirs), **given)
    heard = []
    while ours.poll():
        heard.append(ours.recv())
    return said, heard


def marks(heard: Heard) -> int:
    return sum(1 for what, *_ in heard if what == "mark")


def test_every_bench_is_listed_with_what_it_measures() -> None:
    known = benchmarks()
    assert {"loop", "mixed", "latency", "overhead", "added", "gpu", "saving"} <= set(known)
    assert all(says.startswith("Measures ") for says in known.values()), known
    assert not {"gpu_child", "gpu_table", "turns", "figures", "scripts"} & set(known), (
        "what benches are made of"
    )


# -- figures -------------------------------------------------------------------------------------


def test_a_missed_goal_is_said_and_makes_the_bench_fail(capsys: pytest.CaptureFixture[str]) -> None:
    goals = [Goal("speed", 1.2, 1.08), Goal("delay", 60.0, 50.0, at_least=False, unit=" ms")]
    assert shown(["a table"], goals, {}, as_json=False) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "a table"
    assert out[1].startswith("goal met ") and "1.2, wanted at least 1.08" in out[1]
    assert out[2].startswith("goal NOT met") and "60 ms, wanted below 50 ms" in out[2]
    assert shown([], goals[:1], {"rows": []}, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["met"] is True
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(2.0, 3.0, 4.0)


# -- the benches ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The smallest stand-ins, a transformer for each kind."""
    foundry = Foundry(tmp_path_factory.mktemp("weights"), SMALLEST)
    made = {part: foundry.folder(part, f"-{part}") for part in PARTS.values()}
    return {**made, PRIOR: foundry.folder(PRIOR)}


def test_the_loop_and_the_runner_draw_the_same_pictures(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    from PIL import Image

    case = loop.Case("smallest", "dev", seeds=2, goal=1.0, steps=2, side=64, length=16)
    given = {"case": case, "folder": folders["text2img"], "texts": loop.prompts(2),
             "root": tmp_path / "home"}  # fmt: skip
    given["root"].mkdir()
    shares, heard = play(loop.bare, **given)
    assert marks(heard) == 4 and 0 < shares["text"] < shares["whole"]
    _, heard = play(loop.fluxdrop, **given)
    assert marks(heard) == 4
    job = given["root"] / "outbox" / "night-1"
    for file in sorted(job.glob("night-1-*.json")):
        sidecar = json.loads(file.read_bytes())
        number = sidecar["result"]["index"]
        assert sidecar["prompt"] == loop.prompts(2)[(number - 1) // 2]
        with (
            Image.open(job / sidecar["result"]["file"]) as ours,
            Image.open(given["root"] / "bare" / f"{number}.png") as theirs,
        ):
            assert ours.size == (64, 64) and ours.tobytes() == theirs.tobytes()


@pytest.mark.timeout(180)
def test_a_mixed_night_loads_what_is_heavy_once_and_the_loop_again_and_again(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    loads = {}
    for contestant in (mixed.as_they_come, mixed.by_kind, mixed.fluxdrop):
        root = tmp_path / contestant.__name__
        root.mkdir()
        said, heard = play(contestant, jobs=6, folders=folders, root=root)
        assert marks(heard) == 6
        loads[contestant.__name__] = said["loads"]
    assert loads["as_they_come"]["T5EncoderModel"] == 6
    assert loads["by_kind"]["T5EncoderModel"] == 5
    ours = loads["fluxdrop"]
    assert len([name for name in ours if name.startswith("FluxTransformer2DModel")]) == 4
    heavy = {name: count for name, count in ours.items() if "Autoencoder" not in name}
    assert set(heavy.values()) == {1}, heavy


def test_the_latency_of_a_real_runner_is_measured_moment_by_moment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    latency.main(["--rounds", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    medians = {name: row["p50"] for name, row in found["begin_ms"].items()}
    assert tuple(medians) == latency.MOMENTS
    assert 0 < medians["status"] < medians["running"] <= medians["succeeded"]
    assert medians["status"] < medians["picture"] <= medians["succeeded"]
    assert found["cancel_ms"]["p50"] > 0 and found["step_ms"] > 0
    assert [goal["bound"] for goal in found["goals"]] == [50.0, 50.0]


def test_jobs_around_a_pipeline_that_does_nothing_are_counted_for_every_queue(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overhead.main(["--sizes", "10", "20", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {row["jobs"] for row in found["rows"]} == {10, 20}
    assert all(row["rate"] > 0 and row["cpu_ms"] > 0 for row in found["rows"])
    ours = [row for row in found["rows"] if row["contestant"] == overhead.OURS]
    assert len(ours) == 2


def test_large_pictures_are_saved_beside_the_writer_and_by_it_and_are_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    saving.main(["--images", "6", "--side", "256", "--json"])
    found = json.loads(capsys.readouterr().out)
    beside, by_it = found["rows"]
    assert beside["contestant"] == saving.BESIDE and by_it["contestant"] == saving.ALONE
    assert beside["rate"] > 0 and by_it["rate"] > 0 and found["ratio"] > 0
    assert beside["mb"] == pytest.approx(by_it["mb"], rel=0.01)
    assert found["goals"][0]["bound"] == 1.5


def test_without_a_gpu_nothing_is_measured_and_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == f"{gpu.NOTHING}\n"


@pytest.mark.parametrize("kind", ["text2img", "redux"])
@pytest.mark.parametrize("who", ["fluxdrop", "diffusers"])
def test_the_gpu_bench_works_on_tiny_models(
    who: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = gpu.Order(who, kind, "auto", str(tmp_path), side=64, steps=12, tiny=True)
    gpu_child.obey([json.dumps(asdict(order))])
    found = json.loads(capsys.readouterr().out)
    assert "error" not in found, found
    assert found["step_s"] > 0 and found["image_s"] > 0 and found["ceiling"] > 0
    if who == "fluxdrop":
        assert found["cancel_s"] > 0 and found["again_s"] > 0
    assert gpu.table([{"name": order.name, **found}])[1].startswith(f"{who}, {kind}")


@pytest.mark.timeout(300)
def test_the_gpu_table_has_every_precision_eager_and_compiled_beside_bare_diffusers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # Without a compiler, which other tests have: here its blocks need only be called.
    compiled = Mock(side_effect=lambda call, **options: call)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(gpu_table, "measured", gpu_table.row)
    given = ["--table", "--tiny", "--side", "64", "--steps", "4", "--folder", str(tmp_path)]
    assert gpu.main([*given, "--json"]) in (0, 1)  # it may well be slower here
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(found) == [*gpu_table.PRECISIONS, gpu_table.BARE]
    assert "it needs a GPU" in found.pop("nf4")["error"]
    assert compiled.call_count >= len(found)
    assert found["int8"]["facts"] == {} and found["int8"]["plan"].startswith("in int8")
    for name, row in found.items():
        assert "error" not in row, row
        assert row["step_s"] > 0 and row["compiled_s"] > 0
        assert (row["psnr"] is None or row["psnr"] > 10) and (row["psnr"] or name != "int8")
    rows = [{"name": "int8", "step_s": 1.0, "compiled_s": 0.4, "psnr": 31.24, "peak_gib": 9.0,
             "planned_gib": 8.0}, {"name": "bf16", "step_s": 1.0, "compiled_s": 0.8}]  # fmt: skip
    assert gpu_table.table(rows)[1].split() == ["int8", "-", "1", "0.4", "31.2", "8", "9"]
    assert [goal.met for goal in gpu_table.goals(rows)] == [False, False, True]


def test_a_row_that_failed_is_a_goal_that_is_missed_but_for_what_no_such_machine_can_do() -> None:
    rows = [{"name": "int8", "error": "ended with 1"}, {"name": "bf16", "error": "no room"},
            {"name": "nf4", "error": "InputBad: it needs a GPU"}]  # fmt: skip
    for goals in (gpu_table.goals(rows), gpu.goals(rows, 16)):
        assert [(goal.name, goal.met) for goal in goals] == [
            ("int8: ran", False),
            ("bf16: ran", False),
        ]


def test_published_weights_are_measured_with_the_published_entry(tmp_path: Path) -> None:
    order = gpu_table.Order("bf16", str(tmp_path), "klein", "/weights", 16, 64, 4, tiny=False)
    assert gpu_table.entry(order) == replace(MODEL_REGISTRY["klein"], repo="/weights")


def test_the_precisions_are_compared_with_bf16_and_with_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert precision.main(["--rounds", "1", "--heads", "2", "--json"]) in (0, 1)
    found = {row["precision"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert tuple(found) == precision.PRECISIONS and found["bf16"]["error"] == 0
    assert 0 < found["int8"]["error"] < found["fp8"]["error"] < found["nf4"]["error"]
    assert found["bf16"]["bytes"] == 2 > found["int8"]["bytes"] > found["nf4"]["bytes"]
    assert all(row["seconds"] > 0 for row in found.values())


def test_full_size_stand_ins_are_as_large_as_the_published_weights() -> None:
    import math

    import torch

    from tests.bench.stand_in import FLUX1, modules

    counts = {}
    for part in ("text2img", PRIOR):
        for name, make in modules(FLUX1, part).items():
            with torch.device("meta"):
                counts[name] = sum(math.prod(each.shape) for each in make().parameters())
    assert counts == {
        "transformer": 11_901_408_320, "text_encoder_2": 4_762_310_656,
        "text_encoder": 123_060_480, "vae": 83_819_683, "image_encoder": 428_225_600,
        "image_embedder": 64_503_808,
    }  # fmt: skip
    assert set(MODELS) == set(PARTS)


# -- rehearsal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", rehearsal.MODELS)
def test_a_rehearsal_has_the_published_shapes_and_the_memory_of_each_phase(
    tmp_path: Path, model: str
) -> None:
    from accelerate import init_empty_weights

    with init_empty_weights():
        true = rehearsal.modules(model, 1.0)
    count = sum(each.numel() for each in true["transformer"].parameters())
    assert count == MODEL_REGISTRY[model].weights.transformer
    if not rehearsal.STATUS.is_file():
        assert rehearsal.main([]) == 0
        return
    rehearsal.build(tmp_path / model, model, 0.02)
    weights = rehearsal.entry(tmp_path / model, model).weights
    assert 0 < weights.unread < weights.text / 2
    made = rehearsal.run(tmp_path, model, "bf16", 64, 1)
    phases = {each["phase"]: each for each in made["phases"]}
    assert [*phases] == ["loading text", "encoding", "loading", "denoising", "decoding"]
    assert all(each["seconds"] >= 0 and each["expected"] > 0 for each in phases.values())
