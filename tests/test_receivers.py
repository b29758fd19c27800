"""One try to tell one receiver: it arrives, or there is an error within the time, and no secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import receivers
from runner.errors import ReceiverAway, ReceiverRefuses
from runner.receivers import lack, send, shown
from tests.harness import eventually
from tests.webhooks import free_port, listening, saying

MESSAGE = {
    "event": "job.failed", "host": "här", "id": "hero", "state": "failed",
    "images": {"done": 1, "total": 2}, "message": "no memory is left",
}  # fmt: skip
KEY = b"eighteen bytes, or so"


def tell(receiver: Mapping[str, Any], seconds: float = 9.0) -> None:
    """Tell the message, in one try."""
    send(receiver, "msg_1", MESSAGE, seconds)


def error_of(receiver: Mapping[str, Any], seconds: float = 0.4) -> str:
    """The error of a try, which must not take longer than it may."""
    began = time.monotonic()
    with pytest.raises(ReceiverAway) as caught:
        tell(receiver, seconds)
    assert time.monotonic() - began < seconds + 2
    return str(caught.value)


@pytest.mark.parametrize("form", ["plain", "whsec_"])
def test_what_is_posted_is_signed_in_both_ways(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = KEY.decode() if form == "plain" else form + base64.b64encode(KEY).decode()
    monkeypatch.setenv("HOOK_SECRET", secret)
    with listening() as webhook:
        tell({"url": webhook.url, "secret_env": "HOOK_SECRET"})
    ((headers, body),) = webhook.got
    assert json.loads(body) == MESSAGE
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"msg_1.{headers['webhook-timestamp']}.".encode() + body
    standard = base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{standard}"
    whole = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["x-fluxdrop-signature"] == f"sha256={whole}"


def test_without_its_secret_nothing_is_sent() -> None:
    with listening() as webhook:
        told = error_of({"url": webhook.url, "secret_env": "FLUXDROP_TEST_UNSET"})
    assert "FLUXDROP_TEST_UNSET is not set" in told and not webhook.got


@pytest.mark.parametrize("secret", ["whsec_x", "whsec_é"])
def test_a_secret_that_is_no_base64_is_refused_in_a_sentence(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", secret)
    with pytest.raises(ReceiverRefuses, match="the secret in HOOK_SECRET is no base64"):
        tell({"url": "http://127.0.0.1:9", "secret_env": "HOOK_SECRET"})


def test_a_host_that_no_name_can_be_is_an_error() -> None:
    assert error_of({"url": f"http://{'a' * 64}.example/"}).endswith(
        "does not answer (UnicodeError)"
    )


def test_a_home_whose_path_is_no_utf_8_is_told_of(tmp_path: Path) -> None:
    content = receivers.envelope(Path(os.fsdecode(b"/h\xff")), "test", "now")
    assert content["home"] == "/h\\xff"
    with listening() as webhook:
        send({"url": webhook.url}, "msg_1", {"note": "\udcff é"}, 9.0)
    assert "é".encode() in webhook.got[0][1] and webhook.contents == [{"note": "\udcff é"}]


def test_a_redirect_is_not_followed() -> None:
    with listening() as other, listening(answer=302, Location=other.url) as webhook:
        with pytest.raises(ReceiverRefuses, match="answers 302: give the URL where it leads"):
            tell({"url": webhook.url})
        assert len(webhook.got) == 1 and not other.got


@pytest.mark.parametrize(("answer", "refuses"), [(500, True), (404, True), (503, False)])
def test_another_answer_is_an_error(answer: int, refuses: bool) -> None:
    with listening(answer=answer) as webhook, pytest.raises(ReceiverAway) as caught:
        tell({"url": webhook.url})
    assert str(caught.value) == f"127.0.0.1 answers {answer}"
    assert isinstance(caught.value, ReceiverRefuses) is refuses


@pytest.mark.parametrize("parts", [(), (b"H",), (b"x" * 999,)], ids=["silent", "slow", "endless"])
def test_a_server_that_does_not_answer_costs_the_time_of_a_try(parts: tuple[bytes, ...]) -> None:
    with saying(*parts) as url:
        assert error_of({"url": url}).startswith("127.0.0.1 ")


def test_of_an_answer_without_an_end_only_the_beginning_is_read() -> None:
    with saying(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4000) as url:
        tell({"url": url})


def test_an_error_names_the_host_and_not_the_rest() -> None:
    told = error_of({"url": f"http://me:SECRET@127.0.0.1:{free_port()}/SECRET?SECRET"})
    assert told == "127.0.0.1 does not answer (Connection refused)" or os.name == "nt"
    assert "SECRET" not in told


def test_a_command_gets_a_line_of_json_and_no_shell(tmp_path: Path) -> None:
    told = tmp_path / "told; rm -f x"
    code = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    tell({"command": [sys.executable, "-c", code, str(told)]})
    assert told.read_bytes().endswith(b"}\n")
    assert json.loads(told.read_bytes()) == MESSAGE


@pytest.mark.skipif(os.name == "nt", reason="asks for a process by its id")
def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    command = ["sh", "-c", f"sleep 100 & echo $! > '{note}'; wait"]
    assert error_of({"command": command}) == "sh took longer than 0.4 s"
    child = int(note.read_text("ascii"))

    def is_gone() -> bool:
        try:
            os.kill(child, 0)
            return Path(f"/proc/{child}/stat").read_text("ascii").split()[2] == "Z"
        except (ProcessLookupError, FileNotFoundError):
            return True

    try:
        eventually(is_gone, "the end of the child")
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise


def test_a_command_that_fails_or_is_not_there_is_an_error() -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit(3)"]
    assert error_of({"command": failing}, 9).endswith("ended with code 3")
    assert "cannot be started" in error_of({"command": ["no-such-program"]})


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise imports it
def test_a_phone_is_told_in_words_by_apprise() -> None:
    with listening() as webhook:
        tell({"apprise": f"json://127.0.0.1:{webhook.port}/SECRET"})
        (told,) = webhook.contents
        assert (told["title"], told["type"]) == ("hero failed", "failure")
        assert told["message"] == "1 of 2 images: no memory is left"
        webhook.answer = 500
        assert "could not tell it" in error_of({"apprise": f"json://127.0.0.1:{webhook.port}/S"})
    assert "does not understand" in error_of({"apprise": "SECRET"})


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_a_try_by_apprise_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("apprise.Apprise.notify", lambda self, **given: over.wait(60))
    try:
        assert error_of({"apprise": "json://127.0.0.1/SECRET"}) == "apprise took longer than 0.4 s"
    finally:
        over.set()


def test_without_apprise_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert error_of({"apprise": "ntfys://SECRET"}) == receivers.NO_APPRISE


@pytest.mark.parametrize(
    ("receiver", "words"),
    [
        ({"url": "https://x:SECRET@a.example/SECRET?SECRET"}, "https://a.example/…"),
        (
            {"url": "http://a.example:81/SECRET", "secret_env": "NAME"},
            "http://a.example/…, signed by $NAME",
        ),
        ({"apprise": "tgram://SECRET/SECRET"}, "apprise, tgram://…"),
        ({"command": ["curl", "-H", "SECRET"]}, "the command curl"),
    ],
)
def test_a_receiver_is_shown_without_its_secrets(receiver: dict[str, Any], words: str) -> None:
    assert shown(receiver) == words


def test_what_a_receiver_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert lack({"apprise": "ntfys://x"}) == receivers.NO_APPRISE
    assert lack({"command": ["no-such-program"]}) == "there is no program no-such-program"
    assert "UNSET" in str(lack({"url": "https://x", "secret_env": "UNSET"}))
    assert lack({"command": [sys.executable]}) is lack({"url": "https://x"}) is None
