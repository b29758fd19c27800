"""FLUX.2 klein's twin: a Qwen3 with all the layers that are read, and a distilled pipeline."""

from __future__ import annotations

from typing import Any

from tests.twins.pieces import qwen_settings, qwen_tokenizer, scheduler, seeded

CLASSES = {"flux2": ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline")}
_WIDTH = 16


def parts(part: str) -> dict[str, Any]:
    """The components of the one part there is: text, edits and masks are served by one folder."""
    from transformers import Qwen3ForCausalLM

    # The pipeline reads the hidden states after layers 9, 18 and 27.
    text = qwen_settings(_WIDTH, 28)
    return {
        "scheduler": scheduler(),
        "transformer": seeded("flux2-transformer", _transformer),
        "vae": seeded("flux2-vae", vae),
        "text_encoder": seeded("flux2-text", lambda: Qwen3ForCausalLM(text)),
        "tokenizer": qwen_tokenizer(),
        "is_distilled": True,
    }


def _transformer() -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )


def vae() -> Any:
    """The running statistics are not the defaults, which would hide a mistake with them."""
    import torch
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.bn.running_mean.copy_(torch.randn(128) * 0.1)
    vae.bn.running_var.copy_(torch.rand(128) + 0.5)
    return vae
