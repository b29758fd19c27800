"""Both ways into `models pull`, as a process and in this one, and the places it fills."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.here import Here
from tests.fake_hub import FakeHub
from tests.harness import Result, clean_environment, fluxdrop

SECONDS = 40.0
TOKEN = "hf_thisIsTheSecret"
REPO = "someone/twin"
NOWHERE = "http://127.0.0.1:9"


class Pull:
    """`models pull` in this process, for what does not hang on the environment."""

    def __init__(
        self,
        hub: FakeHub,
        home: Path,
        capsys: pytest.CaptureFixture[str],
        patch: pytest.MonkeyPatch,
    ) -> None:
        from huggingface_hub import constants

        self._run = Here(home, capsys)
        self._patch = patch
        self.point_to(hub.url)
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-login" / "token"))
        patch.delenv("HF_TOKEN", raising=False)
        for name, value in environment(hub, home).items():
            if name.startswith(("HF_", "HOME", "XDG_")):
                patch.setenv(name, value)

    def point_to(self, url: str) -> None:
        from huggingface_hub import constants

        self._patch.setattr(constants, "ENDPOINT", url)

    def __call__(self, *names: str) -> Result:
        return self._run("models", "pull", *(names or ("twin",)))


def process(hub: FakeHub, home: Path, *names: str, **more: str) -> Result:
    """`models pull` as a process of its own, which never shows the token."""
    given = environment(hub, home, **more)
    asked = ("models", "pull", *(names or ("twin",)))
    done = fluxdrop(*asked, home=home, environment=given, seconds=SECONDS)
    assert TOKEN not in done.out + done.err
    assert "Traceback" not in done.err
    return done


def environment(hub: FakeHub, home: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose hub this is, and who has not logged in."""
    given = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "data" / "hf-cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "no-login"),
    }
    return clean_environment(**given | more)


def write(home: Path, **entries: str) -> None:
    """Settings with these registry entries."""
    lines = "".join(f"  {name}: {entry}\n" for name, entry in entries.items())
    (home / "fluxdrop.yaml").write_text(f"registry:\n{lines}", encoding="utf-8")


def repo_folder(home: Path, repo: str = REPO) -> Path:
    """A repository in the home's cache."""
    return home / "data" / "hf-cache" / "hub" / f"models--{repo.replace('/', '--')}"


def snapshot(home: Path, repo: str = REPO) -> Path:
    """The folder that the repository's main branch means here."""
    base = repo_folder(home, repo)
    return base / "snapshots" / (base / "refs" / "main").read_text(encoding="utf-8")


def partial(home: Path, content: bytes) -> Path:
    """Where the beginning of a large file is kept, in a folder that is there."""
    blobs = repo_folder(home) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs / f"{hashlib.sha256(content).hexdigest()}.incomplete"
