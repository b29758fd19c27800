"""Z-Image's twin: a Qwen3, the VAE of FLUX.1, and a transformer of one layer of each sort."""

from __future__ import annotations

from typing import Any

from tests.twins.pieces import flux1_vae, qwen_settings, qwen_tokenizer, scheduler, seeded

CLASSES = {"zimage": ("ZImagePipeline", "ZImageInpaintPipeline", "ZImageImg2ImgPipeline")}
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
