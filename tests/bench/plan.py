"""Measures a bulk run's plan: seconds and memory for 10,000 prompts, beside dynamicprompts.

`python -m tests.bench plan` prints the table; `--json` prints the figures alone. Each row is a
process of its own. `plan` is everything that `make_plan` does: the pack read, choices expanded,
every prompt audited against twenty terms and its tokens estimated. `plain` is the same of blocks
without choices, `all` of a product, `sample` of ten thousand of a product of 200,000. `expand`
makes the texts of one template by 10,000 seeds, and no more; `dynamicprompts` makes as many by one
seed, `… by seed` two hundred by a seed each. They need `pip install dynamicprompts`.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPLATE = "a {small|large} __colour__ {mug|cup} on {2$$ and $$oak|slate|linen}, {2::matte|glossy}"
LINES = 5000


def write_prompts(root: Path, *, choices: bool) -> Path:
    """A folder of packs with one pack of a hundred subjects and ten variables."""
    folder = root / "prompts" / "bulk"
    (folder / "subjects").mkdir(parents=True)
    facts = {"schema_version": 1, "id": "bulk", "name": "bulk", "version": "1.0.0",
             "forbidden": ["logo", "text", *(f"thing number {n}" for n in range(18))]}  # fmt: skip
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "fixed_block.txt").write_text("Studio photograph, no people.", encoding="utf-8")
    subject = TEMPLATE if choices else "a small red mug on oak and slate, matte"
    subjects, variables = (100, 10) if choices else (500, 20)
    for n in range(subjects):
        file = folder / "subjects" / f"s{n}.txt"
        file.write_text(f"Number {n}, {subject}.", encoding="utf-8")
    for n in range(variables):
        (folder / f"variable_v{n}.txt").write_text(f"Light {n} of a day", encoding="utf-8")
    lists = root / "prompts" / "wildcards"
    lists.mkdir()
    lines = "\n".join(f"colour number {n}" for n in range(LINES))
    (lists / "colour.txt").write_text(lines, encoding="utf-8")
    (lists / "few.txt").write_text("\n".join(f"few {n}" for n in range(10)), encoding="utf-8")
    return root / "prompts"


def planned(root: Path, choices: Any = False, count: int = 1, **compose: Any) -> int:
    """Plan the pack; the number of prompts."""
    from composer.plan import make_plan

    prompts = write_prompts(root, choices=choices is True)
    selected = {
        "pack": "bulk",
        "subjects": "all",
        "variables": "all",
        "choices": choices,
        **compose,
    }
    spec = {"kind": "text2img", "compose": selected, "seed": 1, "count": count}
    return len(make_plan(spec, prompts).prompts)


def expanded(root: Path) -> int:
    """Expand the template by each of 10,000 seeds."""
    from composer.choices import Expander, parse
    from composer.layers import Block
    from composer.wildcards import Wildcards

    lists = Wildcards([write_prompts(root, choices=True) / "wildcards"])
    lists.parse(Block("", "", TEMPLATE), [])
    text, expander = parse(TEMPLATE), Expander(lists.options)
    return len([expander.draw(text, str(seed)) for seed in range(10_000)])


def by_dynamicprompts(root: Path, prompts: int, each: int) -> int:
    """The same by the package, with a new generator for each so many prompts."""
    from dynamicprompts.generators import RandomPromptGenerator
    from dynamicprompts.wildcards.wildcard_manager import WildcardManager

    manager = WildcardManager(write_prompts(root, choices=True) / "wildcards")
    return sum(
        len(RandomPromptGenerator(manager, seed=seed).generate(TEMPLATE, each))
        for seed in range(prompts // each)
    )


ROWS: dict[str, Callable[[Path], int]] = {
    "plan": lambda root: planned(root, True, count=10),
    "plain": planned,
    "all": lambda root: planned(root, "all", subjects="s0", variables="v1?", extra="__few__" * 3),
    "sample": lambda root: planned(
        root, "all", subjects="s1?", variables="v[12]", extra="__few__" * 4, sample=10_000
    ),
    "expand": expanded,
    "dynamicprompts": lambda root: by_dynamicprompts(root, 10_000, each=10_000),
    "… by seed": lambda root: by_dynamicprompts(root, 200, each=1),
}


def measure(name: str) -> dict[str, float]:
    """One row, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        prompts = ROWS[name](Path(folder))
        seconds = time.perf_counter() - began
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"prompts": prompts, "seconds": round(seconds, 2), "mib": round((most - before) / 1024)}


def main(argv: list[str]) -> int:
    """Measure every row, or the one that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench plan", description=__doc__)
    parser.add_argument("--row", choices=ROWS, help="one row, in this process, as JSON")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if given.row:
        print(json.dumps(measure(given.row)))
        return 0
    table: dict[str, dict[str, float] | None] = {}
    for name in ROWS:
        is_theirs = list(ROWS).index(name) > list(ROWS).index("expand")
        if is_theirs and importlib.util.find_spec("dynamicprompts") is None:
            table[name] = None
            continue
        command = [sys.executable, "-m", "tests.bench", "plan", "--row", name]
        table[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    if given.json:
        print(json.dumps({"table": table}, indent=2))
        return 0
    print(f"{'':15} prompts  seconds  MiB more")
    for name, row in table.items():
        if row is None:
            print(f"{name:15} not installed: pip install dynamicprompts")
        else:
            print(f"{name:15} {row['prompts']:7,} {row['seconds']:8.2f} {row['mib']:9,.0f}")
    return 0
