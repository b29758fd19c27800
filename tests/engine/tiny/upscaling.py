"""Trains the net that enlarges the built-in model's pictures by 2, on exact pictures of its world.

A drawing is rendered at both sizes; most of the small ones went through the codec, whose traces the
net learns to take away. Half of the drawings are crowded scenes, and a part is enlarged from 128 to
256 pixels, for the net is used twice for 4 times. `python -m tests.engine.tiny.upscaling --out DIR`
trains it alone, with the codec that ships: a quarter of an hour on one core.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from runner.engine.pictures.upscaling import Net, build, net_of
from runner.engine.tiny.folders import UPSCALER, WEIGHTS
from tests.engine.tiny.loop import Optimizers, Progress, schedule
from tests.engine.tiny.render import arrange, offsets, render
from tests.engine.tiny.vae import draw_crowd
from tests.engine.tiny.world import draw_seen_scene

WIDTH, CONVOLUTIONS, SCALE = 24, 7, 2
STEPS = 3000
_POOL, _BATCH = 1536, 8


def train_upscaler(
    codec: AutoencoderKL, checkpoint: Path, steps: int, seed: int, device: torch.device
) -> Net:
    """Train the net; its weights are rounded to float16 at the end, as they are shipped."""
    torch.manual_seed(seed)
    net = build(WIDTH, CONVOLUTIONS, SCALE)
    with torch.no_grad():
        net.body[-1].weight.mul_(0.1)
    net.body.to(device)
    optimizers = Optimizers(net.body, 2e-3, plain=lambda name: name.startswith(("0.", "12.")))
    progress = Progress("upscaler", checkpoint, steps, net.body, optimizers)
    small, large = (part.to(device) for part in draw_pool(codec, seed))
    for step, done in progress.steps():
        rng = random.Random(f"upscaler {seed} {step}")
        asked, wanted = _turned(rng, small, large)
        wrong = net(asked) - wanted
        loss = (wrong.square() + 1e-6).sqrt().mean() + 4 * wrong.square().mean()
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.4))
        progress.note(step, loss=loss.detach(), psnr=_decibels(wrong.detach()))
    return net_of({name: tensor.half() for name, tensor in net.body.cpu().state_dict().items()})


def save(net: Net, file: Path) -> None:
    """Write a net as it is shipped: float16, with the names of published ones."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = net.body.state_dict().items()
    save_file({f"body.{name}": tensor.half().contiguous() for name, tensor in tensors}, file)


@torch.no_grad()
def draw_pool(codec: AutoencoderKL, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of 64 pixels and the same with 128, (n, 3, …) in 0..1; a third are parts of 128."""
    rng = random.Random(f"upscaler {seed}")
    small, large = [], []
    for number in range(0, _POOL, 64):
        scenes = [draw_seen_scene(rng) for _ in range(32)]
        parts = (arrange(scenes, offsets(rng, scenes, 3.0)), draw_crowd(rng, 32))
        if number % 192 == 0:
            x, y = rng.choice((0, 32, 64)), rng.choice((0, 32, 64))
            twice, four = (torch.cat([render(part, times) for part in parts]) for times in (2, 4))
            small.append(twice[:, :, y : y + 64, x : x + 64])
            large.append(four[:, :, 2 * y : 2 * y + 128, 2 * x : 2 * x + 128])
            continue
        exact = torch.cat([render(part) for part in parts])
        coded = codec.decode(codec.encode(exact).latent_dist.mode()).sample.clamp(-1, 1)
        small.append(torch.cat([exact[::4], coded[1::4], coded[2::4], coded[3::4]]))
        wanted = torch.cat([render(part, 2) for part in parts])
        large.append(torch.cat([wanted[first::4] for first in range(4)]))
    levels = (((torch.cat(small) + 1) * 127.5).round() / 255).clamp(0, 1)
    return levels, (torch.cat(large) + 1) / 2


def _turned(rng: random.Random, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """A batch of pairs, turned and mirrored at random; whole, for pictures have edges."""
    chosen = torch.tensor(rng.sample(range(len(small)), _BATCH))
    asked, wanted = small[chosen], large[chosen]
    if rng.random() < 0.5:
        asked, wanted = asked.flip(2), wanted.flip(2)
    if rng.random() < 0.5:
        asked, wanted = asked.mT, wanted.mT
    return asked.contiguous(), wanted.contiguous()


def _decibels(wrong: Tensor) -> float:
    return float(-10 * torch.log10(wrong.square().mean()))


def main(argv: list[str]) -> int:
    """Train the net alone and write its file."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine.tiny.upscaling")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    codec = AutoencoderKL.from_pretrained(WEIGHTS / "vae", torch_dtype=torch.float32)
    checkpoint = options.work / "upscaler.pt"
    net = train_upscaler(codec, checkpoint, options.steps, options.seed, torch.device("cpu"))
    save(net, options.out / UPSCALER)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
