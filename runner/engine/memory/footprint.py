"""The bytes that a model takes: its weights in each precision, and its tensors while it computes.

The figures are published measurements of FLUX.1-dev at 1024×1024 (peak minus weights), extended by
formulas that grow with the picture. Pure arithmetic on a registry entry; never queries a device.
Sizes of pictures are in pixels of their area, precisions and placements as in `MemoryPlan`.
"""

import re
from dataclasses import replace

from runner.engine.models import Model

GIB = 2**30

_SINGLE_BITS = re.compile(r"(?:^|[-_.])I?Q(\d)", re.IGNORECASE)
_SIXTEEN_BITS = re.compile(r"(?:^|[-_.])(?:bf16|fp?16)(?:[-_.]|$)", re.IGNORECASE)

# 4 bits, an 8-bit scale for each 64 of them, and a 32-bit scale for each 256 of those.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# T5 keeps its `wo` matrices, and every encoder its embedding, in bf16: 0.90 of FLUX.1's encoders,
# 0.66 of Qwen3-4B.
_NF4_TEXT = 0.9

# One step at 1024×1024 reads 4096 image tokens and 512 of text. Published: bf16 with offload peaks
# 1.1 GiB above its transformer, the NF4 transformer alone 0.45 GiB above its weights.
_STEP = 0.75 * GIB / 4608
ROWS = 1024
"""How many rows of a layer's input are multiplied at once in 8-bit integers."""
# Published: resident peaks are 4.8 GiB above all weights, whatever the precision. It is the VAE.
_DECODE = 4.8 * GIB / 1024**2
TILE = 512
"""The side of a tile in pixels, when a picture is decoded in tiles."""
# Bytes for each pixel of the picture, beside the peak of one tile.
_CANVAS = 48
_ENCODING = 0.5 * GIB
# Published: streamed leaf by leaf, the transformer's forward peaks at 0.55 GB altogether.
_WINDOW = 0.5 * GIB

_REFERENCE_TOKENS = 4150
_BESIDE = {
    "flux1": ("kontext",),
    "flux2": ("kontext", "redux", "fill"),
    "flux3": ("kontext", "redux"),
}
"""The kinds of a family whose picture is read in every step, beside the one that is made."""
_PRIOR_TOKENS = 729
# FLUX.3 modulates each token by itself: four tensors of its width, and two of three times that.
_OF_A_TOKEN = {"flux3": 1.4}


def transformer(model: Model, precision: str) -> int:
    """The bytes of the transformer's weights."""
    count = model.weights.transformer
    if precision == "fp32":
        return 4 * count
    if precision == "bf16":
        return 2 * count
    if precision == "gguf":
        return int(count * _single_bits(model) / 8)
    if precision == "stored":
        return max(model.bytes - 2 * model.weights.others, count // 2)
    kept = min(count, model.weights.outside)
    return int((count - kept) * (_NF4 if precision == "nf4" else 1)) + 2 * kept


def beside(precision: str) -> str:
    """The precision of a ControlNet: the transformer's, but its file is as it was published."""
    return "bf16" if precision in ("gguf", "stored") else precision


def controlnet(model: Model, precision: str) -> int:
    """The bytes of the layers that a ControlNet has beside the transformer; 0 without one."""
    weights = replace(model.weights, transformer=model.weights.controlnet)
    return transformer(replace(model, weights=weights), beside(precision))


def text(model: Model, precision: str) -> int:
    """The bytes of the text encoders' weights."""
    return int(model.weights.text * {"fp32": 4, "bf16": 2, "nf4": _NF4_TEXT}[precision])


def encoding(model: Model, precision: str) -> int:
    """The peak of the text stage in bytes while it encodes a prompt."""
    return text(model, precision) + int(_ENCODING * _narrow(model.weights.text))


def painting(
    model: Model,
    kind: str,
    precision: str,
    placement: str,
    tiling: bool,
    pixels: int,
    references: int = 1,
) -> int:
    """The peak of the paint stage on the device in bytes; denoising and decoding do not overlap.

    Enlarging the picture takes less than decoding it: its tiles are small, and so is its net.
    """
    width = 4 if precision == "fp32" else 2
    weights = transformer(model, precision)
    needs_prior = kind not in model.serves or model.serves[kind].prior is not None
    vae, prior = width * model.weights.vae, width * model.weights.prior * needs_prior
    prior += controlnet(model, precision)  # it stays as well, also while the transformer is away
    step = _step(model, kind, precision, pixels, references)
    decode = int(_decode(pixels, tiling) * width / 2 * _narrow(model.weights.transformer))
    if placement == "offload":
        return prior + max(weights + step, vae + decode)
    if placement == "stream":
        return vae + prior + max(int(_WINDOW) + step, decode)
    return weights + vae + prior + max(step, decode)


def in_ram(model: Model, precision: str, placement: str) -> int:
    """The bytes of host memory that a paint stage takes for weights that are not on the device."""
    if placement == "resident":
        return 0
    held = transformer(model, precision) + controlnet(model, precision)
    return int(1.1 * (held + 2 * model.weights.vae))


def _step(model: Model, kind: str, precision: str, pixels: int, references: int = 1) -> int:
    width = 2 if precision == "fp32" else 1
    inputs, outputs = model.weights.widest
    layer = 0 if precision in ("fp32", "bf16") else 2 * model.width * outputs
    if precision == "int8":  # a layer that does not multiply integers has a copy in bf16
        layer += 2 * 4 * ROWS * outputs
    tokens = pixels / 256 + _other_tokens(model, kind, pixels, references)
    if model.family == "zimage" and any(serving.negative for serving in model.serves.values()):
        tokens *= 2  # the prompt and the negative prompt as one batch; others compute them in turn
    if precision == "stored" and model.single:
        # Unpacked by way of floats, or with inputs that are floats three times while rounded.
        layer = max(3 * layer, 3 * 4 * inputs * int(tokens))
    narrow = _narrow(model.weights.transformer)
    step = width * _STEP * tokens * _OF_A_TOKEN.get(model.family, 1)
    return int((step + layer) * narrow + width * _kept(model, kind, tokens, references))


def _kept(model: Model, kind: str, tokens: float, references: int) -> float:
    """The bytes that a step in bf16 holds of tokens: of references that it reads once."""
    if model.weights.controlnet:
        return tokens * model.weights.kept
    reads = kind not in model.serves or kind in _BESIDE.get(model.family, ())
    return references * _REFERENCE_TOKENS * model.weights.kept * reads


def _decode(pixels: int, tiling: bool) -> float:
    if tiling:
        return _DECODE * min(pixels, TILE**2) + _CANVAS * pixels
    return _DECODE * pixels


def _narrow(count: int) -> float:
    """The share of FLUX's working memory that a model of `count` parameters takes."""
    return min(1.0, (count / 1e9) ** 0.5)


def _other_tokens(model: Model, kind: str, pixels: int, references: int = 1) -> int:
    """The tokens of a step besides the picture's: the prompt's and the references'.

    FLUX.1 reads all of them as one picture as large as its own, other pipelines bring each to a
    megapixel. Without a kind, those of the kind with the most.
    """
    most, read = 0, pixels // 256 if model.family == "flux1" else references * _REFERENCE_TOKENS
    for name in [kind] if kind in model.serves else model.serves:
        serving = model.serves[name]
        tokens = model.max_sequence_length
        if serving.prior:
            tokens = serving.prior.max_sequence_length + _PRIOR_TOKENS
        elif name in _BESIDE.get(model.family, ()):
            tokens += read
        most = max(most, tokens)
    return most


def _single_bits(model: Model) -> float:
    """The bits of a weight in a single file, guessed from its name: Q8_0 takes 8.5, Q4_K_S 4.6."""
    name = model.single.file if model.single else ""
    if _SIXTEEN_BITS.search(name):
        return 16.0
    bits = _SINGLE_BITS.search(name)
    return int(bits[1]) + 0.7 if bits else 8.5
