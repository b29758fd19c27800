"""Trains the VAE, which encodes 3×64×64 pictures as 16×8×8 latents, as FLUX's does.

It must be trained on more than plain scenes, or it does not learn colours: half of each batch are
crowded scenes in any colour, some pictures are edge maps, and some have grey holes as `fill` makes
them. Once a transformer's training has begun only `train_decoder` may run: it keeps the latents.
"""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from tests.engine.tiny.edges import draw_edges
from tests.engine.tiny.loop import Optimizers, Progress, schedule
from tests.engine.tiny.render import Drawing, arrange, masks_of, offsets, render, rgb
from tests.engine.tiny.vocabulary import COLOURS, SHAPES
from tests.engine.tiny.world import SIDE, draw_scene

_CROWD = 6  # things in a crowded scene


def build_vae() -> AutoencoderKL:
    """An untrained VAE with FLUX's factor of 8 in each direction and 16 latent channels."""
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


def draw_crowd(rng: random.Random, many: int) -> Drawing:
    """Crowded scenes: up to six things anywhere, over each other, and in any colour."""

    def colour() -> tuple[float, float, float]:
        if rng.random() < 0.6:
            return rgb(rng.choice(COLOURS))
        return rng.random(), rng.random(), rng.random()

    def anywhere() -> tuple[float, float]:
        return rng.uniform(4, 60), rng.uniform(4, 60)

    def radius() -> float:
        return rng.uniform(6, 16) * (rng.random() < 0.7)

    things = range(_CROWD)
    return Drawing(
        torch.tensor([colour() for _ in range(many)]),
        torch.tensor([[rng.randrange(len(SHAPES)) for _ in things] for _ in range(many)]),
        torch.tensor([[colour() for _ in things] for _ in range(many)]),
        torch.tensor([[anywhere() for _ in things] for _ in range(many)]),
        torch.tensor([[radius() for _ in things] for _ in range(many)]),
    )


def draw_batch(rng: random.Random, many: int, crowds: float) -> tuple[Tensor, Tensor]:
    """Random pictures (many, 3, 64, 64) in -1..1, and the weights (many, 1, 64, 64) of the loss.

    `crowds` is the fraction of crowded scenes.
    """
    crowded = round(many * crowds)
    edge_maps = max(1, many // 8)
    scenes = [draw_scene(rng) for _ in range(many - crowded)]
    tidy = arrange(scenes, offsets(rng, scenes, 3.0 if rng.random() < 0.3 else 1.0))
    crowd = draw_crowd(rng, crowded)
    masks = masks_of(tidy)
    pictures = torch.cat([render(tidy), render(crowd)])
    edges = draw_edges(rng, masks[:edge_maps], pictures[:edge_maps])
    foreground = torch.cat([m.amax(1, keepdim=True) for m in (masks, masks_of(crowd))])
    for n in range(edge_maps, many):
        if rng.random() < 0.15:  # the grey hole that fill cuts out
            x, y = rng.randrange(-8, 48), rng.randrange(-8, 48)
            w, h = rng.randrange(12, 48), rng.randrange(12, 48)
            hole = (slice(max(0, y), y + h), slice(max(0, x), x + w))
            pictures[n, :, hole[0], hole[1]] = 0
    pictures[:edge_maps] = edges
    foreground[:edge_maps] = (edges.amax(1, keepdim=True) > 0).float()
    return pictures, 1 + 2 * foreground


def _loss(made: Tensor, pictures: Tensor, weight: Tensor) -> Tensor:
    wrong = made.float() - pictures
    return ((wrong.abs() + 2 * wrong.square()) * weight).sum() / weight.sum() / 3


def quality(wrong: Tensor) -> float:
    """The peak signal-to-noise ratio in decibels, from the errors of pictures in -1..1."""
    return float(10 * torch.log10(4 / wrong.square().mean()))


def train_vae(checkpoint: Path, steps: int, seed: int, device: torch.device) -> AutoencoderKL:
    """Train encoder and decoder, then set the scale of the latents."""
    torch.manual_seed(seed)
    vae = build_vae().to(device, memory_format=torch.channels_last)
    optimizers = Optimizers(vae, 3e-3, plain=lambda name: "conv_in" in name or "conv_out" in name)
    progress = Progress("vae", checkpoint, steps, vae, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"vae {seed} {step}")
        pictures, weight = (tensor.to(device) for tensor in draw_batch(rng, 16, 0.5))
        with torch.autocast(device.type, torch.bfloat16):
            encoded = vae.encode(pictures.contiguous(memory_format=torch.channels_last))
            posterior = encoded.latent_dist
            made = vae.decode(posterior.sample().to(pictures.dtype)).sample
        mean, variance = posterior.mean.float(), posterior.var.float().clamp(min=1e-8)
        divergence = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()  # from N(0, 1)
        loss = _loss(made, pictures, weight) + 1e-4 * divergence
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.5))
        progress.note(step, loss=loss.detach(), psnr=quality((made - pictures).detach().float()))
    return _fix_scale(vae, seed, device)


@torch.no_grad()
def _fix_scale(vae: AutoencoderKL, seed: int, device: torch.device) -> AutoencoderKL:
    """Set shift and scale so that normalised latents of scenes have mean 0 and deviation 1."""
    rng = random.Random(f"scale {seed}")
    scenes = [draw_scene(rng) for _ in range(512)]
    pictures = render(arrange(scenes, offsets(rng, scenes))).to(device)
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(64)])
    vae.register_to_config(
        shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std())
    )
    return vae


def train_decoder(
    vae: AutoencoderKL, checkpoint: Path, steps: int, seed: int, device: torch.device
) -> AutoencoderKL:
    """Train only the decoder further, in place, on latents with a little noise, as in rendering."""
    torch.manual_seed(seed)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.to(device, memory_format=torch.channels_last)
    optimizers = Optimizers(vae, 1.5e-3, plain=lambda name: "conv_in" in name or "conv_out" in name)
    progress = Progress("decoder", checkpoint, steps, vae, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"decoder {seed} {step}")
        pictures, weight = (tensor.to(device) for tensor in draw_batch(rng, 16, 0.2))
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
