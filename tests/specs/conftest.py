"""What the tests of specs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specs.errors import SpecInvalid
from specs.read import read
from specs.validate import validate

Answer = Callable[..., str]


def _answer(data: bytes, *, json: bool = False) -> str:
    """The reason word, or nothing if the spec is good; anything else that is raised is a fault."""
    try:
        spec = validate(read(data, json=json))
    except SpecInvalid as refused:
        assert 1 <= len(refused.problems) <= 21
        for problem in refused.problems:
            assert len(problem.message) < 250 and len(problem.path) < 250
            assert problem.message and "\n" not in problem.message
        return refused.reason
    assert isinstance(spec, dict)
    return ""


@pytest.fixture
def answer() -> Answer:
    """Reads and checks some bytes: the reason word, or nothing if they are a good spec."""
    return _answer
