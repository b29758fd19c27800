"""The versions that are named: the known set fits the ranges and leaves torch to who installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import versions


def _constraints() -> dict[str, Requirement]:
    text = versions.CONSTRAINTS.read_text(encoding="utf-8")
    found = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found}


def test_the_known_set_has_one_version_in_its_range_for_every_dependency_but_torch() -> None:
    known = _constraints()
    assert not [name for name in known if versions.OURS.fullmatch(name)]
    for wanted in versions.requirements():
        if wanted.name != "torch":
            (pin,) = known[canonicalize_name(wanted.name)].specifier
            assert pin.operator == "==" and wanted.specifier.contains(pin.version), wanted


def test_the_oldest_set_is_the_lower_bounds_torch_aside() -> None:
    found = {name: bound for name, _, bound in (line.partition("==") for line in versions.oldest())}
    named = [each for each in versions.requirements() if each.specifier and each.name != "torch"]
    assert list(found) == [each.name for each in named]
    for wanted in named:
        bound, _, marker = found[wanted.name].partition("; ")
        assert wanted.specifier.contains(bound) and f">={bound}" in str(wanted.specifier)
        assert marker == str(wanted.marker or "")


def test_what_only_another_system_installs_is_found_with_its_marker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(*arguments: str) -> list[dict[str, Any]]:
        if "--platform" in arguments:
            return [{"name": arguments[-1], "version": "2", "extras": []}]
        needs = ["b; sys_platform == 'win32'", "a", "c; extra == 'x'", "d; python_version < '3'"]
        here = {"name": "a", "version": "1", "extras": [], "requires_dist": needs}
        return [
            here,
            *({"name": each, "version": "1", "extras": []} for each in ("torch", "triton")),
        ]

    monkeypatch.setattr(versions, "resolved", resolved)
    assert list(versions.lines()) == ["a==1", 'b==2; sys_platform == "win32"']


def test_a_new_set_is_written_under_a_head_that_says_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(versions, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(versions, "lines", lambda: iter(["b==1", "A==2"]))
    assert versions.main(["renew"]) == 0
    text = versions.CONSTRAINTS.read_text(encoding="utf-8")
    assert text.endswith("\nA==2\nb==1\n") and "python -m tests.versions renew" in text
