"""Reads wildcard files: one choice a line, in `wildcards/` of a pack and of `prompts/`.

`__nature/tree__` is a line of `nature/tree.txt`; `__nature/*__` of all files that match. A pack's
own file wins over that of `prompts/wildcards/`. No link that leads out of the folder is followed.
"""

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from composer.choices import MAX_DEPTH, ChoiceProblem, Options, Text, parse, weight_at, wilds
from composer.layers import FileProblem, block_name, decode, is_ignored, lines, read_file
from specs.errors import Problem
from specs.suggest import did_you_mean

MAX_FILE_BYTES = 4 * 1024 * 1024


class Wildcards:
    """The wildcard files of several folders, of which the first wins, each read once by `check`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._options: dict[str, Options] = {}
        self._lines: dict[str, dict[Text, int]] = {}
        self._depths: dict[str, int] = {}

    @cached_property
    def files(self) -> dict[str, tuple[Path, Path]]:
        """The folder and the path of every file by the name of its wildcard."""
        found: dict[str, tuple[Path, Path]] = {}
        for root in reversed(self._folders):
            if not root.resolve().is_relative_to(root.parent.resolve()):
                continue
            for folder, folders, names in os.walk(root):
                folders[:] = sorted(name for name in folders if not is_ignored(name))
                for file in (Path(folder, name) for name in sorted(names) if not is_ignored(name)):
                    if file.suffix == ".txt":
                        name = file.relative_to(root).with_suffix("").as_posix()
                        found[block_name(name)] = (root, file)
        return found

    def options(self, name: str) -> Options:
        """The lines of a wildcard that was checked; equal lines count together."""
        if name not in self._options:
            weights: dict[Text, int] = {}
            for text, weight in (
                (t, w) for n in self._named(name) for t, w in self._lines[n].items()
            ):
                weights[text] = weights.get(text, 0) + weight
            self._options[name] = Options.of(weights)
        return self._options[name]

    def check(
        self,
        text: Text,
        file: str,
        locate: Callable[[int], tuple[int, int]],
        problems: list[Problem],
        path: tuple[str, ...] = (),
    ) -> int:
        """Add what is wrong with the wildcards of a text in a file, and with those behind them.

        `path` has the names that lead to the text. Returns how many follow each other at most.
        """
        depth = 0
        for name, at in wilds(text):
            if not (named := self._named(name)):
                problems.append(Problem(*locate(at), file, self._unknown(name)))
            for each in named:
                if each not in self._depths and each not in path and len(path) < MAX_DEPTH:
                    self._depths[each] = 1 + self._read(each, problems, path)
                depth = max(depth, self._depths.get(each, MAX_DEPTH + 1))
            if depth > MAX_DEPTH:
                why = f"wildcards lead in a circle, or through more than {MAX_DEPTH}"
                where = Problem(*locate(at), file, f"{why}: {' → '.join([*path, name])}")
                problems.append(where)
                return 0
        return depth

    def _read(self, name: str, problems: list[Problem], path: tuple[str, ...]) -> int:
        """Read a file and check its lines; as `check`."""
        root, file = self.files[name]
        shown = file.relative_to(self._folders[-1].parent).as_posix()
        read = self._lines[name] = {}
        depth = 0
        try:
            content = lines(decode(read_file(root, file, MAX_FILE_BYTES)))
        except FileProblem as problem:
            problems.append(Problem(0, 0, shown, str(problem)))
            return 0
        for number, line in enumerate(content, start=1):
            weight, start = weight_at(line, 0)
            try:
                text = parse(line[start:].rstrip())
            except ChoiceProblem as problem:
                problems.append(Problem(number, start + problem.at + 1, shown, str(problem)))
                continue
            if text and weight:
                read[text] = read.get(text, 0) + weight

                def locate(at: int, line: int = number, column: int = start + 1) -> tuple[int, int]:
                    return line, column + at

                depth = max(depth, self.check(text, shown, locate, problems, (*path, name)))
        if not read:
            problems.append(Problem(0, 0, shown, "holds no choice"))
        return depth

    def _named(self, name: str) -> list[str]:
        name = block_name(name)
        if "*" in name:
            return sorted(each for each in self.files if fnmatchcase(each, name))
        return [name] if name in self.files else []

    def _unknown(self, name: str) -> str:
        known = sorted(self.files)
        below = next((each for each in known if each.endswith(f"/{name}")), name)
        hint = did_you_mean(below, known, f"there are {', '.join(known[:8]) or 'none'}")
        return f"there is no wildcard {name!r} ({hint})"
