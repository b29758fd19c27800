"""Reads the folder of one pack, without the packs that it extends, and nothing outside it.

Text is UTF-8 with any line ending; anything else is an error that names the file and the byte.
Nothing is replaced or guessed, and no link that leads out of the folder is followed.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.audit import parse_terms
from composer.sizes import size_problem
from specs.errors import Problem, SpecInvalid
from specs.read import read
from specs.validate import validate

MAX_FILE_BYTES = 256 * 1024
# Characters that JSON, PNG text or XMP cannot carry. Tabs and line ends are allowed, as blanks.
_UNFIT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_VARIABLE = "variable_"
_NOTES = frozenset({"readme.txt", "license.txt", "licence.txt", "notice.txt", "changelog.txt"})


class FileProblem(Exception):
    """A file of a pack cannot be used; the text says why, and does not name the file."""


def is_ignored(name: str) -> bool:
    """Whether a file is not part of a pack: hidden files, editors' copies, notes in Markdown."""
    return name.startswith((".", "~")) or name.endswith((".md", "~"))


def read_file(root: Path, file: Path) -> bytes:
    """The content of one file of the pack in the folder `root`.

    Raises FileProblem for a file that cannot be read, is larger than `MAX_FILE_BYTES`, or whose
    real path is outside `root`.
    """
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(root.resolve()):
            raise FileProblem("is a link that leaves the pack: put a copy in its place")
        if not real.is_file():
            raise FileProblem("is not a file")
        with real.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileProblem(f"cannot be read: {why}") from error
    if len(data) > MAX_FILE_BYTES:
        raise FileProblem(f"is larger than {MAX_FILE_BYTES:,} bytes")
    return data


def decode(data: bytes, unfit_characters: re.Pattern[str] | None = _UNFIT) -> str:
    """The text of a file, without its byte order mark. Raises FileProblem for unusable bytes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileProblem("is UTF-16 (byte 0): save it as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise FileProblem(f"{bad}: save the file as UTF-8") from error
    unfit = unfit_characters and unfit_characters.search(text)
    if unfit:
        offset = len(text[: unfit.start()].encode())
        raise FileProblem(
            f"the character U+{ord(unfit.group()):04X} at byte offset {offset} is not allowed"
        )
    return text.removeprefix("\ufeff")


def clean(text: str) -> str:
    """The text of a block, on one line: comment lines removed, runs of blanks replaced by one.

    A line is a comment when its first character that is not blank is `#`; any other `#` is text.
    """
    lines = (line.strip() for line in re.split("\r\n|\r|\n", text))
    return " ".join(" ".join(line for line in lines if not line.startswith("#")).split())


def block_name(name: str) -> str:
    """The name of a block in Unicode's NFC, whatever form a file system or a spec has it in."""
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts `2` before `10`, the same on every machine."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    keyed = tuple((0, int(p), p) if "0" <= p[0] <= "9" else (1, 0, p) for p in parts)
    return (*keyed, (-1, 0, name))


@dataclass(frozen=True)
class Block:
    """One block of text: its name, its file inside `prompts/`, its text."""

    name: str
    file: str
    text: str


@dataclass
class Layer:
    """One pack folder as it is read: `pack.json`, the blocks and all files by name.

    Its problems are kept, so that those of all layers can be reported together.
    """

    root: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    fixed: Block | None = None
    subjects: dict[str, Block] = field(default_factory=dict)
    variables: dict[str, Block] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The pack's id, which is the name of its folder."""
        return self.root.name

    def name(self, *parts: str) -> str:
        """The name of a file inside `prompts/`."""
        return "/".join((self.id, *parts))

    def problem(self, path: str, message: str, line: int = 0, column: int = 0) -> None:
        self.problems.append(Problem(line, column, path, message))

    def block(self, name: str, *parts: str) -> Block | None:
        """The block in a file; None, and a problem, where it cannot be used."""
        file = self.name(*map(block_name, parts))
        try:
            self.files[file] = read_file(self.root, self.root.joinpath(*parts))
            return Block(name, file, clean(decode(self.files[file])))
        except FileProblem as problem:
            self.problem(file, str(problem))
            return None

    def names(self, *parts: str) -> list[str]:
        folder = self.root.joinpath(*parts)
        if parts and not folder.exists() and not folder.is_symlink():
            return []
        if not folder.resolve().is_relative_to(self.root.resolve()):
            self.problem(self.name(*parts), "is a link that leaves the pack")
            return []
        if not folder.is_dir():
            self.problem(self.name(*parts), "is not a folder")
            return []
        return sorted(entry.name for entry in folder.iterdir() if not is_ignored(entry.name))


def read_layer(root: Path) -> Layer:
    """Read one pack folder."""
    layer = Layer(root)
    layer.manifest = _read_manifest(layer)
    for name in layer.names():
        if name == "fixed_block.txt":
            layer.fixed = layer.block("", name)
        elif name.startswith(_VARIABLE) and name.endswith(".txt"):
            _add_block(layer, layer.variables, name[len(_VARIABLE) : -len(".txt")], name)
        elif name.endswith(".txt") and name.lower() not in _NOTES:
            layer.warnings.append(
                f"{layer.id}/{name} is not read: a block is fixed_block.txt, variable_<name>.txt "
                "or subjects/<name>.txt"
            )
    for name in layer.names("subjects"):
        if name.endswith(".txt"):
            _add_block(layer, layer.subjects, name[: -len(".txt")], "subjects", name)
        elif (layer.root / "subjects" / name).is_dir():
            layer.warnings.append(f"{layer.id}/subjects/{name}/ is not read: subjects are files")
    return layer


def _add_block(layer: Layer, blocks: dict[str, Block], stem: str, *parts: str) -> None:
    """Add one block under its name; two names that differ only in case are refused."""
    name = block_name(stem)
    path = layer.name(*parts)
    folded = {block_name(known.casefold()): known for known in blocks}
    same = folded.get(block_name(name.casefold()))
    if not name.strip():
        layer.problem(path, "has no name before .txt")
    elif same is not None:
        layer.problem(path, f"has the same name as {same!r} on systems that ignore case")
    elif block := layer.block(name, *parts):
        blocks[name] = block


def _read_manifest(layer: Layer) -> dict[str, Any]:
    """The content of `pack.json`, or an empty dict where its schema refuses it."""
    file = layer.name("pack.json")
    try:
        layer.files[file] = read_file(layer.root, layer.root / "pack.json")
        document = read(layer.files[file], json=True)
        manifest = validate(document, schema="pack")
    except FileProblem as problem:
        layer.problem(file, str(problem))
        return {}
    except SpecInvalid as error:
        for each in error.problems:
            path = f"{file}: {each.path}" if each.path else file
            layer.problem(path, each.message, each.line, each.column)
        return {}
    if manifest["id"] != layer.id:
        line, column = document.locate(["id"])
        message = f"is {manifest['id']!r}, but its folder is {layer.id!r}: they must be equal"
        layer.problem(f"{file}: id", message, line, column)
    defaults: list[tuple[tuple[str, ...], Any]] = [(("defaults",), manifest.get("defaults", {}))]
    for key in ("subjects", "variables"):
        for name, override in manifest.get(key, {}).items():
            defaults.append(((key, name, "defaults"), override.get("defaults", {})))
    for keys, values in defaults:
        message = size_problem(values)
        if message:
            path = f"{file}: {'.'.join(keys)}"
            layer.problem(path, message, *document.locate([*keys, "aspect_ratio"]))
    try:
        parse_terms(manifest.get("forbidden", ()))
    except ValueError as error:
        layer.problem(f"{file}: forbidden", str(error), *document.locate(["forbidden"]))
    return manifest


def hash_files(layers: Sequence[Layer]) -> str:
    """The SHA-256 of the names and bytes of all files read, in hexadecimal."""
    digest = hashlib.sha256()
    for file, data in sorted(item for layer in layers for item in layer.files.items()):
        name = file.encode()
        digest.update(b"%d:%b%d:" % (len(name), name, len(data)))
        digest.update(data)
    return digest.hexdigest()
