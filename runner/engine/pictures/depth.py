"""Depth maps of pictures as FLUX.1 Depth reads them: near is bright, three equal channels.

An estimator is small, so it stays in RAM and is on the device for its one forward pass only. Reads
local files only. The picture is prepared by Pillow and the map is finished on the CPU, whatever
else is installed, so that the map does not depend on it.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine.errors import translation
from runner.engine.memory import devices
from runner.errors import ModelMissing

if TYPE_CHECKING:
    from PIL.Image import Image


def of(picture: "Image", folder: Path, device: Any) -> "Image":
    """The depth map of a picture by the estimator of a folder, as RGB of the same size.

    Raises ModelMissing where the folder is not a complete estimator, OutOfMemory or DeviceLost
    where the device fails.
    """
    processor, model = _estimator(folder)
    with translation():
        return depth_map(picture, processor, model, device)


def release() -> None:
    """Release the estimator; the next map loads it again."""
    _estimator.cache_clear()


@lru_cache(maxsize=1)
def _estimator(folder: Path) -> tuple[Any, Any]:
    """The processor and the model of a folder."""
    devices.frameworks()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        model = AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelMissing(
            "the depth estimator on this machine is not whole: run `fluxdrop models pull"
            " depth-anything` again"
        ) from error
    return processor, model.eval()


def depth_map(picture: "Image", processor: Any, model: Any, device: Any) -> "Image":
    """The inverse depth of a picture, from 0 (farthest) to 255 (nearest), by one forward pass.

    The estimator takes float32 pixels of shape (1, 3, height, width) in a size of its processor's,
    and gives (1, height, width); the map is RGB in the size of the picture.
    """
    import torch
    from PIL import Image as Pillow

    source = picture.convert("RGB")
    inputs = processor(images=source, return_tensors="pt")
    try:
        model.to(device)
        with torch.no_grad():
            depth = model(inputs["pixel_values"].to(device)).predicted_depth.float().cpu()
    finally:
        model.to("cpu")
    # The estimator works in a size of its own, with a side of 518 pixels.
    full = torch.nn.functional.interpolate(
        depth[:, None], size=(source.height, source.width), mode="bicubic", align_corners=False
    )[0, 0]
    far, near = full.min(), full.max()
    # Equal depth everywhere cannot be spread over the range: it becomes 0.
    spread = (full - far) / (near - far) if near > far else torch.zeros_like(full)
    return Pillow.fromarray((spread * 255).round().byte().numpy()).convert("RGB")
