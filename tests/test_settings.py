"""The settings: where they come from, mistakes with their places, one table of all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageProblem
from runner.settings import NAMES, TAKEN_UP, Settings, load_settings
from specs.read import read
from tests.harness import ROOT


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ("registry: {mine: {like: schnell, folder: %s}}", "1:42: registry.mine.folder"),
        ("registry: {mine: {like: schnell, file: %s.gguf}}", "1:40: registry.mine.file"),
        ("lora_roots: [fine, %s/y]", "1:20: lora_roots[1]"),
        ("input_roots: [%s]", "1:15: input_roots[0]"),
        ("inbox: %s", "1:8: inbox"),
        ("outbox: %s", "1:9: outbox"),
    ],
)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a" * 256, "a name has at most 255 bytes"),
        ("é" * 128, "a name has at most 255 bytes"),
        ("a/" * 2001, "a name has at most 255 bytes, a path 4000"),
        ("~nobody-of-that-name/x", "no user"),
    ],
    ids=["long", "long in bytes", "deep", "of nobody"],
)
def test_a_path_that_no_file_can_have_is_a_mistake_in_the_settings(
    tmp_path: Path, settings: str, place: str, name: str, why: str
) -> None:
    """Seen red: a traceback, or every job ended with `Internal`."""
    file = tmp_path / "fluxdrop.yaml"
    file.write_text(settings % name, encoding="utf-8")
    with pytest.raises(UsageProblem) as told:
        load_settings(file)
    assert str(told.value).startswith(f"{file}:{place}: ") and why in str(told.value)


def test_a_path_may_begin_with_the_folder_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    text = f"registry: {{mine: {{like: schnell, folder: ~/x}}}}\nlora_roots: [{'a' * 255}]\n"
    file.write_text(text, encoding="utf-8")
    assert load_settings(file).registry["mine"]["folder"] == str(Path("~/x").expanduser())


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("IDLE_MINUTES", "0", "idle_minutes", 0),
        ("STRICT", "true", "strict", True),
        ("UMASK", "027", "umask", "027"),
        ("INBOX", "7", "inbox", "7"),
        ("WINDOW", "23:00-07:00", "window", "23:00-07:00"),
        ("DEVICES", "[cuda:0, cuda:1]", "devices", ("cuda:0", "cuda:1")),
        ("DEVICES", "auto", "devices", "auto"),
        ("RAY", "{address: 192.0.2.7:6379}", "ray", {"address": "192.0.2.7:6379"}),
        ("MODELS", "text2img: tiny\nfill: tiny", "models", {"text2img": "tiny", "fill": "tiny"}),
    ],
)
def test_a_variable_comes_before_the_file(
    tmp_path: Path, variable: str, text: str, name: str, value: Any
) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text("idle_minutes: 3\nstrict: false\n", encoding="utf-8")
    settings = load_settings(file, {f"FLUXDROP_{variable}": text, "FLUXDROP_PREVIEW": ""})
    assert getattr(settings, name) == value and settings.preview is False
    assert settings.positions[name] == f"FLUXDROP_{variable}"
    if name != "strict":
        assert settings.positions["strict"] == f"{file}:2:1"


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("IDLE_MINUTES", "soon", "idle_minutes: 'soon' is not a number"),
        ("STRICT", "[", "FLUXDROP_STRICT: did not find"),
        ("REGISTRY", "{mine: {repo: a/b}}", "registry.mine"),
        ("INPUT_ROOTS", "[~nobody-of-that-name/x]", "input_roots[0]: there is no user"),
        ("WINDOW", "at night", "window: "),
    ],
)
def test_a_mistake_in_a_variable_is_one_sentence_that_names_it(
    tmp_path: Path, variable: str, text: str, why: str
) -> None:
    with pytest.raises(UsageProblem) as told:
        load_settings(tmp_path / "fluxdrop.yaml", {f"FLUXDROP_{variable}": text})
    (sentence,) = str(told.value).splitlines()
    assert sentence.startswith(f"FLUXDROP_{variable}: ") and why in sentence


def test_mistakes_of_the_file_and_of_variables_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text("strict: 3\n", encoding="utf-8")
    with pytest.raises(UsageProblem) as told:
        load_settings(file, {"FLUXDROP_REUSE": "3"})
    assert [line.split(" ")[0] for line in str(told.value).splitlines()] == [
        f"{file}:1:9:", "FLUXDROP_REUSE:",
    ]  # fmt: skip


def test_keys_of_ones_own_and_the_version_of_the_form_are_no_settings(tmp_path: Path) -> None:
    """Seen red: every command ended with a traceback."""
    file = tmp_path / "fluxdrop.yaml"
    file.write_text("x_mine: 1\nschema: 1\n$schema: x\nstrict: true\n", encoding="utf-8")
    assert load_settings(file, {}) == Settings(strict=True)


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / "{mine}" / "fluxdrop.yaml"
    file.parent.mkdir()
    file.write_text("strict: true\n", encoding="utf-8")
    assert load_settings(file, {}).positions == {"strict": f"{file}:1:1"}


def _table() -> dict[str, str]:
    page = (ROOT / "specs/README.md").read_text(encoding="utf-8").partition("\n## Settings\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_one_table_has_every_setting_with_the_default_of_the_schema_and_of_the_program() -> None:
    schema = json.loads((ROOT / "specs/settings.schema.json").read_bytes())["properties"]
    table, by_program = _table(), Settings()
    assert set(table) == set(NAMES) == set(schema) - {"$schema", "schema"}
    for name, shown in table.items():
        default, by_schema = getattr(by_program, name), schema[name].get("default")
        if default in (None, "", (), {}):
            assert by_schema in (None, [], {}), name
            told = f"Default: {shown.strip('`')}" in schema[name].get("description", "")
            assert shown == "none" or told, f"{name}: its description does not begin {shown!r}"
        else:
            default = list(default) if isinstance(default, tuple) else default
            assert read(shown.encode()).value == default == by_schema, name


def test_the_page_says_which_settings_a_running_runner_takes_up() -> None:
    page = (ROOT / "specs/README.md").read_text(encoding="utf-8")
    named = page.partition("it takes up")[2].partition(", and logs it")[0]
    assert set(re.findall(r"`(\w+)`", named)) == TAKEN_UP <= set(NAMES)


@pytest.mark.parametrize(
    ("receivers", "told"),
    [
        ("phone: {aprise: 'tgram://SECRET'}", "receivers.phone.aprise: unknown key"),
        ("phone: 'tgram://SECRET'", "receivers.phone: "),
        ("phone: {apprise: [tgram://SECRET]}", "receivers.phone.apprise: "),
        ("phone: {command: 'curl SECRET'}", "receivers.phone.command: "),
        ("phone: {url: 'hooks.example.com/SECRET'}", "receivers.phone.url: not a URL"),
        ("phone: {url: 'https://x', secret_env: 'SECRET SECRET'}", "never the secret"),
        ("phone: {url: 'https://x', apprise: 'tgram://SECRET'}", "make two receivers"),
        ("phone: {}", "has one of 'apprise', 'url' and 'command': give one"),
        ("phone: {command: [SECRET], secret_env: X}", "give one as well"),
        ("'two words': {command: [SECRET]}", "cannot be the name of a receiver"),
        ("phone: {command: [x]}\non: {job.ended: [fone]}", "on.job.ended[0]: this is none of"),
        ("phone: {command: [x]}\non: {job.ended: [fone]}", "did you mean 'phone'?"),
        ("phone: {command: [x]}\non: {job.end: [phone]}", "on.job.end: unknown key 'job.end'"),
        ("{'tgram://SECRET': {command: [x]}}", "receivers: this cannot be the name"),
        ("phone: {'tgram://SECRET': x}", "receivers: unknown key …"),
        ("phone: {command: [x]}\non: {job.failed: ['ntfys://SECRET']}", "on.job.failed[0]: this "),
        ("phone: {command: [x]}\non: 'ntfys://SECRET'", "on: this is not a mapping"),
        ("phone: {command: [x]}\non: {job.ended: [SECRET://x, SECRET://x]}", "value … (the first"),
        ("'tgram://SECRET'", "receivers: this is not a mapping"),
        ("phone: {url: 'https://x:99999/SECRET'}", "receivers.phone.url: not a URL"),
        ("phone: {url: 'https://x:0/SECRET'}", "receivers.phone.url: not a URL"),
        ("phone: {url: 'https://[SECRET'}", "receivers.phone.url: not a URL"),
        ("phone: {url: 'https://:80/SECRET'}", "receivers.phone.url: not a URL"),
    ],
)
def test_a_mistake_about_a_receiver_is_told_without_what_may_be_a_secret(
    tmp_path: Path, receivers: str, told: str
) -> None:
    file = tmp_path / "fluxdrop.yaml"
    first, _, rest = receivers.partition("\n")
    file.write_text(f"receivers:\n  {first}\n{rest}\n", encoding="utf-8")
    with pytest.raises(UsageProblem) as caught:
        load_settings(file)
    text = "\n".join(map(str, caught.value.args))
    assert told in text and "SECRET" not in text


@pytest.mark.parametrize("text", ["tgram://SECRET", "['tgram://SECRET']"])
@pytest.mark.parametrize("name", ["receivers", "on"])
def test_a_mistake_about_receivers_in_a_variable_is_told_without_it(
    tmp_path: Path, name: str, text: str
) -> None:
    with pytest.raises(UsageProblem) as caught:
        load_settings(tmp_path / "fluxdrop.yaml", {f"FLUXDROP_{name.upper()}": text})
    assert str(caught.value) == f"FLUXDROP_{name.upper()}: {name}: this is not a mapping"


def test_what_is_told_and_who_is_told_may_be_in_the_file_and_in_a_variable(tmp_path: Path) -> None:
    """Seen red: each was checked by itself, and no receiver was known."""
    file, told = tmp_path / "fluxdrop.yaml", {"receivers": {"ci": {"command": ["x"]}}}
    told["on"] = {"job.ended": ["ci"]}  # type: ignore[dict-item]
    for here, there in (("receivers", "on"), ("on", "receivers")):
        file.write_text(json.dumps({here: told[here]}), encoding="utf-8")
        settings = load_settings(file, {f"FLUXDROP_{there.upper()}": json.dumps(told[there])})
        assert settings.receivers == told["receivers"] and settings.on == told["on"]
    with pytest.raises(UsageProblem, match="FLUXDROP_ON: on.job.ended.0.: this is none of"):
        load_settings(tmp_path / "none.yaml", {"FLUXDROP_ON": "{job.ended: [ci]}"})


@pytest.mark.parametrize("text", ["{states: [rejected]}", "{}"])
def test_a_retention_that_would_remove_nothing_is_a_mistake(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageProblem, match="retention: give 'days', 'gb' or 'count'"):
        load_settings(tmp_path / "none.yaml", {"FLUXDROP_RETENTION": text})


@pytest.mark.parametrize("text", ["tgram://SECRET", "receivers：tgram://SECRET"])
def test_what_is_no_mapping_at_all_is_not_shown_where_it_may_be_an_address(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageProblem, match="1:1: … stands alone: ") as caught:
        load_settings(file)
    assert "SECRET" not in str(caught.value)


def test_receivers_are_not_shown_with_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    text = "receivers: {phone: {apprise: 'tgram://SECRET'}}\non: {job.ended: [phone]}\n"
    file.write_text(text, encoding="utf-8")
    settings = load_settings(file)
    assert settings.receivers["phone"] == {"apprise": "tgram://SECRET"}
    assert settings.on == {"job.ended": ["phone"]} and "SECRET" not in repr(settings)
