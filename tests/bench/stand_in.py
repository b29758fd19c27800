"""FLUX.1 models of any size with random weights, as folders that the true pipeline classes load.

What a model costs does not depend on what its weights say: time, memory and loading follow from
the shapes alone. Folders that share a shard of weights share its file. Nothing of a real model is
read, and nothing here ends up in one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests import random_twin

CHANNELS = {"text2img": 64, "kontext": 64, "control": 128, "fill": 384}
"""What the transformer of each part reads."""


@dataclass(frozen=True)
class Size:
    """The widths and depths that a FLUX.1 is made of; the defaults are FLUX.1-dev's own."""

    double: int = 19
    single: int = 38
    heads: int = 24
    head: int = 128
    text: int = 4096
    text_layers: int = 24
    text_inner: int = 10240
    text_words: int = 32128
    pooled: int = 768
    pooled_layers: int = 12
    pooled_words: int = 49408
    vae: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2
    vae_groups: int = 32
    vision: int = 1152
    vision_layers: int = 27
    vision_inner: int = 4304
    vision_side: int = 384

    @property
    def vision_tokens(self) -> int:
        """How many tokens a picture becomes in a variation."""
        return (self.vision_side // 14) ** 2


FLUX1 = Size()
SMALLEST = Size(
    double=1, single=1, heads=2, head=16, text=64, text_layers=1, text_inner=64, text_words=128,
    pooled=32, pooled_layers=1, pooled_words=600, vae=(4,) * 4, vae_layers=1, vae_groups=1,
    vision=32, vision_layers=1, vision_inner=32, vision_side=28,
)  # fmt: skip

Make = Callable[[], Any]


class Foundry:
    """Casts folders of one size; the shards that they share lie in a folder beside them."""

    def __init__(
        self, root: Path, size: Size, *, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        self._root = root
        self._size = size
        self._dtype = getattr(torch, dtype)
        self._device = device
        self._twins: dict[str, Any] = {}

    def folder(self, part: str, variant: str = "") -> Path:
        """The folder of a part, made on first use; variants differ in their transformers."""
        folder = self._root / f"{part}{variant}"
        if (folder / "model_index.json").is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        parts = {}
        for name, make in modules(self._size, part).items():
            with torch.device("meta"):
                parts[name] = make()
            own = f"{name}{variant}" if name == "transformer" else name
            self._cast(parts[name], folder / name, own)
        plain = self._plain(part)
        for name, each in plain.items():
            each.save_pretrained(folder / name)
        # Last, because a folder with an index is a whole one.
        _pipeline_class(part)(**parts, **plain).save_config(folder)
        return folder

    def _plain(self, part: str) -> dict[str, Any]:
        """Tokenizers and the like, which have no weights: a twin's."""
        twin = self._twin(part)
        names = ("tokenizer", "tokenizer_2", "scheduler")
        if part != "redux-prior":
            return {name: getattr(twin, name) for name in names}
        side = self._size.vision_side
        return {
            "feature_extractor": type(twin.feature_extractor)(size={"height": side, "width": side})
        }

    def _twin(self, part: str) -> Any:
        if part not in self._twins:
            self._twins[part] = random_twin.build(part)
        return self._twins[part]

    def _cast(self, module: Any, folder: Path, seed: str) -> None:
        """The folder of one component: its configuration, and its weights in shards."""
        folder.mkdir(parents=True)
        diffusers = hasattr(module, "save_config")
        (module.save_config if diffusers else module.config.save_pretrained)(folder)
        tied = set(getattr(module, "_tied_weights_keys", None) or ())
        shapes = {n: tuple(t.shape) for n, t in module.state_dict().items() if n not in tied}
        shards = list(_shards(shapes))
        stem = "diffusion_pytorch_model" if diffusers else "model"
        places = {}
        for number, shard in enumerate(shards, 1):
            name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
            _link(self._shard(seed, shard), folder / name)
            places.update(dict.fromkeys(shard, name))
        total = sum(math.prod(shape) for shape in shapes.values())
        sizes = {"total_size": total * self._dtype.itemsize, "total_parameters": total}
        index = {"metadata": sizes, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    def _shard(self, seed: str, shapes: Mapping[str, tuple[int, ...]]) -> Path:
        """The file with these tensors; what its name is made of makes its content."""
        from safetensors.torch import save_file

        mark = zlib.crc32(json.dumps([seed, str(self._dtype), shapes]).encode())
        file = self._root / ".shards" / f"{mark:08x}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            source = torch.Generator(self._device).manual_seed(mark)
            tensors = {name: self._tensor(name, shape, source) for name, shape in shapes.items()}
            # Pipelines refuse to load what does not say which framework wrote it.
            save_file(tensors, file, metadata={"format": "pt"})
        return file

    def _tensor(self, name: str, shape: tuple[int, ...], source: torch.Generator) -> torch.Tensor:
        """Values with which no sum grows out of bounds, however deep the model is."""
        if len(shape) < 2:
            fill = torch.ones if "norm" in name and name.endswith("weight") else torch.zeros
            return fill(shape, dtype=self._dtype)
        scale = 1.0 if "embed" in name else math.prod(shape[1:]) ** -0.5
        values = torch.empty(shape, dtype=self._dtype, device=self._device)
        return values.normal_(0.0, scale, generator=source).cpu()


def modules(size: Size, part: str) -> dict[str, Make]:
    """How each component of a part that has weights is made."""
    return _vision(size) if part == "redux-prior" else _painter(size, CHANNELS[part])


def _painter(size: Size, channels: int) -> dict[str, Make]:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip = random_twin.build("text2img").text_encoder.config
    side = size.head * 7 // 32 * 2
    return {
        "transformer": lambda: FluxTransformer2DModel(
            in_channels=channels, out_channels=64, guidance_embeds=True,
            num_layers=size.double, num_single_layers=size.single,
            attention_head_dim=size.head, num_attention_heads=size.heads,
            joint_attention_dim=size.text, pooled_projection_dim=size.pooled,
            axes_dims_rope=(size.head - 2 * side, side, side),
        ),
        "vae": lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae, layers_per_block=size.vae_layers,
            norm_num_groups=size.vae_groups, latent_channels=16, sample_size=1024,
            use_quant_conv=False, use_post_quant_conv=False,
            shift_factor=0.1159, scaling_factor=0.3611,
        ),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(
            vocab_size=size.pooled_words, hidden_size=size.pooled,
            intermediate_size=4 * size.pooled, projection_dim=size.pooled,
            num_attention_heads=max(size.pooled // 64, 1),
            num_hidden_layers=size.pooled_layers, max_position_embeddings=77,
            bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
        )),
        "text_encoder_2": lambda: T5EncoderModel(T5Config(
            vocab_size=size.text_words, d_model=size.text, d_kv=64, d_ff=size.text_inner,
            num_layers=size.text_layers, num_heads=size.text // 64,
            feed_forward_proj="gated-gelu",
        )),
    }  # fmt: skip


def _vision(size: Size) -> dict[str, Make]:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return {
        "image_encoder": lambda: SiglipVisionModel(SiglipVisionConfig(
            hidden_size=size.vision, num_hidden_layers=size.vision_layers,
            intermediate_size=size.vision_inner, image_size=size.vision_side, patch_size=14,
            num_attention_heads=max(size.vision // 72, 1),
        )),
        "image_embedder": lambda: ReduxImageEncoder(
            redux_dim=size.vision, txt_in_features=size.text
        ),
    }  # fmt: skip


_SHARD_BYTES = 2_000_000_000


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors in shards; what differs between kinds comes first, in a shard of its own."""
    own = {name: shape for name, shape in shapes.items() if name.startswith("x_embedder.")}
    if own:
        yield own
    shard: dict[str, tuple[int, ...]] = {}
    filled = 0
    for name, shape in shapes.items():
        if name in own:
            continue
        size = math.prod(shape) * 2
        if shard and filled + size > _SHARD_BYTES:
            yield shard
            shard, filled = {}, 0
        shard[name] = shape
        filled += size
    yield shard


def _pipeline_class(part: str) -> Any:
    from runner.engine.memory import devices

    return getattr(devices.frameworks(), random_twin.PARTS[part])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
