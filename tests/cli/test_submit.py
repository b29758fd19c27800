"""`submit` with images beside the spec that cannot be read."""

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
