"""The head of a job's page in words: its progress, how long it took and how long it will take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.gallery.formatting import duration, mapping
from runner.gallery.formatting import html_text as text
from runner.gallery.terms import moment
from runner.job import FINAL_STATES


@dataclass(frozen=True)
class Summary:
    """The words and figures of the head.

    `fraction` (0 to 1) and `doing` describe the progress; `fraction` is None once the job has
    ended. `to_come` is the number of pictures that will still be made.
    """

    subtitle: str
    figures: tuple[tuple[str, str], ...]
    fraction: float | None
    doing: str
    to_come: int


def summarise(status: Mapping[str, Any], seconds: Iterable[object]) -> Summary:
    """Summarise a job's status and how long each of its pictures took, as far as that is known."""
    counts = mapping(status.get("images"))
    final = status.get("state") in FINAL_STATES
    times = [*seconds]
    made = len(times)
    total = int(counts.get("total") or made)
    failed, skipped = int(counts.get("failed") or 0), int(counts.get("skipped") or 0)
    reused = int(counts.get("reused") or 0)
    left = max(0, total - made - failed - skipped)
    known = [float(time) for time in times if isinstance(time, int | float) and 0 <= time <= 1e9]
    mean_seconds = sum(known) / len(known) if known else None
    figures = [("pictures", f"{made:,} of {total:,}" if made != total else f"{made:,}")]
    others = (("reused", reused), ("failed", failed), ("skipped", skipped))
    figures += [(name, f"{n:,}") for name, n in others if n]
    if final and left:
        figures.append(("not made", f"{left:,}"))
    if mean_seconds is not None:
        figures += [
            ("per picture", duration(mean_seconds)),
            ("rendering", duration(mean_seconds * (made - reused))),
        ]
    began, ended = (moment(status.get(key)) for key in ("started_at", "finished_at"))
    if began and ended:
        figures.append(("start to end", duration(max(0, ended - began) / 1000)))
    words = [status.get("kind"), status.get("model"), *(f"#{t}" for t in status.get("tags") or ())]
    fraction, doing = (None, "") if final else _progress(status, made, total, left, mean_seconds)
    return Summary(
        subtitle=" · ".join(str(word) for word in words if word),
        figures=tuple(figures),
        fraction=fraction,
        doing=doing,
        to_come=0 if final else left,
    )


def progress_bar(summary: Summary) -> str:
    """The progress as HTML; empty once the job has ended."""
    if summary.fraction is None:
        return ""
    return (
        f'<div class="progress"><progress max="1" value="{summary.fraction:.4f}" '
        f'aria-label="progress">{summary.fraction:.0%}</progress><p>{text(summary.doing)}</p></div>'
    )


def _progress(
    status: Mapping[str, Any], made: int, total: int, left: int, mean_seconds: float | None
) -> tuple[float, str]:
    """The fraction that is done, 0 to 1, and what the runner does now, in words."""
    progress = mapping(status.get("progress"))
    fraction = made / total if total else 0.0
    if isinstance(progress.get("fraction"), int | float):
        fraction = min(1.0, max(fraction, float(progress["fraction"])))
    parts = []
    if progress.get("phase"):
        parts.append(f"picture {progress.get('image', made + 1)} of {total:,}: {progress['phase']}")
    elif status.get("state") == "running" and made < total:
        parts.append(f"picture {made + 1:,} of {total:,}")
    if progress.get("steps"):
        parts.append(f"step {progress.get('step', 0)} of {progress['steps']}")
    eta = progress.get("eta_seconds")
    if eta is None and mean_seconds is not None and left:
        eta = mean_seconds * left
    if isinstance(eta, int | float):
        parts.append(f"about {duration(float(eta))} to go")
    return fraction, " · ".join(parts) or str(status.get("state") or "")
