"""What is printed and logged: nothing of it acts on the terminal."""

from __future__ import annotations

import ast
import json
import logging
import os
from pathlib import Path

import pytest

from runner.logs import log_to_stderr
from runner.terminal import escaped, on_one_line
from tests.harness import ROOT, fluxdrop

ACTING = "\x1b]0;owned\x07\x1b[2Jred\u202egnp\x9b31m\r\x7f\u2066\u2028"
"""A terminal's title, a cleared screen, text turned around, colours, a line written over."""


def harmless(text: str) -> bool:
    return text.isascii() and not set(text) & set("\x1b\x07\r\x7f")


def test_what_acts_on_a_terminal_is_escaped_and_all_else_is_left() -> None:
    assert escaped("a\x1b[2Jb") == "a\\u001b[2Jb"
    assert harmless(escaped(ACTING))
    kept = "tab\tline\nünïcödé 日本 🦊 العربية עברית é \u200d"
    assert escaped(kept) == kept


def test_a_line_end_in_a_name_makes_no_line(tmp_path: Path) -> None:
    """Seen red: `status` showed a second line, that said what it liked."""
    assert on_one_line("a\nb\tc\x1b") == "a\\nb\tc\\u001b"
    if os.name == "nt":
        return
    home = tmp_path / "home"
    assert fluxdrop("init", str(home)).code == 0
    forged = "a\nrunner 1 is idle"
    (home / "inbox" / f"{forged}.cancel").touch()
    (home / "outbox" / "x").mkdir()
    status = {"state": "failed", "message": forged, "id": "x"}
    (home / "outbox" / "x" / "status.json").write_text(json.dumps(status), encoding="utf-8")
    for words in (["status"], ["status", "x"], ["doctor"]):
        shown = fluxdrop(*words, "--home", str(home))
        assert "runner 1 is idle" in shown.out
        assert not any(line.startswith("runner 1") for line in shown.out.splitlines())
    (home / "inbox" / f"{forged}.yaml").write_text("kind: [\n", encoding="utf-8")
    shown = fluxdrop("check", str(home / "inbox" / f"{forged}.yaml"), "--home", str(home))
    assert len((shown.out + shown.err).splitlines()) == 1


def test_escaped_json_means_the_same() -> None:
    text = json.dumps({ACTING: ACTING}, ensure_ascii=False)
    assert json.loads(escaped(text)) == {ACTING: ACTING}


def test_only_one_place_prints() -> None:
    """Seen red: with a bare `print` in `status`, which shows what a spec's key is called."""
    ways = ("print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write")
    prints = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "runner").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ways
    }
    assert prints == {"runner/cli/output.py"}


def test_a_log_record_is_one_line_and_acts_on_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    log_to_stderr()
    try:
        raise ValueError(ACTING)
    except ValueError:
        logging.getLogger("x").exception("%s failed\n2026-11-29 fake record", ACTING)
    lines = capsys.readouterr().err.splitlines()
    assert "\\n2026-11-29 fake record" in lines[0] and lines[1].startswith("Traceback")
    assert all(map(harmless, lines))


def test_no_command_shows_a_raw_sign_of_a_spec_or_of_a_status(home: Path) -> None:
    """Seen red: `check` printed the keys and `status` the messages as they were."""
    spec = home / "odd.yaml"
    keys = json.dumps({f"k{ACTING}": 1, "kind": "text2img", "prompt": "a", "seed": ACTING})
    spec.write_text(keys, encoding="utf-8")
    folder = home / "outbox" / "odd"
    folder.mkdir(parents=True)
    status = {
        "id": "odd", "state": "failed", "reason": "Internal", "message": ACTING, "images": None,
        "errors": [{"line": 1, "column": 1, "path": ACTING, "message": ACTING}],
        "warnings": [ACTING], "outputs": [{"file": ACTING}],
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    named = home / f"odd-{ACTING}.yaml"
    if os.name != "nt":
        named.write_text(keys, encoding="utf-8")
    for arguments in (
        ["check", str(spec)], ["status", "odd"], ["status", "odd", "--json"],
        ["submit", str(spec)], ["check", str(named)], ["cancel", f"a/{ACTING}"], [f"x{ACTING}"],
        ["audit", "--term", f"a{ACTING}", f"b a{ACTING}"],
    ):  # fmt: skip
        said = fluxdrop(*arguments, home=home)
        shown = said.out + said.err
        assert shown.strip(), arguments
        assert not set(shown) & set(ACTING) - set("owned]0;[2Jredgnp31m"), (arguments, shown)
