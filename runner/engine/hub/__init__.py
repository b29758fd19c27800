"""Models on this machine and on the Hugging Face hub: finding, checking, fetching, error messages.

The names below never use the network; fetching is in `pull`.
"""

from runner.engine.hub.library import (
    Disk,
    absence,
    builtin_folder,
    bytes_here,
    bytes_to_pull,
    locate,
    present,
    repo_folder,
    revision_of,
    snapshot,
)

__all__ = [
    "Disk",
    "absence",
    "builtin_folder",
    "bytes_here",
    "bytes_to_pull",
    "locate",
    "present",
    "repo_folder",
    "revision_of",
    "snapshot",
]
