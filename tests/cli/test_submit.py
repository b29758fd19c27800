"""`submit` and `check`: what is wrong is told at once, absent weights are no mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.here import Here
from tests.harness import spec


@pytest.mark.parametrize("name", ["cat.png", f"{'a' * 300}.png"], ids=["locked", "too long"])
def test_an_image_beside_the_spec_that_cannot_be_read_is_wrong_usage_and_drops_nothing(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Seen red: with the OSError of reading the image let out of `bring_images`."""
    (tmp_path / "cat.png").write_bytes(b"a picture")
    file = tmp_path / "edit.yaml"
    file.write_text(spec(kind="kontext", image=name), encoding="utf-8")
    read_bytes = Path.read_bytes

    def locked(path: Path) -> bytes:
        # Permissions do not stop root.
        if path.suffix == ".png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", locked)
    done = here("submit", str(file))
    assert done.code == 2 and f"cannot read {tmp_path / name}: " in done.err
    assert set(os.listdir(here.home / "inbox")) <= {"README.md", ".tmp"}


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
