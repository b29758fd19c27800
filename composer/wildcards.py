"""Reads wildcard files: one choice a line, in `wildcards/` of a pack and of `prompts/`.

`__nature/tree__` is a line of `nature/tree.txt`; `__nature/*__` of all files that match. A
pack's own file wins over that of `prompts/wildcards/`. No link out of the folder is followed.
"""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from composer.choices import MOST_NESTED, ChoiceProblem, Options, Text, parse, weight_at, wilds
from composer.layers import Block, FileProblem, block_name, decode, is_ignored, lines, read_file
from specs.errors import Problem
from specs.suggest import did_you_mean

MAX_FILE_BYTES = 4 * 1024 * 1024
MOST_PROBLEMS = 100
"""When so many are found, no more are looked for."""


class Wildcards:
    """The wildcard files of several folders, of which the first wins; each is read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._options: dict[str, Options] = {}
        self._lines: dict[str, dict[Text, int]] = {}
        self._depths: dict[str, int] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._texts: dict[Block, Text] = {}

    @cached_property
    def files(self) -> dict[str, tuple[Path, Path]]:
        """The folder and the path of every file by the name of its wildcard."""
        found: dict[str, tuple[Path, Path]] = {}
        for root in filter(_is_inside, reversed(self._folders)):
            for folder, folders, names in os.walk(root):
                folders[:] = sorted(name for name in folders if not is_ignored(name))
                for file in (Path(folder, name) for name in sorted(names) if not is_ignored(name)):
                    if file.suffix == ".txt":
                        name = file.relative_to(root).with_suffix("").as_posix()
                        found[block_name(name)] = (root, file)
        return found

    def options(self, name: str) -> Options:
        """The lines of a wildcard of a parsed block; equal lines count together."""
        if name not in self._options:
            weights: dict[Text, int] = {}
            for each in self._named(name):
                for text, weight in self._lines[each].items():
                    weights[text] = weights.get(text, 0) + weight
            self._options[name] = Options.of(weights)
        return self._options[name]

    def text(self, block: Block, problems: list[Problem]) -> Text:
        """The choices of a block, read once unless something is wrong with it."""
        if block in self._texts:
            return self._texts[block]
        before = len(problems)
        text, _ = self.parse(block, problems)
        if len(problems) == before:
            self._texts[block] = text
        return text

    def parse(
        self, block: Block, problems: list[Problem], start: int = 0, path: tuple[str, ...] = ()
    ) -> tuple[Text, int]:
        """The choices of a block, and how many wildcards follow each other there at most.

        Adds to `problems` what is wrong with it and with the wildcards it leads to; `path` has the
        names of those that lead to it.
        """
        try:
            text = parse(block.text[start:])
        except ChoiceProblem as error:
            problems.append(Problem(*block.locate(start + error.at), block.file, str(error)))
            return (), 0
        depth = 0
        for name, at in wilds(text):
            if len(problems) >= MOST_PROBLEMS:
                break
            named = self._named(name)
            for each in named:
                if each not in self._depths and each not in path and len(path) < MOST_NESTED:
                    self._problems[each] = []
                    read = self._read(each, self._problems[each], (*path, each))
                    self._depths[each] = 1 + read
                problems += self._problems.get(each, ()) if each not in path else ()
                depth = max(depth, self._depths.get(each, MOST_NESTED + 1))
            message = "" if named else self._unknown(name)
            if depth > MOST_NESTED:
                how = " → ".join((*path, name))
                message = f"wildcards lead in a circle, or through more than {MOST_NESTED}: {how}"
                depth = 0
            if message:
                problems.append(Problem(*block.locate(start + at), block.file, message))
        return text, depth

    def _read(self, name: str, problems: list[Problem], path: tuple[str, ...]) -> int:
        """Read the lines of a file; how many wildcards follow each other there at most."""
        root, file = self.files[name]
        shown = file.relative_to(self._folders[-1].parent).as_posix()
        read, deepest = self._lines.setdefault(name, {}), 0
        try:
            content = lines(decode(read_file(root, file, MAX_FILE_BYTES)))
        except FileProblem as problem:
            problems.append(Problem(0, 0, shown, str(problem)))
            return 0
        for number, line in enumerate(content, start=1):
            block = Block("", shown, " ".join(line.split()), line, number)
            weight, start = weight_at(block.text, 0)
            text, depth = self.parse(block, problems, start, path)
            deepest = max(deepest, depth)
            if text and weight:
                read[text] = read.get(text, 0) + weight
        if not any(map(str.strip, content)):
            problems.append(Problem(0, 0, shown, "holds no choice"))
        return deepest

    def _named(self, name: str) -> list[str]:
        name = block_name(name).replace("\\", "/")
        if "*" in name:
            return sorted(each for each in self.files if fnmatchcase(each, name))
        return [name] if name in self.files else []

    def _unknown(self, name: str) -> str:
        known = sorted(self.files)
        below = next((each for each in known if each.endswith(f"/{name}")), name)
        hint = did_you_mean(below, known, f"there are {', '.join(known[:8]) or 'none'}")
        for link in (root for root in self._folders if not _is_inside(root)):
            hint += f"; the link {link.parent.name}/wildcards leads out of it: put a copy there"
        return f"there is no wildcard {name!r} ({hint})"


def _is_inside(root: Path) -> bool:
    return root.resolve().is_relative_to(root.parent.resolve())
