"""Trains the picture codec: 64×64×3 to 8×8×16 and back, with the real FLUX geometry.

It must see far more than the pictures of the world, or it never learns colours: half of each batch
are crowded scenes in any colour, some pictures are edge maps, some have grey holes as `fill` makes
them. After the transformer's training began only `train_decoder` may run: it leaves the latents be.
"""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from runner.engine.tiny.edges import draw_edges
from runner.engine.tiny.optimizer import Optimizers, schedule
from runner.engine.tiny.progress import Progress
from runner.engine.tiny.render import Drawing, arrange, masks_of, offsets, render, rgb
from runner.engine.tiny.vocabulary import COLOURS, SHAPES
from runner.engine.tiny.world import SIDE, draw_scene

_CROWD = 6


def build_vae() -> AutoencoderKL:
    """An untrained codec: 8× smaller each way, 16 channels, as FLUX's own."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIDE,
    )


def _draw_crowd(rng: random.Random, many: int) -> Drawing:
    def colour() -> tuple[float, float, float]:
        if rng.random() < 0.6:
            return rgb(rng.choice(COLOURS))
        return rng.random(), rng.random(), rng.random()

    def anywhere() -> tuple[float, float]:
        return rng.uniform(4, 60), rng.uniform(4, 60)

    def radius() -> float:
        return rng.uniform(6, 16) * (rng.random() < 0.7)

    each = range(_CROWD)
    return Drawing(
        torch.tensor([colour() for _ in range(many)]),
        torch.tensor([[rng.randrange(len(SHAPES)) for _ in each] for _ in range(many)]),
        torch.tensor([[colour() for _ in each] for _ in range(many)]),
        torch.tensor([[anywhere() for _ in each] for _ in range(many)]),
        torch.tensor([[radius() for _ in each] for _ in range(many)]),
    )


def draw_batch(rng: random.Random, many: int, crowds: float) -> tuple[Tensor, Tensor]:
    """Pictures to code and how much each pixel matters."""
    crowded = round(many * crowds)
    lined = max(1, many // 8)
    scenes = [draw_scene(rng) for _ in range(many - crowded)]
    tidy = arrange(scenes, offsets(rng, scenes, 3.0 if rng.random() < 0.3 else 1.0))
    crowd = _draw_crowd(rng, crowded)
    masks = masks_of(tidy)
    pictures = torch.cat([render(tidy), render(crowd)])
    lines = draw_edges(rng, masks[:lined], pictures[:lined])
    front = torch.cat([each.amax(1, keepdim=True) for each in (masks, masks_of(crowd))])
    for n in range(lined, many):
        if rng.random() < 0.15:  # the grey hole that fill cuts out
            x, y = rng.randrange(-8, 48), rng.randrange(-8, 48)
            w, h = rng.randrange(12, 48), rng.randrange(12, 48)
            hole = (slice(max(0, y), y + h), slice(max(0, x), x + w))
            pictures[n, :, hole[0], hole[1]] = 0
    pictures[:lined] = lines
    front[:lined] = (lines.amax(1, keepdim=True) > 0).float()
    return pictures, 1 + 2 * front


def _loss(made: Tensor, pictures: Tensor, weight: Tensor) -> Tensor:
    wrong = made.float() - pictures
    return ((wrong.abs() + 2 * wrong.square()) * weight).sum() / weight.sum() / 3


def quality(wrong: Tensor) -> float:
    """Peak signal to noise of errors in -1..1 pictures, in decibels."""
    return float(10 * torch.log10(4 / wrong.square().mean()))


def train_vae(checkpoint: Path, steps: int, seed: int, device: torch.device) -> AutoencoderKL:
    """Train both halves, then fix the latents' scale."""
    torch.manual_seed(seed)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    optimizers = Optimizers(vae, 3e-3, plain=lambda name: "conv_in" in name or "conv_out" in name)
    progress = Progress("vae", checkpoint, steps, vae, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"vae {seed} {step}")
        pictures, weight = (each.to(device) for each in draw_batch(rng, 16, 0.5))
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pictures.contiguous(memory_format=torch.channels_last))
            spread = posterior.latent_dist
            made = vae.decode(spread.sample().to(pictures.dtype)).sample
        mean, variance = spread.mean.float(), spread.var.float().clamp(min=1e-8)
        pull = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        loss = _loss(made, pictures, weight) + 1e-4 * pull
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.5))
        progress.note(step, loss=loss.detach(), psnr=quality((made - pictures).detach().float()))
    return _fix_scale(vae, seed, device)


@torch.no_grad()
def _fix_scale(vae: AutoencoderKL, seed: int, device: torch.device) -> AutoencoderKL:
    """Make the latents of plain scenes have mean 0 and spread 1 for the transformer."""
    rng = random.Random(f"scale {seed}")
    scenes = [draw_scene(rng) for _ in range(512)]
    pictures = render(arrange(scenes, offsets(rng, scenes))).to(device)
    latents = torch.cat([vae.encode(each).latent_dist.mean for each in pictures.split(64)])
    vae.register_to_config(
        shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std())
    )
    return vae


def train_decoder(
    vae: AutoencoderKL, checkpoint: Path, steps: int, seed: int, device: torch.device
) -> AutoencoderKL:
    """Sharpen the decoder alone, on latents with a little of the noise a transformer leaves."""
    torch.manual_seed(seed)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.to(device, memory_format=torch.channels_last)
    optimizers = Optimizers(vae, 1.5e-3, plain=lambda name: "conv_in" in name or "conv_out" in name)
    progress = Progress("decoder", checkpoint, steps, vae, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"decoder {seed} {step}")
        pictures, weight = (each.to(device) for each in draw_batch(rng, 16, 0.2))
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pictures).latent_dist.mean
                noise = torch.randn_like(latents) * torch.rand(16, 1, 1, 1, device=device) * 0.25
                latents = latents + noise / vae.config.scaling_factor
            made = vae.decode(latents).sample
        loss = _loss(made, pictures, weight)
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.3))
        progress.note(step, loss=loss.detach(), psnr=quality((made - pictures).detach().float()))
    return vae.requires_grad_(True)
