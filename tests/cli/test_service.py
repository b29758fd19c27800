"""`service`: the files that start the runner with the machine, on three systems."""

from __future__ import annotations

import os
import plistlib
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runner.cli import service
from runner.cli.service import SYSTEMS, Service, service_for
from runner.settings import Home
from tests.cli.here import Here

ODD = 'a "b" c$HOME 100% d\\e <&> ☂'
COMMAND = ["/usr/bin/python3", "-P", "/opt/flux drop/launch.py", "runner.cli"]
TASK = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}


def made(system: str, folder: Path, **environment: str) -> Service:
    return service_for(system, Home(folder), COMMAND, environment)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of this test's own for the user's services."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "config"


def test_a_unit_starts_the_runner_of_its_home_whatever_the_path(tmp_path: Path) -> None:
    unit = made("systemd", tmp_path / ODD).content.decode()
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart=").replace("$$", "$").replace("%%", "%"))
    assert words == [*COMMAND, "run", "--home", str(tmp_path / ODD)]
    place = f"WorkingDirectory=-{tmp_path / ODD}".replace("%", "%%")
    assert place in unit.splitlines(), "not the folder of whoever installed it"
    assert "RestartPreventExitStatus=2 75" in unit and "WantedBy=default.target" in unit


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not on this machine")
    unit = made("systemd", tmp_path / ODD, HF_HOME="/a b/%c")
    file = tmp_path / unit.name
    file.write_bytes(unit.content.replace(b"/usr/bin/python3", b"/bin/sh"))
    done = subprocess.run(
        [program, "--user", "verify", str(file)], capture_output=True, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, timeout=50, check=False,
    )  # fmt: skip
    if "Failed to initialize" in done.stderr:
        pytest.skip("systemd cannot look at units here")
    assert file.name not in done.stderr, done.stderr


def test_an_agent_is_a_property_list_that_keeps_the_runner_alive(tmp_path: Path) -> None:
    agent = made("launchd", tmp_path / ODD, HF_HOME="/weights")
    values = plistlib.loads(agent.content)
    assert values["ProgramArguments"] == [*COMMAND, "run", "--home", str(tmp_path / ODD)]
    assert values["WorkingDirectory"] == str(tmp_path / ODD)
    assert values["EnvironmentVariables"] == {"HF_HOME": "/weights"}
    assert values["KeepAlive"] == {"SuccessfulExit": False} and values["RunAtLoad"] is True
    assert agent.file.name == f"{values['Label']}.plist"


def test_a_task_is_xml_without_a_time_limit(tmp_path: Path) -> None:
    task = made("windows", tmp_path / ODD)
    root = ElementTree.fromstring(task.content.decode("utf-16"))
    assert root.findtext(".//t:Command", namespaces=TASK) == COMMAND[0]
    given = root.findtext(".//t:Arguments", namespaces=TASK)
    assert given == subprocess.list2cmdline([*COMMAND[1:], "run", "--home", str(tmp_path / ODD)])
    assert root.findtext(".//t:WorkingDirectory", namespaces=TASK) == str(tmp_path / ODD)
    assert root.findtext(".//t:ExecutionTimeLimit", namespaces=TASK) == "PT0S"
    assert task.content.startswith(b"\xff\xfe"), "schtasks reads UTF-16 with its mark"


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_homes_are_two_services_and_secrets_stay_out(system: str, tmp_path: Path) -> None:
    one, two = made(system, tmp_path / "a" / "pics"), made(system, tmp_path / "b" / "pics")
    assert one.name != two.name and one.file != two.file
    kept = service._kept(
        {"HF_TOKEN": "secret", "HF_HOME": "/w", "PATH": "/bin", "HF_HUB_CACHE": ""}
    )
    assert kept == {"HF_HOME": "/w"}


def test_settings_that_are_variables_are_kept_for_the_service() -> None:
    given = {"FLUXDROP_IDLE_MINUTES": "0", "FLUXDROP_RECEIVERS": "{a: {apprise: SECRET}}"}
    given["FLUXDROP_ON"] = "{job.ended: [a]}"
    assert service._kept(given) == {"FLUXDROP_IDLE_MINUTES": "0"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_show_prints_what_would_be_done_and_does_nothing(here: Here, system: str) -> None:
    before = sorted(here.home.rglob("*"))
    done = here("service", "show", "--for", system)
    assert done.code == 0 and str(here.home) in done.out and "# install: " in done.out
    shape = here("service", "show", "--for", system, "--json").json
    assert not Path(shape["file"]).exists() and shape["content"] in (done.out, shape["content"])
    assert sorted(here.home.rglob("*")) == before


def test_install_and_uninstall_write_the_file_and_call_the_system(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.name == "nt":
        pytest.skip("a shell script stands in for the system's program")
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "calls"
    for name in ("systemctl", "launchctl"):
        (programs / name).write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    shape = here("service", "show", "--json").json
    assert here("service", "install").code == 0
    assert Path(shape["file"]).read_text(encoding="utf-8") == shape["content"]
    assert here("service", "uninstall").code == 0
    assert not Path(shape["file"]).exists()
    wanted = [" ".join(c[1:]) for c in (*shape["install"], *shape["uninstall"])]
    assert calls.read_text(encoding="utf-8").splitlines() == wanted


def test_a_system_that_refuses_is_told_in_its_own_words(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.name == "nt":
        pytest.skip("a shell script stands in for the system's program")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "launchctl"):
        (programs / name).write_text("#!/bin/sh\necho no bus today >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    done = here("service", "install")
    assert done.code == 2 and "no bus today" in done.err
    monkeypatch.setenv("PATH", str(tmp_path))
    done = here("service", "install")
    assert done.code == 2 and "service show" in done.err
    other = "windows" if service.this_system() != "windows" else "systemd"
    assert here("service", "install", "--for", other).code == 2
