"""Enlarges finished pictures with a compact net (SRVGGNetCompact of Real-ESRGAN), tile by tile.

Such a net is small, so it stays in RAM and is on the device for one picture only. Tiles overlap by
all that one pixel of the net's output depends on, so that the picture is as if made at once. Reads
local files only, and of pickles nothing but tensors.
"""

import hashlib
import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine.errors import require_finite, translation
from runner.engine.memory import devices
from runner.engine.models import Upscaler
from runner.errors import ModelMissing
from runner.files import stamp

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 256
"""The side of a tile in pixels of the picture that is enlarged."""

OnTile = Callable[[int, int], None]
"""Called before each tile with the number of those done and of all; it may raise."""


@dataclass(frozen=True)
class Net:
    """A net that makes pictures `scale` times as large: (1, 3, height, width), 0..1, float32.

    A pixel of its output depends on those within `reach` of its place. `facts` say whose it is.
    """

    body: Any
    scale: int
    reach: int
    facts: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, pixels: Any) -> Any:
        from torch.nn import functional

        detail = functional.pixel_shuffle(self.body(pixels), self.scale)
        return detail + functional.interpolate(pixels, scale_factor=self.scale, mode="nearest")


def build(width: int, convolutions: int, scale: int) -> Net:
    """A net with so many convolutions of so many channels; it has the names of published files."""
    from torch import nn

    layers: list[Any] = []
    for number in range(convolutions - 1):
        layers += [nn.Conv2d(width if number else 3, width, 3, padding=1), nn.PReLU(width)]
    layers.append(nn.Conv2d(width, 3 * scale**2, 3, padding=1))
    return Net(nn.Sequential(*layers), scale, convolutions)


def net_of(tensors: Mapping[str, Any]) -> Net:
    """The net of these tensors, whose layout tells its size. Raises ValueError for any other."""
    import torch

    found = {name.removeprefix("body."): tensor.float() for name, tensor in tensors.items()}
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise ValueError("numbers that are none")
    last = max((int(name.partition(".")[0]) for name in found if name[0].isdigit()), default=0)
    try:
        width, values = found["0.weight"].shape[0], found[f"{last}.weight"].shape[0]
        scale = isqrt(values // 3)
        if last % 2 or not 0 < last <= 200 or scale not in (2, 4):
            raise ValueError(f"{last} layers for {scale}×")
        with torch.device("meta"):
            net = build(width, last // 2 + 1, scale)
        net.body.load_state_dict(found, assign=True)
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    net.body.requires_grad_(False).eval()
    return net


def of(upscaler: Upscaler, file: Path) -> Net:
    """The net of an upscaler, whose file this is; raises ModelMissing where the file has none."""
    devices.frameworks()
    try:
        return _load(upscaler, file, stamp(file))
    except OSError as error:
        raise ModelMissing(f"{file.name} cannot be read: {error.strerror or error}") from error


def release() -> None:
    """Release the net; the next picture loads it again."""
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(upscaler: Upscaler, file: Path, state: tuple[int, ...]) -> Net:
    """The net of a file in this state: another one may come in its place."""
    import torch
    from safetensors.torch import load

    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    facts = {"name": upscaler.name, "file": upscaler.file, "sha256": digest}
    if not Path(upscaler.repo).is_absolute():
        facts["repo"] = upscaler.repo
    try:
        if file.suffix.lower() == ".safetensors":
            tensors: Any = load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for name in ("params_ema", "params"):
            tensors = tensors.get(name, tensors)
        return replace(net_of(tensors), facts=facts)
    except Exception as error:  # what a file that is none makes readers raise
        raise ModelMissing(
            f"{file.name} is damaged, or is no compact net (SRVGGNetCompact) that enlarges by 2 or"
            " 4: fetch it again, or use another file"
        ) from error


def upscaled(picture: "Image", net: Net, times: int, device: Any, on_tile: OnTile) -> "Image":
    """A picture with its sides 2 or 4 `times` as long, as RGB.

    A net of 2 is used twice for 4, and what one of 4 makes is halved for 2. Raises what `on_tile`
    raises, and OutOfMemory or DeviceLost where the device fails.
    """
    import numpy as np
    import torch
    from PIL import Image as Pillow

    levels = torch.from_numpy(np.array(picture.convert("RGB")))
    pixels = levels.permute(2, 0, 1).float() / 255
    passes = 2 if net.scale < times else 1
    sides = [[side * net.scale**number for side in pixels.shape[1:]] for number in range(passes)]
    total = sum(-(-height // TILE) * -(-width // TILE) for height, width in sides)
    count = itertools.count()
    try:
        with translation():
            net.body.to(device)
            for _ in range(passes):
                each = min(net.scale, times)
                pixels = tiled(pixels, net, device, each, lambda: on_tile(next(count), total))
    finally:
        net.body.to("cpu")
    require_finite(pixels)
    levels = (pixels * 255).round().byte().permute(1, 2, 0)
    return Pillow.fromarray(levels.contiguous().numpy())


def tiled(
    pixels: Any,
    net: Net,
    device: Any,
    times: int,
    before_tile: Callable[[], object],
    tile: int = TILE,
) -> Any:
    """Pixels (3, height, width) `times` as large, in 0..1 and on the CPU, made tile by tile."""
    import torch

    _, height, width = pixels.shape
    made = torch.empty(3, height * times, width * times)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            before_tile()
            above, before = min(top, net.reach), min(left, net.reach)
            rows = slice(top - above, top + tile + net.reach)
            part = pixels[:, rows, left - before : left + tile + net.reach]
            # Without TF32 and the search for the quickest way, tiles are the same as the whole.
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                large = net(part[None].to(device)).clamp(0, 1)
                if times < net.scale:
                    large = torch.nn.functional.avg_pool2d(large, net.scale // times)
            place = made[:, top * times :, left * times :][:, : tile * times, : tile * times]
            inner = large[0, :, above * times :, before * times :]
            place.copy_(inner[:, : place.shape[1], : place.shape[2]])
    return made
