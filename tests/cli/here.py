"""The command line run in this process: quicker than a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli import main
from tests.harness import Result


class Here:
    """Runs commands of one home and keeps apart what each of them printed."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        self._capsys.readouterr()
        try:
            code = main([*arguments, "--home", str(self.home)])
        except SystemExit as end:
            code = int(end.code or 0)
        said = self._capsys.readouterr()
        return Result(code, said.out, said.err)
