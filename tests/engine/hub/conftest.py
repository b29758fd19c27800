"""A hub on loopback, a home whose settings name its repository, and `models pull` in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.hub.pulling import REPO, TOKEN, Pull, write
from tests.fake_hub import FakeHub, Repo, pipeline


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with one repository, and the account of TOKEN."""
    from huggingface_hub.utils import close_session

    with FakeHub() as hub:
        hub.repos[REPO] = Repo(pipeline())
        hub.accounts[TOKEN] = set()
        yield hub
        close_session()


@pytest.fixture
def own(home: Path) -> Path:
    """A home whose settings name the repository."""
    write(home, twin=f"{{like: dev, repo: {REPO}, kinds: [text2img]}}")
    return home


@pytest.fixture
def pulled(
    hub: FakeHub, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Pull:
    return Pull(hub, own, capsys, monkeypatch)
