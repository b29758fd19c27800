"""The structure: who may import whom, where each dependency is imported, one call of a pipeline.

The table below is the map of ARCHITECTURE.md, in finer rows. A module imports only from rows below
its own, those of one row do not import each other (but for the pairs named), and nothing works
while it is being imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.harness import ROOT

ROWS: tuple[tuple[str, ...], ...] = (
    ("specs", "runner.launch"),
    ("composer", "runner.errors"),
    ("runner.places", "runner.files", "runner.clock"),
    ("runner.threads",),
    (
        "runner.exit_codes",
        "runner.job",
        "runner.log_once",
        "runner.lora_names",
        "runner.pictures",
        "runner.settings",
        "runner.stop_signals",
        "runner.task",
        "runner.terminal",
        "runner.wire",
    ),
    ("runner.executor", "runner.holds", "runner.logs", "runner.reading", "runner.receivers"),
    ("runner.spool.disk", "runner.engine", "runner.gallery"),
    ("runner.spool.store",),
    ("runner.spool.inbox",),
    ("runner.spool.startup",),
    ("runner.catalogue", "runner.client"),
    ("runner.retention",),
    ("runner.slots",),
    ("runner.daemon",),
    ("runner.cli", "runner.mcp_server", "runner.__main__", "runner.fluxdrop"),
)
"""From the ground up: modules and whole folders."""

NEIGHBOURS = {("runner.fluxdrop", "runner.cli"), ("runner.cli", "runner.mcp_server")}
"""Imports within one row that are allowed."""

IMPORTERS: dict[str, tuple[str, ...]] = {
    "torch": ("runner/engine/",),
    "diffusers": ("runner/engine/",),
    "transformers": ("runner/engine/",),
    "accelerate": ("runner/engine/",),
    "safetensors": ("runner/engine/",),
    "tokenizers": ("runner/engine/",),
    "sentencepiece": ("runner/engine/",),
    "jinja2": ("runner/engine/",),
    "huggingface_hub": ("runner/engine/",),
    "filelock": ("runner/engine/",),
    "watchdog": ("runner/spool/inbox/watcher.py",),
    "psutil": ("runner/engine/memory/machine.py", "runner/spool/disk/platform.py"),
    "bitsandbytes": ("runner/engine/",),
    "gguf": ("runner/engine/",),
    "sqlite3": ("runner/spool/store/", "runner/spool/disk/disk.py", "runner/gallery/store.py"),
    "mcp": ("runner/mcp_server/",),
    "yaml": ("specs/",),
    "jsonschema": ("specs/",),
    "rich": ("runner/cli/",),
    "prometheus_client": ("runner/daemon/metrics.py",),
    "ray": ("runner/slots/",),
    "apprise": ("runner/receivers.py",),
}
"""The places where a foreign package may be imported."""

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "numpy", "mcp", "huggingface_hub"}
"""What no file may import at its top outside the built-in model's recipe: it costs seconds."""


def _files() -> list[Path]:
    found = (file for name in ("runner", "specs", "composer") for file in (ROOT / name).rglob("*"))
    return sorted(file for file in found if file.suffix == ".py")


def _named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


FILES = _files()


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, inside functions too, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: name the module in full"
            # `from runner import client` imports a module; so may `from runner.spool import x`.
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / whole.replace(".", "/")).with_suffix(".py").is_file()
                is_package = (ROOT / whole.replace(".", "/")).is_dir()
                yield whole if is_module or is_package else str(node.module), node.lineno


def _place(module: str) -> tuple[int, str] | None:
    """The row and the name of a module of ours; None for a foreign one."""
    for row, names in enumerate(ROWS):
        for name in names:
            if module == name or module.startswith(f"{name}."):
                return row, name
    return None


def test_every_module_has_its_row() -> None:
    unplaced = [
        _named(file)
        for file in FILES
        if _place(_module(file)) is None and _module(file) not in ("runner", "runner.spool")
    ]
    assert unplaced == [], "give these a row in the table above and in ARCHITECTURE.md"


def test_a_file_imports_only_from_rows_below() -> None:
    wrong = []
    for file in FILES:
        here = _place(_module(file))
        for module, line in _imports(_tree(file)):
            there = _place(module)
            if here is None or there is None or there[1] == here[1]:
                continue
            if there[0] >= here[0] and (here[1], there[1]) not in NEIGHBOURS:
                wrong.append(f"{_named(file)}:{line}: {here[1]} imports {module}")
    assert wrong == [], "these import from a row that is not below their own"


def test_spool_engine_and_gallery_never_import_each_other() -> None:
    parts = ("runner.spool", "runner.engine", "runner.gallery")
    wrong = []
    for file in FILES:
        own = next((part for part in parts if _module(file).startswith(part)), None)
        others = tuple(part for part in parts if own and part != own)
        for module, line in _imports(_tree(file)):
            if module.startswith(others):
                wrong.append(f"{_named(file)}:{line}: {module}")
    assert wrong == []


def test_a_dependency_is_imported_in_its_own_folder_only() -> None:
    wrong = []
    for file in FILES:
        for module, line in _imports(_tree(file)):
            folders = IMPORTERS.get(module.partition(".")[0])
            if folders is not None and not _named(file).startswith(folders):
                wrong.append(f"{_named(file)}:{line}: {module} belongs in {folders}")
    assert wrong == []


def test_nothing_heavy_is_imported_at_the_top_of_a_file() -> None:
    wrong = []
    for file in FILES:
        if _named(file).startswith("runner/mcp_server/"):
            continue  # mcp; that nothing light loads it is test_startup's
        for module, line in _imports(ast.Module(_at_import(_tree(file).body), [])):
            if module.partition(".")[0] in HEAVY:
                wrong.append(f"{_named(file)}:{line}: {module}")
    assert wrong == [], "import these inside the functions that use them"


def _at_import(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that run when a file is imported, without `if TYPE_CHECKING:`."""
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        kept.append(node)
    return kept


def test_nothing_works_while_it_is_being_imported() -> None:
    """A file's top holds definitions, constants and guards; it calls nothing for its effect."""
    effects = ("open", "os.environ", "os.makedirs", "warnings.", "print")
    wrong = []
    for file in FILES:
        if file.name == "__main__.py":
            continue
        for node in _tree(file).body:
            bare = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            if bare or isinstance(node, ast.For | ast.While | ast.With):
                wrong.append(f"{_named(file)}:{node.lineno}: {ast.unparse(node)[:60]}")
            for call in ast.walk(ast.Module(_at_import([node]), [])):
                if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(effects):
                    wrong += [f"{_named(file)}:{call.lineno}: {ast.unparse(call)[:60]}"]
    assert wrong == []


def test_a_file_says_what_it_is_for() -> None:
    wrong = [_named(file) for file in FILES if not ast.get_docstring(_tree(file))]
    assert wrong == [], "these have no docstring"


def test_no_file_but_the_ledgers_own_and_the_gallerys_store_writes_sql() -> None:
    statement = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|PRAGMA|WHERE)\b|\b\w+ = \?")
    wrong = []
    for file in FILES:
        if _named(file).startswith(("runner/spool/store/", "runner/gallery/store.py")):
            continue
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if statement.search(node.value):
                    wrong.append(f"{_named(file)}:{node.lineno}: {node.value[:60]!r}")
    assert wrong == [], "give the ledger a query with a name"


def test_a_pipeline_is_called_in_one_place_and_always_with_the_callback() -> None:
    """The call with `**arguments` is engine/gpu.py's, once; the step callback is named there only.

    And in the pipeline that is ours, which takes it as diffusers' do.

    Seen red: with a second `pipe(**arguments)` in loading.py, and with the callback's name in a
    kind.
    """
    calls: list[str] = []
    naming: set[str] = set()
    for file in FILES:
        if "/tiny/" in _named(file):
            continue
        if "callback_on_step_end" in file.read_text(encoding="utf-8"):
            naming.add(_named(file))
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Call) and _is_pipeline_call(node):
                calls += [f"{_named(file)}: {ast.unparse(node)}"]
    assert calls == ["runner/engine/gpu.py: pipe(**arguments, **watch)"]
    assert naming == {"runner/engine/gpu.py", "runner/engine/flux3_pipeline.py"}


def _is_pipeline_call(call: ast.Call) -> bool:
    name = ast.unparse(call.func).lower().rpartition(".")[2]
    return name in {"pipe", "pipeline", "main", "prior"} and any(
        keyword.arg is None for keyword in call.keywords
    )


def test_no_kind_knows_a_pipeline_or_a_stop_sign() -> None:
    for file in (ROOT / "runner/engine/kinds").glob("*.py"):
        names = {module for module, _ in _imports(_tree(file))}
        assert not names & {"runner.engine.gpu", "runner.engine.weights.pipeline_cache"}
        assert not {name.partition(".")[0] for name in names} & {"torch", "diffusers"}


ROOMS = (
    "runner/spool/", "runner/gallery/", "runner/engine/hub/", "runner/mcp_server/", "runner/cli/",
    "runner/daemon/", "runner/client.py", "runner/reading.py", "runner/wire.py",
    "runner/retention.py",
)  # fmt: skip
# What is read there is derived, removed, or only chosen by.
MAY_BE_SILENT = (
    "runner/spool/store/migrations.py", "runner/gallery/rebuild.py: for path in (*folder.glob(",
    "runner/engine/hub/cache.py", "runner/engine/hub/transfer.py", "runner/engine/hub/pull.py",
    "runner/gallery/page/",
    # Of the user's own file, and of what the package brought; or only a hint.
    "runner/cli/init.py", "runner/cli/doctor.py", "runner/cli/overlooked.py",
    "runner/cli/run.py: files = (schemas.FOLDER", "runner/cli/submit.py: is_here",
    "runner/cli/submit.py: if os.path.exists(file)",
)  # fmt: skip


def test_what_looks_for_files_where_a_wrong_no_loses_something_raises_refusals() -> None:
    """pathlib, glob and os.path take too many open files, or a failing disk, for absence."""
    silent = re.compile(
        # An entry of scandir knows what it is without a look.
        r"(?<!entry)\.(exists|is_file|is_dir|is_symlink|glob|rglob)\(|path\.(l?exists|isfile|isdir|islink)\b"
    )
    wrong = [
        f"{_named(file)}: {line.strip()}"
        for file in FILES
        if _named(file).startswith(ROOMS)
        for line in file.read_text(encoding="utf-8").splitlines()
        if silent.search(line)
    ]
    assert [each for each in wrong if not each.startswith(MAY_BE_SILENT)] == []


LOOKS = {
    "is_there", "is_file", "is_folder", "names_in", "paths_in", "kind_of", "read_json",
    "read_file", "status", "receipt", "health", "listdir", "scandir", "lstat",
}  # fmt: skip
# Sizes, what is made anew or looked at again, and what is only shown.
MAY_PASS_OVER = (
    "runner/retention.py: total += os.lstat(", "runner/cli/gallery.py: if read_file(page)",
    "runner/cli/overlooked.py: data = read_file(",
    "runner/cli/progress.py: status = reading.status(", "runner/cli/progress.py: health = ",
    "runner/cli/status.py: return sum(is_spec(",
    "runner/gallery/page/overview.py: return sorted(", "runner/gallery/rebuild.py: path = folder",
    "runner/mcp_server/pictures.py: path = Path(", "runner/spool/disk/faults.py: if self._home.out",
    "runner/spool/store/outbox.py: status = os.lstat(picture)",
)  # fmt: skip


def test_no_refusal_of_a_look_is_passed_over_in_silence() -> None:
    """`suppress(OSError)`, or an `except` that does not ask which error it was, around a look."""
    wrong = []
    for file in (each for each in FILES if _named(each).startswith(ROOMS)):
        text = file.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.With):
                caught = [ast.unparse(item.context_expr) for item in node.items]
                silent = any("suppress(" in each and "OSError" in each for each in caught)
            elif isinstance(node, ast.Try):
                silent = any(
                    each.type is not None and "OSError" in ast.unparse(each.type) and not each.name
                    for each in node.handlers
                )
            else:
                continue
            body = ast.Module(node.body, [])
            calls = (ast.unparse(n.func) for n in ast.walk(body) if isinstance(n, ast.Call))
            if silent and any(call.rpartition(".")[2] in LOOKS for call in calls):
                wrong.append(f"{_named(file)}: {text[node.body[0].lineno - 1].strip()}")
    assert [each for each in wrong if not each.startswith(MAY_PASS_OVER)] == []
