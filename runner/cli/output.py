"""What the commands share: adding a verb, JSON, messages, a job in one line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from runner import client
from runner.executor import OWN_SLOT
from runner.files import names_in
from runner.job import FINAL_STATES, State
from runner.settings import Home
from runner.spool.store.names import is_safe_id
from runner.terminal import escaped, on_one_line
from specs.suggest import did_you_mean

_EXAMPLES = {
    "audit": "--term cat 'a dog, no cats'",
    "cancel": "hero",
    "check": "hero.yaml",
    "clean": "--older-than 30d",
    "compose": "shapes --subject circle --plan",
    "drain": "--until 07:00",
    "init": "pictures",
    "keep": "hero",
    "lend": "-- ollama run llama3",
    "logs": "hero -f",
    "mcp": "--http",
    "page": "hero",
    "pull": "klein",
    "retry": "hero",
    "search": "circle --kind text2img --since 2d",
    "service": "install",
    "status": "hero",
    "submit": "hero.yaml --wait",
    "tell": "phone",
    "verify": "outbox/hero/hero-0001.png",
    "watch": "hero",
}
"""What follows the name of a verb in an example of its use."""


def add_verb(
    verbs: Any,
    shared: argparse.ArgumentParser,
    name: str,
    run: Callable[[argparse.Namespace], int],
    meaning: str,
) -> argparse.ArgumentParser:
    """Add a verb, with the options of every verb; `run` does it and returns the exit code.

    Its help has the first sentences of `run`, and an example.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, parents=[shared], help=meaning, allow_abbrev=False,
        description=(run.__doc__ or "").split("\n\n")[0],
    )  # fmt: skip
    parser.epilog = f"example: {parser.prog} {_EXAMPLES.get(name, '')}".rstrip()
    parser.set_defaults(run=run, parser=parser)
    return parser


def show(text: str = "", *, flush: bool = False, many_lines: bool = False) -> None:
    """Print a text: the one place that writes to standard output, whatever the text contains.

    It is one line, unless `many_lines` says that all of it may be more.
    """
    print(escaped(text) if many_lines else on_one_line(text), flush=flush)


def print_answer(options: argparse.Namespace, value: Any, *lines: str) -> None:
    """Print a result: as JSON with `--json`, else as these lines."""
    if options.json:
        print_json(value)
        return
    for line in lines:
        show(line)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    show(json.dumps(value, ensure_ascii=False, indent=1), many_lines=True)


def print_line(value: Any) -> None:
    """Print one value of a stream as one line of JSON."""
    show(json.dumps(value, ensure_ascii=False), flush=True)


def print_message(text: str, *, end: str = "\n") -> None:
    """Print a message for people to standard error; standard output has results only."""
    try:
        print(on_one_line(text), end=end, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Let what is printed go nowhere: nobody reads it, and Python would flush the rest at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def shown_slots(health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The slots in a health file; none where there is only the runner's own, and all is well."""
    slots: list[dict[str, Any]] = health.get("slots", [])
    own = all(slot["name"] == OWN_SLOT and slot["state"] in ("idle", "working") for slot in slots)
    return [] if own else slots


def runner_line(health: Mapping[str, Any]) -> str:
    """What a runner does, and how many jobs are in each state."""
    at = f" at {health['job']}" if health["job"] else ""
    counts = counts_of_states(health) or "no jobs yet"
    return f"runner {health['pid']} is {health['state']}{at}; {counts}"


def counts_of_states(health: Mapping[str, Any]) -> str:
    """How many jobs are in each state: "1 running, 12 succeeded"."""
    counts = health.get("counts", {})
    return counts_text({state: counts[state] for state in State if counts.get(state)})


def slot_line(slot: Mapping[str, Any]) -> str:
    """A slot in one line: what it makes, the model it has loaded, and its memory."""
    parts = [slot[key] for key in ("model", "note") if slot[key]]
    if slot["job"]:
        parts.insert(0, f"{slot['job']} image {slot['image']} {slot['step']}/{slot['steps']}")
    if slot["memory"]:
        parts.append(f"{slot['memory'] / 2**30:.1f} GiB")
    return f"slot {slot['name']:<19} {slot['state']:<10}  {'  '.join(parts)}".rstrip()


def counts_text(counts: Mapping[str, int]) -> str:
    """Numbers by their names: "3 new, 9 reused, 0 unknown"."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def job_line(job: Mapping[str, Any]) -> str:
    """A job in one line: id, state, images, progress, and why it waits or has failed.

    `job` is a status, or an entry of `recent` in the health file.
    """
    parts = [f"{job['id']:<24} {job['state']:<10}", counted(job)]
    progress = job.get("progress")
    if progress:
        parts.append(f"{progress['phase']} {progress['fraction']:.0%}")
    if (why := ending(job)) != job["state"]:
        parts.append(why)
    return "  ".join(filter(None, parts))


def counted(job: Mapping[str, Any]) -> str:
    """How many images of a job are done, of how many: "3/30 (1 reused)"."""
    images = job.get("images") or job
    reused = f" ({images['reused']:,} reused)" if images.get("reused") else ""
    return f"{images['done']}/{images['total']}{reused}" if images.get("total") else ""


def ending(job: Mapping[str, Any]) -> str:
    """Why a job waits or has failed; else its state."""
    why = job.get("message") or job.get("reason")
    if not why or job["state"] in ("running", "succeeded"):
        return str(job["state"])
    return f"{job.get('reason') or ''}: {why}".lstrip(": ")


def file_lines(home: Home, status: Mapping[str, Any], most: int = 1) -> list[str]:
    """The page of a job and its first pictures, each as a path from the current folder."""
    folder, outputs = home.job(status["id"]), status.get("outputs", [])
    files = [output["file"] for output in outputs[:most]]
    lines = [f"  {shown_path(folder / name)}" for name in (["index.html", *files] if files else [])]
    more = status["images"]["done"] - len(files) if files else 0
    return lines + ([f"  and {more:,} more in {shown_path(folder)}"] if more > 0 else [])


def shown_path(path: Path) -> str:
    """A path from the current folder, where it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def nearest_job(home: Home, name: str) -> str:
    """What to say besides of a name that no job has."""
    known = filter(is_safe_id, names_in(home.outbox))
    return did_you_mean(name, known, "`fluxdrop status` lists the newest jobs")


@contextmanager
def saying_what_goes_on(home: Home, jobs: Iterable[str], sentence: str) -> Iterator[None]:
    """Let Ctrl-C print a sentence, with where these jobs stand by then in place of `{}`."""
    try:
        yield
    except KeyboardInterrupt:
        left = left_text(home, jobs) or "what was dropped is taken in its turn"
        print_message(sentence.format(left))
        raise


def left_text(home: Home, ids: Iterable[str], others: int = 0) -> str:
    """Where jobs stand that are not over: "slow goes on at image 3 of 30, 4 more"."""
    texts = []
    for status in (client.status(home, job) for job in ids):
        if status.get("started_at") and status["state"] not in FINAL_STATES:
            images = status["images"]
            next_one = sum(images[key] for key in ("done", "failed", "skipped")) + 1
            texts.append(f"{status['id']} goes on at image {next_one} of {images['total']}")
        others += status["state"] in ("submitted", "queued") and not status.get("started_at")
    if others:
        texts.append(f"{others:,} {'more' if texts else 'in the queue'}")
    return ", ".join(texts)
