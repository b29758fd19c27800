"""Translates errors of the hub, the network and damaged files into a sentence that says what to do.

The topmost message misleads ("no file named config.json" for an unreachable hub), so the whole
chain of causes is searched, by the rules in their order. Exceptions are compared by name, so that
their libraries need not be imported. Never shows a token, nor the text of a foreign error.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.errors import DiskFull, JobFailed, ModelMissing

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_PERMITTED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class _Rule:
    """A sentence, and the errors that it explains.

    `names` are classes, one of which the error or a base of it must be; `status` is its HTTP
    status, `words` a part of its text in lower case, and `token` says that a token was sent: these
    three match every error by default. `sentence` may contain {repo}, {revision}, {host}, {again}
    and {wait}.
    """

    sentence: str
    names: tuple[str, ...] = ()
    status: range = range(1000)
    words: str = ""
    token: bool = False


_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ConnectionError")
_BROKEN_OFF = ("CutShort", "TimeoutException", "NetworkError", "RemoteProtocolError", "StreamError")
_RULES = (
    # A gated repository's error is a subclass of "not found", so it has to come first.
    _Rule(
        "{repo} is gated, and the account of your token has not been let in: accept the licence on"
        " {host}/{repo} with it (and let the token read gated repositories), then run `{again}`",
        ("GatedRepoError",),
        token=True,
    ),
    _Rule(
        "{repo} is gated: accept its licence on {host}/{repo}, make a token on"
        " {host}/settings/tokens and set it as HF_TOKEN, then run `{again}`",
        ("GatedRepoError",),
    ),
    _Rule(
        "the hub does not accept your token: make a new one on {host}/settings/tokens and set it"
        " as HF_TOKEN, then run `{again}`",
        ("HfHubHTTPError",),
        status=range(401, 402),
        token=True,
    ),
    _Rule("{repo} has been switched off on the hub: use another model", ("DisabledRepoError",)),
    _Rule(
        "there is no {repo} on the hub that your token may see: check the name and the token's"
        " account, then run `{again}`",
        ("RepositoryNotFoundError",),
        token=True,
    ),
    _Rule(
        "there is no {repo} on the hub, or it is private: check the name, or set HF_TOKEN to the"
        " token of an account that may see it, then run `{again}`",
        ("RepositoryNotFoundError",),
    ),
    _Rule(
        "{repo} has no revision {revision} on the hub: give another one, then run `{again}`",
        ("RevisionNotFoundError",),
    ),
    _Rule("a file of {repo} has gone from the hub: run `{again}` again", ("EntryNotFoundError",)),
    _Rule(
        "your token may not read {repo}: give it that right on {host}/settings/tokens, then run"
        " `{again}`",
        ("HfHubHTTPError",),
        status=range(403, 404),
    ),
    _Rule(
        "the hub has had too many requests from here: wait{wait}, then run `{again}`",
        ("HfHubHTTPError",),
        status=range(429, 430),
    ),
    _Rule(
        "the hub has a fault of its own, nothing is wrong here: run `{again}` later",
        ("HfHubHTTPError",),
        status=range(500, 600),
    ),
    _Rule(
        "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE keeps {repo} from being fetched: unset it, then run"
        " `{again}`",
        ("OfflineModeIsEnabled",),
    ),
    _Rule("the proxy does not let {host} through: check HTTPS_PROXY", ("ProxyError",)),
    _Rule(
        "{host} shows a certificate that this machine does not trust: set SSL_CERT_FILE to the"
        " certificates of your network, then run `{again}`",
        _UNREACHABLE,
        words="certificate",
    ),
    _Rule(
        "{host} cannot be reached, where {repo} is: check the network, then run `{again}`",
        _UNREACHABLE,
    ),
    _Rule(
        "the connection to {host} broke off: run `{again}` again, what has come is kept",
        _BROKEN_OFF,
    ),
    _Rule(
        "HF_ENDPOINT is not the address of a hub: unset it, then run `{again}`",
        ("UnsupportedProtocol", "InvalidURL"),
    ),
    _Rule(
        "a file of {repo} is damaged on this machine: `{again} --verify` finds it and fetches it"
        " again",
        ("SafetensorError", "JSONDecodeError", "UnpicklingError"),
    ),
    _Rule("the hub did not give {repo}: run `{again}` later", ("HfHubHTTPError",)),
    _Rule(
        "{repo} is not, or not wholly, on this machine: run `{again}`", ("LocalEntryNotFoundError",)
    ),
)


def translated(
    error: BaseException, *, repo: str, again: str, revision: str = "main", token: bool = False
) -> JobFailed | None:
    """Our error for a foreign one; None if no rule applies to it.

    `again` is the command that repeats the attempt, `token` whether a token was sent.
    """
    links = list(causes(error))
    for link in links:
        if isinstance(link, OSError) and link.errno in _DISK_FULL:
            return DiskFull(f"the disk is full: make room and run `{again}` again, it goes on")
        if isinstance(link, OSError) and link.errno in _NOT_PERMITTED:
            return ModelMissing(
                "this user may not read or write the folder that models are kept in: mend its"
                f" permissions or set HF_HOME to another, then run `{again}`"
            )
    for rule in _RULES:
        for link in links:
            if _applies(rule, link, token):
                sentence = rule.sentence.format(
                    repo=repo, revision=revision, host=host(), again=again, wait=_wait(link)
                )
                return ModelMissing(sentence)
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: a fault of the network or of the hub.

    False for a proxy that refuses and for a certificate that is not trusted: they do not pass.
    """
    names = _class_names(error)
    if "HfHubHTTPError" in names:
        return _status(error) in {408, *range(500, 600)}
    return bool(names & {*_UNREACHABLE, *_BROKEN_OFF}) and not (
        "ProxyError" in names or "certificate" in str(error).lower()
    )


def host() -> str:
    """The hub's address, from HF_ENDPOINT where it is set."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _applies(rule: _Rule, link: BaseException, token: bool) -> bool:
    return (
        bool(_class_names(link) & set(rule.names))
        and _status(link) in rule.status
        and rule.words in str(link).lower()
        and (token or not rule.token)
    )


def _class_names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _status(error: BaseException) -> int:
    """The HTTP status that an error carries; 0 for none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _wait(error: BaseException) -> str:
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    seconds = str(headers.get("Retry-After", ""))
    return f" {seconds} seconds" if seconds.isdecimal() else " a few minutes"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or during, the topmost first."""
    link: BaseException | None = error
    visited: set[int] = set()
    while link is not None and id(link) not in visited:
        visited.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
