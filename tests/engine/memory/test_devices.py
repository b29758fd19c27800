"""A deferred package is there for every check, and loaded at its first use, by one thread only."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from runner.engine.memory.devices import defer_import
from tests.harness import eventually

NAME = "fluxdrop_heavy"
HEAVY = """
from pathlib import Path
here = Path(__file__).parent
with (here / "loads").open("a") as loads:
    loads.write("x")
if (here / "broken").exists():
    raise RuntimeError("not today")
go_on = here / "go-on"
while not go_on.exists():
    pass
from . import inner
answer = inner.answer
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that says how often it is loaded, and loads when it may."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(HEAVY, encoding="utf-8")
    (folder / "inner.py").write_text("answer = 42\n", encoding="utf-8")
    (folder / "go-on").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    defer_import(NAME)
    yield folder
    for name in [each for each in sys.modules if each.partition(".")[0] == NAME]:
        del sys.modules[name]


def loads(folder: Path) -> int:
    file = folder / "loads"
    return len(file.read_text(encoding="utf-8")) if file.exists() else 0


def imported() -> ModuleType:
    return importlib.import_module(NAME)


def test_a_check_and_an_import_do_not_load_it_and_a_name_does(package: Path) -> None:
    assert importlib.util.find_spec(NAME) is not None
    module = imported()
    assert not hasattr(module, "__version__")
    assert loads(package) == 0
    assert module.answer == 42
    assert module.inner.answer == 42
    assert loads(package) == 1
    with pytest.raises(AttributeError):
        module.nothing  # noqa: B018


def test_a_load_that_failed_is_tried_again(package: Path) -> None:
    (package / "broken").touch()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not today"):
            imported().answer  # noqa: B018
    (package / "broken").unlink()
    assert imported().answer == 42


def test_threads_that_use_it_at_once_wait_for_one_load(package: Path) -> None:
    (package / "go-on").unlink()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(imported().answer)) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: loads(package), "a thread that loads the package")
    (package / "go-on").touch()
    for thread in threads:
        thread.join(10)
    assert found == [42] * 4
    assert loads(package) == 1


def test_a_package_that_is_missing_or_loaded_stays_as_it_is() -> None:
    defer_import("fluxdrop_that_is_nowhere")
    assert "fluxdrop_that_is_nowhere" not in sys.modules
    defer_import("json")
    assert type(sys.modules["json"]) is ModuleType
