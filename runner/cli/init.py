"""`init`: make a home with everything a newcomer needs in it."""

import argparse
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from runner.cli.output import add_verb, print_answer
from runner.errors import UsageProblem
from runner.settings import SETTINGS_FILE, Home, is_home
from specs import schemas

_SETTINGS = """\
# yaml-language-server: $schema=specs/settings.schema.json
# Every setting is explained by specs/settings.schema.json; an editor that reads the line above
# completes them. All are optional.
#
# models: {KINDS}
# window: "23:00-07:00"
# retention: {days: 90, gb: 100}
# receivers: {phone: {apprise: "ntfys://ntfy.sh/a-topic-of-your-own"}}
# on: {job.failed: [phone], queue.empty: [phone]}
"""


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    init = add_verb(verbs, shared, "init", run_init, "make a new home folder")
    init.add_argument("folder", metavar="DIR")


def run_init(options: argparse.Namespace) -> int:
    """Make a home; what is there already is left as it is."""
    folder = Path(options.folder).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageProblem(f"{folder} is a file: name a folder")
    was_home = folder.is_dir() and is_home(folder)
    Home(folder).require_known()
    try:
        make_home(folder)
    except OSError as error:
        raise UsageProblem(f"cannot make {error.filename}: {error.strerror}") from error
    # cmd and PowerShell know double quotes only.
    windows = os.name == "nt" and " " in str(folder)
    quoted = f'"{folder}"' if windows else shlex.quote(str(folder))
    print_answer(
        options,
        {"home": str(folder), "new": not was_home},
        f"{folder} is {'still' if was_home else 'now'} a fluxdrop home",
        "next:",
        f"  cd {quoted}",
        f"  fluxdrop {'status' if was_home else 'demo'}",
    )
    return 0


def make_home(folder: Path) -> None:
    """Fill a folder with inbox, outbox, prompts, data, schemas, examples and a settings file."""
    ours = schemas.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "specs").mkdir(exist_ok=True)
    for schema in ours.glob("*.schema.json"):
        shutil.copyfile(schema, folder / "specs" / schema.name)
    _copy_new(ours / "examples", folder / "specs" / "examples")
    # Beside `specs` in a checkout and in the wheel alike.
    _copy_new(ours.parent / "prompts", folder / "prompts")
    settings = folder / SETTINGS_FILE
    if not settings.exists():
        kinds = ", ".join(f"{kind}: tiny" for kind in schemas.kinds())
        settings.write_text(_SETTINGS.replace("KINDS", kinds), encoding="utf-8")
    (folder / "inbox").mkdir(exist_ok=True)
    _copy_new(ours / "inbox-readme.md", folder / "inbox" / "README.md")
    Home(folder).prepare()


def _copy_new(source: Path, target: Path) -> None:
    if source.is_file():
        if not target.exists():
            shutil.copyfile(source, target)
        return
    target.mkdir(exist_ok=True)
    for each in source.iterdir():
        if not each.name.startswith((".", "__")):
            _copy_new(each, target / each.name)
