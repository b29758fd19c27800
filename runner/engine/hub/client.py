"""What is asked of the hub: which files a repository has, and where they are.

The token is sent to the hub only, and is never shown or written. Questions have a time limit and
are asked twice at most. What goes wrong is raised as it comes; `explain` puts it into words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from runner.engine import hub
from runner.engine.hub.explain import host, is_passing
from runner.engine.hub.transfer import Remote
from runner.errors import ModelMissing

_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


class HubClient:
    """The hub as one command sees it: `again` is the command that repeats it."""

    def __init__(self, data: Path, *, again: str) -> None:
        self._again = again
        self._token = _token(data)

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def headers(self) -> Mapping[str, str]:
        """What goes with every request; on the way to another host the token is left out."""
        from importlib.metadata import version

        from huggingface_hub.utils import build_hf_headers

        made: dict[str, str] = build_hf_headers(
            token=self._token or False, library_name="fluxdrop", library_version=version("fluxdrop")
        )
        return made

    def url(self, repo: str, commit: str, name: str) -> str:
        """Where a file is fetched from."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{repo}/resolve/{commit}/{quote(name)}"

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, Remote]]:
        """The commit that a revision is now, and all its files by name."""
        for is_last in (False, True):
            try:
                return self._asked(repo, revision)
            except Exception as error:
                if is_last or not is_passing(error):
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")

    def _asked(self, repo: str, revision: str) -> tuple[str, dict[str, Remote]]:
        from huggingface_hub import HfApi, constants

        api = HfApi(endpoint=constants.ENDPOINT, token=self._token or False)
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_SECONDS)
            commit = _hash(info.sha)
            files = {}
            for each in info.siblings or ():
                etag = _hash(each.lfs.sha256 if each.lfs else each.blob_id)
                files[each.rfilename] = Remote(each.rfilename, int(each.size), etag)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if isinstance(error, OSError):  # an answer with an error code is of both kinds
                raise
            raise ModelMissing(
                f"what answers at {host()} is not a hub, perhaps a network's log-in page: open it"
                f" in a browser, then run `{self._again}`"
            ) from error
        return commit, files


def _hash(text: str | None) -> str:
    """A hash, which may name a file. Raises ValueError for what is none."""
    if not text or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise ValueError("not a hash")
    return text


def _token(data: Path) -> str | None:
    """The token that the user has set or logged in with, also where HF_HOME is not the usual."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    found: str | None = get_token()
    for file in hub.token_files(data) if not found else ():
        try:
            found = found or file.read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return found or None
