"""FLUX.3's twins, distilled and not: a Qwen3-VL with all the layers that are read, and one more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.twins.flux2 import vae
from tests.twins.pieces import qwen_tokenizer, seeded

CLASSES = {"flux3": ("Flux3KleinPipeline",), "flux3-base": ("Flux3KleinPipeline",)}
_WIDTH = 16


def parts(part: str) -> dict[str, Any]:
    """The components of a part; the two differ in their transformers."""
    return {
        "transformer": seeded(f"{part}-transformer", lambda: _transformer(part == "flux3")),
        "vae": seeded("flux2-vae", vae),
        "text_encoder": seeded("flux3-text", text_encoder),
        "tokenizer": qwen_tokenizer(),
    }


def save(pipe: Any, folder: Path) -> None:
    """Write a folder as its makers do: a modular index, with an upsampler that nobody needs."""
    index: dict[str, Any] = {"_class_name": "Flux3DistilledModularPipeline"}
    for name, part in pipe.components.items():
        part.save_pretrained(folder / name)
        library = type(part).__module__.partition(".")[0]
        own = [library, type(part).__name__]
        if name == "tokenizer":
            own = ["transformers", "AutoProcessor"]
            # What makes the true processor ask for torchvision.
            for file in ("preprocessor_config", "video_preprocessor_config"):
                (folder / name / f"{file}.json").write_text(
                    '{"processor_class": "Qwen3VLProcessor"}'
                )
        index[name] = [None, None, {"type_hint": own, "subfolder": name}]
    hint = ["transformers", "Qwen3_5ForConditionalGeneration"]
    index["prompt_upsampler"] = [*hint, {"type_hint": hint, "repo": "black-forest-labs/x"}]
    (folder / "modular_model_index.json").write_text(json.dumps(index), encoding="utf-8")


def text_encoder(layers: int = 33) -> Any:
    """A Qwen3-VL that sees, too."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {
        "vocab_size": 261,
        "hidden_size": _WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 256,
        "rope_scaling": {
            "rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True
        },
    }  # fmt: skip
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": _WIDTH,
        "patch_size": 2,
        "num_position_embeddings": 4,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    return Qwen3VLForConditionalGeneration(config)


def _transformer(is_distilled: bool) -> Any:
    from diffusers import Flux3Transformer2DModel

    return Flux3Transformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8 * _WIDTH,
        timestep_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=is_distilled,
    )
