"""Images on their way in: from where they may come, and everything that is kept out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from runner.mcp_server import inputs, submission
from tests.mcp_server.support import (
    agent,
    data_uri,
    finished,
    inbox_of,
    picture,
    play,
    write_status,
)
from tests.mcp_server.test_submit import spec_of

WORDS = {"prompt": "make it yellow", "model": "tiny"}


def edit(home: Path, image: Any, tool: str = "flux_edit", **more: Any) -> dict[str, Any]:
    """The spec that one good call leaves."""

    async def scene() -> str:
        async with agent(home) as one:
            return str((await one.answer(tool, **WORDS, image=image, **more))["job_id"])

    return spec_of(home, play(scene))


def refused(home: Path, image: Any, tool: str = "flux_edit", **more: Any) -> str:
    """What is said to a bad call, which leaves nothing."""

    async def scene() -> str:
        async with agent(home) as one:
            return await one.refused(tool, **WORDS, image=image, **more)

    said = play(scene)
    assert inbox_of(home) == [] and not list((home / "inbox").rglob("*.p?g"))
    return said


def refused_each(home: Path, images: Iterable[str]) -> dict[str, str]:
    """What is said to each of many bad calls, which leave nothing."""

    async def scene() -> dict[str, str]:
        async with agent(home) as one:
            return {each: await one.refused("flux_edit", **WORDS, image=each) for each in images}

    said = play(scene)
    assert inbox_of(home) == [] and not list((home / "inbox").rglob("*.p?g"))
    return said


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_data_uri_is_in_the_inbox_before_its_spec(home: Path, form: str) -> None:
    data = picture(form=form)
    spec = edit(home, data_uri(data, f"image/{form.lower()}"))
    assert spec["image"].startswith(f"mcp/{spec['id']}/image-")
    assert (home / "inbox" / spec["image"]).read_bytes() == data
    assert spec["image"].endswith(f".{form.lower()}")


def test_a_picture_to_start_from_is_brought_too_and_its_strength_is_said(home: Path) -> None:
    said = refused(home, data_uri(picture()), "flux_generate", strength=0)
    assert "0 would give the picture back as it is" in said
    spec = edit(home, data_uri(picture()), "flux_generate", strength=0.4, negative_prompt="a star")
    assert (home / "inbox" / spec["image"]).is_file()
    assert (spec["strength"], spec["negative_prompt"]) == (0.4, "a star")


def test_several_images_and_a_mask_each_find_their_place(home: Path) -> None:
    (home / "inbox" / "cat.png").write_bytes(picture())
    images = ["cat.png", {"path": data_uri(picture(colour="blue")), "weight": 0.5}]
    spec = edit(home, images, "flux_variation")
    assert spec["image"][0] == "cat.png" and spec["image"][1]["weight"] == 0.5
    assert (home / "inbox" / spec["image"][1]["path"]).is_file()
    filled = edit(home, data_uri(picture()), "flux_fill", mask=data_uri(picture(colour="white")))
    assert (home / "inbox" / filled["mask"]).is_file() and filled["mask"] != filled["image"]


def test_what_the_runner_can_read_itself_is_named_as_it_is(home: Path) -> None:
    finished(home, "hero", 2)
    (home / "inbox" / "cat.png").write_bytes(picture())
    job = "outbox/hero/hero-0001.png"
    for given, named in {
        "cat.png": "cat.png",
        "inbox/cat.png": "inbox/cat.png",
        str(home / "inbox" / "cat.png"): "inbox/cat.png",
        "hero/hero-0001.png": job,
        job: job,
        str(home / job): job,
        "flux://jobs/hero/images/1": job,
    }.items():
        assert edit(home, given)["image"] == named, given


def test_other_files_of_the_home_and_of_allowed_folders_are_copied(
    home: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "pictures"
    outside.mkdir()
    (outside / "dog.png").write_bytes(picture(colour="green"))
    (home / "mine").mkdir()
    (home / "mine" / "cat.png").write_bytes(picture(colour="blue"))
    text = f"input_roots: ['{outside.as_posix()}']\n"
    (home / "fluxdrop.yaml").write_text(text, encoding="utf-8")
    for given in ("mine/cat.png", str(home / "mine" / "cat.png"), str(outside / "dog.png")):
        spec = edit(home, given)
        copy = home / "inbox" / spec["image"]
        source = Path(given) if Path(given).is_absolute() else home / given
        assert copy.read_bytes() == source.read_bytes()


def test_a_picture_that_a_job_will_still_make_can_be_named(home: Path) -> None:
    (home / "inbox" / "soon.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")
    assert edit(home, "soon/soon-0001.png")["image"] == "outbox/soon/soon-0001.png"
    write_status(home, {**finished(home, "later", 0), "state": "running"})
    assert edit(home, "later/later-0001.png")["image"] == "outbox/later/later-0001.png"


PATHS = (
    "/etc/passwd", "../../etc/passwd", "inbox/../data/x.png", "C:\\x.png", "C:x.png", "a:b.png",
    "//server/share/x.png", "\\\\server\\share\\x.png", "outbox/../../x.png", "x\0.png",
    "file:///etc/passwd", "data/../../x", "a\nb.png", "~/.ssh/id_rsa", "flux://jobs/../x",
    "http://example.com/x.png", ".", "", " ", "x" * 5000,
)  # fmt: skip


def test_paths_outside_the_roots_are_refused_and_never_opened(home: Path) -> None:
    for path, said in refused_each(home, PATHS).items():
        assert "- image" in said and "root:" not in said, path


def test_links_and_private_folders_lead_nowhere(home: Path, tmp_path: Path) -> None:
    """Seen red: without the refusal of private folders."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    (home / "inbox" / "link.png").symlink_to(secret)
    (home / "mine").symlink_to(tmp_path)
    (home / "data" / "private.png").write_bytes(picture())
    (home / ".hidden").mkdir()
    (home / ".hidden" / "x.png").write_bytes(picture())
    paths = ("inbox/link.png", "link.png", "mine/secret.png", str(secret), "data/private.png",
             ".hidden/x.png", str(home / "data" / "private.png"))  # fmt: skip
    (home / "inbox" / "link.png").rename(home / "link.png")
    for path, said in refused_each(home, paths).items():
        assert "- image: " in said, path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_what_is_no_regular_picture_is_refused_at_once(home: Path) -> None:
    os.mkfifo(home / "pipe.png")
    (home / "folder.png").mkdir()
    (home / "text.txt").write_text("not a picture", encoding="utf-8")
    (home / "half.jpg").write_bytes(picture((256, 256), form="JPEG")[:600])
    (home / "page.svg").write_text("<svg onload='x'/>", encoding="utf-8")
    began = time.monotonic()
    paths = ("pipe.png", "folder.png", "text.txt", "half.jpg", "page.svg", "absent.png")
    for path, said in refused_each(home, paths).items():
        assert "- image: " in said, path
    assert time.monotonic() - began < 20


DATA = (
    "data:", "data:,x", "data:image/png,x", "data:image/png;base64,", "data:;base64,%%%",
    "data:image/png;base64,AAA", "data:text/html;base64,PGI+", "DATA:image/png;BASE64,AAAA",
    data_uri(picture())[:-60], data_uri(b"\x89PNG\r\n\x1a\n" + bytes(50)),
)  # fmt: skip


def test_data_that_is_no_picture_is_refused(home: Path) -> None:
    for uri, said in refused_each(home, DATA).items():
        assert "- image: " in said, uri


def test_data_of_more_than_three_megabytes_is_refused_with_a_way_out(home: Path) -> None:
    said = refused(home, data_uri(picture() + bytes(3_000_001)))
    assert "3 MB" in said and "inbox" in said


def test_a_picture_of_too_many_pixels_is_refused_without_being_unpacked(home: Path) -> None:
    bomb = picture((8_400, 8_400))
    assert len(bomb) < 3_000_000
    assert "pixels" in refused(home, data_uri(bomb))


def test_a_picture_that_a_finished_job_does_not_have_is_said_so(home: Path) -> None:
    finished(home, "hero", 1)
    assert "hero is succeeded and has no picture 'hero-0009.png'" in refused(
        home, "hero/hero-0009.png"
    )
    assert "is not there" in refused(home, "flux://jobs/hero/images/9")


def test_copies_leave_the_inbox_once_their_job_has_its_own_or_nobody_asked_for_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: those that another server was just writing, when the clock was set forward."""

    async def scene() -> None:
        async with agent(home) as one:
            for job in ("one", "two"):
                await one.answer("flux_edit", **WORDS, image=data_uri(picture()), id=job)
            status = finished(home, "one", 1)
            (home / "inbox" / "one.yaml").unlink()
            write_status(home, {**status, "state": "running"})
            left = home / "inbox" / "mcp" / "left"
            left.mkdir()
            (left / "image-0123456789ab.png").write_bytes(picture())
            # A clock that is set makes no folder old.
            os.utime(left, (0, 0))
            await one.answer("flux_edit", **WORDS, image=data_uri(picture()), id="three")
            assert left.is_dir()
            monkeypatch.setattr(inputs, "monotonic", lambda: time.monotonic() + 3601)
            await one.answer("flux_edit", **WORDS, image=data_uri(picture()), id="four")

    play(scene)
    assert sorted(os.listdir(home / "inbox" / "mcp")) == ["four", "three", "two"]


@pytest.mark.parametrize("linked", ["mcp", "mcp/album"])
def test_folders_that_a_link_in_the_inbox_leads_to_are_left_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    """Seen red: the folders below the link were emptied and removed."""
    foreign = tmp_path / "foreign"
    for name in ("album/holiday.png", "album/image-0123456789ab.png", "empty/x"):
        (foreign / name).parent.mkdir(parents=True, exist_ok=True)
        (foreign / name).write_bytes(picture())
    (foreign / "empty" / "x").unlink()
    link = home / "inbox" / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(foreign if linked == "mcp" else foreign / "album")
    monkeypatch.setattr(inputs, "_FORGOTTEN_SECONDS", -1.0)
    before = sorted(foreign.rglob("*"))

    async def scene() -> None:
        async with agent(home) as one:
            await one.answer("flux_generate", prompt="a circle", model="tiny")
            if linked == "mcp":
                await one.refused("flux_edit", **WORDS, image=data_uri(picture()))

    play(scene)
    assert sorted(foreign.rglob("*")) == before


def test_a_foreign_file_among_the_copies_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = home / "inbox" / "mcp" / "album" / "holiday.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(picture())
    monkeypatch.setattr(inputs, "_FORGOTTEN_SECONDS", -1.0)

    async def scene() -> None:
        async with agent(home) as one:
            await one.answer("flux_generate", prompt="a circle", model="tiny")

    play(scene)
    assert mine.exists()


def test_a_refused_id_takes_its_images_away_again(home: Path) -> None:
    finished(home, "hero", 1)
    assert "another job's" in refused(home, data_uri(picture()), id="hero")


def test_of_two_calls_of_one_id_and_picture_the_refused_one_leaves_the_others_picture(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the refused call removed the picture of the accepted one."""
    # Both looked before either wrote.
    monkeypatch.setattr(submission, "_was_submitted", lambda *given: False)

    async def scene() -> None:
        async with agent(home) as one:
            mine = {"image": data_uri(picture()), "id": "same", "model": "tiny"}
            await one.answer("flux_edit", prompt="make it yellow", **mine)
            said = await one.refused("flux_edit", prompt="make it blue", **mine)
            assert "another job's" in said
            named = home / "inbox" / spec_of(home, "same")["image"]
            assert named.read_bytes() == picture()
            await one.answer("flux_edit", prompt="make it yellow", **mine)
            assert named.read_bytes() == picture()

    play(scene)
    assert len(list((home / "inbox" / "mcp" / "same").iterdir())) == 1


def test_an_equal_call_finds_the_first_job_though_its_picture_has_another_name(home: Path) -> None:
    async def scene() -> None:
        async with agent(home) as one:
            for _ in range(2):
                told = await one.answer("flux_edit", **WORDS, image=data_uri(picture()), id="same")
                assert told["job_id"] == "same"

    play(scene)
    assert len(list((home / "inbox" / "mcp" / "same").iterdir())) == 1
