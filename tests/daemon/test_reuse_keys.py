"""What decides pixels or files is in the keys, whatever its name; what does not is in none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.catalogue import RegistryCatalogue
from runner.daemon import reuse
from runner.daemon.tasks import InFlight, inputs_of
from runner.engine.hub import library as hub
from runner.engine.weights.fingerprint import Hashes
from runner.gallery.keys import asked_fields, asked_key, keys_in
from runner.settings import Home
from runner.task import Lora
from specs import expand, schemas

CASES: Mapping[str, Mapping[str, Any]] = {
    "text2img": {"image": "cat.png"},
    "kontext": {"image": "cat.png"},
    "fill": {"image": "cat.png", "mask": "mask.png"},
    "control": {"image": "cat.png", "control": "canny"},
    "redux": {"image": [{"path": "cat.png", "weight": 1}]},
}
DECIDE: Mapping[str, Any] = {
    "model": "klein", "prompt": "a blue star", "negative_prompt": "text", "seed": 8,
    "steps": 9, "guidance": 1.75, "true_cfg": 3, "width": 128, "height": 128, "precision": "fp32",
    "strength": 0.5, "upscale": 2, "keep_original": True, "format": "webp", "quality": 60,
    "metadata": "none", "image": "dog.png", "mask": "dog.png", "control": "depth",
    "preprocessed": True, "composite": False, "invert_mask": True, "whole": True,
    "outpaint": {"left": 64}, "loras": [{"path": "ink.safetensors", "sha256": "a" * 64}],
}  # fmt: skip
DO_NOT: Mapping[str, Any] = {
    "id": "mine", "tags": ["mine"], "notes": "mine", "priority": 9, "reuse": True, "x_row": 3,
    "not_before": "2999-01-01T00:00", "window": "23:00-07:00", "timeout": 9, "preview": True,
    "notify": ["phone"],
}  # fmt: skip
AXES = {"kind", *expand.AXES}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    for name, colour in (("cat", "red"), ("dog", "blue"), ("mask", "white")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    return home


def keys(home: Home, spec: Mapping[str, Any]) -> dict[str, str]:
    """The keys of an image of this spec."""
    loras = tuple(Lora(Path(e["path"]), sha256=e["sha256"]) for e in spec.get("loras", ()))
    inputs = inputs_of(spec, lambda text: home.root / text)
    catalogue = RegistryCatalogue(home.settings, home.data)
    task = catalogue.task(spec, job="hero", index=1, inputs=inputs, loras=loras)
    return reuse.Reuse(home).keys(InFlight(task, spec, {}), {})


def base(kind: str) -> dict[str, Any]:
    return {"kind": kind, "model": "tiny", "prompt": "a red circle", "seed": 7, **CASES[kind]}


@pytest.mark.parametrize("kind", schemas.kinds())
def test_every_field_that_decides_changes_the_key_and_no_other_does(kind: str, home: Home) -> None:
    """Seen red: a field of either sort taken for one of the other."""
    known = keys(home, base(kind))
    assert known.keys() == {"asked", "setup"}
    fields = schemas.load(kind)["properties"].keys() - AXES
    assert fields <= DECIDE.keys() | DO_NOT.keys(), "say of a new field whether it decides"
    others = {**DECIDE, **({"model": "z-image-control"} if kind == "control" else {})}
    for name in fields & others.keys():
        assert keys(home, base(kind) | {name: others[name]}) != known, name
    for name, value in DO_NOT.items():
        assert keys(home, base(kind) | {name: value}) == known, name


def test_an_estimator_that_was_replaced_in_its_place_is_another(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: known by its folder."""
    folder = tmp_path / "estimator"
    folder.mkdir()
    monkeypatch.setattr(hub.Disk, "estimator", lambda library, aid: folder)
    monkeypatch.setattr(reuse.Reuse, "_hash_of", lambda *_, **of: "sha256:0")
    asked = base("control") | {"model": "z-image-control", "control": "depth"}
    file = folder / "model.safetensors"
    file.write_bytes(b"one")
    first = keys(home, asked)
    assert keys(home, asked) == first
    file.write_bytes(b"two")
    assert keys(home, asked)["setup"] != first["setup"]
    file.write_bytes(bytes(2**20))
    assert "setup" not in keys(home, asked), "only the engine reads large files"
    Hashes(home.data / "cache" / "hashes.json").of([file])
    assert "setup" in keys(home, asked)
    assert keys(home, asked | {"preprocessed": True})["setup"] != first["setup"]


@pytest.mark.parametrize("first", ["image", "loras"])
def test_the_order_of_pictures_and_loras_and_their_weights_count(first: str, home: Home) -> None:
    def of(a: float, b: float) -> dict[str, str]:
        pictures = [{"path": "cat.png", "weight": a}, {"path": "dog.png", "weight": b}]
        loras = [{"path": "x", "sha256": n * 64, "weight": w} for n, w in (("a", a), ("b", b))]
        return keys(home, base("redux") | {first: pictures if first == "image" else loras})

    assert of(1, 0.5) == of(1, 0.5)
    assert len({of(1, 0.5)["asked"], of(0.5, 1)["asked"], of(1, 1)["asked"]}) == 3


def test_what_is_written_in_other_ways_is_the_same(home: Home) -> None:
    plain = {k: v for k, v in base("text2img").items() if k != "image"}
    spelled = {"steps": 8, "guidance": 3.5, "format": "png", "metadata": "full", "width": 64.0}
    assert keys(home, plain) == keys(home, plain | spelled | {"keep_original": False})
    told = keys_in(plain | {"steps": 8, "guidance": 3.5, "width": 64, "height": 64, "tags": ["a"]})
    assert told["asked"] == keys(home, plain)["asked"]


@pytest.mark.parametrize("loras", [3, ["ink"], [{}], {"a": 1}])
def test_a_sidecar_that_anybody_may_have_written_has_at_most_no_key(loras: Any) -> None:
    assert keys_in({"loras": loras, "result": {"model": 3, "versions": [], "keys": "no"}})
    assert asked_key(asked_fields({"loras": [{}]}, {}))
