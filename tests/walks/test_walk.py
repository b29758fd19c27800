"""The whole way, with a real runner on the built-in model: from a file in the inbox to pictures.

Every way to write a spec, all five kinds, bulk jobs, and the same pixels again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from specs.schemas import bundle
from tests.harness import Runner, eventually, fluxdrop, sidecars, spec

pytestmark = pytest.mark.timeout(240)

KINDS = ("text2img", "kontext", "fill", "control", "redux")


def pixels(runner: Runner, sidecar: dict[str, Any]) -> str:
    """The hash of the pixels that a sidecar is of."""
    result = sidecar["result"]
    with Image.open(runner.folder(result["job"]) / result["file"]) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def renamed_in(inbox: Path, name: str, data: bytes) -> None:
    (inbox / ".tmp").mkdir(exist_ok=True)
    (inbox / ".tmp" / "anything").write_bytes(data)
    (inbox / ".tmp" / "anything").rename(inbox / name)


def renamed_in_place(inbox: Path, name: str, data: bytes) -> None:
    (inbox / f".{name}.tmp").write_bytes(data)
    (inbox / f".{name}.tmp").rename(inbox / name)


def just_written(inbox: Path, name: str, data: bytes) -> None:
    (inbox / name).write_bytes(data)


def written_slowly(inbox: Path, name: str, data: bytes) -> None:
    """A writer that keeps the file open and takes longer than a file needs to settle."""
    with (inbox / name).open("wb", buffering=0) as file:
        for n in range(4):
            size = len(data) // 4 + 1
            file.write(data[n * size : (n + 1) * size])
            time.sleep(0.25)
            assert (inbox / name).exists(), "taken while its writer was still writing"


def copied_in_pieces(inbox: Path, name: str, data: bytes) -> None:
    """A writer that opens the file again for each piece, each shorter apart than the settling."""
    for n in range(0, len(data), len(data) // 3 + 1):
        with (inbox / name).open("ab") as file:
            file.write(data[n : n + len(data) // 3 + 1])
        time.sleep(0.02)


PLAIN = spec().encode()
WAYS: dict[str, tuple[Callable[[Path, str, bytes], None], str, bytes]] = {
    "renamed-in": (renamed_in, ".yaml", PLAIN),
    "renamed-in-place": (renamed_in_place, ".yaml", PLAIN),
    "just-written": (just_written, ".yaml", PLAIN),
    "written-slowly": (written_slowly, ".yaml", PLAIN),
    "in-pieces": (copied_in_pieces, ".yaml", PLAIN),
    "end-marker": (just_written, ".yaml", PLAIN + b"...\n"),
    "yml": (just_written, ".yml", PLAIN),
    "upper-case": (just_written, ".YAML", PLAIN),
    "json": (just_written, ".json", json.dumps({"kind": "text2img", "model": "tiny", "steps": 2,
        "seed": 7, "prompt": "a red circle on a blue background"}).encode()),
    "bom": (renamed_in, ".yaml", b"\xef\xbb\xbf" + PLAIN),
    "crlf": (renamed_in, ".yaml", PLAIN.replace(b"\n", b"\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_drop_becomes_a_picture_whichever_way_it_is_written(runner: Runner, way: str) -> None:
    write, suffix, data = WAYS[way]
    name = f"way-{way}{suffix}"
    inbox, drop = runner.home / "inbox", runner.home / "inbox" / name
    write(inbox, name, data)
    while drop.exists():
        pass  # as fast as can be: the very moment it is gone, the answer must be there
    receipt = runner.read(f"drops/{name}.json")
    assert receipt["outcome"] == "accepted"
    assert receipt["sha256"] == hashlib.sha256(data).hexdigest()
    assert runner.status(receipt["job"])["state"] in ("queued", "running", "succeeded")

    status = runner.over(receipt["job"])
    folder = runner.folder(f"way-{way}")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    spec_name = "spec.json" if suffix == ".json" else "spec.yaml"
    assert files == {
        spec_name, "status.json", "index.html",
        f"way-{way}-0001.png", f"way-{way}-0001.json", f"thumbs/way-{way}-0001.webp",
    }  # fmt: skip
    assert (folder / spec_name).read_bytes() == data
    assert status["state"] == "succeeded" and status["source"]["name"] == name
    assert status["images"] == {"total": 1, "done": 1, "failed": 0, "skipped": 0, "reused": 0}


def test_files_appear_in_the_order_that_callers_are_promised(runner: Runner) -> None:
    """Picture, then sidecar, then page, then the final status; none of them ever half there."""
    runner.put("order.yaml", spec(count=4, steps=4))
    folder = runner.folder("order")
    looks = 0
    state = ""
    while state not in ("succeeded", "failed"):
        looks += 1
        seen = sorted(folder.glob("order-[0-9]*.json"))
        for sidecar in (json.loads(file.read_bytes()) for file in seen):
            picture = folder / sidecar["result"]["file"]
            digest = hashlib.sha256(picture.read_bytes()).hexdigest()
            assert digest == sidecar["result"]["sha256"]
        status = runner.status("order")
        state = status.get("state", "")
        for output in status.get("outputs", []):
            assert (folder / output["sidecar"]).is_file()
            assert (folder / output["thumbnail"]).is_file()
    assert looks > 20, "too few looks to have seen anything"
    assert state == "succeeded" and (folder / "index.html").is_file()
    assert len(sidecars(folder)) == status["images"]["done"] == 4
    page, final = folder / "index.html", folder / "status.json"
    assert page.stat().st_mtime_ns <= final.stat().st_mtime_ns


@pytest.fixture(scope="module")
def story(shared_runner: Runner) -> dict[str, dict[str, Any]]:
    """One job of each kind, each reading the first one's picture: kind → sidecar."""
    runner = shared_runner
    runner.put("story-mask.png", _mask())
    source = "outbox/story-text2img/story-text2img-0001.png"
    fields: dict[str, dict[str, Any]] = {
        "text2img": {},
        "kontext": {"image": source, "prompt": "make the circle yellow"},
        "fill": {"image": source, "mask": "story-mask.png"},
        "control": {"image": source, "control": "canny"},
        "redux": {"image": source},
    }
    for kind in KINDS:
        runner.drop(f"story-{kind}", kind=kind, **fields[kind])
    return {kind: runner.succeeded(f"story-{kind}")[0] for kind in KINDS}


def _mask() -> bytes:
    import io

    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ends_as_a_picture_with_a_complete_sidecar(
    runner: Runner, story: dict[str, dict[str, Any]], kind: str
) -> None:
    sidecar = story[kind]
    result = sidecar["result"]
    assert (sidecar["kind"], sidecar["model"], sidecar["seed"]) == (kind, "tiny", 7)
    assert {"steps", "guidance", "width", "height", "precision"} <= sidecar.keys()
    assert not {"id", "priority", "window", "not_before", "timeout"} & sidecar.keys()
    wanted = {"job", "index", "file", "sha256", "width", "height", "created_at", "seconds",
              "model", "dtype", "device", "versions"}  # fmt: skip
    known = bundle("sidecar")["properties"]["result"]["properties"]
    assert wanted <= result.keys() & known.keys()
    assert {"torch", "diffusers", "transformers"} <= result["versions"].keys()
    if kind != "text2img":
        assert sidecar["image"].startswith(f"outbox/story-{kind}/inputs/")
        assert (runner.home / sidecar["image"]).is_file()
    with Image.open(runner.folder(f"story-{kind}") / result["file"]) as image:
        assert image.size == (64, 64)
        assert len(image.convert("RGB").getcolors(64 * 64) or ()) > 16, "a plain area, no picture"


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_sidecar_makes_the_same_pixels_again(
    runner: Runner, story: dict[str, dict[str, Any]], kind: str
) -> None:
    runner.put(f"again-{kind}.json", json.dumps(story[kind]))
    runner.answer(f"again-{kind}.json")
    (again,) = runner.succeeded(f"again-{kind}")
    assert pixels(runner, again) == pixels(runner, story[kind])
    assert again["result"]["sha256"] != "" and again["result"]["job"] == f"again-{kind}"


def test_two_processes_make_the_same_bytes_of_the_same_spec(runner: Runner, home: Path) -> None:
    text = spec(metadata="none", steps=4, seed=99)
    runner.put("twin.yaml", text)
    (home / "inbox" / "twin.yaml").write_text(text, encoding="utf-8")
    assert fluxdrop("drain", home=home).code == 0
    runner.succeeded("twin")
    here, there = runner.folder("twin"), home / "outbox" / "twin"
    assert (here / "twin-0001.png").read_bytes() == (there / "twin-0001.png").read_bytes()


def test_another_seed_makes_another_picture(runner: Runner) -> None:
    """Else the tests of sameness above would prove nothing."""
    one, two = (runner.drop(f"seed-{seed}", seed=seed) for seed in (1, 2))
    assert pixels(runner, runner.succeeded(one)[0]) != pixels(runner, runner.succeeded(two)[0])


def test_a_matrix_times_seeds_makes_every_combination_seeds_fastest(runner: Runner) -> None:
    runner.drop("bulk", matrix={"guidance": [1, 3.5], "steps": [2, 3]}, seed=None,
                seeds={"start": 10, "count": 3}, tags=["night"], x_mine={"a": 1})  # fmt: skip
    made = runner.succeeded("bulk")
    order = [(each["guidance"], each["steps"], each["seed"]) for each in made]
    assert order == [(g, s, n) for g in (1, 3.5) for s in (2, 3) for n in (10, 11, 12)]
    assert len({pixels(runner, each) for each in made}) == 12
    status = runner.status("bulk")
    assert status["images"]["total"] == 12 and len(status["outputs"]) == 12
    assert status["tags"] == ["night"] and status["x_mine"] == {"a": 1}
    page = (runner.folder("bulk") / "index.html").read_text(encoding="utf-8")
    assert all(output["file"] in page for output in status["outputs"])


def test_without_any_seed_a_base_is_drawn_and_counted_up_from(runner: Runner) -> None:
    runner.drop("drawn", seed=None, matrix={"steps": [2, 3]})
    first, second = (each["seed"] for each in runner.succeeded("drawn"))
    assert second == first + 1


def test_progress_is_told_step_by_step_with_rising_revisions(runner: Runner) -> None:
    runner.put("steps.yaml", spec(steps=600))
    seen: list[dict[str, Any]] = []

    def look() -> bool:
        status = runner.status("steps")
        if status and (not seen or status["revision"] != seen[-1]["revision"]):
            seen.append(status)
        return bool(status) and status["state"] not in ("queued", "running")

    eventually(look, "the job's end")
    revisions = [status["revision"] for status in seen]
    assert revisions == sorted(set(revisions))
    states = [status["state"] for status in seen]
    assert list(dict.fromkeys(states)) in (["queued", "running", "succeeded"],
                                           ["running", "succeeded"])  # fmt: skip
    told = [status["progress"] for status in seen if status["progress"]]
    steps = [each["step"] for each in told if each["phase"] == "denoising"]
    assert steps == sorted(steps) and len(set(steps)) >= 3, steps
    assert all(each["steps"] == 600 for each in told if each["phase"] == "denoising")
    fractions = [each["fraction"] for each in told]
    assert fractions == sorted(fractions) and fractions[-1] > 0.3
    assert seen[-1]["progress"] is None and os.path.exists(runner.folder("steps") / "index.html")
