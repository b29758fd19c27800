"""The table of requests and states: every cell has its test, and the page says the same."""

from __future__ import annotations

import pytest

from tests.daemon import table, test_interruptions, test_requests
from tests.harness import ROOT

CELLS = [
    pytest.param(name, id=f"{what}-{state}")
    for what, cells in table.TABLE.items()
    for state, cell in zip(table.STATES, cells, strict=True)
    for name in (cell or ())[1:]
]


@pytest.mark.parametrize("name", CELLS)
def test_each_pair_of_a_request_and_a_state_names_a_test_that_is_there(name: str) -> None:
    assert hasattr(test_requests, name) or hasattr(test_interruptions, name)


def test_the_architecture_page_has_the_table_as_it_is() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = text.split(table.BEGIN)[1].split(table.END)[0]
    assert shown == table.markdown(), "python -m tests.daemon.table"
