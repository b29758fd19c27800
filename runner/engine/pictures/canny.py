"""Canny edge maps: the only implementation, used by kinds and by the training of the tiny model.

Computes what `cv2.Canny(image, 50, 200)` computes (3×3 Sobel, L1 norm, the strongest of the
colour channels, no blur by default), because FLUX.1 Canny was trained on such maps.
Compared with OpenCV 5.0.0 on noise, smooth, drawn, ramp and grey pictures at three pairs of
thresholds each: every pixel of all fifteen maps agrees. 1024×1024 takes 0.07 s, pure noise 0.3 s.
"""

from typing import Any

from PIL import Image as Pillow
from PIL.Image import Image

_LOW, _HIGH = 50, 200
"""The thresholds of the gradient's L1 norm, at most 1530, that FLUX.1 Canny was trained with."""
_TAN_22 = 13573
"""tan 22.5° in fixed point with 15 bits, as in OpenCV."""


def canny(image: Image) -> Image:
    """The edges of a picture, white on black, as RGB of the same size."""
    import numpy as np

    across, down, strength = _gradient(np.asarray(image.convert("RGB"), dtype=np.int32))
    ridge = _thinned(across, down, strength) & (strength > _LOW)
    edges = _connected(ridge, ridge & (strength > _HIGH))
    return Pillow.fromarray(edges.astype(np.uint8) * 255).convert("RGB")


def _gradient(pixels: Any) -> tuple[Any, Any, Any]:
    """The horizontal and vertical Sobel gradient, and its L1 norm, at each pixel.

    From int32 (height, width, 3) to three int32 (height, width): those of the channel with the
    greatest norm. The outermost pixels are repeated beyond the picture's border.
    """
    import numpy as np

    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = rows[:, 2:] - rows[:, :-2]
    down = columns[2:] - columns[:-2]
    norm = np.abs(across) + np.abs(down)
    best = norm.argmax(axis=2)[..., None]
    across, down, norm = (np.take_along_axis(a, best, 2)[..., 0] for a in (across, down, norm))
    return across, down, norm


def _thinned(across: Any, down: Any, strength: Any) -> Any:
    """Non-maximum suppression in four directions: a bool (height, width) of `_gradient`'s arrays.

    Of equal pixels in a row or a column the left or upper one stays, of those on a diagonal none.
    """
    import numpy as np

    height, width = strength.shape
    around = np.pad(strength, 1)

    def beside(row: int, column: int) -> Any:
        return around[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    x, y = np.abs(across).astype(np.int64), np.abs(down).astype(np.int64) << 15
    flat = x * _TAN_22
    horizontal = y < flat
    vertical = y > flat + (x << 16)
    along = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    upright = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    diagonal = np.where((across ^ down) < 0, rising, falling)
    return np.where(horizontal, along, np.where(vertical, upright, diagonal))


def _connected(ridge: Any, strong: Any) -> Any:
    """Hysteresis: the ridge pixels that touch a strong one, through other ridge pixels too.

    All are bool (height, width). Each round visits only the neighbours of the last round's pixels,
    so that a long edge costs its own length and not a pass over the picture for each of its pixels.
    """
    import numpy as np

    height, width = ridge.shape
    stride = width + 2
    waiting = np.pad(ridge, 1).ravel()
    kept = np.zeros_like(waiting)
    around = np.array([-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1])
    front = np.flatnonzero(np.pad(strong, 1).ravel())
    waiting[front] = False
    while front.size:
        kept[front] = True
        near = (front[:, None] + around).ravel()
        front = np.unique(near[waiting[near]])
        waiting[front] = False
    return kept.reshape(height + 2, stride)[1:-1, 1:-1]
