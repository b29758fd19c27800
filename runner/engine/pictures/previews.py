"""Previews: what a picture will be like, estimated while it is denoised, at most one a second.

A step of flow matching is x' = x + (s' - s) v. So two latents of the way give v, and x' - s' v is
where the way ends if it goes on straight. The colours of that are a linear function of the
channels around each place, fitted once to the model's own VAE. Never changes a latent, and never
fails an image.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runner.engine.families.base import Family
from runner.engine.weights.kept_folders import KeptFolder
from runner.log_once import LogOnce

RECIPE = 1
"""Of the fit: one that is kept counts as long as this stays."""

Preview = Callable[[Any, Any], tuple[bytes, ...]]
"""Called with the pipeline and its latents after each step; returns a preview where one is due."""

_FILE = "colours.safetensors"
_SECONDS = 1.0
# Between latents that are nearer to each other the roundings of bf16 would show as noise.
_LEAST_WAY = 0.05
# Each place of the latents is 8 pixels wide, and so many of the preview.
_ACROSS = 2
# The lossy sort of WebP would show its blocks of colour in so small a picture.
_SMALL, _LONGEST = 96, 512
_FIELDS = (1, 2, 3, 4, 6, 8)
_PATCHES, _SIDE, _AT_ONCE = 60, 64, 10


class Previews:
    """Makes the previews of one picture after the other; used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0
        self._log_once = LogOnce("making previews")

    def of(
        self, family: Family, pipe: Any, size: tuple[int, int], colours: Callable[[], Any]
    ) -> Preview | None:
        """The previews of a picture of this size; None for a pipeline that shows no latents."""
        if "latents" not in getattr(pipe, "_callback_tensor_inputs", ()):
            return None
        way: deque[tuple[float, Any]] = deque()
        sigmas: list[float] = []
        try:
            fitted = colours()
        except Exception as error:  # noqa: BLE001 whatever it is, the image is made without
            self._log_once.failed(error)
            return None

        def after_step(stepping: Any, latents: Any) -> tuple[bytes, ...]:
            try:
                scheduler = stepping.scheduler
                if not sigmas:
                    sigmas.extend(scheduler.sigmas.tolist())
                way.append((sigmas[scheduler.step_index], latents[:1]))
                while len(way) > 2 and way[1][0] - way[-1][0] >= _LEAST_WAY:
                    way.popleft()
                if self._clock() < self._due or way[0][0] <= way[-1][0]:
                    return ()
                self._due = self._clock() + _SECONDS
                grid = family.grid(pipe, _end_of(way), *size)
                return (_encoded(_coloured(grid.float(), fitted)),)
            except Exception as error:  # noqa: BLE001
                self._log_once.failed(error)
                return ()

        return after_step


def colours_of(pipe: Any, kept: KeptFolder) -> Any:
    """The factors (9 · channels + 1, 12) of 2×2 colours, fitted where none are kept."""
    from safetensors.torch import load_file, save_file

    if kept.is_whole():
        return load_file(kept.folder / _FILE)["colours"]
    colours = _fitted(pipe)
    with suppress(OSError):  # it is fitted again
        kept.make(colours.nbytes, lambda aside: save_file({"colours": colours}, aside / _FILE))
    return colours


def _fitted(pipe: Any) -> Any:
    """The factors by least squares, from patches of random colours that the VAE encodes."""
    import torch
    from torch.nn import functional

    patches, vae, device = _patches(), pipe.vae, pipe._execution_device
    with torch.no_grad():
        grids = [
            vae.encode(some.to(device, vae.dtype)).latent_dist.mode().float().cpu()
            for some in patches.split(_AT_ONCE)
        ]
    pipe.maybe_free_model_hooks()  # an offloaded VAE leaves the device again
    around = functional.unfold(_bordered(torch.cat(grids)), 3).mT.flatten(0, 1)
    means = functional.avg_pool2d(patches, 8 // _ACROSS)
    wanted = functional.pixel_unshuffle(means, _ACROSS).flatten(2).mT.flatten(0, 1)
    with_one = torch.cat([around, torch.ones(len(around), 1)], dim=1)
    return torch.linalg.lstsq(with_one, wanted).solution.contiguous()


def _patches() -> Any:
    """Pictures (60, 3, 64, 64) of random colours from -1 to 1, with soft and hard borders."""
    import torch

    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(_PATCHES):
        fields = _FIELDS[number // 2 % len(_FIELDS)]
        coarse = torch.rand(1, 3, fields, fields, generator=generator) * 2 - 1
        mode = "bicubic" if number % 2 else "nearest"
        made.append(torch.nn.functional.interpolate(coarse, (_SIDE, _SIDE), mode=mode))
    return torch.cat(made).clamp(-1, 1)


def _end_of(way: deque[tuple[float, Any]]) -> Any:
    """The latents at noise 0 if the way goes on straight."""
    (before, first), (now, last) = way[0], way[-1]
    last = last.float()
    return last + (last - first.float()) * (now / (before - now))


def _coloured(grid: Any, colours: Any) -> Any:
    """The pixels (height, width, 3) of a grid of latents, as bytes on the CPU."""
    from torch.nn import functional

    factors, means = colours.to(grid.device).split([len(colours) - 1, 1])
    kernel = factors.mT.view(-1, grid.shape[1], 3, 3)
    places = functional.conv2d(_bordered(grid), kernel, means[0])
    levels = functional.pixel_shuffle(places[0], _ACROSS) * 127.5 + 127.5
    return levels.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _bordered(grid: Any) -> Any:
    """The grid with each of its places at the border once more outside of it."""
    from torch.nn import functional

    return functional.pad(grid, (1, 1, 1, 1), mode="replicate")


def _encoded(pixels: Any) -> bytes:
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((_LONGEST, _LONGEST))
    exact = max(image.size) <= _SMALL
    image.save(buffer, "WEBP", lossless=exact, quality=0 if exact else 80, method=1)
    return buffer.getvalue()
