"""Foreign errors of loading become one sentence; the most telling one in a chain of causes wins."""

from __future__ import annotations

import errno

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub.explain import is_passing, translated
from runner.errors import DiskFull, ModelMissing

FOR_DEV = {"repo": MODEL_REGISTRY["dev"].repo, "again": "fluxdrop models pull dev"}


def named(name: str, text: str = "misleading", *, cause: BaseException | None = None) -> Exception:
    error: Exception = type(name, (Exception,), {})(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (named("OSError", cause=named("GatedRepoError")), "accept its licence"),
        (named("OSError", cause=named("RepositoryNotFoundError")), "on the hub, or it is private"),
        (named("LocalEntryNotFoundError", cause=named("ConnectError")), "cannot be reached"),
        (named("LocalEntryNotFoundError", cause=named("OfflineModeIsEnabled")), "HF_HUB_OFFLINE"),
        (named("ConnectError", "CERTIFICATE_VERIFY_FAILED"), "SSL_CERT_FILE"),
        (named("ProxyError"), "check HTTPS_PROXY"),
        (named("LocalEntryNotFoundError"), "not wholly"),
        (named("SafetensorError"), "is damaged on this machine"),
        (named("OSError", cause=named("JSONDecodeError")), "is damaged on this machine"),
        (named("DisabledRepoError"), "has been switched off"),
        (PermissionError(errno.EACCES, "denied", "/x"), "mend its permissions"),
    ],
)
def test_an_error_is_explained_by_its_causes(error: BaseException, says: str) -> None:
    ours = translated(error, **FOR_DEV)
    assert isinstance(ours, ModelMissing) and says in str(ours)
    assert "misleading" not in str(ours)


def test_an_error_of_something_else_is_left_as_it_is() -> None:
    assert translated(OSError("no file named config.json"), **FOR_DEV) is None
    assert translated(ValueError("x"), **FOR_DEV) is None


def test_a_full_disk_is_told_as_one() -> None:
    assert isinstance(translated(OSError(errno.ENOSPC, "no space"), **FOR_DEV), DiskFull)


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    error = ValueError("x")
    error.__context__ = error
    assert translated(error, **FOR_DEV) is None


def test_only_what_may_mend_itself_is_tried_again() -> None:
    assert is_passing(named("ConnectError")) and is_passing(named("CutShort"))
    assert not is_passing(named("ConnectError", "CERTIFICATE_VERIFY_FAILED"))
    assert not is_passing(named("ProxyError")) and not is_passing(ValueError("x"))
