"""The documents say what is true: their specs validate, their commands exist, no word is missing.

Held together here: the code blocks of every page for users, the settings' schema, the states and
the reason words in the code.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli import build_parser
from runner.job import Phase, State
from specs.errors import SpecInvalid
from specs.read import read
from specs.validate import validate
from tests.harness import ROOT

PAGES = [
    file
    for file in (
        ROOT / "README.md",
        ROOT / "ARCHITECTURE.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "inbox" / "README.md",
        ROOT / "specs" / "README.md",
        ROOT / "specs" / "inbox-readme.md",
        ROOT / "composer" / "README.md",
        ROOT / "prompts" / "README.md",
        *sorted(ROOT.glob("runner/*/README.md")),
    )
    if file.is_file()
]
REFERENCE = [page for page in PAGES if page.name == "README.md" and page.parent.name != "inbox"]
"""Where every setting, state and reason word has to be explained."""

SHELLS = {"bash", "sh", "shell", "console", "powershell", "pwsh", "bat", "cmd"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(page, line, found[1].strip(), found[2])


BLOCKS = list(_blocks())


def _is(block: Block, *languages: str) -> bool:
    return block.info in languages


def _wrong(block: Block, schema: str | None) -> list[str]:
    document = read(block.text.encode(), json=_is(block, "json"))
    try:
        validate(document, schema=schema) if schema else validate(document)
    except SpecInvalid as error:
        return [f"{block}: {problem.path}: {problem.message}" for problem in error.problems]
    return []


def test_every_spec_in_a_page_is_a_spec() -> None:
    """A block whose fence says more than `yaml` shows something else, and says what."""
    specs = [b for b in BLOCKS if _is(b, "yaml", "yml") and re.search("^kind:", b.text, re.M)]
    assert len(specs) >= 3
    assert [wrong for block in specs for wrong in _wrong(block, None)] == []


def test_every_other_yaml_block_is_a_settings_file() -> None:
    others = [b for b in BLOCKS if _is(b, "yaml", "yml") and not re.search("^kind:", b.text, re.M)]
    assert [wrong for block in others for wrong in _wrong(block, "settings")] == []


def _verbs() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the command line has no verbs")


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Every use of `fluxdrop` in a shell block or as code within a line."""
    for block in BLOCKS:
        if block.info.split(" ")[0] in SHELLS:
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|\||[|;]", line.partition(" #")[0]):
                    words = _words(part)
                    if "fluxdrop" in words[:3]:
                        yield str(block), words[words.index("fluxdrop") + 1 :]
    for page in PAGES:
        for found in re.finditer(r"`fluxdrop ([^`\n]+)`", page.read_text(encoding="utf-8")):
            yield str(page.relative_to(ROOT)), _words(found[1])


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return [re.sub(r".*[/\\]fluxdrop(\.exe)?$", "fluxdrop", word) for word in words]


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a verb and of the verbs below it (`gallery search --kind`)."""
    known = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            known.update(*map(_options, action.choices.values()))
    return known


LATER: set[str] = set()
"""Commands that a page may speak of although they are not built yet; none of them is."""


def test_every_command_in_a_page_exists_with_its_options() -> None:
    verbs, wrong = _verbs(), []
    assert set(verbs) & LATER == set(), "these are built: take them out of LATER"
    for where, words in _commands():
        verb = next((word for word in words if re.fullmatch("[a-z]+", word)), None)
        if verb is None or verb in LATER:
            continue
        if verb not in verbs:
            wrong.append(f"{where}: fluxdrop {' '.join(words)}: no such command")
            continue
        known = _options(verbs[verb])
        given = {word.partition("=")[0].strip("[]") for word in words}
        asked = {word for word in given if word.startswith("--") and word != "--"}
        wrong += [f"{where}: fluxdrop {verb} has no {name}" for name in sorted(asked - known)]
    assert wrong == []


def test_ci_runs_the_very_command_that_the_readme_gives() -> None:
    command = (
        "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[dev]'"
        " && .venv/bin/python -m tests"
    )
    for file in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        assert command in (ROOT / file).read_text(encoding="utf-8").splitlines(), file


def test_every_command_that_installs_the_checkout_names_the_known_versions() -> None:
    installing = [
        (block, line) for block in BLOCKS for line in block.text.splitlines() if " -e " in line
    ]
    assert len(installing) >= 5
    for block, line in installing:
        assert "pip install -q -c constraints.txt -e " in line, f"{block}: {line}"


def test_every_link_to_a_file_leads_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for found in re.finditer(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            target = found[1]
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert wrong == []


def _documented(word: str) -> bool:
    """Whether a page of reference names it as code: `word`, alone or first in the code."""
    pattern = re.compile(rf"`{re.escape(word)}\b")
    return any(pattern.search(page.read_text(encoding="utf-8")) for page in REFERENCE)


def test_every_setting_is_documented() -> None:
    schema = json.loads((ROOT / "specs/settings.schema.json").read_bytes())
    names = set(schema["properties"]) - {"$schema", "schema"}
    assert sorted(name for name in names if not _documented(name)) == []


@pytest.mark.parametrize("words", [State, Phase])
def test_every_state_and_phase_is_documented(words: type[State] | type[Phase]) -> None:
    assert [str(word) for word in words if not _documented(str(word))] == []


NO_REASONS = {
    "Bug", "Document", "False", "Item", "MemoryError", "Null", "OutOfMemoryError", "True",
}  # fmt: skip
"""Words in capitals in the places below that no status ever carries."""


def _reasons() -> set[str]:
    """Every word in the code that has the form of a reason, where reasons are given."""
    files = [*(ROOT / "runner/spool").rglob("*.py"), *(ROOT / "specs").glob("*.py")]
    files += [*(ROOT / "runner/daemon").glob("*.py"), *(ROOT / "runner").glob("*.py")]
    files += [ROOT / "runner/engine" / f"{name}.py" for name in ("gpu_thread", "errors")]
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
                if re.fullmatch(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]+)*", word):
                    found.add(word)
    return found - NO_REASONS


def test_every_reason_word_is_documented() -> None:
    reasons = _reasons()
    assert {"SchemaInvalid", "IdConflict", "InputMissing", "Paused", "Cancelled"} <= reasons
    assert sorted(word for word in reasons if not _documented(word)) == []
