"""One short round of chaos, so that the long form works when it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.interleaving.chaos import Round

_SECONDS = 8.0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP")
@pytest.mark.timeout(300)
def test_a_real_runner_that_is_stopped_killed_and_frozen_loses_no_word(tmp_path: Path) -> None:
    assert Round(tmp_path / "home", seed=8, seconds=_SECONDS).play() == []
