"""The settings: a mistake is told with its place, before anything is done with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import UsageProblem
from runner.settings import load_settings


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
    ("receivers", "told"),
    [
        ("phone: {aprise: 'tgram://SECRET'}", "receivers.phone.aprise: unknown key"),
        ("phone: 'tgram://SECRET'", "receivers.phone: "),
        ("phone: {apprise: [tgram://SECRET]}", "receivers.phone.apprise: "),
        ("phone: {command: 'curl SECRET'}", "receivers.phone.command: "),
        ("phone: {url: 'hooks.example.com/SECRET'}", "receivers.phone.url: not a URL"),
        ("phone: {url: 'https://x', secret_env: 'SECRET SECRET'}", "never the secret"),
        ("phone: {url: 'https://x', apprise: 'tgram://SECRET'}", "make two of it"),
        ("phone: {}", "needs one of 'apprise', 'url' and 'command'"),
        ("phone: {command: [SECRET], secret_env: X}", "give one as well"),
        ("'two words': {command: [SECRET]}", "cannot be the name of a receiver"),
        ("phone: {command: [x]}\non: {job.ended: [fone]}", "on.job.ended[0]: 'fone' is none of"),
        ("phone: {command: [x]}\non: {job.ended: [fone]}", "did you mean 'phone'?"),
        ("phone: {command: [x]}\non: {job.end: [phone]}", "on.job.end: "),
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


def test_receivers_are_not_shown_with_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "fluxdrop.yaml"
    text = "receivers: {phone: {apprise: 'tgram://SECRET'}}\non: {job.ended: [phone]}\n"
    file.write_text(text, encoding="utf-8")
    settings = load_settings(file)
    assert settings.receivers["phone"] == {"apprise": "tgram://SECRET"}
    assert settings.on == {"job.ended": ["phone"]} and "SECRET" not in repr(settings)
