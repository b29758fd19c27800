"""The bench of the gallery runs, at the size that a test has time for."""

from __future__ import annotations

import json

import pytest

from tests.bench.gallery import GOALS, main


def test_the_bench_measures_each_size_and_names_every_goal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--rows", "500", "1000", "--json"])
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert list(measured) == ["500", "1000"]
    for figures in measured.values():
        assert set(GOALS) < set(figures)
