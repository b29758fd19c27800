"""Asks the hub which files a repository has, and gives the address and headers to fetch them.

The token is sent to the hub only, and is never shown or written. Requests have a time limit and
are made twice at most. Errors are raised as they come; `explain` translates them.
"""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from runner.engine.hub.explain import host, is_passing
from runner.engine.hub.library import token_files
from runner.engine.hub.transfer import Remote
from runner.errors import ModelMissing

_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


class HubClient:
    """The hub for one command, with the user's token; `again` is the command that repeats it.

    `has_token` says whether requests carry a token.
    """

    def __init__(self, data: Path, *, again: str) -> None:
        self._again = again
        self._token = _token(data)
        self.has_token = self._token is not None

    def headers(self) -> Mapping[str, str]:
        """The headers of a request; the HTTP client drops the token on redirects to other hosts."""
        from importlib.metadata import version

        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(
            token=self._token or False, library_name="fluxdrop", library_version=version("fluxdrop")
        )

    def url(self, repo: str, commit: str, name: str) -> str:
        """The address of a file."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{repo}/resolve/{commit}/{quote(name)}"

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, Remote]]:
        """The commit that a revision points to now, and all its files by name.

        Raises ModelMissing where the answer is not a hub's, and the hub's errors.
        """
        try:
            return self._listed(repo, revision)
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(_PAUSE_SECONDS)
        return self._listed(repo, revision)

    def _listed(self, repo: str, revision: str) -> tuple[str, dict[str, Remote]]:
        from huggingface_hub import HfApi, constants

        api = HfApi(endpoint=constants.ENDPOINT, token=self._token or False)
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_SECONDS)
            commit = _hash(info.sha)
            files = {}
            for file in info.siblings or ():
                etag = _hash(file.lfs.sha256 if file.lfs else file.blob_id)
                files[file.rfilename] = Remote(file.rfilename, int(file.size), etag)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            if isinstance(error, OSError):  # an error status of the hub may be of both classes
                raise
            raise ModelMissing(
                f"what answers at {host()} is not a hub, perhaps a network's log-in page: open it"
                f" in a browser, then run `{self._again}`"
            ) from error
        return commit, files


def _hash(text: str | None) -> str:
    """The text, if it is a hash, which is safe as a file name. Raises ValueError if not."""
    if not text or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise ValueError("not a hash")
    return text


def _token(data: Path) -> str | None:
    """The token that the user has set, or that a log-in wrote to one of `token_files`."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    token = get_token()
    for file in token_files(data):
        with suppress(OSError):
            token = token or file.read_text(encoding="utf-8").strip()
    return token or None
