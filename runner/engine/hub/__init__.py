"""Models on this machine and on the Hugging Face hub: finding, checking, fetching, error messages.

The names below never use the network; fetching is in `pull`.
"""

from runner.engine.hub.library import (
    Disk,
    Library,
    builtin_folder,
    bytes_here,
    bytes_to_pull,
    cache_folder,
    has_token,
    is_begun,
    locate,
    present,
    repo_folder,
    revision_of,
    snapshot,
    token_files,
)

__all__ = [
    "Disk",
    "Library",
    "builtin_folder",
    "bytes_here",
    "bytes_to_pull",
    "cache_folder",
    "has_token",
    "is_begun",
    "locate",
    "present",
    "repo_folder",
    "revision_of",
    "snapshot",
    "token_files",
]
