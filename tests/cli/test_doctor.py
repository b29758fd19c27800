"""`doctor`: what this machine runs, how each model would be held on it, and what to mend."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runner import client
from runner.cli import doctor
from runner.engine.memory import machine
from runner.engine.memory.machine import Device
from runner.engine.memory.plans import Machine
from runner.errors import PlaceAway, UsageProblem
from runner.settings import Home, find_home
from runner.spool.disk import platform
from runner.spool.disk.locks import home_lock
from tests import random_twin
from tests.cli.here import Here
from tests.webhooks import listening

GIB = 2**30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 16 GB, and 32 GB of RAM, whatever this machine has."""
    has = Machine("cuda", 15 * GIB, 30 * GIB, fp8=True, bitsandbytes=True)
    monkeypatch.setattr(machine, "measure", lambda device, limit: has)


def findings(here: Here, name: str) -> list[dict[str, Any]]:
    return [each for each in here("doctor", "--json").json["findings"] if each["name"] == name]


def test_each_setting_that_is_given_is_named_with_its_place(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.home / "fluxdrop.yaml").write_text("# mine\nidle_minutes: 3\n", encoding="utf-8")
    hook = "{ci: {url: 'https://ci.example', secret_env: FLUXDROP_CI_SECRET}}"
    monkeypatch.setenv("FLUXDROP_CI_SECRET", "a secret is no setting")
    monkeypatch.setenv("FLUXDROP_RECEIVERS", hook)
    monkeypatch.setenv("FLUXDROP_AUDIT_LANGUAGES", "[en, de]")
    monkeypatch.setenv("FLUXDROP_IDEL_MINUTES", "1")
    (told,) = findings(here, "settings")
    assert told["why"] == [
        f"idle_minutes: 3 ({here.home / 'fluxdrop.yaml'}:2:1)",
        "audit_languages: ('en', 'de') (FLUXDROP_AUDIT_LANGUAGES)",
        "receivers: given (FLUXDROP_RECEIVERS)",
    ]
    assert told["found"].startswith("3 given, ") and told["found"].endswith(" as by default")
    (other,) = findings(here, "environment")
    assert other["found"] == "FLUXDROP_IDEL_MINUTES is no setting"
    assert other["remedy"] == "did you mean 'FLUXDROP_IDLE_MINUTES'?"


@pytest.mark.usefixtures("card")
def test_without_weights_it_says_how_the_usual_models_would_be_held(here: Here) -> None:
    told = findings(here, "memory")
    assert [each["found"].split(":")[0] for each in told] == [
        "klein runs in bf16, in turn with the text encoders (bf16)",
        "z-image-control runs in fp8, in turn with the text encoders (bf16)",
    ]
    assert "the GPU has 15.0 GiB to use" in told[0]["why"]
    assert "       the GPU has 15.0 GiB to use" in here("doctor").out


@pytest.mark.usefixtures("card")
def test_with_weights_it_says_how_those_that_are_here_are_held(here: Here, tmp_path: Path) -> None:
    own = random_twin.folder("text2img", tmp_path)
    settings = {"registry": {"mine": {"like": "schnell", "folder": str(own)}}}
    (here.home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
    told = findings(here, "memory")
    assert [each["found"].split()[0] for each in told] == ["mine"]


def test_a_model_that_is_here_and_does_not_fit_is_told_with_one_that_does(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = Machine("cpu", 0, GIB)
    monkeypatch.setattr(machine, "measure", lambda device, limit: little)
    assert all(each["ok"] for each in findings(here, "memory")), "none of them is here"
    own = random_twin.folder("text2img", tmp_path)
    settings = {"registry": {"mine": {"like": "schnell", "folder": str(own)}}}
    (here.home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
    (told,) = findings(here, "memory")
    assert not told["ok"] and "use the model tiny, which fits" in told["found"]
    assert here("doctor").code == 1


def test_a_gpu_that_cannot_be_used_is_bad_and_has_its_remedy(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda wanted: Device("cpu; a card", "pip install it"))
    done = here("doctor")
    assert done.code == 1
    assert "BAD  device" in done.out and "→ pip install it" in done.out


def test_the_setting_for_gpu_memory_is_what_is_planned_with(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float | None]] = []

    def measure(device: str, limit: float | None) -> Machine:
        asked.append((device, limit))
        return Machine("cpu", 0, GIB)

    monkeypatch.setattr(machine, "measure", measure)
    (here.home / "fluxdrop.yaml").write_text("gpu_memory_gb: 12\ndevice: cpu\n", encoding="utf-8")
    here("doctor")
    assert asked == [("cpu", 12)]


@pytest.mark.parametrize("error", [PlaceAway("mount it"), UsageProblem("make room")])
def test_a_home_that_cannot_be_used_is_a_finding_among_those_of_the_machine(
    here: Here, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Seen red: it was an error, and nothing else was said."""

    def refuse(home: Home) -> NoReturn:
        raise error

    monkeypatch.setattr(Home, "require_mounted", refuse)
    done = here("doctor", "--json")
    assert done.code == 1
    bad = [each for each in done.json["findings"] if not each["ok"]]
    assert [(each["name"], each["found"]) for each in bad] == [("home", str(error))]
    assert {"python", "packages", "device"} <= {each["name"] for each in done.json["findings"]}


def test_quantised_weights_are_shown_with_their_size(here: Here) -> None:
    assert findings(here, "quantised") == []
    folder = here.home / "data" / "quantised" / "0123-nf4"
    folder.mkdir(parents=True)
    with (folder / "weights").open("wb") as file:
        file.truncate(3 * GIB // 2)
    (told,) = findings(here, "quantised")
    assert told["ok"] and told["found"].startswith("1.5 GiB in ")


def test_a_link_under_a_name_that_could_be_guessed_is_not_written_through(
    here: Here, tmp_path: Path
) -> None:
    """Seen red: the writer probe emptied the file that a planted link led to."""
    target = tmp_path / "precious"
    target.write_text("mine", encoding="utf-8")
    (here.home / "inbox" / f".probe-{os.getpid()}.writing").symlink_to(target)
    here("doctor")
    assert target.read_text(encoding="utf-8") == "mine"
    assert len(list((here.home / "inbox").glob(".*.writing"))) == 1, "only the planted one"


@pytest.mark.parametrize("name", ["FUSE", "xfs"])
def test_the_file_system_of_the_inbox_is_named_with_what_it_means(
    here: Here, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(platform, "file_system_of", lambda folder: name)
    monkeypatch.setattr(platform, "can_probe_writers", lambda folder: name == "xfs")
    (told,) = findings(here, "inbox")
    expected = {
        "FUSE": "on FUSE, where the system cannot say who writes a file, specs are taken after 2.0 "
        "s without change; write aside and rename to be quicker",
        "xfs": "on xfs, specs are taken 0.3 s after their writer closed them",
    }  # fmt: skip
    assert told["ok"] and told["found"] == expected[name]


def test_why_the_runner_is_paused_and_what_it_has_set_aside_is_named(here: Here) -> None:
    fault = {"file": "inbox/x.yaml", "reason": "Unwritable", "message": "remove it", "since": ""}
    health = {
        "pid": 1, "state": "paused", "watch": "events", "interval_seconds": 2.0, "faults": [fault],
        "note": "the disk is full",
        "updated_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    (here.home / "outbox" / "runner.json").write_text(json.dumps(health), encoding="utf-8")
    lock = home_lock(Home(here.home))
    lock.acquire()
    try:
        (told,) = findings(here, "runner")
    finally:
        lock.release()
    assert not told["ok"] and told["why"] == ["inbox/x.yaml: remove it"]
    assert told["found"] == "pid 1 is paused, by events: the disk is full"


def test_a_second_card_that_lies_idle_is_pointed_out(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ["0"])
    assert findings(here, "devices") == []
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    (told,) = findings(here, "devices")
    assert told["ok"] and told["found"].startswith("this machine has 2 GPUs")
    assert told["found"].endswith("`devices: auto` uses both")
    settings = here.home / "fluxdrop.yaml"
    settings.write_text("device: cpu\n", encoding="utf-8")
    assert findings(here, "devices") == []
    settings.write_text("devices: [cuda:0, cuda:1]\n", encoding="utf-8")
    (told,) = findings(here, "devices")
    assert told["found"] == "pictures are made on cuda:0, cuda:1"
    settings.write_text("devices: [cuda:2]\n", encoding="utf-8")
    (told,) = findings(here, "devices")
    assert not told["ok"] and "names cuda:2, and this machine has 2 GPUs" in told["found"]


def test_receivers_are_listed_without_their_secrets_and_one_can_be_sent_a_test(here: Here) -> None:
    with listening() as webhook:
        settings = {
            "receivers": {
                "ci": {"url": f"{webhook.url}&SECRET"},
                "phone": {"apprise": "tgram://SECRET"},
                "signed": {"url": "https://a.example/SECRET", "secret_env": "FLUXDROP_UNSET"},
            },
            "on": {"job.ended": ["ci", "signed"], "queue.empty": ["ci"]},
        }
        (here.home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
        told = here("tell", "ci")
        assert (told.code, told.out) == (0, "ci was told, by http://127.0.0.1/…\n")
        ((headers, body),) = webhook.got
    assert json.loads(body)["event"] == "test" and headers["webhook-id"].startswith("msg_test-")
    assert here("tell", "ci").code == 1
    missing = here("tell", "fone")
    assert missing.code == 2 and "no receiver 'fone': did you mean 'phone'?" in missing.err
    ci, phone, signed = (each["found"] for each in findings(here, "receiver"))
    assert ci == "ci: http://127.0.0.1/…; told of job.ended, queue.empty"
    assert phone == "phone: apprise, tgram://…; told of what specs ask for"
    assert signed.startswith("signed: https://a.example/…, signed by $FLUXDROP_UNSET")
    assert "FLUXDROP_UNSET is not set" in findings(here, "receiver")[2]["remedy"]
    assert "SECRET" not in here("doctor", "--json").out


def test_what_the_runner_says_of_a_receiver_is_said(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    receivers = {"ci": {"url": "https://a.example"}}
    settings = {"receivers": receivers, "on": {"job.ended": ["ci"]}}
    (here.home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
    state = {"name": "ci", "error": "a.example answers 500", "dropped": 1200}
    monkeypatch.setattr(client, "runner_health", lambda home: {"receivers": [state]})
    (found,) = doctor._receivers(find_home(str(here.home)))
    assert not found.ok and found.why == ("1,200 events were dropped",)
    assert str(found.remedy).startswith("a.example answers 500: mend that")
    receivers["ci"]["secret_env"] = "FLUXDROP_UNSET"
    (here.home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
    state["error"] = None
    (found,) = doctor._receivers(find_home(str(here.home)))
    assert found.ok
