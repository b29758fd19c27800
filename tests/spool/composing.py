"""A pack of ten thousand prompts, and specs that ask for all of them or for two."""

from __future__ import annotations

from pathlib import Path

from tests.composer.helpers import write_pack

COMPOSED = "kind: text2img\nmodel: tiny\nseed: 7\ncompose: {pack: many, subjects: %s}\n"
LARGE = COMPOSED % "all, variables: all"
SMALL = COMPOSED % "[s1, s2], variables: v1"


def blocks(prefix: str) -> dict[str, str]:
    """A hundred texts."""
    return {f"{prefix}{n}": f"a red circle, not number {n}, by day" for n in range(100)}


def write_many(prompts: Path) -> None:
    """A pack of ten thousand prompts."""
    write_pack(
        prompts, "many", subjects=blocks("s"), variables=blocks("v"), forbidden=[{"term": "moon"}]
    )
