"""The denoiser: FLUX's own transformer, small, and the arithmetic of its latents and flow.

Everything here must agree with what diffusers' pipelines do at inference: packing, position ids,
time and the order of condition channels. The pipelines are the truth; change nothing here alone.
"""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional

from runner.engine.tiny.encoders import WIDTH
from runner.engine.tiny.optimizer import quick

CHANNELS = 64  # 16 latent channels × 2×2
TOKENS = 16  # a 4×4 grid of 16-pixel patches
IN_CHANNELS = {"text2img": 64, "kontext": 64, "fill": 384, "control": 128}


def build_transformer(kind: str) -> FluxTransformer2DModel:
    """An untrained denoiser for a kind, its output and modulation at zero."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=IN_CHANNELS[kind],
        out_channels=CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ("norm" in name or name == "proj_out"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


def widened(base: FluxTransformer2DModel, kind: str) -> FluxTransformer2DModel:
    """A kind's denoiser that starts as the base and at first ignores its condition."""
    model = build_transformer(kind)
    weights = dict(base.state_dict())
    narrow = weights["x_embedder.weight"]
    wide = torch.zeros(narrow.shape[0], IN_CHANNELS[kind])
    wide[:, : narrow.shape[1]] = narrow
    weights["x_embedder.weight"] = wide
    model.load_state_dict(weights)
    return model


def pack(latents: Tensor) -> Tensor:
    """(n, c, 8, 8) to 16 tokens of 4c channels."""
    many, channels = latents.shape[:2]
    grid = latents.view(many, channels, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(many, TOKENS, channels * 4)


def pack_mask(mask: Tensor) -> Tensor:
    """(n, 1, 64, 64) of 0 and 1 to 16 tokens of 256 channels: every pixel of an 8×8 cell."""
    many = mask.shape[0]
    cells = mask.view(many, 8, 8, 8, 8).permute(0, 2, 4, 1, 3).reshape(many, 64, 8, 8)
    return pack(cells)


def encode(vae: AutoencoderKL, pictures: Tensor, *, sample: bool = False) -> Tensor:
    """Pictures to normalised, packed latents; `sample` where the pipeline draws them."""
    with torch.no_grad(), torch.autocast(pictures.device.type, torch.bfloat16):
        spread = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
    latents = (spread.sample() if sample else spread.mode()).float()
    return pack((latents - vae.config.shift_factor) * vae.config.scaling_factor)


def image_ids(device: torch.device, *, source: bool) -> Tensor:
    """Positions of the image tokens, those of a source picture after the target's."""
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    grid = torch.stack([torch.zeros(4, 4, dtype=torch.long), row, column], -1).reshape(TOKENS, 3)
    if source:
        grid = torch.cat([grid, grid + torch.tensor([1, 0, 0])])
    return grid.float().to(device)


def draw_times(many: int, device: torch.device) -> Tensor:
    """Times of the flow, most of them in the noisier half where the prompt decides."""
    times = torch.sigmoid(torch.randn(many, device=device) + 0.4)
    even = torch.rand(many, device=device)
    return torch.where(torch.rand(many, device=device) < 0.15, even, times)


def flow_loss(
    model: FluxTransformer2DModel,
    target: Tensor,
    prompt: Tensor,
    pooled: Tensor,
    *,
    beside: Tensor | None = None,
    after: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """One draw of the rectified-flow loss.

    `beside` are condition channels (fill, control), `after` are condition tokens (kontext),
    `weight` says how much each of the 16 tokens matters.
    """
    many, device = target.shape[0], target.device
    times = draw_times(many, device)
    noise = torch.randn_like(target)
    noisy = target + times[:, None, None] * (noise - target)
    hidden = noisy if beside is None else torch.cat([noisy, beside], -1)
    hidden = hidden if after is None else torch.cat([hidden, after], 1)
    guidance = 1 + 9 * torch.rand(many, device=device)  # any value: the model learns to ignore it
    guidance = torch.where(torch.rand(many, device=device) < 0.3, 30.0, guidance)
    with quick(device):
        made = model(
            hidden_states=hidden,
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=times,
            guidance=guidance,
            img_ids=image_ids(device, source=after is not None),
            txt_ids=torch.zeros(prompt.shape[1], 3, device=device),
            return_dict=False,
        )[0][:, :TOKENS]
    wrong = functional.mse_loss(made.float(), noise - target, reduction="none").mean(-1)
    return wrong.mean() if weight is None else (wrong * weight).mean()
