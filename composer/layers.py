"""Reads the folder of one pack, without the packs that it extends, and nothing outside it.

Text is UTF-8 with any line ending; anything else is an error that names the file and the byte.
Nothing is replaced or guessed, and no link that leads out of the folder is followed.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from composer.audit import parse_terms
from composer.sizes import size_problem
from specs.errors import Problem, SpecInvalid
from specs.read import read
from specs.validate import validate

MAX_FILE_BYTES = 256 * 1024
MOST_WARNED = 20
"""At most this many files are named in warnings, so that other warnings are not crowded out."""
# Characters that JSON, PNG text or XMP cannot carry. Tabs and line ends are allowed, as blanks.
_UNFIT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_VARIABLE = "variable_"
_NOTES = frozenset({"readme.txt", "license.txt", "licence.txt", "notice.txt", "changelog.txt"})
_KNOWN = frozenset({"pack.json", "subjects", "wildcards", "license", "licence", "notice"})
_LINE_END = re.compile("\r\n|\r|\n")


class FileProblem(Exception):
    """A file of a pack cannot be used; the text says why, and does not name the file."""


def is_ignored(name: str) -> bool:
    """Whether a file is not part of a pack: hidden files, editors' copies, notes in Markdown."""
    return name.startswith((".", "~")) or name.endswith((".md", "~"))


def read_file(root: Path, file: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of one file in the folder `root`.

    Raises FileProblem for a file that cannot be read, is larger than `limit`, or whose real path is
    outside `root`.
    """
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(root.resolve()):
            raise FileProblem("is a link that leaves the pack: put a copy in its place")
        if not real.is_file():
            raise FileProblem("is not a file")
        with real.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileProblem(f"cannot be read: {why}") from error
    if len(data) > limit:
        raise FileProblem(f"is larger than {limit:,} bytes")
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
    return " ".join(word for line in lines(text) for word in line.split())


def lines(text: str) -> list[str]:
    """The lines of a file, comment lines emptied."""
    return ["" if line.lstrip().startswith("#") else line for line in _LINE_END.split(text)]


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
    """One block of text: its name, its file inside `prompts/`, its text.

    `source` is what it was made of, which begins in line `first` of the file.
    """

    name: str
    file: str
    text: str
    source: str = field(default="", compare=False, repr=False)
    first: int = field(default=1, compare=False, repr=False)

    def locate(self, offset: int) -> tuple[int, int]:
        """The line and column in the file of a character of the text."""
        words = (
            (number, word.start() + 1)
            for number, line in enumerate(lines(self.source), start=self.first)
            for word in re.finditer(r"\S+", line)
        )
        line, column = next(islice(words, self.text.count(" ", 0, offset), None), (0, 0))
        return line, column and column + offset - self.text.rfind(" ", 0, offset) - 1


@dataclass
class Layer:
    """One pack folder as it is read: `pack.json`, the blocks and all files by name.

    Its problems are kept, so that those of all layers can be reported together. `blocks` has its
    subjects and variables by part and name; a Problem in the place of one that cannot be used.
    `folded` has the path of each, by part and name without case.
    """

    root: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    fixed: Block | None = None
    blocks: dict[tuple[str, str], Block | Problem] = field(default_factory=dict)
    folded: dict[tuple[str, str], str] = field(default_factory=dict)
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

    def block(self, name: str, path: str) -> Block:
        """The block in a file. Raises FileProblem where it cannot be used."""
        file = self.name(block_name(path))
        self.files[file] = read_file(self.root, self.root / path)
        source = decode(self.files[file])
        return Block(name, file, clean(source), source)

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
    samples = {str(each.get("image", "")) for each in layer.manifest.get("samples", ())}
    known = _KNOWN | {image.partition("/")[0] for image in samples}
    unread: list[str] = []
    for name in (*layer.names(), *(f"subjects/{name}" for name in layer.names("subjects"))):
        if name == "fixed_block.txt":
            try:
                layer.fixed = layer.block("", name)
            except FileProblem as problem:
                layer.problem(layer.name(name), str(problem))
        elif name.startswith(("subjects/", _VARIABLE)) and name.endswith(".txt"):
            _add_block(layer, name)
        elif name not in known and name.lower() not in _NOTES | _KNOWN:
            unread.append(name + "/" * (layer.root / name).is_dir())
    if unread:
        more = f" and {len(unread) - MOST_WARNED:,} more" if len(unread) > MOST_WARNED else ""
        layer.warnings.append(
            f"{layer.id}: {', '.join(unread[:MOST_WARNED])}{more} not read: a block is "
            "fixed_block.txt, variable_<name>.txt or subjects/<name>.txt"
        )
    return layer


def _add_block(layer: Layer, path: str) -> None:
    """Add the block of a file, or what is wrong with it."""
    is_subject = path.startswith("subjects/")
    part, prefix = ("subject", "subjects/") if is_subject else ("variable", _VARIABLE)
    name = block_name(path[len(prefix) : -len(".txt")])
    same = layer.folded.setdefault((part, block_name(name.casefold())), path)
    try:
        if not name.strip():
            raise FileProblem("has no name before .txt")
        if same != path:
            raise FileProblem(f"has the same name as {same!r} on systems that ignore case")
        layer.blocks[part, name] = layer.block(name, path)
    except FileProblem as problem:
        layer.blocks[part, name] = Problem(0, 0, layer.name(block_name(path)), str(problem))


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
