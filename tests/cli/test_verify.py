"""`verify`: an image made again, by this process or by the runner, and the pixels compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import client
from runner.cli.init import make_home
from runner.cli.verify import _changes
from runner.engine.gpu_thread import GpuThread
from runner.settings import Home
from runner.spool.store import lending
from tests import random_twin
from tests.cli.here import Here
from tests.cli.test_live import RunnerOf, started
from tests.daemon.test_threads import end
from tests.harness import PATIENCE, Runner, eventually, fluxdrop, spec

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def drained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home where no runner runs, with one picture of each format, one made from another."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("verify") / "home"
        patch.setenv("HF_HOME", str(home / "hf"))
        make_home(home)
        Image.linear_gradient("L").resize((133, 90)).convert("RGB").save(home / "inbox/photo.png")
        hole = Image.new("RGBA", (133, 90), "black")
        hole.paste((0, 0, 0, 0), (50, 30, 80, 60))
        hole.save(home / "inbox/hole.png")
        jobs = {
            "plain": spec(count=2),
            "lossy": spec(format="jpeg", quality=60),
            "bare": spec(metadata="none", format="webp"),
            "edited": spec(kind="kontext", image="outbox/plain/plain-0001.png"),
            "filled": spec(kind="fill", image="photo.png", mask="hole.png"),
            "inverted": spec(
                kind="fill", image="photo.png", mask="hole.png", invert_mask=True, whole=True
            ),
            "faint": spec(
                kind="fill", image="photo.png", mask="hole.png", strength=0.6, composite=False
            ),
            "extended": spec(kind="fill", image="photo.png", outpaint={"left": 40, "top": 20}),
            "weighed": spec(kind="redux", image=[{"path": "photo.png", "weight": 0.3}]),
            "blended": spec(kind="redux", image=["hole.png", {"path": "photo.png", "weight": 0.2}]),
            "outlined": spec(kind="control", image="photo.png", preprocessed=True),
            "denied": spec(negative_prompt="a green square", true_cfg=3.0),
            "redrawn": spec(image="photo.png", strength=0.5),
            "enlarged": spec(upscale=4, keep_original=True, format="jpeg"),
            "enlarged-photo": spec(
                kind="fill", image="photo.png", mask="hole.png", upscale=2, keep_original=True
            ),
        }
        for stem, text in jobs.items():
            (home / "inbox" / f"{stem}.yaml").write_text(text, encoding="utf-8")
        done = fluxdrop("drain", home=home)
        assert done.code == 0, done
        yield home


@pytest.fixture
def verify(drained: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in that home."""
    return Here(drained, capsys)


def file_of(home: Path, name: str) -> Path:
    return home / "outbox" / name.rpartition("-")[0] / name


@pytest.mark.parametrize(
    "name",
    ["plain-0002.json", "lossy-0001.json", "bare-0001.json", "edited-0001.json",
     "filled-0001.json", "inverted-0001.json", "faint-0001.json", "extended-0001.json",
     "weighed-0001.json", "blended-0001.json", "outlined-0001.json", "denied-0001.json",
     "redrawn-0001.json", "enlarged-0001.json", "enlarged-0001.original.png",
     "enlarged-photo-0001.json", "enlarged-photo-0001.original.png", "plain-0001.png"],
)  # fmt: skip
def test_an_untouched_picture_is_made_again_pixel_by_pixel(verify: Here, name: str) -> None:
    done = verify("verify", str(file_of(verify.home, name)), "--json")
    assert done.code == 0, done
    assert done.json["identical"] is True and done.json["max_difference"] == 0
    assert done.json["reason"] is None
    assert sorted(os.listdir(verify.home / "outbox" / "plain" / "thumbs")) == [
        "plain-0001.webp", "plain-0002.webp"
    ]  # fmt: skip


def test_a_photo_comes_back_from_fill_in_a_size_that_no_model_makes_and_no_spec_names(
    verify: Here,
) -> None:
    sidecar = json.loads(file_of(verify.home, "filled-0001.json").read_bytes())
    assert {"width", "height"}.isdisjoint(sidecar)
    assert (sidecar["result"]["width"], sidecar["result"]["height"]) == (133, 90)
    with (
        Image.open(verify.home / "inbox/photo.png") as photo,
        Image.open(file_of(verify.home, "filled-0001.png")) as made,
    ):
        made.paste(0, (50, 30, 80, 60))
        photo.paste(0, (50, 30, 80, 60))
        assert made.size == (133, 90) and made.tobytes() == photo.tobytes()


def test_a_picture_of_an_older_recipe_is_said_to_be_one(verify: Here, tmp_path: Path) -> None:
    for name in ("filled-0001.json", "filled-0001.png"):
        shutil.copy(file_of(verify.home, name), tmp_path)
    file = tmp_path / "filled-0001.json"
    sidecar = json.loads(file.read_bytes())
    assert sidecar["result"].pop("recipe") == 3
    file.write_text(json.dumps(sidecar), encoding="utf-8")
    assert verify("verify", str(file), "--json").json["identical"] is True
    file.write_text(json.dumps({**sidecar, "seed": 99}), encoding="utf-8")
    assert verify("verify", str(file), "--json").json["reason"] == "it was made by recipe 1, is 3"


def test_a_picture_alone_is_enough(verify: Here, tmp_path: Path) -> None:
    alone = tmp_path / "renamed.png"
    shutil.copy(file_of(verify.home, "plain-0001.png"), alone)
    assert verify("verify", str(alone)).out == "identical\n"


def test_a_picture_in_int8_is_made_again_and_how_it_was_multiplied_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the settings' precision; the sidecar then names it."""
    home = tmp_path / "home"
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    make_home(home)
    twin = json.dumps(str(random_twin.folder("flux2", tmp_path)))
    settings = (
        f"registry: {{mine: {{like: klein, folder: {twin}}}}}\ndefaults: {{precision: int8}}\n"
    )
    (home / "fluxdrop.yaml").write_text(settings, encoding="utf-8")
    (home / "inbox/it.yaml").write_text(spec(model="mine", width=64, height=64), encoding="utf-8")
    done = fluxdrop("drain", home=home)
    assert done.code == 0, done
    file = home / "outbox/it/it-0001.json"
    sidecar = json.loads(file.read_bytes())
    assert sidecar["precision"] == "int8" and sidecar["result"]["dtype"] == "bfloat16"
    kept = [each.name for each in (home / "data/quantised").iterdir()]
    assert len([name for name in kept if name.endswith("-int8")]) == 1
    verify = Here(home, capsys)
    assert verify("verify", str(file), "--json").json["identical"] is True
    sidecar["seed"] += 1
    sidecar["result"]["weight_only"] = True
    file.write_text(json.dumps(sidecar), encoding="utf-8")
    assert verify("verify", str(file), "--json").json["changed"] == [
        "weight_only was True, is False"
    ]


def changed(
    home: Path, folder: Path, facts: Mapping[str, Any] | None = None, **fields: Any
) -> Path:
    """A copy of a picture and its sidecar, whose spec or facts are told otherwise."""
    sidecar = json.loads(file_of(home, "plain-0001.json").read_bytes())
    result = {**sidecar["result"], **(facts or {})}
    file = folder / "plain-0001.json"
    file.write_text(json.dumps({**sidecar, **fields, "result": result}), encoding="utf-8")
    shutil.copy(file_of(home, "plain-0001.png"), folder)
    return file


def test_another_version_device_or_model_is_named_as_the_reason(
    verify: Here, tmp_path: Path
) -> None:
    other = {"torch": "2.9.0", "diffusers": "0.41.0"}
    facts = {"versions": other, "device": "NVIDIA H200", "model": {"hash": f"sha256:{'ab' * 32}"}}
    facts |= {"text_precision": "bf16", "placement": "offload", "tiled": True}
    facts |= {"speed": {"step_cache": 0.1, "attention": "flash"}}
    file = changed(verify.home, tmp_path, facts, seed=12345)
    done = verify("verify", str(file), "--json")
    assert done.code == 1 and done.json["identical"] is False
    assert 0 < done.json["max_difference"] <= 255 and done.json["mean_difference"] > 0
    for part in ("torch was 2.9.0, is ", "diffusers was 0.41.0", "the device was NVIDIA H200, is ",
                 "the model's hash was abababababab…",
                 "text_precision was bf16, is fp32", "placement was offload, is resident",
                 "tiled was True, is False",
                 "speed was {'step_cache': 0.1, 'attention': 'flash'}, is {}"):  # fmt: skip
        assert part in done.json["reason"]
    told = verify("verify", str(file))
    assert told.code == 1 and told.out.startswith("different by up to ")


def test_another_estimator_or_upscaler_is_named_and_a_kept_original_that_was_changed(
    verify: Here, tmp_path: Path
) -> None:
    """Seen red: that only the sidecar could have been changed was said, and "identical"."""
    file = changed(verify.home, tmp_path, {"estimator": {"hash": "sha256:ab"}}, seed=12345)
    sidecar = json.loads(file.read_bytes())
    facts = {"estimator": {"hash": "sha256:cd"}, "upscaler": {"sha256": "cd"}}
    sidecar["result"]["upscaler"] = {"sha256": "ab"}
    told = _changes(sidecar, facts)
    assert "the estimator's hash was sha256:ab, is sha256:cd" in told
    assert "the upscaler's sha256 was ab, is cd" in told
    shutil.copytree(verify.home / "outbox/enlarged-photo", folder := tmp_path / "job")
    Image.new("RGB", (4, 4)).save(folder / "enlarged-photo-0001.original.png")
    done = verify("verify", str(folder / "enlarged-photo-0001.json"), "--json")
    assert done.code == 1 and done.json["max_difference"] == 0
    assert done.json["reason"] == "enlarged-photo-0001.original.png was changed after it was made"


def test_a_hash_of_an_older_kind_is_no_other_model(verify: Here, tmp_path: Path) -> None:
    file = changed(verify.home, tmp_path, {"model": {"hash": "ab" * 32}}, seed=12345)
    done = verify("verify", str(file), "--json")
    assert "hash of the model is of an older kind" in done.json["reason"]
    assert "the model's hash was" not in done.json["reason"]


def test_a_sidecar_or_a_picture_that_was_changed_is_named_as_the_reason(
    verify: Here, tmp_path: Path
) -> None:
    file = changed(verify.home, tmp_path, seed=12345)
    assert "the sidecar was changed" in verify("verify", str(file), "--json").json["reason"]
    file = changed(verify.home, tmp_path, image="outbox/redrawn/inputs/photo.png")
    said = verify("verify", str(file), "--json").json["reason"]
    assert "the sidecar or an input picture was changed" in said
    file = changed(verify.home, tmp_path)
    Image.new("RGB", (32, 32)).save(file.with_suffix(".png"))
    shape = verify("verify", str(file), "--json").json
    assert shape["max_difference"] is None
    assert "the picture's file was changed" in shape["reason"]
    assert "it was 32×32 and is 64×64" in shape["reason"]


def test_what_cannot_be_made_again_says_why(verify: Here, tmp_path: Path) -> None:
    absent = verify("verify", str(changed(verify.home, tmp_path, model="dev")), "--json")
    assert absent.code == 1 and "models pull dev" in absent.json["reason"]
    wide = verify("verify", str(changed(verify.home, tmp_path, width=128)), "--json")
    assert wide.code == 1 and "64×64" in wide.json["reason"]
    file = changed(verify.home, tmp_path)
    file.with_suffix(".png").unlink()
    assert verify("verify", str(file)).code == 2
    file.write_text("{}", encoding="utf-8")
    assert verify("verify", str(file)).code == 2
    missing = verify("verify", str(tmp_path / "nothing.json"))
    assert missing.code == 2 and "there is no file " in missing.err


def test_what_cannot_be_made_again_is_not_told_to_be_dropped_again(
    verify: Here, tmp_path: Path
) -> None:
    source = verify.home / "outbox/redrawn/redrawn-0001.json"
    sidecar = json.loads(source.read_bytes()) | {"image": "gone.png"}
    (tmp_path / "redrawn-0001.json").write_text(json.dumps(sidecar), encoding="utf-8")
    shutil.copy(source.with_suffix(".png"), tmp_path)
    told = verify("verify", str(tmp_path / "redrawn-0001.json"), "--json").json["reason"]
    assert told == "it could not be made again: InputMissing: gone.png is not there"


def test_a_path_in_the_outbox_is_looked_for_below_the_home_too(
    verify: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert verify("verify", "outbox/plain/plain-0001.json").code == 0
    missing = verify("verify", "outbox/plain/nosuch.json")
    assert missing.code == 2 and f"there is no file {verify.home}" in missing.err


def test_the_new_picture_can_be_kept(verify: Here, tmp_path: Path) -> None:
    kept = tmp_path / "again.png"
    source = file_of(verify.home, "plain-0001.png")
    assert verify("verify", str(source), "--save", str(kept)).code == 0
    with Image.open(kept) as new, Image.open(source) as old:
        assert new.tobytes() == old.tobytes()


def left_of(home: Path) -> set[str]:
    """What lies in a home's inbox and outbox; what a runner writes aside begins with a dot."""
    files = (file for place in ("inbox", "outbox") for file in (home / place).rglob("*"))
    names = {file.relative_to(home).as_posix() for file in files if not file.name.startswith(".")}
    return names - {"outbox/index.html"}


def test_while_a_runner_runs_it_renders_and_nothing_is_left_behind(runner: Runner) -> None:
    """Seen red: the receipt of a file whose name is used once stayed."""
    job = runner.drop("to-verify", kind="text2img", seed=21)
    runner.succeeded(job)
    before = left_of(runner.home)
    done = fluxdrop("verify", str(runner.folder(job) / f"{job}-0001.json"), "--json",
                    home=runner.home)  # fmt: skip
    assert done.code == 0 and done.json["identical"] is True, done
    assert left_of(runner.home) <= before
    found = fluxdrop("gallery", "search", "--tag", "verify", "--json", home=runner.home)
    assert found.json["total"] == 0

    def is_forgotten() -> bool:
        shown = json.loads((runner.home / "outbox/runner.json").read_bytes())
        return not any(row["id"].startswith("verify") for row in shown["recent"])

    # Seen red: `status` showed and counted it for as long as the runner ran.
    eventually(is_forgotten, "a summary without the job of the comparison")


@pytest.mark.skipif(os.name == "nt", reason="signals are sent to single processes here")
@pytest.mark.parametrize("when", ["not taken yet", "queued", "queued and the runner stops"])
def test_a_verify_that_is_stopped_or_whose_runner_stops_leaves_nothing_behind(
    home: Path, drained: Path, runner_of: RunnerOf, tmp_path: Path, when: str
) -> None:
    """Seen red: the drop became a job of the next runner, or the job and its cancel stayed."""
    runner = runner_of(home).start()
    runner.drop("long", steps=1000)
    runner.until("long", lambda status: status["state"] == "running")
    before = left_of(home)
    if when == "not taken yet":
        os.kill(runner.pid, signal.SIGSTOP)
    sidecar = str(file_of(drained, "plain-0001.json"))
    with started("verify", sidecar, home=home, output=tmp_path / "said") as process:
        drops = home / ("inbox" if when == "not taken yet" else "outbox/drops")
        eventually(lambda: list(drops.glob("verify~*")), "the drop")
        if when.endswith("stops"):
            runner.stop()
        else:
            process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    assert code == (69 if when.endswith("stops") else 130), (tmp_path / "said").read_text("utf-8")
    assert left_of(home) - before <= {"inbox/.tmp"}
    if when == "not taken yet":
        os.kill(runner.pid, signal.SIGCONT)


@pytest.mark.timeout(60)
def test_a_gpu_thread_that_ends_by_a_mistake_is_not_waited_for(
    verify: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: `verify` waited without end."""
    monkeypatch.setattr(GpuThread, "_answer", end)
    done = verify("verify", str(file_of(verify.home, "plain-0001.json")), "--json")
    assert done.code == 1
    assert "its thread gpu0 ended by a mistake" in done.json["reason"]


def test_a_picture_is_not_made_again_on_a_device_that_is_lent(verify: Here) -> None:
    client.lend(Home(verify.home), lending.ENDLESS, print)
    done = verify("verify", str(verify.home / "outbox" / "plain" / "plain-0001.json"))
    assert client.take_back(Home(verify.home))
    assert done.code == 2 and "the device is lent until" in done.err
