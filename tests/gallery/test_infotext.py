"""The `parameters` text: byte for byte as Forge writes it, and read by A1111's own rules."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gallery.foreign import _without_tags, from_infotext
from runner.gallery.infotext import _pairs_in, parse, write
from runner.gallery.xmp import spec_in
from tests.gallery.samples import sidecar

# A real picture of Forge with FLUX, as its users post them.
FORGE = (
    "a photo of a fox <lora:flux_lora_nina1:0.8>\n"
    "Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
    "Seed: 1083098466, Size: 1360x784, Model hash: 58725940e3, Model: flux-hyp16-Q5_0, "
    'Lora hashes: "flux_lora_nina1: e3b0c44298fc", '
    "Version: f2.0.1v1.10.1-previous-530-g8bd7e056, "
    "Diffusion in Low Bits: Automatic (fp16 LoRA), Module 1: ae, Module 2: clip_l"
)
WEBUI = (
    "masterpiece, cat\nsecond line\nNegative prompt: blurry,\nugly\n"
    "Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5000000000, Size: 500x700, "
    "Model: dreamshaper_8, Version: v1.9.0"
)


def test_flux_is_written_exactly_as_forge_writes_it() -> None:
    told = sidecar(
        loras=[{"path": "styles/ink.safetensors", "weight": 0.8, "sha256": "e3b0c44298fc1"}]
    )
    assert write(told) == (
        "a red fox in the snow <lora:ink:0.8>\n"
        "Steps: 28, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
        "Seed: 7, Size: 64x64, Model hash: 58725940e3, Model: FLUX.1-dev, "
        'Lora hashes: "ink: e3b0c44298fc", Job: hero, Version: fluxdrop 0.1.0'
    )


def test_a_model_of_ones_own_has_the_name_of_its_file_or_entry() -> None:
    def named(**model: Any) -> str:
        return write(sidecar(model="mine", result_model=model)).split("Model: ")[1].split(",")[0]

    assert named(repo="x/FLUX.1-dev", file="ink.v2.safetensors") == "ink.v2"
    assert named(repo="/home/ann/weights", file=None) == "mine"
    assert named(repo="ann/ink-flux") == "ink-flux" and named(repo=None) == "mine"


@pytest.mark.parametrize("line", ["Negative prompt: none", "  Negative prompt: none"])
def test_a_line_of_a_prompt_is_never_read_as_its_negative_prompt(line: str) -> None:
    for prompt in (line, f"a fox\n{line}\nin snow"):
        found = parse(write(sidecar(prompt=prompt, negative_prompt="blurry")))
        assert found is not None and found.negative == "blurry"
        assert found.prompt.replace("prompt :", "prompt:").split() == prompt.split()


def test_a_distilled_model_has_no_guidance_and_a_whole_number_has_no_point() -> None:
    schnell = sidecar(model="schnell", guidance=0.0, result_model={"repo": "x/FLUX.1-schnell"})
    assert "Distilled" not in write(schnell)
    klein = sidecar(model="klein", guidance=1.0, result_model={"repo": "x/FLUX.2-klein-4B"})
    assert "Distilled" not in write(klein)
    assert "Distilled CFG Scale: 4," in write(sidecar(guidance=4.0))


def test_a_negative_prompt_its_scale_and_a_strength_are_written_where_forge_writes_them() -> None:
    told = sidecar(negative_prompt="blurry,\nugly", true_cfg=2.5, strength=0.6, image="a.png")
    assert write(told) == (
        "a red fox in the snow\nNegative prompt: blurry,\nugly\n"
        "Steps: 28, Sampler: Euler, Schedule type: Simple, CFG scale: 2.5, "
        "Distilled CFG Scale: 3.5, Seed: 7, Size: 64x64, Model hash: 58725940e3, "
        "Model: FLUX.1-dev, Denoising strength: 0.6, Job: hero, Version: fluxdrop 0.1.0"
    )
    said = parse(write(told))
    assert said is not None and (said.prompt, said.negative) == (told["prompt"], "blurry,\nugly")


def test_the_guidance_that_weighs_a_negative_prompt_is_the_cfg_scale() -> None:
    text = write(sidecar(negative_prompt="blurry", guidance=4.0))
    assert "CFG scale: 4, Seed" in text and "Distilled" not in text


@pytest.mark.parametrize(
    ("guided_by", "said"),
    [
        ("cfg", "CFG scale: 4, Seed"),
        ("none", "CFG scale: 1, Seed"),
        ("distilled", "CFG scale: 1, Distilled CFG Scale: 4, Seed"),
    ],
)
@pytest.mark.parametrize("name", ["klein", "mine"])
def test_what_a_models_guidance_is_is_told_by_the_sidecar_and_not_by_the_models_name(
    guided_by: str, said: str, name: str
) -> None:
    """Seen red with siblings of klein and Z-Image without a negative prompt."""
    facts = {"repo": f"x/{name}", "guided_by": guided_by}
    assert said in write(sidecar(model=name, guidance=4.0, result_model=facts))


@pytest.mark.parametrize(
    ("model", "cfg", "given"),
    [
        ("flux1-dev-fp8", "2.5", {"negative_prompt": "blurry", "true_cfg": 2.5}),
        ("flux1-dev-fp8", "1", {"x_negative_prompt": "blurry"}),
        ("flux1-dev-fp8", "", {"x_negative_prompt": "blurry"}),
        ("flux1-schnell", "2.5", {"x_negative_prompt": "blurry"}),
        ("dreamshaper_8", "7", {"x_negative_prompt": "blurry"}),
        ("flux-2-klein-base-4b", "4", {"negative_prompt": "blurry", "guidance": 4.0}),
    ],
)
def test_a_negative_prompt_that_acted_is_one_of_the_spec_where_the_model_takes_one(
    model: str, cfg: str, given: dict[str, Any]
) -> None:
    scale = f"CFG scale: {cfg}, " if cfg else ""
    said = parse(f"cat\nNegative prompt: blurry\nSteps: 30, {scale}Seed: 5, Model: {model}")
    assert said is not None
    spec = from_infotext(said)
    said_of_it = ("negative_prompt", "x_negative_prompt", "true_cfg", "guidance")
    assert {key: part for key, part in spec.items() if key in said_of_it} == given


def test_what_another_program_started_from_a_picture_keeps_its_strength_aside() -> None:
    said = parse("cat\nSteps: 30, Seed: 5, Denoising strength: 0.75, Model: flux1-dev")
    assert said is not None and from_infotext(said)["x_strength"] == "0.75"


def test_other_kinds_say_what_they_are_in_legal_keys() -> None:
    text = write(
        sidecar(kind="control", control="depth", result_pack="lamps", result_pack_version="2")
    )
    assert "Pipeline: control, Control type: depth, Job: hero, Pack: lamps@2," in text


def test_how_much_a_map_counts_is_no_strength_of_a_picture_and_is_read_back() -> None:
    """With a ControlNet, for the model that other programs name has none."""
    facts = {"repo": "Tongyi-MAI/Z-Image-Turbo"}
    made = sidecar(kind="control", control="canny", strength=0.7, result_model=facts)
    text = write({**made, "model": "z-image-control"})
    assert "Denoising" not in text and "Control weight: 0.7" in text
    said = parse(text)
    assert said is not None
    spec = from_infotext(said)
    assert (spec["model"], spec["strength"]) == ("z-image-control", 0.7)


def test_a_value_with_a_comma_or_colon_is_quoted() -> None:
    text = write(sidecar(result_model={"repo": 'my, "own": model'}))
    assert r'Model: "my, \"own\": model"' in text
    said = parse(text)
    assert said is not None and said.pairs["Model"] == 'my, "own": model'


def test_redux_without_a_prompt_still_has_its_line() -> None:
    said = parse(write(sidecar(kind="redux", prompt="")))
    assert said is not None and (said.prompt, said.pairs["Pipeline"]) == ("", "redux")


def test_forges_own_picture_becomes_a_spec() -> None:
    said = parse(FORGE)
    assert said is not None
    assert from_infotext(said) == {
        "kind": "text2img",
        "x_model": "flux-hyp16-Q5_0",
        "prompt": "a photo of a fox",
        "seed": 1083098466,
        "steps": 20,
        "guidance": 3.5,
        "width": 1360,
        "height": 784,
        "loras": [
            {"path": "flux_lora_nina1.safetensors", "weight": 0.8, "name": "flux_lora_nina1"}
        ],
        "x_made_with": "f2.0.1v1.10.1-previous-530-g8bd7e056",
    }


def test_what_we_cannot_do_is_kept_aside_not_made_up() -> None:
    said = parse(WEBUI)
    assert said is not None
    assert from_infotext(said) == {
        "kind": "text2img",
        "x_model": "dreamshaper_8",
        "prompt": "masterpiece, cat\nsecond line",
        "x_seed": "5000000000",
        "steps": 30,
        "x_size": "500x700",
        "x_negative_prompt": "blurry,\nugly",
        "x_made_with": "v1.9.0",
    }


@pytest.mark.parametrize("text", ["", "just a prompt", "a: b, c: d", "\n\n"])
def test_a_text_without_settings_is_none(text: str) -> None:
    assert parse(text) is None


_line = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\n")).map(
    str.strip
)
_prompts = (
    st.lists(_line, max_size=4)
    .map("\n".join)
    .map(str.strip)
    .filter(
        lambda p: not any(line.strip().startswith("Negative prompt:") for line in p.split("\n"))
    )
)


@given(
    prompt=_prompts,
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 1000),
    guidance=st.floats(0.1, 100).map(lambda number: round(number, 3)),
    model=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1)
    .map(str.strip)
    .filter(bool),
)
def test_whatever_is_written_is_read_back(
    prompt: str, seed: int, steps: int, guidance: float, model: str
) -> None:
    facts: dict[str, Any] = {"repo": model.replace("/", "") or "m"}
    told = sidecar(prompt=prompt, seed=seed, steps=steps, guidance=guidance, result_model=facts)
    said = parse(write(told))
    assert said is not None
    assert said.prompt == "\n".join(line.strip() for line in prompt.split("\n"))
    assert (said.pairs["Seed"], said.pairs["Steps"]) == (str(seed), str(steps))
    if not any(word in model.lower() for word in ("schnell", "klein", "turbo")):
        assert float(said.pairs["Distilled CFG Scale"]) == pytest.approx(guidance, rel=1e-5)
    assert said.pairs["Size"] == "64x64"
    assert said.pairs["Version"] == "fluxdrop 0.1.0"


@given(st.text(st.sampled_from('ab:_-/ ,"\\\té١'), max_size=40))
def test_pairs_are_found_as_the_expression_of_a1111_finds_them(line: str) -> None:
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line)
    assert list(_pairs_in(line)) == found


_PIECES = ("<lora:", "<", "a", ":", ">", " ", "\n", "0.8", "-1")


@given(st.lists(st.sampled_from(_PIECES), max_size=30).map("".join))
def test_tags_are_found_and_removed_as_by_an_expression(prompt: str) -> None:
    tag = re.compile(r"\s*<lora:([^:>]+)(?::([\d.+-]+))?[^>]*>")
    assert _without_tags(prompt) == (tag.sub("", prompt), tag.findall(prompt))


_LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "a" * _LONG, "a " * (_LONG // 2), "a" * _LONG + ": 1, bb: 2, cc: 3", " " * _LONG + "x",
        'k1: "a' * (_LONG // 6), 'k1: "a, ' * (_LONG // 8), "k1:" + " " * _LONG + '"',
        'k1: "' + "\\" * _LONG, "<lora:" * (_LONG // 6) + "\naa: 1, bb: 2, cc: 3",
        " " * _LONG + "<lora:a" * 1000 + "\naa: 1, bb: 2, cc: 3", "<lora:a>" * (_LONG // 8)
        + "\naa: 1, bb: 2, cc: 3", "x\naa: 1, bb: 2, Model: " + "flux" * (_LONG // 4),
        "<fluxdrop:spec>" * (_LONG // 15), "\n" * _LONG, "Negative prompt:" * (_LONG // 16),
    ],
)  # fmt: skip
def test_a_text_of_200_kb_takes_no_time(text: str) -> None:
    """Seen red: most of these took minutes, by a single regular expression."""
    began = time.process_time()
    for _ in range(2):
        said = parse(text)
        if said:
            from_infotext(said)
        spec_in(text.encode())
    assert time.process_time() - began < 2
