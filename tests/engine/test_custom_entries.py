"""A home's own registry entries: like another model but for what they say, checked with places."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.catalogue import RegistryCatalogue
from runner.engine.custom_entries import models_of, upscaler_of
from runner.engine.entries import MODEL_REGISTRY, UPSCALERS
from runner.engine.models import SingleFile
from runner.errors import UsageProblem
from runner.settings import Settings, load_settings

DEV = MODEL_REGISTRY["dev"]


def settings(folder: Path, text: str) -> Settings:
    file = folder / "fluxdrop.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file)


def test_without_entries_the_models_are_those_that_ship() -> None:
    assert models_of(Settings()) == MODEL_REGISTRY


def test_an_entry_is_like_its_model_but_for_what_it_says(tmp_path: Path) -> None:
    own = settings(
        tmp_path,
        """
registry:
  mine: {like: dev, repo: someone/fine-tune, revision: v2, licence: mine, gated: false,
         steps: 24, guidance: 2, width: 768, height: 512, kinds: [text2img]}
""",
    )
    mine = models_of(own)["mine"]
    assert (mine.repo, mine.revision, mine.licence) == ("someone/fine-tune", "v2", "mine")
    assert not mine.gated and mine.sizes.default == (768, 512)
    assert list(mine.serves) == ["text2img"]
    serving, usual = mine.serves["text2img"], DEV.serves["text2img"]
    assert (serving.steps, serving.guidance) == (24, 2.0)
    assert (serving.pipeline, mine.family, mine.weights) == (
        usual.pipeline,
        DEV.family,
        DEV.weights,
    )


def test_an_undistilled_sibling_of_a_distilled_model_has_guidance_and_a_negative_prompt(
    tmp_path: Path,
) -> None:
    text = """
registry:
  base: {like: klein, repo: x/base, guided: true, steps: 50, guidance: 4}
  z: {like: z-image-turbo, repo: x/z, guided: true, steps: 28, guidance: 4}
  same: {like: base, steps: 20}
  flux: {like: schnell, repo: x/f, guided: true, steps: 28, guidance: 3}
  distilled: {like: dev, repo: x/d, guided: false, guidance: 0}
"""
    found = models_of(settings(tmp_path, text))
    for serving in found["base"].serves.values():
        assert (serving.guided, serving.negative) == (True, "guidance")
        assert (serving.steps, serving.guidance) == (50, 4.0)
    assert found["base"].serves["text2img"].guided_by == "cfg"
    assert found["distilled"].serves["text2img"].guided_by == "none"
    ways = {name: found[name].serves["text2img"].negative for name in ("z", "same", "flux")}
    assert ways == {"z": "guidance", "same": "guidance", "flux": "true_cfg"}
    assert found["distilled"].serves["text2img"].negative == ""
    catalogue = RegistryCatalogue(settings(tmp_path, text))
    spec = {"kind": "text2img", "prompt": "a red circle", "guidance": 5}
    for name in ("base", "z"):
        assert catalogue.problems({**spec, "model": name, "negative_prompt": "blue"}) == []
    ((path, why),) = catalogue.problems({**spec, "model": "distilled"})
    assert path == "guidance" and "has no guidance" in why


@pytest.mark.parametrize(("like", "least"), [("klein", 1), ("z-image-turbo", 0)])
def test_a_negative_prompt_is_refused_at_a_guidance_at_which_the_pipeline_does_not_read_it(
    tmp_path: Path, like: str, least: float
) -> None:
    text = f"registry:\n  base: {{like: {like}, repo: x/base, guided: true, guidance: 4}}\n"
    catalogue = RegistryCatalogue(settings(tmp_path, text))
    spec = {"kind": "text2img", "model": "base", "prompt": "a", "negative_prompt": "blue"}
    ((path, why),) = catalogue.problems({**spec, "guidance": least})
    assert (path, why) == ("negative_prompt", f"base reads it with a `guidance` above {least} only")
    assert catalogue.problems({**spec, "guidance": least + 0.5}) == []


def test_an_entry_may_be_like_one_above_it_and_differ_in_its_steps_alone(tmp_path: Path) -> None:
    text = "registry:\n  a: {like: dev, repo: x/y}\n  b: {like: a, steps: 9}\n"
    found = models_of(settings(tmp_path, text))
    assert found["b"].repo == "x/y" and found["b"].serves["redux"].steps == 9
    assert found["a"].serves == DEV.serves


def test_a_folder_is_found_from_the_settings_file_and_asks_for_no_account(tmp_path: Path) -> None:
    text = "registry:\n  mine: {like: dev, folder: weights/mine}\n"
    mine = models_of(settings(tmp_path, text))["mine"]
    assert mine.repo == str(tmp_path.resolve() / "weights" / "mine") and not mine.gated


@pytest.mark.parametrize(
    ("entry", "single"),
    [
        ("repo: a/b, file: q4.gguf, revision: v1", SingleFile("q4.gguf", "a/b", "v1")),
        ("folder: /models, file: x.safetensors", SingleFile("x.safetensors", "/models")),
        ("file: /models/q4.gguf", SingleFile("/models/q4.gguf")),
    ],
)
@pytest.mark.skipif("sys.platform == 'win32'", reason="the paths of this table are of POSIX")
def test_a_single_file_replaces_the_transformer_only(
    tmp_path: Path, entry: str, single: SingleFile
) -> None:
    mine = models_of(settings(tmp_path, f"registry:\n  q: {{like: dev, {entry}}}\n"))["q"]
    assert mine.single == single
    assert (mine.repo, mine.gated) == (DEV.repo, True)
    assert mine.precisions == (("auto", "gguf") if "gguf" in entry else DEV.precisions)
    assert 0 < mine.bytes < DEV.bytes


@pytest.mark.parametrize(
    ("entry", "place", "says"),
    [
        ("dev: {like: dev}", "2:3: registry.dev", "in use already"),
        ("depth-anything: {like: dev}", "2:3: registry.depth-anything", "in use already"),
        ("realesr-anime: {like: dev}", "2:3: registry.realesr-anime", "in use already"),
        ("a: {like: devv}", "2:13: registry.a.like", "did you mean 'dev'?"),
        ("a: {like: dev, repo: x/y, folder: z}", "2:37: registry.a.folder", "leave one"),
        ("a: {like: dev, revision: v2}", "2:28: registry.a.revision", "name the repository"),
        ("a: {like: dev, file: x.bin}", "2:24: registry.a.file", "ends with .gguf"),
        ("a: {like: tiny, file: x.gguf}", "2:13: registry.a.like", "is built in"),
        ("a: {like: krea, kinds: [fill]}", "2:26: registry.a.kinds", "serves text2img, not"),
        ("a: {like: klein, guided: true}", "2:28: registry.a.guided", "name its usual `guidance`"),
        (
            "a: {like: klein-9b-kv, guided: true, guidance: 4}",
            "2:34: registry.a.guided",
            "klein-9b-kv is called without a guidance",
        ),
        ("a: {like: schnell, guidance: 2}", "2:32: registry.a.guidance", "set `guided: true`"),
        ("a: {like: tiny, width: 128}", "2:26: registry.a.width", "makes only 64×64"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, entry: str, place: str, says: str
) -> None:
    with pytest.raises(UsageProblem) as told:
        models_of(settings(tmp_path, f"registry:\n  {entry}\n"))
    assert f"fluxdrop.yaml:{place}: " in str(told.value) and says in str(told.value)


def test_the_settings_may_name_another_upscaler_or_a_file(tmp_path: Path) -> None:
    assert upscaler_of(Settings()) == UPSCALERS["realesr-general"]
    assert upscaler_of(settings(tmp_path, "upscaler: realesr-anime\n")).scale == 4
    own = upscaler_of(settings(tmp_path, "upscaler: nets/mine.PTH\n"))
    folder = os.path.realpath(tmp_path / "nets")
    assert (own.name, own.repo, own.file) == ("mine.PTH", folder, "mine.PTH")
    with pytest.raises(UsageProblem, match="did you mean 'realesr-anime'"):
        upscaler_of(settings(tmp_path, "upscaler: realesr-anim\n"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem) as told:
        models_of(settings(tmp_path, "registry:\n  dev: {like: dev}\n  a: {like: nothing}\n"))
    assert str(told.value).count("fluxdrop.yaml:") == 2


@pytest.mark.parametrize(
    "entry", ["{}", "{like: dev, repo: x}", "{like: dev, rev: v2}", "{like: dev, steps: 0}", "dev"]
)
def test_what_the_schema_refuses_is_told_when_the_settings_are_read(
    tmp_path: Path, entry: str
) -> None:
    with pytest.raises(UsageProblem, match=r"fluxdrop.yaml:2:\d+: registry.a"):
        settings(tmp_path, f"registry:\n  a: {entry}\n")


def test_the_catalogue_knows_them_and_what_they_cannot_do(tmp_path: Path) -> None:
    text = "models: {text2img: a}\nregistry:\n  a: {like: krea, repo: x/y, steps: 9}\n"
    catalogue = RegistryCatalogue(settings(tmp_path, text))
    spec = {"kind": "text2img", "prompt": "a red circle", "seed": 1}
    assert catalogue.default_model(spec) == "a" and catalogue.problems(spec) == []
    assert catalogue.parameters("a", "text2img")["steps"] == 9
    task = catalogue.task({**spec, "model": "a"}, job="j", index=1, inputs={})
    assert (task.model, task.steps) == ("a", 9)
    (problem,) = catalogue.problems({"kind": "redux", "model": "a", "image": "x.png"})
    assert problem[0] == "model" and "a cannot do redux" in problem[1]
