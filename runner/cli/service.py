"""`service install|uninstall|show`: the runner as a service of this user, started with the machine.

A systemd user unit on Linux, a launchd agent on macOS, a scheduled task on Windows. `show` prints
what `install` would write and do, and does nothing.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import exit_codes, launch
from runner.cli.output import add_verb, print_answer, print_message
from runner.errors import UsageProblem
from runner.settings import NAMES, Home, find_home, variable_of

SYSTEMS = ("systemd", "launchd", "windows")
# What a login shell may have set and a service would not see; secrets stay out.
_SETTINGS = tuple(variable_of(name) for name in NAMES if name not in ("receivers", "on", "ray"))
_KEPT = ("HF_HOME", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES", *_SETTINGS)
Commands = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Service:
    """What a system needs to run the runner: a file, and the commands that make it count."""

    name: str
    file: Path
    content: bytes
    install: Commands
    uninstall: Commands
    hint: str = ""


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    service = add_verb(verbs, shared, "service", run_service, "run with the machine, for this user")
    service.add_argument("way", choices=("install", "uninstall", "show"))
    service.add_argument("--for", choices=SYSTEMS, dest="system", help="default: this system")


def run_service(options: argparse.Namespace) -> int:
    """Install, remove or only show the service of a home."""
    home = find_home(options.home, mounted=False)
    system = options.system or this_system()
    service = service_for(system, home, launch.command(), _kept(os.environ))
    told = {"name": service.name, "file": str(service.file), "system": system}
    if options.way == "show":
        content = service.content.decode("utf-16" if system == "windows" else "utf-8")
        ways = {"install": service.install, "uninstall": service.uninstall}
        commands = [f"# {way}: {' '.join(words)}" for way, all_ in ways.items() for words in all_]
        hint = [f"# {service.hint}"] if service.hint else []
        lines = (f"# {service.file}", *content.splitlines(), *commands, *hint)
        print_answer(options, {**told, "content": content, **ways}, *lines)
        return 0
    if system != this_system():
        raise UsageProblem(
            f"this is no machine with {system}: `fluxdrop service show --for {system}` does"
        )
    if options.way == "install":
        home.prepare()
        service.file.parent.mkdir(parents=True, exist_ok=True)
        service.file.write_bytes(service.content)
        _run(service.install)
        done = f"{service.name} is installed and started"
    else:
        # A service that is not running is no reason to keep its file.
        _run(service.uninstall, strict=False)
        service.file.unlink(missing_ok=True)
        done = f"{service.name} is removed"
    print_answer(options, told, done)
    if options.way == "install" and service.hint and not options.json:
        print_message(service.hint)
    return 0


def this_system() -> str:
    """What starts services on this machine."""
    return {"darwin": "launchd", "win32": "windows"}.get(sys.platform, "systemd")


def service_for(
    system: str, home: Home, command: Sequence[str], environment: Mapping[str, str]
) -> Service:
    """The service of a home on one of SYSTEMS; pure, but for where this user keeps services."""
    # Two homes are two services; the name says which, the hash tells namesakes apart.
    plain = re.sub(r"[^A-Za-z0-9]+", "-", home.root.name).strip("-").lower() or "home"
    name = f"fluxdrop-{plain}-{hashlib.sha256(str(home.root).encode()).hexdigest()[:6]}"
    whole = [*command, "run", "--home", str(home.root)]
    make = {"systemd": _systemd, "launchd": _launchd, "windows": _windows}[system]
    return make(name, home, whole, environment)


def _kept(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in _KEPT if environment.get(name)}


def _systemd(
    name: str, home: Home, command: Sequence[str], environment: Mapping[str, str]
) -> Service:
    unit = f"{name}.service"
    lines = [
        "[Unit]",
        f"Description=fluxdrop runner of {_unit_text(str(home.root))}",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_unit_word, command))}",
        # "-": a home that is gone is the runner's to tell.
        f"WorkingDirectory=-{_unit_text(str(home.root))}",
        *(f"Environment={_unit_word(f'{key}={value}')}" for key, value in environment.items()),
        # The supervisor starts a runner again; this is for what ends both.
        "Restart=on-failure",
        "RestartSec=10",
        "# wrong usage, or another runner is at work: starting again would not help",
        f"RestartPreventExitStatus={exit_codes.WRONG_USAGE} {exit_codes.RUNNER_BUSY}",
        "# the first process stops the others; the image in hand is put back",
        "KillMode=mixed",
        "TimeoutStopSec=60",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    control = ("systemctl", "--user")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Service(
        name=unit,
        file=config / "systemd" / "user" / unit,
        content="\n".join(lines).encode(),
        install=((*control, "daemon-reload"), (*control, "enable", "--now", unit)),
        uninstall=((*control, "disable", "--now", unit),),
        hint="`loginctl enable-linger` keeps it running while you are logged out",
    )


def _unit_text(text: str) -> str:
    return text.replace("%", "%%").replace("\n", " ")


def _unit_word(word: str) -> str:
    """A word of a command line as systemd reads it: quoted, nothing in it expanded."""
    for plain, quoted in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$"), ("\n", "\\n")):
        word = word.replace(plain, quoted)
    return f'"{word}"'


def _launchd(
    name: str, home: Home, command: Sequence[str], environment: Mapping[str, str]
) -> Service:
    import plistlib

    label = f"io.fluxdrop.{name.removeprefix('fluxdrop-')}"
    log = str(home.data / "service.log")
    content = plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(command),
            "WorkingDirectory": str(home.root),
            "EnvironmentVariables": dict(environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 30,
            "ExitTimeOut": 60,
            "ProcessType": "Interactive",
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    )
    file = Path.home() / "Library" / "LaunchAgents" / f"{label}.plist"
    domain = f"gui/{os.getuid() if hasattr(os, 'getuid') else 501}"
    return Service(
        name=label,
        file=file,
        content=content,
        install=(("launchctl", "bootstrap", domain, str(file)),),
        uninstall=(("launchctl", "bootout", f"{domain}/{label}"),),
    )


def _windows(
    name: str, home: Home, command: Sequence[str], environment: Mapping[str, str]
) -> Service:
    from xml.sax.saxutils import escape

    program, *arguments = command
    given = subprocess.list2cmdline(arguments)
    file = home.data / f"{name}.xml"
    content = f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>{escape(f"fluxdrop runner of {home.root}")}</Description>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger><Enabled>true</Enabled></LogonTrigger>
  </Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>255</Count></RestartOnFailure>
  </Settings>
  <Actions>
    <Exec>
      <Command>{escape(program)}</Command>
      <Arguments>{escape(given)}</Arguments>
      <WorkingDirectory>{escape(str(home.root))}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""
    names = ", ".join(environment)
    hint = f"a task sees no shell: set {names} for your user (`setx`)" if names else ""
    return Service(
        name=name,
        file=file,
        content=content.replace("\n", "\r\n").encode("utf-16"),
        install=(
            ("schtasks", "/Create", "/TN", name, "/XML", str(file), "/F"),
            ("schtasks", "/Run", "/TN", name),
        ),
        uninstall=(
            ("schtasks", "/End", "/TN", name),
            ("schtasks", "/Delete", "/TN", name, "/F"),
        ),
        hint=hint,
    )


def _run(commands: Commands, *, strict: bool = True) -> None:
    """Run the commands; a failing one is told in its own words."""
    for command in commands:
        if shutil.which(command[0]) is None:
            raise UsageProblem(
                f"{command[0]} is not here: `fluxdrop service show` says what to set up"
            )
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and strict:
            said = (done.stderr or done.stdout).strip().splitlines()
            why = said[-1] if said else "no message"
            raise UsageProblem(f"{' '.join(command)}: {why}; see `fluxdrop service show`")
