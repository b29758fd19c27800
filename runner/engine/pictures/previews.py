"""Previews: what a picture will be like, estimated while it is denoised, at most one a second.

A step of flow matching is x' = x + (s' - s) v. So two latents of the way give v, and x' - s' v is
where the way ends if it goes on straight. The colours of that are a linear function of the
channels around each place, fitted once to the model's own VAE. Never changes a latent, and never
fails an image.
"""

import io
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.engine.gpu import Stages
from runner.engine.kinds.base import Prepared
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights.kept_folders import KeptFolder
from runner.log_once import LogOnce
from runner.task import ImageTask

_RECIPE, _FILE = 1, "colours.safetensors"
_SECONDS = 1.0
# Between latents that are nearer to each other the roundings of bf16 would show as noise.
_LEAST_WAY = 0.05
# The lossy sort of WebP would show its blocks of colour in so small a picture.
_SMALL, _LONGEST = 96, 512
_BORDER: Any = {"pad": (1, 1, 1, 1), "mode": "replicate"}
# The patches: how many of each sort, their side, and how many fields of one colour are along it.
_PATCHES, _SIDE, _FIELDS = 5, 64, (1, 2, 3, 4, 6, 8)


class Previews:
    """Makes the previews of one picture after the other; what is fitted to VAEs is in `store`."""

    def __init__(self, store: Path) -> None:
        self._store, self._due = store, 0.0
        self._colours: dict[str, Any] = {}
        self._log_once = LogOnce("making previews")

    def of(
        self, stages: Stages, resolved: ResolvedTask, task: ImageTask, prepared: Prepared
    ) -> Stages:
        """The stages, with the previews that a task asks for where its pipeline shows latents."""
        pipe = stages.main
        if not task.preview or "latents" not in getattr(pipe, "_callback_tensor_inputs", ()):
            return stages
        way: deque[tuple[float, Any]] = deque()
        sigmas: list[float] = []

        def after_step(scheduler: Any, latents: Any) -> tuple[bytes, ...]:
            try:
                sigmas[:] = sigmas or scheduler.sigmas.tolist()
                way.append((sigmas[scheduler.step_index], latents[:1]))
                while len(way) > 2 and way[1][0] - way[-1][0] >= _LEAST_WAY:
                    way.popleft()
                (before, first), (now, last) = way[0], way[-1]
                if time.monotonic() < self._due or before <= now:
                    return ()
                self._due = time.monotonic() + _SECONDS
                end = last.float() + (last.float() - first.float()) * (now / (before - now))
                grid = stages.family.grid(pipe, end, prepared.width, prepared.height)
                return (_picture(grid, self._colours[resolved.marks["vae"]]),)
            except Exception as error:  # noqa: BLE001 whatever it is, the image goes on
                self._log_once.failed(error)
                return ()

        try:
            if (mark := resolved.marks["vae"]) not in self._colours:
                kept = KeptFolder(self._store, resolved.folder / "vae", mark, "colours", _RECIPE)
                self._colours[mark] = _colours(pipe, kept)
        except Exception as error:  # noqa: BLE001
            self._log_once.failed(error)
            return stages
        return replace(stages, preview=after_step)


def _colours(pipe: Any, kept: KeptFolder) -> Any:
    """The factors (9 · channels + 1, 12) of 2×2 colours, by least squares where none are kept.

    They are of patches of random colours that the VAE encodes, with soft and with hard borders.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn.functional import avg_pool2d, interpolate, pad, pixel_unshuffle, unfold

    if kept.is_whole():
        return load_file(kept.folder / _FILE)["colours"]
    generator, patches, latents = torch.Generator().manual_seed(0), [], []
    for fields in _FIELDS:
        for mode in ("nearest", "bicubic"):
            coarse = torch.rand(_PATCHES, 3, fields, fields, generator=generator) * 2 - 1
            patches.append(interpolate(coarse, (_SIDE, _SIDE), mode=mode).clamp(-1, 1))
            some = patches[-1].to(pipe._execution_device, pipe.vae.dtype)
            with torch.no_grad():
                latents.append(pipe.vae.encode(some).latent_dist.mode().float().cpu())
    pipe.maybe_free_model_hooks()  # an offloaded VAE leaves the device again
    around = unfold(pad(torch.cat(latents), **_BORDER), 3).mT.flatten(0, 1)
    wanted = pixel_unshuffle(avg_pool2d(torch.cat(patches), 4), 2).flatten(2).mT.flatten(0, 1)
    known = pad(around, (0, 1), value=1.0)
    colours = torch.linalg.lstsq(known, wanted).solution.contiguous()
    with suppress(OSError):
        kept.make(colours.nbytes, lambda aside: save_file({"colours": colours}, aside / _FILE))
    return colours


def _picture(grid: Any, colours: Any) -> bytes:
    """The colours of latents (1, channels, height, width) as WebP, twice as wide and high."""
    from PIL import Image
    from torch.nn.functional import conv2d, pad, pixel_shuffle

    colours = colours.to(grid.device)
    kernel = colours[:-1].mT.contiguous().view(-1, grid.shape[1], 3, 3)
    places = conv2d(pad(grid, **_BORDER), kernel, colours[-1])[0]
    levels = pixel_shuffle(places, 2).mul(127.5).add(128).clamp(0, 255).byte()
    image, buffer = Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()), io.BytesIO()
    image.thumbnail((_LONGEST, _LONGEST))
    exact = max(image.size) <= _SMALL
    image.save(buffer, "WEBP", lossless=exact, quality=0 if exact else 80, method=1)
    return buffer.getvalue()
