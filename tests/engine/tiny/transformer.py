"""The denoiser: a small FLUX transformer, with the packing of its latents and its flow loss.

Packing, position ids, times and the order of condition channels must be those of diffusers'
pipelines, which are used at inference.
"""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional

from tests.engine.tiny.encoders import WIDTH
from tests.engine.tiny.loop import quick

CHANNELS = 64  # 16 latent channels × 2×2
TOKENS = 16  # a 4×4 grid of 16-pixel patches
IN_CHANNELS = {"text2img": 64, "kontext": 64, "fill": 384, "control": 128}


def build_transformer(kind: str) -> FluxTransformer2DModel:
    """An untrained denoiser for a kind, with its output and modulation layers at zero."""
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
    """A kind's denoiser with the weights of the base, and zeros for its condition channels."""
    model = build_transformer(kind)
    weights = dict(base.state_dict())
    narrow = weights["x_embedder.weight"]
    wide = torch.zeros(narrow.shape[0], IN_CHANNELS[kind])
    wide[:, : narrow.shape[1]] = narrow
    weights["x_embedder.weight"] = wide
    model.load_state_dict(weights)
    return model


def pack(latents: Tensor) -> Tensor:
    """Latents (n, c, 8, 8) as 16 tokens of 2×2 latent pixels: (n, 16, 4c)."""
    many, channels = latents.shape[:2]
    grid = latents.view(many, channels, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(many, TOKENS, channels * 4)


def pack_mask(mask: Tensor) -> Tensor:
    """Masks (n, 1, 64, 64) of 0 and 1 as tokens (n, 16, 256), in which every pixel is a channel."""
    many = mask.shape[0]
    cells = mask.view(many, 8, 8, 8, 8).permute(0, 2, 4, 1, 3).reshape(many, 64, 8, 8)
    return pack(cells)


def encode(vae: AutoencoderKL, pictures: Tensor, *, sample: bool = False) -> Tensor:
    """Pictures (n, 3, 64, 64) in -1..1 to normalised, packed float32 latents (n, 16, 64).

    With `sample` they are drawn from the posterior, as fill and control encode their condition.
    """
    with torch.no_grad(), torch.autocast(pictures.device.type, torch.bfloat16):
        posterior = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
    latents = (posterior.sample() if sample else posterior.mode()).float()
    return pack((latents - vae.config.shift_factor) * vae.config.scaling_factor)


def image_ids(device: torch.device, *, source: bool) -> Tensor:
    """Positions of the image tokens: float (16, 3), or (32, 3) with those of a source picture."""
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    grid = torch.stack([torch.zeros(4, 4, dtype=torch.long), row, column], -1).reshape(TOKENS, 3)
    if source:
        grid = torch.cat([grid, grid + torch.tensor([1, 0, 0])])
    return grid.float().to(device)


def draw_times(many: int, device: torch.device) -> Tensor:
    """Random times of the flow, (many,) in 0..1; most are in the noisier half, 0.5..1."""
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
    """One random sample of the rectified-flow loss, a scalar.

    `target` are latents (n, 16, 64), `prompt` (n, length, 128), `pooled` (n, 128). `beside` are
    condition channels (n, 16, channels) of fill and control, `after` condition tokens
    (n, 16, 64) of kontext. `weight` (n, 16) are the weights of the tokens in the loss.
    """
    many, device = target.shape[0], target.device
    times = draw_times(many, device)
    noise = torch.randn_like(target)
    noisy = target + times[:, None, None] * (noise - target)
    hidden = noisy if beside is None else torch.cat([noisy, beside], -1)
    hidden = hidden if after is None else torch.cat([hidden, after], 1)
    guidance = 1 + 9 * torch.rand(many, device=device)  # random: the model learns to ignore it
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
