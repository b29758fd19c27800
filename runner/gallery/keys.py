"""The keys by which a picture is found again: what was asked for, and how it was made.

A picture may stand in for an image that is yet to be made where both are the same. `asked` is the
digest of all of a spec that decides pixels and files; `setup` that of what decides how it is made;
`made` that of how it was made. Reads no file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from runner.gallery.formatting import mapping
from specs.expand import AXES, JOB_FIELDS

VERSIONS = ("torch", "diffusers", "transformers")
"""The packages whose versions are part of a key."""

_DIGEST = re.compile("[0-9a-f]{32}|[0-9a-f]{64}")
# Facts that sidecars have only where they are true, or of few models.
_NOT_SAID = {"weight_only": False, "rounds_inputs": False, "speed": {}}
_PLAN = ("device", "dtype", "text_precision", "placement", "tiled", "scheme", *_NOT_SAID)
_AIDS = (("upscaler", "name"), ("upscaler", "sha256"), ("estimator", "name"), ("estimator", "hash"))
# Of a spec, what changes neither the pixels nor the file. A precision is asked for as `auto`, and
# known only once the picture is made.
_NOT_ASKED = AXES | JOB_FIELDS | {"tags", "notes", "preview", "precision"}
_DEFAULTS = {"upscale": 1, "keep_original": False, "format": "png", "metadata": "full"}
# What differs between images that are made in the same way.
_OF_ONE_IMAGE = frozenset({
    "prompt", "negative_prompt", "seed", "steps", "guidance", "true_cfg", "strength", "format",
    "quality", "metadata", "keep_original",
})  # fmt: skip


def facts_of(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """All that changes pixels and is known only of a picture that was made, but for its versions.

    Sidecars older than the number of the recipe are of recipe 1.
    """
    result = mapping(sidecar.get("result"))
    facts = {**_NOT_SAID, **result}
    return {
        "recipe": facts.get("recipe", 1),
        "precision": sidecar.get("precision"),
        **{name: facts.get(name) for name in _PLAN},
        "hash": mapping(facts.get("model")).get("hash"),
        **{f"the {part}'s {name}": mapping(facts.get(part)).get(name) for part, name in _AIDS},
    }


def asked_fields(spec: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec of one image asks for that decides pixels and files, however it is written.

    `inputs` is what stands for its input images, by field.
    """
    fields: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in {**spec, **inputs}.items()
        if name not in _NOT_ASKED and not name.startswith("x_")
        if value not in (None, "") and value != _DEFAULTS.get(name, "")
    }
    if "loras" in fields:
        loras = fields["loras"]
        fields["loras"] = [[each.get("sha256") or each, each.get("weight", 1)] for each in loras]
    return fields


def asked_key(fields: Mapping[str, Any]) -> str:
    """The key of what `asked_fields` gives."""
    return _digest(fields)


def setup_key(fields: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The key of how an image that asks for these fields is made `here`."""
    alike = {name: value for name, value in fields.items() if name not in _OF_ONE_IMAGE}
    return _digest([alike, here])


def keys_in(sidecar: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a picture, from its sidecar; of older ones those that can be told."""
    result = mapping(sidecar.get("result"))
    versions = mapping(result.get("versions"))
    made = [facts_of(sidecar), {name: versions.get(name) for name in VERSIONS}]
    keys = {name: mapping(result.get("keys")).get(name) for name in ("asked", "setup")}
    if keys["asked"] is None and not {"image", "mask"} & sidecar.keys():
        with suppress(TypeError, AttributeError):  # of a sidecar of unknown origin
            keys["asked"] = asked_key(asked_fields(sidecar, {}))
    found = {**keys, "made": _digest(made), "sha256": result.get("sha256")}
    return {
        name: key for name, key in found.items() if isinstance(key, str) and _DIGEST.fullmatch(key)
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
