"""What intake asks of the registry: problems, defaults, tasks, warnings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.models import Sizes
from runner.engine.registry import KINDS, default_model, problems, realise, warnings
from runner.task import InputImage
from specs import schemas

FEW = {
    name: MODEL_REGISTRY[name]
    for name in ("tiny", "klein", "z-image-turbo", "schnell", "dev", "krea", "fill-dev", "depth")
}
"""Models for sentences that list those that can, which another model must not make longer."""


def paths(**spec: Any) -> list[str]:
    return [path for path, _ in problems(spec, models=FEW)]


def message(**spec: Any) -> str:
    ((_, text),) = problems(spec, models=FEW)
    return text


@pytest.mark.parametrize(
    "code",
    [
        "import runner.engine.registry, runner.engine.hub",
        # An executor with nothing to do, started, emptied and closed.
        "import pathlib, runner.engine.gpu_thread as g\n"
        "e = g.GpuThread(pathlib.Path('.')); e.release(); e.stop('gpu0'); e.close()",
    ],
)
def test_none_of_the_heavy_libraries_is_imported_before_there_is_work(code: str) -> None:
    code += (
        "\nimport sys\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_model_serves_kinds_that_exist_with_a_family_they_know() -> None:
    for model in MODEL_REGISTRY.values():
        for name, serving in model.serves.items():
            assert model.family in KINDS[name].arguments
            assert (serving.prior is None) == (model.family not in KINDS[name].prior)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_model_of_a_kind_serves_it(kind: str) -> None:
    assert kind in MODEL_REGISTRY[default_model({"kind": kind})].serves


def test_the_spec_beats_the_settings_and_they_beat_the_default() -> None:
    settings = {"text2img": "krea"}
    assert default_model({"kind": "text2img", "model": "dev"}, settings) == "dev"
    assert default_model({"kind": "text2img"}, settings) == "krea"
    assert default_model({"kind": "text2img"}) == "klein"
    assert default_model({"kind": "control", "control": "depth"}) == "z-image-control"
    assert default_model({"kind": "control"}, {"control": "canny"}) == "canny"


def test_a_model_that_is_here_and_was_the_default_for_its_map_stays_the_default() -> None:
    both = {"canny", "depth"}.__contains__
    for control, spec in {"canny": {}, "depth": {"control": "depth"}}.items():
        asked = {"kind": "control", **spec}
        assert default_model(asked, None, both) == control
        assert default_model(asked, None, {"klein"}.__contains__) == "z-image-control"
    varied = {"kind": "control", "matrix": {"control": ["canny", "depth"]}}
    assert default_model(varied, None, both) == "z-image-control", "it follows both"
    one = {"kind": "control", "matrix": {"control": ["depth"]}}
    assert default_model(one, None, both) == "depth"
    for weighed in ({"strength": 0.5}, {"matrix": {"strength": [0.5, 1]}}):
        assert default_model({"kind": "control", **weighed}, None, both) == "z-image-control"


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_model_of_every_kind_is_free_and_asks_for_no_account(kind: str) -> None:
    """A new home has the default by `control` alone: nothing is here."""
    specs = [{"kind": kind}, {"kind": kind, "image": "a.png"}]
    specs += [{"kind": kind, "control": each} for each in ("canny", "depth")]
    for spec in specs:
        model = MODEL_REGISTRY[default_model(spec)]
        serving = model.serves[kind]
        assert not model.builtin and not model.gated
        beside = [each.licence for each in (serving.controlnet, serving.estimator) if each]
        assert {model.licence, *beside} == {"Apache-2.0"} and serving.prior is None


def test_a_map_is_weighed_by_the_models_that_can_and_no_other() -> None:
    spec = {"kind": "control", "image": "a.png", "prompt": "a", "strength": 0}
    assert problems({**spec, "control": "depth", "model": "z-image-control"}) == []
    told = "canny cannot weigh its map; leave `strength` out; z-image-control can"
    assert problems({**spec, "model": "canny"}) == [("strength", told)]
    varied = {**spec, "model": "tiny", "matrix": {"strength": [0.5]}}
    assert [path for path, _ in problems(varied)] == ["matrix.strength.0"]


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    assert "did you mean 'schnell'?" in message(kind="text2img", model="schnel")


def test_a_kind_that_a_model_cannot_do_is_answered_with_the_models_that_can() -> None:
    text = message(kind="fill", model="dev")
    assert text == "dev cannot do fill; tiny, klein, z-image-turbo and fill-dev can"


def test_tiny_makes_only_its_own_size() -> None:
    assert message(kind="text2img", model="tiny", width=128, height=64) == "tiny makes only 64×64"
    assert paths(kind="text2img", model="tiny", width=64) == []


@pytest.mark.parametrize(
    ("width", "height"), [(1000, 1024), (32, 1024), (8192, 1024), (4096, 2048)]
)
def test_sizes_outside_of_the_model_are_refused(width: int, height: int) -> None:
    assert paths(kind="text2img", model="dev", width=width, height=height) == ["width"]


def test_what_would_have_more_than_4096_pixels_a_side_is_refused_with_the_value_that_fits() -> None:
    """Seen red: with the longer side left out of the comparison."""
    large = {"kind": "text2img", "model": "klein", "width": 2048, "height": 1024}
    assert problems({**large, "upscale": 2}) == []
    assert problems({**large, "upscale": 4}) == [
        ("upscale", "2048×1024 would become 8192×4096, and a side has at most 4096 pixels:"
         " `upscale: 2` fits")
    ]  # fmt: skip
    assert message(**large | {"width": 2064}, upscale=2).endswith("pixels: leave `upscale` out")
    follows = {"kind": "kontext", "model": "klein", "image": "a.png", "prompt": "a", "height": 1040}
    ((_, told),) = problems({**follows, "upscale": 4})
    assert told.startswith("1040 would become 4160, and")
    assert paths(**large, matrix={"upscale": [2, 4]}) == ["matrix.upscale.1"]
    one_side = {"kind": "kontext", "model": "klein", "height": 1040}
    assert (paths(**one_side, upscale=2), paths(**one_side, upscale=4)) == ([], ["upscale"])
    assert paths(kind="kontext", model="klein", upscale=4) == []


def test_without_upscale_a_task_is_as_it_was() -> None:
    task = realise({"kind": "text2img", "prompt": "x", "seed": 4}, job="j", index=2, inputs={})
    assert (task.upscale, task.keep_original) == (1, False)


@pytest.mark.parametrize(
    ("weights", "refused"),
    [((1, -0.5), 0), ((3, 1, 0), 0), ((0, 0), 1), ((1, -0.99), 1), ((1, -1), 1), ((-2, 1), 1)],
)
def test_weights_that_have_no_share_in_their_sum_are_refused(
    weights: tuple[float, ...], refused: int
) -> None:
    image = [{"path": "a.png", "weight": weight} for weight in weights]
    assert paths(kind="redux", model="tiny", image=image) == ["image"] * refused


def test_several_pictures_and_weights_are_refused_where_one_plain_one_is_read() -> None:
    image = [{"path": "a.png", "weight": 0.5}, "b.png"]
    assert paths(kind="kontext", model="tiny", image=image) == ["image", "image[0].weight"]
    assert paths(kind="redux", model="tiny", image=image) == []
    assert paths(kind="fill", model="tiny", image={"path": "a.png", "weight": 1}) == [
        "image.weight"
    ]


def test_a_single_picture_cannot_count_less_than_nothing() -> None:
    below, nothing = ({"path": "a.png", "weight": weight} for weight in (-0.5, 0))
    assert paths(kind="redux", model="tiny", image=[below]) == ["image[0].weight"]
    assert paths(kind="redux", model="tiny", image=[nothing]) == []
    assert paths(kind="redux", model="tiny", image=[below, "b.png"]) == []


def test_control_maps_that_a_model_does_not_follow_are_refused() -> None:
    text = message(kind="control", model="tiny", control="depth", image="a.png")
    assert text == "tiny follows canny, not depth; depth can"


def test_a_model_of_depth_maps_alone_is_told_with_the_field_that_asks_for_them() -> None:
    """Seen red: other models were named, and the field was not."""
    said = message(kind="control", model="depth", image="a.png")
    assert said == "depth follows depth, not canny: write `control: depth`"


def test_depth_is_made_by_an_estimator_or_given_as_a_ready_map() -> None:
    spec = {"kind": "control", "control": "depth", "image": "a.png"}
    assert problems(spec) == problems({**spec, "preprocessed": True}) == []
    spec["model"] = "depth"
    depth = MODEL_REGISTRY["depth"]
    blind = replace(depth.serves["control"], estimator=None)
    models = {"depth": replace(depth, serves={"control": blind})}
    assert [path for path, _ in problems(spec, models=models)] == ["preprocessed"]
    assert problems({**spec, "preprocessed": True}, models=models) == []


def test_precision_guidance_and_loras_that_a_model_lacks_are_refused_together() -> None:
    spec = {"kind": "text2img", "model": "schnell", "precision": "fp16", "guidance": 3.5}
    spec["loras"] = [{"path": "x.safetensors"}]
    models = {**FEW, "schnell": replace(FEW["schnell"], loras=False)}
    found = problems(spec, models=models)
    assert [path for path, _ in found] == ["precision", "guidance", "loras"]
    guided = found[1][1]
    assert guided == (
        "schnell has no guidance; leave it out or set it to 0; tiny, dev and krea can"
    )
    assert problems(spec | {"model": "dev", "precision": "nf4"}) == []
    assert paths(kind="text2img", model="tiny", precision="nf4") == ["precision"]


@pytest.mark.parametrize("kind", MODEL_REGISTRY["klein"].serves)
def test_klein_has_no_guidance_and_takes_its_own_sidecars_back(kind: str) -> None:
    spec = {"kind": kind, "model": "klein", **({} if kind == "text2img" else {"image": "a.png"})}
    assert paths(**spec, guidance=3.5) == ["guidance"]
    own = realise({"kind": kind, "prompt": "x", "seed": 4}, job="j", index=1, inputs={})
    assert (own.model, own.steps, own.guidance) == ("klein", 4, 1.0)
    assert paths(**spec, guidance=own.guidance) == []
    assert paths(**spec, guidance=0) == []


def test_a_negative_prompt_is_refused_where_a_model_takes_none_and_those_that_do_are_named() -> (
    None
):
    asked = {"kind": "text2img", "negative_prompt": "text"}
    text = message(**asked)
    assert text == "klein takes no `negative_prompt`; leave it out; tiny, dev and krea can"
    assert paths(**asked, model="z-image-turbo", true_cfg=2) == ["negative_prompt", "true_cfg"]
    assert paths(**asked, model="dev", true_cfg=2) == paths(**asked, model="tiny") == []
    assert paths(kind="kontext", model="tiny", image="a.png", negative_prompt="text") == []
    varied = {"negative_prompt": ["text"], "model": ["dev", "schnell"]}
    assert [path for path, _ in problems({"kind": "text2img", "matrix": varied}, models=FEW)] == [
        "matrix.negative_prompt.0"
    ]


def test_where_guidance_weighs_the_negative_prompt_true_cfg_is_refused_and_so_is_no_guidance() -> (
    None
):
    klein = FEW["klein"]
    base = replace(klein.serves["text2img"], guided=True, guidance=4.0, negative="guidance")
    models = {"base": replace(klein, name="base", serves={"text2img": base})}

    def said(**asked: Any) -> list[tuple[str, str]]:
        return problems({"kind": "text2img", "model": "base", **asked}, models=models)

    assert said(negative_prompt="text") == said(negative_prompt="text", guidance=2) == []
    assert said(true_cfg=2) == [
        ("true_cfg", "of base `guidance` is the true CFG: leave `true_cfg` out")
    ]
    assert said(negative_prompt="text", guidance=1) == [
        ("negative_prompt", "base reads it with a `guidance` above 1 only")
    ]


def test_text2img_with_a_picture_is_refused_where_no_pipeline_starts_from_one() -> None:
    text = message(kind="text2img", model="klein", image="a.png")
    assert text == (
        "klein cannot start from a picture; leave `image` out;"
        " tiny, z-image-turbo, schnell, dev and krea can; `kind: kontext` edits with klein"
    )
    assert paths(kind="text2img", model="schnell", image="a.png", strength=0.5) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("flux-dev", "dev"), ("FLUX.1-dev", "dev"), ("black-forest-labs/FLUX.1-schnell", "schnell"),
     ("flux1-krea", "krea"), ("FLUX.2-klein-4B", "klein"), ("FLUX.1-Fill-dev", "fill-dev"),
     ("FLUX.3-klein", "flux3-klein"), ("flux-3-klein-base", "flux3-klein-base"),
     ("black-forest-labs/flux-3-image-klein", "flux3-klein"),
     ("black-forest-labs/flux-3-image-klein-base", "flux3-klein-base"),
     ("black-forest-labs/FLUX.2-klein-9B", "klein-9b"), ("FLUX.2-klein-base-9B", "klein-base-9b"),
     ("Tongyi-MAI/Z-Image-Turbo", "z-image-turbo"), ("flux", None)],
)  # fmt: skip
def test_a_model_under_its_makers_name_is_known(name: str, meant: str | None) -> None:
    ((_, text),) = problems({"kind": "text2img", "prompt": "a", "model": name})
    assert (f"did you mean {meant!r}?" in text) == (meant is not None)


@pytest.mark.parametrize(
    ("prompt", "syntax"),
    [("a fox <lora:ink:0.8>", "<lora:ink:0.8>"), ("a (red fox:1.3)", "(red fox:1.3)"),
     ("a fox (red) at 12:30 (see 1:2)", None), ("a < b", None)],
)  # fmt: skip
def test_another_programs_syntax_in_a_prompt_is_warned_of(prompt: str, syntax: str | None) -> None:
    found = warnings({"kind": "text2img", "model": "dev", "prompt": prompt})
    told = f"`{syntax}` is plain text here: `loras` has LoRA files, words no weights"
    assert found == ([told] if syntax else [])


def test_text2img_with_a_picture_has_a_default_model_that_can_start_from_it() -> None:
    texts = [model.serves.get("text2img") for model in MODEL_REGISTRY.values() if model.repo]
    able = next(each for each in texts if each and each.img2img)
    assert MODEL_REGISTRY["z-image-turbo"].serves["text2img"] is able
    spec = {"kind": "text2img", "image": "a.png"}
    assert default_model(spec) == "z-image-turbo"
    assert problems(spec) == []
    assert default_model(spec, {"text2img": "dev"}) == "dev"


def test_klein_reads_four_references_and_weighs_none() -> None:
    images = ["a.png", "b.png", "c.png", "d.png"]
    assert paths(kind="kontext", image=images) == paths(kind="redux", image=images) == []
    text = message(kind="redux", model="klein", image=[*images, "e.png"])
    assert text == "klein reads at most 4 pictures; 5 are given; dev can"
    text = message(kind="redux", image=[{"path": "a.png", "weight": 0.5}, "b.png"])
    assert text == "klein cannot weigh a picture; leave `weight` out; tiny and dev can"


def test_sizes_belong_to_a_model_and_a_kind() -> None:
    large = {"width": 2048, "height": 2048}
    assert paths(kind="text2img", model="klein", **large) == []
    assert paths(kind="kontext", model="klein", image="a.png", **large) == []
    text = message(kind="fill", model="klein", image="a.png", **large)
    assert text == "klein makes at most 1,048,576 pixels; 2048×2048 are 4,194,304"
    assert paths(kind="fill", model="fill-dev", image="a.png", **large) == []


def test_a_lone_side_is_judged_alone_where_the_other_follows_a_picture() -> None:
    assert paths(kind="fill", model="klein", image="a.png", width=2048) == []
    assert paths(kind="fill", model="tiny", image="a.png", width=128) == ["width"]
    assert paths(kind="kontext", model="klein", image="a.png", height=72) == ["height"]


def test_a_variation_without_words_is_asked_for_in_the_models_own() -> None:
    def prompt(model: str, **spec: Any) -> str:
        spec = {"kind": "redux", "model": model, "seed": 1, **spec}
        return realise(spec, job="j", index=1, inputs={}).prompt

    assert prompt("klein") == MODEL_REGISTRY["klein"].serves["redux"].words != ""
    assert prompt("klein", prompt="in winter") == "in winter"
    assert prompt("dev") == ""


def test_every_value_of_a_matrix_is_looked_at() -> None:
    matrix = {"model": ["tiny", "dev", "nope"], "width": [64, 128], "prompt": ["a", "b"]}
    found = problems({"kind": "text2img", "matrix": matrix})
    assert [path for path, _ in found] == ["matrix.width.1", "matrix.model.2"]


def test_a_task_has_every_default_filled_in() -> None:
    task = realise({"kind": "text2img", "prompt": "x", "seed": 4}, job="j", index=2, inputs={})
    assert (task.model, task.steps, task.guidance) == ("klein", 4, 1.0)
    assert (task.width, task.height, task.precision) == (1024, 1024, "auto")


def test_what_a_task_has_of_a_spec_is_filled_in() -> None:
    spec = {"kind": "text2img", "model": "dev", "prompt": "x", "seed": 4, "steps": 5}
    spec |= {"guidance": 6.0, "width": 80, "height": 96, "precision": "bf16", "timeout": 9.0}
    spec |= {"upscale": 4, "keep_original": True, "preview": True}
    task = realise(spec, job="j", index=1, inputs={})
    fields = schemas.load("text2img")["properties"].keys() & vars(task).keys()
    # LoRAs are given as they were pinned.
    assert {name: getattr(task, name) for name in fields - {"loras"}} == spec


def test_a_task_with_a_picture_follows_its_size_and_keeps_the_kinds_options() -> None:
    spec = {"kind": "fill", "prompt": "x", "seed": 4, "outpaint": {"left": 16}, "steps": 9}
    spec["model"] = "fill-dev"
    image = InputImage(Path("a.png"))
    task = realise(spec, job="j", index=1, inputs={"image": [image]})
    assert (task.width, task.height, task.steps, task.guidance) == (None, None, 9, 30.0)
    assert task.options == {
        "outpaint": {"left": 16}, "composite": True, "whole": False, "strength": 1.0,
        "invert_mask": False,
    }  # fmt: skip
    assert task.inputs == {"image": (image,)}
    assert json.dumps(dict(task.options))


def test_a_model_of_long_captions_warns_once_of_all_the_short_prompts_of_a_job() -> None:
    spec = {"kind": "text2img", "model": "flux3-klein"}
    told = {text for words in (1, 59) for text in warnings({**spec, "prompt": "cat " * words})}
    assert len(told) == 1 and "captions of 100 to 350 words" in told.pop()
    assert warnings({**spec, "prompt": "cat " * 60}) == []
    assert warnings({"kind": "redux", "model": "flux3-klein", "image": "a.png"}) == []


def test_prompts_and_models_of_a_matrix_are_warned_of_too() -> None:
    """Seen red: only the spec's own prompt and its default model were looked at."""
    spec = {"kind": "text2img", "prompt": "a cat"}
    (told,) = warnings({**spec, "matrix": {"model": ["klein", "flux3-klein"]}})
    assert told.startswith("flux3-klein was trained")
    matrix = {"prompt": ["cat " * 60, "a cat"]}
    (told,) = warnings({"kind": "text2img", "model": "flux3-klein", "matrix": matrix})
    assert told.startswith("flux3-klein was trained")
    matrix = {"prompt": ["a red circle", "a red zebra", "a lion"], "model": ["tiny"]}
    (told,) = warnings({"kind": "text2img", "matrix": matrix})
    assert "does not know `zebra`, `lion`" in told


def test_a_language_without_spaces_has_a_word_in_each_character() -> None:
    """Seen red: a caption of a hundred characters counted as one word."""
    spec = {"kind": "text2img", "model": "flux3-klein"}
    assert warnings({**spec, "prompt": "一只橘猫坐在窗边。" * 8}) == []
    assert warnings({**spec, "prompt": "一只橘猫"})


def test_a_model_says_how_many_references_it_reads() -> None:
    spec = {"kind": "kontext", "model": "flux3-klein", "prompt": "a"}
    assert problems({**spec, "image": ["a.png"] * 10}) == []
    ((path, text),) = problems({**spec, "image": ["a.png"] * 11})
    assert path == "image" and "reads at most 10 pictures; 11 are given" in text


def test_only_the_built_in_model_warns_of_words_it_does_not_know() -> None:
    assert warnings({"kind": "text2img", "model": "dev", "prompt": "a cat"}) == []
    assert warnings({"kind": "text2img", "model": "tiny", "prompt": "a red circle"}) == []
    (text,) = warnings({"kind": "text2img", "model": "tiny", "prompt": "a red cat"})
    assert "`cat`" in text


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((64, 64), (64, 64)),
        ((1000, 700), (992, 688)),
        ((4000, 3000), (1664, 1248)),
        ((100, 7), (96, 64)),
    ],
)
def test_a_size_that_follows_a_picture_is_floored_and_bounded(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    assert Sizes().following(*picture) == size
    assert Sizes().problem(*size) is None


def test_a_size_that_is_scaled_into_bounds_loses_no_step_to_rounding() -> None:
    """In floating point the sides come out as 511.99…94 and 2047.99…98."""
    assert MODEL_REGISTRY["klein"].sizes.following(520, 2080) == (512, 2048)
