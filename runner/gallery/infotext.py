"""Writes the `parameters` text of A1111 and Forge for FLUX, and reads that of any program.

    a fox in the snow <lora:ink:0.8>
    Negative prompt: blurry                      (only where there is one)
    Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, …

The last line counts as settings only with three `Key: value` pairs or more. Keys are two or more
word characters, spaces, `-` or `/`; a value with a comma, a colon or a line end is a JSON string.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from runner.gallery.formatting import made_with, mapping, number_text

_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"')
_BLANKS = re.compile(r"\s*")
_KEY_SIGN = re.compile(r"[\w /-]")
_NEGATIVE = "Negative prompt:"
_DISTILLED = re.compile("schnell|klein(?!.?base)|turbo")


@dataclass(frozen=True)
class Infotext:
    """One `parameters` text: its prompts, and its settings as `Key: value` pairs."""

    prompt: str
    negative: str
    pairs: Mapping[str, str]


def write(sidecar: Mapping[str, Any]) -> str:
    """The `parameters` text of a sidecar, in Forge's order and spelling."""
    # No line of it may begin as the next part does.
    prompt = re.sub(r"(?m)^(\s*Negative prompt):", r"\1 :", str(sidecar.get("prompt") or ""))
    tags = [f"<lora:{name}:{number_text(weight)}>" for name, weight, _ in _loras(sidecar)]
    # Forge keeps a LoRA where the user typed it; in a spec LoRAs are a field, so they go last.
    prompt = " ".join([prompt, *tags]).strip() if tags else prompt
    if sidecar.get("negative_prompt"):
        prompt += f"\n{_NEGATIVE} {sidecar['negative_prompt']}"
    settings = ", ".join(f"{key}: {_quoted(value)}" for key, value in _pairs(sidecar))
    return f"{prompt}\n{settings}".strip()


def parse(text: str) -> Infotext | None:
    """Read a `parameters` text by the rules of A1111; None for a text without settings."""
    *lines, last = text.strip().split("\n")
    matches = list(_pairs_in(last))
    if len(matches) < 3:
        return None
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in (line.strip() for line in lines):
        if line.startswith(_NEGATIVE):
            part, line = negative, line.removeprefix(_NEGATIVE).strip()
        part.append(line)
    pairs = {key: _unquoted(value.strip()) for key, value in matches}
    return Infotext("\n".join(prompt), "\n".join(negative), pairs)


def _pairs_in(line: str) -> Iterator[tuple[str, str]]:
    r"""The pairs of the last line, as A1111 finds them by one regular expression:
    `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`.

    Its time grows with the square of the length, and any caller can write one; this reads it once.
    """
    begin = at = 0
    may_close = True  # where one quote is never closed, no later one is
    while (colon := line.find(":", at)) >= 0:
        first = colon
        while first > begin and _KEY_SIGN.match(line, first - 1):
            first -= 1
        key = line[first:colon].lstrip(" -/")
        at = begin = colon + 1
        if len(key) < 2:
            continue
        value = _BLANKS.match(line, at).end()  # type: ignore[union-attr]  # it may be empty
        quoted = _QUOTED.match(line, value) if may_close else None
        if quoted and line[quoted.end() : quoted.end() + 1] in ("", ","):
            end = quoted.end()
        else:
            is_open = line[value : value + 1] == '"' != line[value + 1 : value + 2]
            may_close = may_close and bool(quoted or not is_open)
            end = line.find(",", value)
            end = len(line) if end < 0 else end
        yield key, line[value:end]
        at = begin = end + 1


def _pairs(sidecar: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    result = mapping(sidecar.get("result"))
    model = mapping(result.get("model"))
    name = str(model.get("repo") or sidecar.get("model") or "unknown")
    yield "Steps", str(sidecar.get("steps", 0))
    yield "Sampler", "Euler"
    yield "Schedule type", "Simple"
    guidance, true_cfg = sidecar.get("guidance"), sidecar.get("true_cfg")
    guided_by = model.get("guided_by")
    if guided_by is None:  # older sidecars do not say it
        names = f"{name} {sidecar.get('model')}".lower()
        is_true = sidecar.get("negative_prompt") and not true_cfg
        is_none = _DISTILLED.search(names)
        guided_by = "cfg" if is_true else "none" if is_none else "distilled"
    yield "CFG scale", number_text((guidance if guided_by == "cfg" else true_cfg) or 1)
    if guidance and guided_by == "distilled":
        yield "Distilled CFG Scale", number_text(guidance)
    yield "Seed", str(sidecar.get("seed", 0))
    width, height = (result.get(k) or sidecar.get(k) for k in ("width", "height"))
    times = sidecar.get("upscale")
    if times in (2, 4) and isinstance(width, int) and isinstance(height, int):
        width, height = width // times, height // times
        yield "Hires upscale", str(times)
    if width and height:
        yield "Size", f"{width}x{height}"
    # Forge hashes one checkpoint file: the hash of a folder of weights would match no other.
    digest = str(model.get("sha256") or "")
    if re.fullmatch(r"[0-9a-fA-F]{10,}", digest):
        yield "Model hash", digest[:10].lower()
    own = name if model.get("repo") and not PurePath(name).is_absolute() else sidecar.get("model")
    yield "Model", PurePath(str(model.get("file") or "")).stem or str(own).rsplit("/", 1)[-1]
    if sidecar.get("strength") and sidecar.get("kind") != "control":
        yield "Denoising strength", number_text(sidecar["strength"])
    hashes = ", ".join(f"{name}: {digest[:12]}" for name, _, digest in _loras(sidecar) if digest)
    if hashes:
        yield "Lora hashes", hashes
    yield from _own_pairs(sidecar, result)
    yield "Version", made_with(result)


def _own_pairs(sidecar: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The pairs that only fluxdrop writes, with keys that other readers accept and ignore."""
    kind = str(sidecar.get("kind") or "text2img")
    if kind != "text2img":
        yield "Pipeline", kind
    if sidecar.get("control"):
        yield "Control type", str(sidecar["control"])
    if kind == "control" and "strength" in sidecar:
        yield "Control weight", number_text(sidecar["strength"])
    if result.get("job"):
        yield "Job", str(result["job"])
    if result.get("pack"):
        version = result.get("pack_version")
        yield "Pack", f"{result['pack']}@{version}" if version else str(result["pack"])


def _loras(sidecar: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """The name, weight and SHA-256 ("" if unknown) of each LoRA."""
    loras = []
    for lora in map(mapping, sidecar.get("loras") or ()):
        source = str(lora.get("path") or lora.get("repo") or "lora")
        # A colon or a bracket would end the tag `<lora:name:weight>` early.
        name = re.sub(r"[<>:,\r\n]+", "_", str(lora.get("name") or PurePath(source).stem))
        loras.append((name, lora.get("weight", 1.0), str(lora.get("sha256") or "")))
    return loras


def _quoted(value: str) -> str:
    if not any(mark in value for mark in ",:\n"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
