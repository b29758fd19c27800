"""`submit` and `check`: what is wrong is told at once, absent weights are no mistake."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runner import client
from runner.settings import Home
from tests.cli.here import Here
from tests.harness import spec
from tests.planted import STATUS


@pytest.mark.parametrize("name", ["cat.png", f"{'a' * 300}.png"], ids=["locked", "too long"])
def test_an_image_beside_the_spec_that_cannot_be_read_is_wrong_usage_and_drops_nothing(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Seen red: with the OSError of reading the image let out of `bring_images`."""
    (tmp_path / "cat.png").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image=name), encoding="utf-8")

    def locked(path: Path, *, follow: bool) -> bytes:
        # Permissions do not stop root.
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("runner.client.read_file", locked)
    done = here("submit", str(file))
    assert done.code == 2 and f"cannot read {tmp_path / name}: " in done.err
    assert set(os.listdir(here.home / "inbox")) <= {"README.md", ".tmp"}


def test_another_picture_of_the_name_in_the_inbox_is_not_taken_for_the_one_beside_the_spec(
    here: Here, tmp_path: Path
) -> None:
    """Seen red: it was painted, without a word."""
    (here.home / "inbox" / "cat.png").write_bytes(b"another picture")
    (tmp_path / "cat.png").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image="cat.png"), encoding="utf-8")
    done = here("submit", str(file))
    assert done.code == 2 and "the inbox has another cat.png than" in done.err
    (here.home / "inbox" / "cat.png").write_bytes(b"a picture")
    assert here("submit", str(file)).code == 0


@pytest.mark.parametrize("named", ["[p/a.png, p/b.png]", "p/*.png"], ids=["by name", "by pattern"])
def test_pictures_in_a_folder_beside_the_spec_are_brought(
    here: Here, tmp_path: Path, named: str
) -> None:
    """Seen red: `all well`, and ten minutes later that they had not come."""
    (tmp_path / "p").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "p" / name).write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(f"kind: redux\nmodel: tiny\nmatrix: {{image: {named}}}\n", encoding="utf-8")
    assert "warning" not in here("check", str(file)).err
    assert here("submit", str(file)).code == 0
    assert sorted(os.listdir(here.home / "inbox" / "p")) == ["a.png", "b.png"]


def test_a_picture_that_is_nowhere_is_told_at_once_with_the_name_that_may_be_meant(
    here: Here, tmp_path: Path
) -> None:
    """Seen red: "all well", and ten minutes later that it had not come."""
    (here.home / "inbox" / "photo.png").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image="phto.png"), encoding="utf-8")
    told = "phto.png is not there (there is 'photo.png': name the one meant): it is waited for"
    for verb in ("check", "submit"):
        done = here(verb, str(file))
        assert done.code == 0 and f"warning: {told}" in done.err
    (tmp_path / "phto.png").write_bytes(b"beside it")
    assert "warning" not in here("check", str(file)).err


def test_submit_says_at_once_what_is_wrong_and_drops_it_to_be_answered(
    here: Here, tmp_path: Path
) -> None:
    """Seen red: without the problems in the exit code, and without their lines."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(spec(), encoding="utf-8")
    bad.write_text(spec(stpes=1, model="tinny"), encoding="utf-8")
    done = here("submit", str(good), str(bad))
    assert (done.code, done.out) == (1, "good.yaml\nbad.yaml\n")
    assert done.err.count(f"{bad}:") == 2 and f"{good}:" not in done.err
    assert "did you mean 'steps'?" in done.err and "did you mean 'tiny'?" in done.err
    assert (here.home / "inbox/bad.yaml").read_bytes() == bad.read_bytes()


def test_absent_weights_are_told_with_the_command_that_fetches_them_and_change_nothing_else(
    here: Here, tmp_path: Path
) -> None:
    (here.home / "fluxdrop.yaml").write_text("lora_roots: [loras]\n", encoding="utf-8")
    file, lora = tmp_path / "dev.yaml", tmp_path / "lora.yaml"
    file.write_text(spec(model="dev"), encoding="utf-8")
    lora.write_text(spec(loras=[{"repo": "some/ink"}]), encoding="utf-8")
    done = here("check", str(file), str(lora))
    assert (done.code, done.out) == (0, "")
    assert (
        f"{file}: warning: dev is not on this machine: run `fluxdrop models pull dev` (" in done.err
    )
    assert "GB to download)" in done.err and "`fluxdrop models pull some/ink`" in done.err
    first, second = here("check", str(file), str(lora), "--json").json["files"]
    assert first["errors"] == second["errors"] == []
    assert "models pull dev" in first["warnings"][0] and len(second["warnings"]) == 1
    dropped = here("submit", str(file), "--json")
    assert dropped.code == 0 and dropped.json == {"jobs": [], "drops": ["dev.yaml"]}
    assert "`fluxdrop models pull dev`" in dropped.err


@pytest.mark.parametrize("image", ["[1]", "[{}]", "{a: 1}"])
def test_a_spec_whose_images_have_no_form_is_dropped_and_not_a_crash(
    here: Here, tmp_path: Path, image: str
) -> None:
    """Seen red: with the item of a list taken for a mapping with a path."""
    file = tmp_path / "odd.yaml"
    file.write_text(f"kind: redux\nimage: {image}\n", encoding="utf-8")
    assert here("submit", str(file)).code == 1
    assert (here.home / "inbox/odd.yaml").exists()


def test_an_image_beside_the_spec_is_brought_in_another_unicode_form_and_case(
    here: Here, tmp_path: Path
) -> None:
    (tmp_path / "cafe\u0301.PNG").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image="caf\u00e9.png"), encoding="utf-8")
    assert here("submit", str(file)).err.startswith("copied caf\u00e9.png into the inbox")
    assert (here.home / "inbox" / "caf\u00e9.png").read_bytes() == b"a picture"


def test_what_is_named_with_a_dot_is_brought_as_well(here: Here, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"a picture")
    (tmp_path / "rows.csv").write_text("image\n./a.png\n", encoding="utf-8")
    for fields in ("table: ./rows.csv", "matrix: {image: [./b.png, .//c.png]}"):
        file = tmp_path / "dots.yaml"
        file.write_text(f"kind: redux\nmodel: tiny\n{fields}\n", encoding="utf-8")
        here("submit", str(file))
    inbox = here.home / "inbox"
    assert {p.name for p in inbox.glob("*.*")} >= {"rows.csv", "a.png", "b.png", "c.png"}


def test_a_table_beside_the_spec_is_checked_there_and_brought_with_its_images(
    here: Here, tmp_path: Path
) -> None:
    (tmp_path / "products.csv").write_text("image;x_n\na.png;1\nb.png;2\n", encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"a picture")
    file = tmp_path / "night.yaml"
    file.write_text("kind: redux\nmodel: tiny\ntable: products.csv\n", encoding="utf-8")
    assert here("check", str(file)).err.splitlines() == [
        f"{file}: warning: b.png is not there: it is waited for", "all well",
    ]  # fmt: skip
    copied = here("submit", str(file)).err.splitlines()
    assert copied[1:3] == ["copied products.csv into the inbox", "copied a.png into the inbox"]
    (tmp_path / "products.csv").write_text("image\na.png\n\n,x\n", encoding="utf-8")
    (told,) = here("check", str(file)).out.splitlines()
    place = f"{file}:3:8: products.csv: row 4, column 2: "
    assert told == f"{place}the header has no such column: put text with ',' in quotes"
    (tmp_path / "products.csv").unlink()
    (here.home / "inbox" / "products.csv").unlink()
    done = here("check", str(file))
    assert (done.code, "products.csv is not there, or still being written" in done.err) == (0, True)


def test_a_text_that_a_comment_cuts_is_warned_of(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "cut.yaml"
    file.write_text("kind: text2img\nmodel: tiny\nprompt: in color #ff0000\n", encoding="utf-8")
    done = here("check", str(file), "--json")
    assert done.code == 0 and "'#ff0000' is a comment" in done.json["files"][0]["warnings"][0]
    assert f"{file}: warning: line 3: '#ff0000' is a comment" in here("check", str(file)).err


@pytest.mark.parametrize("name", ["pipe.yaml", "pipe.png"])
def test_a_pipe_is_not_opened_and_the_way_to_read_one_is_told(
    here: Here, tmp_path: Path, name: str
) -> None:
    """Seen red: it was waited for until somebody wrote into it."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / name)
    for verb in ("submit", "check"):
        done = here(verb, str(tmp_path / name))
        assert done.code == 2 and "no plain file" in done.err and "`-`" in done.err


def test_a_hidden_spec_is_dropped_under_a_name_that_is_taken(here: Here, tmp_path: Path) -> None:
    """Seen red: `submit --wait` waited for ever for a file that is ignored."""
    for name in (".hero.yaml", "~x.yaml", "~~~"):
        (tmp_path / name).write_text(spec(), encoding="utf-8")
    files = [str(tmp_path / name) for name in (".hero.yaml", "~x.yaml", "~~~")]
    assert here("submit", *files, "--json").json["drops"] == ["hero.yaml", "x.yaml", "spec.yaml"]


Acts = Callable[[Home], None]


@pytest.fixture
def runner_that(here: Here, monkeypatch: pytest.MonkeyPatch) -> Callable[[Acts], None]:
    """Lets something happen whenever a command asks whether a runner is there."""

    def install(acts: Acts) -> None:
        def running(home: Home) -> dict[str, object]:
            acts(home)
            return {"state": "idle"}

        monkeypatch.setattr(client, "runner_health", running)

    return install


def put(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def written(tmp_path: Path, name: str) -> str:
    (tmp_path / name).write_text(spec(), encoding="utf-8")
    return str(tmp_path / name)


def sets_aside(home: Home, since: str, name: str = "odd.yaml") -> None:
    """What a runner says of a drop with an odd name."""
    fault = {"file": f"inbox/{name}", "message": "it has an odd name", "since": since}
    put(home.health, {"state": "idle", "faults": [fault]})


def answers(home: Home, drop: str, job: str) -> None:
    """What a runner writes once a drop is a job that is over."""
    put(home.job(job) / "status.json", {**STATUS, "id": job})
    put(home.drops / f"{drop}.json", {"name": drop, "job": job, "outcome": "accepted"})


def test_who_waits_for_a_drop_that_is_not_taken_is_told_so_and_why(
    here: Here, tmp_path: Path, runner_that: Callable[[Acts], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Seen red: both were waited for without end."""

    def acts(home: Home) -> None:
        if (home.inbox / "odd.yaml").exists():
            sets_aside(home, "2026-11-29T07:00:00.000Z")
        # Somebody tidies up while it is waited for.
        (home.inbox / "gone.yaml").unlink(missing_ok=True)

    runner_that(acts)
    monkeypatch.setattr(client, "unique", lambda stem: stem)
    for name, why in (
        ("odd.yaml", "is set aside: it has an odd name"),
        ("gone.yaml", "took inbox/gone.yaml"),
    ):
        done = here("submit", "--wait", written(tmp_path, name))
        assert done.code == 1 and why in done.err


def test_a_fault_of_another_file_that_had_the_name_before_is_not_this_one_s(
    here: Here, tmp_path: Path, runner_that: Callable[[Acts], None]
) -> None:
    """Seen red: until the next health file, whose file is gone was told of the new one."""
    sets_aside(Home(here.home), "2026-11-29T06:00:00.000Z")

    def acts(home: Home) -> None:
        for file in home.inbox.glob("odd*.yaml"):
            answers(home, file.name, "odd")
            file.unlink()

    runner_that(acts)
    done = here("submit", "--wait", written(tmp_path, "odd.yaml"))
    assert done.code == 0 and done.out.startswith("odd ") and done.err == ""


def test_a_drop_that_cannot_leave_the_inbox_is_waited_for_to_the_end_of_its_job(
    here: Here, tmp_path: Path, runner_that: Callable[[Acts], None]
) -> None:
    """Seen red: with a fault it was called late, and without one it was waited for for ever."""
    answers(Home(here.home), "odd.yaml", "odd")

    def acts(home: Home) -> None:
        for file in home.inbox.glob("odd*.yaml"):
            answers(home, file.name, "odd-2")
            sets_aside(home, "2026-11-29T07:00:00.000Z", file.name)

    runner_that(acts)
    done = here("submit", "--wait", written(tmp_path, "odd.yaml"), "--json")
    assert done.code == 0 and done.json["jobs"] == ["odd-2"] and done.err == ""
    assert len([*(here.home / "inbox").glob("odd*.yaml")]) == 1


@pytest.mark.parametrize("verb", ["status", "cancel", "retry"])
def test_a_name_that_no_file_can_have_is_answered(here: Here, verb: str) -> None:
    """Seen red: a traceback."""
    done = here(verb, "x" * 300)
    assert done.code in (1, 2) and "unknown" in done.out + done.err or "too long" in done.err


@pytest.mark.skipif(os.name == "nt", reason="a file with holes has to be asked for on Windows")
@pytest.mark.parametrize("name", ["huge.yaml", "huge.png"])
def test_a_huge_file_is_not_read_to_its_end(here: Here, tmp_path: Path, name: str) -> None:
    """Seen red: MemoryError, with a traceback."""
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 8 << 40)
    for words in (["check"], ["submit"], ["verify"]):
        answer = here(*words, str(tmp_path / name))
        assert answer.code == 2 and "larger than" in answer.err


def test_who_waits_for_a_job_whose_folder_is_taken_away_is_told_so(
    here: Here, tmp_path: Path, runner_that: Callable[[Acts], None]
) -> None:
    """Seen red: it was waited for without end."""

    def acts(home: Home) -> None:
        for file in home.inbox.glob("odd*.yaml"):
            answers(home, file.name, "odd")
            put(home.job("odd") / "status.json", {**STATUS, "id": "odd", "state": "running"})
            file.unlink()
            return
        if (home.job("odd") / "status.json").exists():
            shutil.rmtree(home.job("odd"))

    runner_that(acts)
    done = here("submit", "--wait", written(tmp_path, "odd.yaml"))
    assert done.code == 1 and "outbox/odd was taken away before" in done.out


def test_what_a_job_was_warned_of_while_it_ran_is_told_to_who_waited_for_it(
    here: Here, tmp_path: Path, runner_that: Callable[[Acts], None]
) -> None:
    """Below its state, and in JSON beside its reason; what was said before is not said again."""
    early = "the built-in model does not know `fox`; it draws simple coloured shapes"
    late = "the picture is of one colour: look at it, and try another seed"

    def acts(home: Home) -> None:
        for file in home.inbox.glob("odd*.yaml"):
            answers(home, file.name, "odd")
            ended = {**STATUS, "id": "odd", "warnings": [early, late]}
            put(home.job("odd") / "status.json", ended)
            file.unlink()

    runner_that(acts)
    (tmp_path / "odd.yaml").write_text(spec(prompt="a fox"), encoding="utf-8")
    done = here("submit", "--wait", str(tmp_path / "odd.yaml"))
    state, warning, *files = done.out.splitlines()
    assert files == [
        f"  {here.home / 'outbox/odd' / name}" for name in ("index.html", "cat-0001.png")
    ]
    assert state.startswith("odd ") and warning == f"  warning: {late}"
    assert done.err == f"{tmp_path / 'odd.yaml'}: warning: {early}\n"
    told = here("submit", "--wait", str(tmp_path / "odd.yaml"), "--json").json
    (end,) = told["ends"]
    assert told["jobs"] == ["odd"] and end["warnings"] == [early, late]
    assert (end["state"], end["reason"]) == (STATUS["state"], STATUS["reason"])
    assert here("submit", str(tmp_path / "odd.yaml"), "--json").json == {"jobs": ["odd"]}


def test_settings_of_another_programs_picture_that_are_not_taken_over_are_named(
    here: Here, tmp_path: Path
) -> None:
    settings = "Steps: 8, Seed: 7, Size: 512x512, Model: flux1-schnell, Denoising strength: 0.4"
    for name, negative in (("fox.png", "Negative prompt: blurry\n"), ("plain.png", "")):
        info = PngInfo()
        info.add_text("parameters", f"a fox\n{negative}{settings if negative else settings[:54]}")
        Image.new("RGB", (8, 8)).save(tmp_path / name, pnginfo=info)
    told = "warning: of its settings only noted: negative_prompt, strength"
    for verb in ("check", "submit"):
        assert f"{tmp_path / 'fox.png'}: {told}\n" in here(verb, str(tmp_path / "fox.png")).err
        assert "noted" not in here(verb, str(tmp_path / "plain.png")).err
