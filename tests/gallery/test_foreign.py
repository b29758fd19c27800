"""Pictures and sidecars of other programs, understood as far as they go."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runner.errors import InputBad, UsageProblem
from runner.gallery.foreign import from_infotext
from runner.gallery.infotext import Infotext
from runner.gallery.metadata import read
from tests.gallery.samples import picture
from tests.gallery.test_infotext import FORGE

MFLUX = {
    "mflux_version": "0.9.0",
    "model": "dev",
    "base_model": None,
    "seed": 42,
    "steps": 20,
    "guidance": 3.5,
    "height": 1024,
    "width": 768,
    "precision": "mlx.core.bfloat16",
    "quantize": 8,
    "lora_paths": ["/Users/me/loras/ink.safetensors"],
    "lora_scales": [0.7],
    "image_path": None,
    "prompt": "a puffin",
}
SPEC = {
    "kind": "text2img",
    "model": "dev",
    "prompt": "a puffin",
    "seed": 42,
    "steps": 20,
    "guidance": 3.5,
    "width": 768,
    "height": 1024,
    "loras": [{"path": "ink.safetensors", "weight": 0.7}],
    "x_made_with": "mflux 0.9.0",
}


def test_mfluxs_sidecar_is_a_spec() -> None:
    assert read(json.dumps(MFLUX, indent=4).encode()) == SPEC


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_mfluxs_picture_is_a_spec(format: str) -> None:
    assert read(_with_comment(b"ASCII\0\0\0" + json.dumps(MFLUX).encode(), format)) == SPEC


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_forges_jpeg_is_read_in_either_byte_order(order: str) -> None:
    spec = read(_with_comment(b"UNICODE\0" + FORGE.encode(order), "JPEG"))
    assert (spec["prompt"], spec["seed"]) == ("a photo of a fox", 1083098466)


def test_forges_png_is_read() -> None:
    info = PngInfo()
    info.add_text("parameters", FORGE)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=info)
    assert read(buffer.getvalue())["steps"] == 20


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("flux1-dev-fp8", {"model": "dev"}),
        ("FLUX.1-dev", {"model": "dev"}),
        ("flux1-schnell-Q4", {"model": "schnell"}),
        ("flux1-krea-dev", {"model": "krea"}),
        ("flux1-kontext-dev", {"model": "kontext-dev"}),
        ("FLUX.1-Fill-dev", {"model": "fill-dev"}),
        ("flux-2-klein-4b-fp8", {"model": "klein"}),
        ("flux-2-klein-9b", {"model": "klein-9b"}),
        ("flux2-klein-base-9b", {"model": "klein-base-9b"}),
        ("flux2-klein-base-4b", {"model": "klein-base"}),
        ("flux-2-klein-9b-kv-fp8", {"model": "klein-9b-kv"}),
        ("flux-2-dev-klein", {"x_model": "flux-2-dev-klein"}),
        ("z_image_turbo_bf16", {"model": "z-image-turbo"}),
        ("sd_xl_base_1.0", {"x_model": "sd_xl_base_1.0"}),
    ],
)
def test_known_models_get_our_names_and_others_are_only_noted(
    theirs: str, ours: dict[str, Any]
) -> None:
    spec = read(json.dumps(MFLUX | {"model": theirs}).encode())
    assert {k: v for k, v in spec.items() if k in ("model", "x_model")} == ours


@pytest.mark.parametrize(
    "data", [b"{}", b"{", b'{"prompt": "x"}', b"[" * 5000, b'{"kind": 5}', b'{"mflux_version": 1}']
)
def test_json_that_is_no_settings_says_so(data: bytes) -> None:
    with pytest.raises((UsageProblem, InputBad), match=r"does not say|not a picture"):
        read(data)


def test_nonsense_in_their_fields_is_left_out() -> None:
    odd = MFLUX | {"seed": "x", "steps": -3, "guidance": None, "width": 1000, "lora_paths": "no"}
    spec = read(json.dumps(odd).encode())
    assert spec["x_steps"] == "-3" and spec["x_size"] == "1000x1024"
    assert not {"seed", "steps", "guidance", "width", "loras"} & set(spec)


@pytest.mark.parametrize(
    ("text", "prompt", "loras"),
    [
        ("a fox <lora:ink:0.7>", "a fox", [("ink", 0.7)]),
        ("a <lora:ink:0.7>, b", "a, b", [("ink", 0.7)]),
        ("<lora:ink>", "", [("ink", 1.0)]),
        ("<lora:ink:>", "", [("ink", 1.0)]),
        ("<lora:ink:0.5:0.9>", "", [("ink", 0.5)]),
        ("<lora:a:1><lora:b:-1>", "", [("a", 1.0), ("b", -1.0)]),
        ("<lora:a<lora:b:1>", "", [("a<lora", 1.0)]),
        ("x <lora::0.7> y", "x <lora::0.7> y", []),
        ("x <lora:> y", "x <lora:> y", []),
        ("<lora::<lora:ink:0.7>", "<lora::", [("ink", 0.7)]),
        ("x <lora:ink:0.7", "x <lora:ink:0.7", []),
        ("x <lora:", "x <lora:", []),
    ],
)
def test_tags_of_loras_leave_the_prompt_and_what_is_none_stays(
    text: str, prompt: str, loras: list[tuple[str, float]]
) -> None:
    spec = from_infotext(Infotext(text, "", {}))
    assert spec["prompt"] == prompt
    assert [(lora["name"], lora["weight"]) for lora in spec.get("loras", [])] == loras


@pytest.mark.parametrize("piece", ["<lora::", "<lora:>", "<lora:a", "<lora:a:1>", "<", " ", ">"])
def test_a_text_twice_as_long_takes_twice_the_time(piece: str) -> None:
    """Seen red: four times, for `<lora::` again and again."""
    count = 200_000 // len(piece)

    def seconds(times: int) -> float:
        text = Infotext(piece * times + ">", "", {})
        took = []
        for _ in range(3):
            began = time.process_time()
            from_infotext(text)
            took.append(time.process_time() - began)
        return min(took)

    assert seconds(2 * count) <= 3 * seconds(count) + 0.01


def _with_comment(comment: bytes, format: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    picture().save(buffer, format, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("key", "program"), [("workflow", "ComfyUI"), ("prompt", "ComfyUI"),
                         ("invokeai_metadata", "InvokeAI"), ("invokeai_graph", "InvokeAI")],
)  # fmt: skip
def test_a_picture_with_the_graph_of_another_program_is_said_to_have_one(
    key: str, program: str
) -> None:
    info, file = PngInfo(), io.BytesIO()
    info.add_text(key, json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 7}}}))
    picture().save(file, "PNG", pnginfo=info)
    with pytest.raises(UsageProblem, match=f"a workflow of {program}, which is not read: write a"):
        read(file.getvalue())
