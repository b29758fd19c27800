"""Z-Image's twin: a Qwen3, FLUX.1's VAE, a transformer of one layer of each sort, a ControlNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.twins.pieces import flux1_vae, qwen_settings, qwen_tokenizer, scheduler, seeded

CLASSES = {
    "zimage": (
        "ZImagePipeline",
        "ZImageInpaintPipeline",
        "ZImageImg2ImgPipeline",
        "ZImageControlNetPipeline",
    )
}
_WIDTH = 16


def parts(part: str) -> dict[str, Any]:
    """The components of the one part there is: text and masks are served by one folder."""
    from transformers import Qwen3Model

    text = qwen_settings(_WIDTH, 2)
    return {
        "scheduler": scheduler(),
        "transformer": seeded("zimage-transformer", _transformer),
        "vae": flux1_vae(),
        "text_encoder": seeded("zimage-text", lambda: Qwen3Model(text)),
        "tokenizer": qwen_tokenizer(),
    }


def _transformer() -> Any:
    from diffusers import ZImageTransformer2DModel

    return ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=_WIDTH,
        axes_dims=[4, 6, 6],
    )


def controlnet() -> Any:
    """A ControlNet for that transformer; none of its layers is zero, as they are untrained."""
    return seeded("zimage-controlnet", _controlnet)


def _controlnet() -> Any:
    import torch
    from diffusers import ZImageControlNetModel

    model = ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        add_control_noise_refiner="control_noise_refiner",
        control_in_dim=33,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    for name, weight in model.named_parameters():
        if "_proj." in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def controlnet_files(target: Path) -> tuple[Path, Path]:
    """The folder of its configuration and the file of its weights, below `target`."""
    config, file = target / "controlnet", target / "controlnet.safetensors"
    if not file.is_file():
        model = controlnet()
        model.save_config(config)
        aside = file.with_suffix(".writing")
        save_file(model.state_dict(), aside)
        aside.replace(file)
    return config, file
