"""Where models come from: found on this machine, fetched from the hub, explained when that fails.

What the rest of the engine needs is named here; looking never asks the network, only `pull` does.
"""

from runner.engine.hub.library import (
    Disk,
    Library,
    builtin_folder,
    bytes_here,
    bytes_to_pull,
    cache_folder,
    find,
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
    "find",
    "has_token",
    "is_begun",
    "locate",
    "present",
    "repo_folder",
    "revision_of",
    "snapshot",
    "token_files",
]
