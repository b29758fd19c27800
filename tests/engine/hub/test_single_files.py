"""What stands under `file:` of an entry, told by its header before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub import library as hub
from runner.engine.hub.checkup import check
from runner.engine.hub.single_files import header, problem
from runner.engine.models import Model, SingleFile
from runner.errors import ModelMissing
from tests.engine.weight_files import Shapes, flux1, flux2, flux3, gguf, header_only, zimage
from tests.fake_hub import pipeline, put

_FLUX = {"num_attention_heads": 24, "attention_head_dim": 128}
CONFIGS: Mapping[str, Mapping[str, object]] = {
    "dev": {"_class_name": "FluxTransformer2DModel", **_FLUX, "in_channels": 64,
            "guidance_embeds": True},
    "schnell": {"_class_name": "FluxTransformer2DModel", **_FLUX, "in_channels": 64,
                "guidance_embeds": False},
    "fill-dev": {"_class_name": "FluxTransformer2DModel", **_FLUX, "in_channels": 384,
                 "guidance_embeds": True},
    "klein": {"_class_name": "Flux2Transformer2DModel", **_FLUX, "in_channels": 128,
              "guidance_embeds": False},
    "flux3-klein": {"_class_name": "Flux3Transformer2DModel", **_FLUX, "in_channels": 128},
    "z-image-turbo": {"_class_name": "ZImageTransformer2DModel", "dim": 3840, "in_channels": 16},
}  # fmt: skip


def with_header(entries: object) -> bytes:
    """A safetensors file with this header, or this text for one, and a few bytes of weights."""
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 24


def entry(home: Path, like: str, file: Path) -> Model:
    """A model of the user's with this file, whose pipeline is here."""
    folder = put(home / like, pipeline())
    config = json.dumps(CONFIGS[like])
    (folder / "transformer" / "config.json").write_text(config, encoding="utf-8")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    single = SingleFile(str(file))
    of = MODEL_REGISTRY[like]
    serves = {kind: serving for kind, serving in of.serves.items() if serving.prior is None}
    return replace(of, name="mine", repo=str(folder), single=single, serves=serves)


def told(home: Path, like: str, file: Path) -> str:
    """What a job and `models check` say of a file, which is the same."""
    model = entry(home, like, file)
    with pytest.raises(ModelMissing) as error:
        hub.Disk(home).single(model)
    found = check(model, home)
    assert found.damaged == (f"{file.parent}: {file.name}",) and not found.missing
    assert found.advice == (str(error.value),)
    return str(error.value)


@pytest.mark.parametrize(
    ("like", "shapes"),
    [
        ("dev", flux1()),
        ("dev", flux1(prefix="model.diffusion_model.")),
        ("dev", {**flux1(prefix="model.diffusion_model."), "vae.decoder.conv_in.weight": (1,),
                 "text_encoders.clip_l.transformer.text_model.final_layer_norm.bias": (1,)}),
        ("schnell", flux1(guided=False)),
        ("fill-dev", flux1(384)),
        ("klein", flux2()),
        ("z-image-turbo", zimage()),
        ("flux3-klein", flux3()),
    ],
    ids=["dev", "prefix", "whole", "schnell", "fill", "klein", "z-image", "flux3"],
)  # fmt: skip
@pytest.mark.parametrize("write", [header_only, gguf])
def test_a_file_of_the_model_that_its_entry_is_like_is_here(
    tmp_path: Path, like: str, shapes: Shapes, write: type
) -> None:
    file = write(tmp_path / ("x.gguf" if write is gguf else "x.safetensors"), shapes)
    model = entry(tmp_path, like, file)
    assert hub.Disk(tmp_path).single(model) == file
    assert check(model, tmp_path).ok


@pytest.mark.parametrize(
    ("like", "shapes", "says"),
    [
        ("dev", flux1(384),
         "as in fill-dev, mine is not: write `like: fill-dev`"),
        ("dev", flux1(guided=False), "as in schnell,"),
        ("dev", flux1(128), "as in canny or depth,"),
        ("schnell", flux1(), "as in dev or krea or kontext-dev,"),
        ("dev", flux2(), "as in klein or klein-base, mine is not: write `like: klein`"),
        ("dev", flux2(4096), "as in klein-9b or klein-base-9b or klein-9b-kv, mine is not:"),
        ("klein", flux2(4096), "write `like: klein-9b`"),
        ("klein", flux3(), "as in flux3-klein or flux3-klein-base,"),
        ("klein", zimage(), "as in z-image-turbo or z-image-control, mine is not:"),
        ("z-image-turbo", flux1(), "as in dev or"),
        ("klein", flux2(6144), "a transformer 6144 wide, and no model here is like it"),
        ("dev", flux2(6144), "a transformer 6144 wide, and no model here is like it"),
        ("dev", {"lora_unet_double_blocks_0_img_mod.lora_down.weight": (4, 4)}, "a LoRA file"),
        ("dev", {"transformer.proj_out.lora_A.weight": (4, 4)}, "name it under `loras` of a spec"),
        ("dev", {"diffusion_model.single_blocks.0.linear1.lokr_w1": (4, 4)}, "a LoRA file"),
        ("dev", {**flux1(), "double_blocks.0.img_mlp.0.weight.quant_state.bitsandbytes__nf4": (9,)},
         "quantised by bitsandbytes: use the bf16 or GGUF file"),
        ("dev", {"transformer_blocks.0.attn.to_out.qweight": (8, 8),
                 "transformer_blocks.0.attn.to_out.lora_down": (8, 8)}, "SVDQuant (Nunchaku)"),
        ("dev", {"decoder.conv_in.weight": (8, 8, 3, 3)}, "is a VAE: `file` takes a transformer"),
        ("dev", {"text_model.embeddings.token_embedding.weight": (8, 8)}, "is a text encoder:"),
        ("dev", {"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8)}, "is a text encoder:"),
        ("klein", {"model.layers.0.self_attn.q_proj.weight": (8, 8)}, "is a text encoder:"),
        ("dev", {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)},
         "is a model or VAE of another sort"),
        ("dev", {"blocks.0.self_attn2.x": (1,)}, "is of another model"),
        ("dev", {**flux1(), "img_in.weight": (12,)}, "is of another model"),
        ("dev", {**flux1(), "img_in.weight": ()}, "is of another model"),
        ("dev", {"controlnet_blocks.0.weight": (8, 8), **flux1()}, "a ControlNet"),
    ],
)  # fmt: skip
def test_another_file_is_named_for_what_it_is_and_with_what_to_do(
    tmp_path: Path, like: str, shapes: Shapes, says: str
) -> None:
    sentence = told(tmp_path, like, header_only(tmp_path / "it.safetensors", shapes))
    assert sentence.startswith("it.safetensors is ") and says in sentence


@pytest.mark.parametrize(
    ("tensors", "layout"),
    [
        ({"a.weight": "U8", "a.weight_scale": "F8_E4M3", "a.weight_scale_2": "F32"},
         "nvfp4 in another layout than BFL's"),
        ({"a.weight": "I8", "a.weight_scale": "F32"}, "int8"),
        ({"a.weight": "I8", "a.comfy_quant": "U8"}, "int8"),
        ({"a.weight": "U8"}, "4 bits in uint8"),
        ({"a.weight": "BF16", "a.scale_weight": "F32"}, "BF16 with scales"),
    ],
)  # fmt: skip
def test_a_quantised_layout_that_cannot_be_read_is_named(
    tmp_path: Path, tensors: Mapping[str, str], layout: str
) -> None:
    shapes = {**flux1(), **dict.fromkeys(tensors, (1,))}
    file = header_only(tmp_path / "it.safetensors", shapes, dtypes=tensors)
    assert told(tmp_path, "dev", file) == (
        f"it.safetensors is quantised as {layout}, which cannot be read: use the bf16 or GGUF file"
    )


_NVFP4: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "a.weight": ("U8", (64, 16)), "a.weight_scale": ("F8_E4M3", (64, 2)),
    "a.weight_scale_2": ("F32", ()), "a.input_scale": ("F32", (1,)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "is_read"),
    [
        ({}, True),
        ({"a.weight": ("U8", (16,))}, False),
        ({"a.weight": ("I8", (64, 16))}, False),
        ({"a.weight_scale": ("F8_E4M3", (64, 4))}, False),
        ({"a.weight_scale": ("F8_E4M3", (128, 2))}, False),
        ({"a.weight_scale": ("F32", (64, 2))}, False),
        ({"a.weight_scale_2": ("F32", (64,))}, False),
        ({"a.weight_scale_2": ("BF16", ())}, False),
        ({"a.input_scale": ("BF16", ())}, False),
        ({"a.input_scale": None}, False),
        ({"b.comfy_quant": ("U8", (27,))}, False),
    ],
)
def test_nvfp4_is_read_as_bfl_has_it_and_in_no_other_layout(
    tmp_path: Path, other: Mapping[str, Any], is_read: bool
) -> None:
    """ComfyUI orders the scales of blocks in another way, in tensors of the same shape."""
    tensors = {name: each for name, each in {**_NVFP4, **other}.items() if each}
    shapes = {**flux1(), **{name: shape for name, (_, shape) in tensors.items()}}
    dtypes = {name: dtype for name, (dtype, _) in tensors.items()}
    file = header_only(tmp_path / "it.safetensors", shapes, dtypes=dtypes)
    if is_read:
        assert hub.Disk(tmp_path).single(entry(tmp_path, "dev", file)) == file
        assert header(file).scheme() == "nvfp4"
        text = file.read_bytes()[8:].replace(b'"format": "pt"', b'"_quantization_metadata": ""')
        length = file.read_bytes()[:8]
        grown = int.from_bytes(length, "little") + len(text) - file.stat().st_size + 8
        file.write_bytes(grown.to_bytes(8, "little") + text)
    assert "nvfp4 in another layout than BFL's, which" in told(tmp_path, "dev", file)


def test_a_text_encoder_in_nvfp4_beside_a_transformer_says_nothing_of_it(tmp_path: Path) -> None:
    shapes = {**flux1(prefix="model.diffusion_model."), "text_encoders.a.weight_scale_2": ()}
    assert header(header_only(tmp_path / "it.safetensors", shapes)).scheme() == ""


@pytest.mark.parametrize(
    ("dtype", "scales", "scheme"),
    [
        ("F8_E4M3", (64,), "fp8r"),
        ("F8_E4M3", (64, 1), "fp8r"),
        ("F8_E4M3", (), ""),
        ("F8_E5M2", (64,), ""),
        ("BF16", None, ""),
    ],
)
def test_a_scale_for_each_row_is_bfls_layout_and_one_for_a_tensor_is_not(
    tmp_path: Path, dtype: str, scales: tuple[int, ...] | None, scheme: str
) -> None:
    shapes = {**flux1(), "a.weight": (64, 32)}
    shapes |= {} if scales is None else {"a.weight_scale": scales}
    dtypes = {"a.weight": dtype, "a.weight_scale": "F32"}
    assert header(header_only(tmp_path / "x", shapes, dtypes=dtypes)).scheme() == scheme


@pytest.mark.parametrize("scale", ["b.weight_scale", "b.scale_weight", "scaled_fp8"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_an_fp8_matrix_without_its_scale_is_refused_where_the_file_has_scales(
    tmp_path: Path, scale: str, prefix: str
) -> None:
    dtypes = dict.fromkeys((f"{prefix}{each}.weight" for each in "ab"), "F8_E4M3")
    matrices = {**flux1(prefix=prefix), **dict.fromkeys(dtypes, (8, 8))}
    plain = header_only(tmp_path / "plain.safetensors", matrices, dtypes=dtypes)
    assert hub.Disk(tmp_path).single(entry(tmp_path, "dev", plain)) == plain
    scaled = {**matrices, prefix + scale: (1,), "text_encoders.t5xxl.transformer.scaled_fp8": (1,)}
    file = header_only(tmp_path / "it.safetensors", scaled, dtypes=dtypes)
    assert f"fp8 without the scale of {prefix}a.weight, which" in told(tmp_path, "dev", file)


def test_an_fp8_number_alone_with_several_scales_is_named(tmp_path: Path) -> None:
    shapes = {**flux1(), "a.weight": (), "a.weight_scale": (2, 2)}
    file = header_only(tmp_path / "it.safetensors", shapes, dtypes={"a.weight": "F8_E4M3"})
    assert "quantised as fp8 in blocks" in told(tmp_path, "dev", file)


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "it.safetensors").mkdir()
    said = problem(tmp_path / "it.safetensors", MODEL_REGISTRY["dev"], None, [])
    assert said is not None and said.startswith("it.safetensors cannot be read: ")


@pytest.mark.parametrize("depth", [2, 5_000])
def test_a_gguf_file_of_lists_in_lists_is_damaged(tmp_path: Path, depth: int) -> None:
    nested = (9).to_bytes(4, "little") + (1).to_bytes(8, "little")
    text = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little")
    text += (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"a" + (9).to_bytes(4, "little")
    (tmp_path / "it.gguf").write_bytes(text + nested * depth)
    assert told(tmp_path, "dev", tmp_path / "it.gguf").startswith("it.gguf is damaged")


def test_scales_of_blocks_are_no_scales_of_rows(tmp_path: Path) -> None:
    shapes = {**flux1(), "a.weight": (256, 256), "a.weight_scale": (2, 2)}
    file = header_only(tmp_path / "it.safetensors", shapes, dtypes={"a.weight": "F8_E4M3"})
    assert "quantised as fp8 in blocks" in told(tmp_path, "dev", file)


@pytest.mark.parametrize("cut", [1, 5_000, 1_000_000])
@pytest.mark.parametrize("write", [header_only, gguf])
def test_a_file_that_is_cut_short_is_named_with_the_bytes_that_it_lacks(
    tmp_path: Path, write: type, cut: int
) -> None:
    file = tmp_path / ("it.gguf" if write is gguf else "it.safetensors")
    write(file, flux1(), cut=cut)
    sentence = told(tmp_path, "dev", file)
    cut_short = f"{file.name} is cut short, its last {cut:,} bytes are missing: copy it again"
    assert sentence == cut_short
    pulled = replace(MODEL_REGISTRY["dev"], name="mine", single=SingleFile(file.name, "a/b"))
    assert problem(file, pulled, None, ()) == (
        f"{cut_short}, or run `fluxdrop models pull mine --verify`"
    )


def test_a_file_with_something_behind_its_end_is_named_with_how_much_it_is(tmp_path: Path) -> None:
    file = header_only(tmp_path / "it.safetensors", flux1())
    with file.open("ab") as stream:
        stream.write(b"junk")
    sentence = told(tmp_path, "dev", file)
    assert sentence.startswith("it.safetensors is damaged, its last 4 bytes are too many: copy it")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "which `git lfs pull` fetches",
        ),
        (b"\n<!DOCTYPE html><html>", "is a web page and holds no weights"),
        (b'<?xml version="1.0"?>\n<Error>', "is a web page and holds no weights"),
        (b"", "is empty: copy it again"),
        (b"<" + bytes(7) + b"[" * 60, "is damaged"),
        (b"PK\x03\x04 a pickle or so", "is a pickle, which may run code, and no .safetensors file"),
        (b"PK\x03\x04" + bytes(100), "is a pickle, which may run code, and no .safetensors file"),
        (b"\x08\0\0\0\0\0\0\0[1, 2, 3", "is damaged"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a": {"b": 1}} ', "is damaged"),
        *((with_header({"img_in.weight": {"dtype": "BF16", "shape": [3, 4],
                                          "data_offsets": [0, 24], **wrong}}), "is damaged")
          for wrong in ({"dtype": 7}, {"shape": 12}, {"shape": [-3, 4]}, {"shape": [3, "4"]},
                        {"shape": [3, 10**400]}, {"shape": [3, 4.0]}, {"data_offsets": [0]},
                        {"data_offsets": [0, "24"]}, {"shape": [2**20, 2**20]})),
        (with_header("[" * 100_000), "is damaged"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    put(tmp_path, {"it.safetensors": content, "it.gguf": content})
    assert says in told(tmp_path, "dev", tmp_path / "it.safetensors")
    assert told(tmp_path, "dev", tmp_path / "it.gguf").startswith("it.gguf is ")


def test_without_the_pipeline_that_it_belongs_to_a_file_is_still_looked_at(tmp_path: Path) -> None:
    file = header_only(tmp_path / "it.safetensors", flux2())
    mine = replace(MODEL_REGISTRY["dev"], name="mine", single=SingleFile(str(file)))
    assert "write `like: klein`" in " ".join(check(mine, tmp_path).advice)


@pytest.mark.parametrize("as_like", ["dev", "schnell", "fill-dev", "klein", "z-image-turbo"])
@pytest.mark.parametrize("holds", [*CONFIGS])
def test_a_folder_is_taken_only_by_an_entry_like_the_model_in_it(
    tmp_path: Path, as_like: str, holds: str
) -> None:
    folder = put(tmp_path / "it", pipeline())
    config = json.dumps(CONFIGS[holds])
    (folder / "transformer" / "config.json").write_text(config, encoding="utf-8")
    mine = replace(MODEL_REGISTRY[as_like], name="mine", repo=str(folder))
    kind = next(iter(mine.serves))
    if as_like == holds:
        assert hub.Disk(tmp_path).main(mine, kind) == folder
        assert not check(mine, tmp_path).damaged
        return
    with pytest.raises(ModelMissing) as error:
        hub.Disk(tmp_path).main(mine, kind)
    sentence = str(error.value)
    assert sentence.startswith(f"the transformer in {folder} is as in ")
    assert f"{holds}" in sentence and "mine is not: write `like: " in sentence
    assert hub.absence(mine, tmp_path, kind) == sentence
    found = check(mine, tmp_path)
    assert found.damaged == (f"{folder}: transformer",) and found.advice[0] == sentence


@pytest.mark.parametrize(
    ("index", "config"),
    [
        ({"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet"]}, {}),
        (
            {"transformer": ["diffusers", "X"]},
            {"_class_name": "QwenImageTransformer2DModel"},
        ),
    ],
)
def test_a_folder_of_a_family_that_is_not_known_is_named(
    tmp_path: Path, index: Mapping[str, object], config: Mapping[str, object]
) -> None:
    files = {"model_index.json": index, "transformer/config.json": config, "unet/config.json": {}}
    content = {name: json.dumps(each).encode() for name, each in files.items()}
    weights = pipeline()["transformer/diffusion_pytorch_model.safetensors"]
    content |= dict.fromkeys(
        (f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "unet")), weights
    )
    mine = replace(MODEL_REGISTRY["dev"], name="mine", repo=str(put(tmp_path / "it", content)))
    with pytest.raises(ModelMissing, match="holds another model .* FLUX.1 to 3 and Z-Image"):
        hub.Disk(tmp_path).main(mine, "text2img")
