"""Trains the image encoder of redux (the eye) to turn a picture into its caption's T5 tokens.

The base transformer stays unchanged: it reads the tokens as it reads a prompt's. This works because
FLUX gives all text tokens the same position.
"""

import random
from pathlib import Path

import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import Tensor, nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.engine.tiny.captions import describe_plainly
from tests.engine.tiny.encoders import WIDTH
from tests.engine.tiny.loop import Optimizers, Progress, quick, schedule
from tests.engine.tiny.render import arrange, offsets, render
from tests.engine.tiny.training import PICTURE_TOKENS, Frozen
from tests.engine.tiny.world import SIDE, Scene, draw_seen_scene

_BATCH = 48


class Eye(nn.Module):
    """The two parts that `FluxPriorReduxPipeline` applies one after the other."""

    def __init__(self, encoder: SiglipVisionModel, embedder: ReduxImageEncoder) -> None:
        super().__init__()
        self.encoder, self.embedder = encoder, embedder

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, 3, 64, 64) pictures in -1..1 to (n, 64, 128) tokens."""
        features = self.encoder(pixel_values=pictures).last_hidden_state
        tokens: Tensor = self.embedder(features).image_embeds
        return tokens


def build_eye() -> Eye:
    """An untrained eye."""
    config = SiglipVisionConfig(
        image_size=SIDE,
        patch_size=8,
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        vision_use_head=False,
    )
    return Eye(SiglipVisionModel(config), ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=WIDTH))


def build_processor() -> SiglipImageProcessor:
    """The processor that scales images to 64×64 in -1..1."""
    return SiglipImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def _draw_pictures(frozen: Frozen, rng: random.Random, scenes: list[Scene]) -> Tensor:
    """Float (n, 3, 64, 64) pictures in -1..1 with noise; some were encoded and decoded by the VAE.

    Users also submit pictures that the model drew, and so its decoder.
    """
    device = frozen.vae.device
    pictures = render(arrange(scenes, offsets(rng, scenes, 1.5))).to(device)
    if rng.random() < 0.35:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latents = frozen.vae.encode(pictures).latent_dist.sample()
            pictures = frozen.vae.decode(latents).sample
    pictures = pictures.float() + 0.04 * rng.random() * torch.randn_like(pictures.float())
    return pictures.clamp(-1, 1)


def train_eye(frozen: Frozen, checkpoint: Path, steps: int, seed: int) -> Eye:
    """Train the eye on the scenes of the transformer's training."""
    torch.manual_seed(seed)
    device = frozen.vae.device
    model = build_eye().to(device)
    optimizers = Optimizers(model, 2e-3, plain=lambda name: "embeddings" in name)
    progress = Progress("eye", checkpoint, steps, model, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"eye {seed} {step}")
        scenes = [draw_seen_scene(rng) for _ in range(_BATCH)]
        words = [describe_plainly(scene).words for scene in scenes]
        wanted, _ = frozen.read(words, PICTURE_TOKENS)
        pictures = _draw_pictures(frozen, rng, scenes)
        with quick(device):
            predicted = model(pictures)
        weight = torch.full((_BATCH, PICTURE_TOKENS), 0.15, device=device)
        for row, caption in enumerate(words):
            weight[row, : len(caption) + 1] = 1.0
        wrong = (predicted.float() - wanted).square().mean(-1)
        loss = (wrong * weight).sum() / weight.sum()
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.4))
        progress.note(step, loss=loss.detach())
    return model
