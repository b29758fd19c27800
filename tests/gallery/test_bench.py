"""The bench runs and the gallery meets its goals, at the size that a test has time for."""

from __future__ import annotations

import json

import pytest

from tests.bench.gallery import GOALS, main
from tests.gallery.contenders import CONTENDERS


def test_the_bench_measures_everyone_and_names_every_goal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--rows", "1000", "--json"])
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert set(measured) == {kind.name for kind in CONTENDERS}
    for figures in measured.values():
        assert set(GOALS) < set(figures["1000"])
    ours, plain = measured["fluxdrop"]["1000"], measured["plain TinyDB"]["1000"]
    assert ours["insert"] < plain["insert"]
