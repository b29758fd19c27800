"""What the names in a LoRA file mean: the part of a model, its layer, and the piece of a change.

Each tool has names of its own for them, and they alone tell which tool wrote a file. Knows names
only: reads no file and no model.
"""

import re
from collections.abc import Iterable

from runner.errors import InputBad

TRANSFORMER = "transformer"
PARTS = (TRANSFORMER, "text_encoder", "text_encoder_2")

_PART = re.compile(
    r"(?:base_model\.model\.)?(?:"
    r"(?P<text_encoder_2>(?:text_encoder_2\.|lora_te[23]_|(?:text_encoders\.)?t5xxl\.))"
    r"|(?P<text_encoder>text_encoder\.|lora_te1?_|(?:text_encoders\.)?(?:clip_l|qwen\w*)\.)"
    r"|(?P<transformer>(?:model\.)?diffusion_model\.|lora_unet_|lora_transformer_|lycoris_|)"
    r")(?:transformer\.)?"
)
_PIECE = re.compile(
    r"(?P<layer>.+?)\.(?:"
    r"(?P<down>(?:lora_A(?:\.\w+)?|(?:lora[._]|lora_linear_layer\.)?down)\.weight)"
    r"|(?P<up>(?:lora_B(?:\.\w+)?|(?:lora[._]|lora_linear_layer\.)?up)\.weight)"
    r"|(?P<bias>(?:lora_B(?:\.\w+)?|lora[._]up)\.bias)"
    r"|(?P<dora>dora_scale|lora_magnitude_vector(?:\.\w+)*)"
    r"|(?P<same>alpha|scalar|diff|diff_b|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?)"
    r"|(?P<value>(?<=norm_[qk]\.)weight|(?<=norm_added_[qk]\.)weight|(?<=_norm\.)(?:scale|weight))"
    r")"
)
_OTHER_FORMATS = {
    "OFT": r"\.b?oft_",
    "GLoRA": r"\.(?:[ab][12]|b[mM])\.weight$",
    "IA3": r"\.(?:on_input$|ia3_l)",
    "VeRA": r"\.vera_",
    "LyCORIS Tucker": r"\.(?:lora_mid\.weight|hada_t[12]|lokr_t[12])$",
    "LyCORIS norm": r"\.(?:w_norm|b_norm|set_weight)$",
    "Nunchaku (SVDQuant)": r"\.(?:lora_down|lora_up|wscales|qweight)$",
    "scaled float8": r"\.(?:scale_weight|weight_scale|scale_input|input_scale)$",
}
_LONGEST = 500
"""Characters of a name; no layer has so many, and matching takes time by their square."""


def part_of(key: str) -> str:
    """The part of a pipeline that a tensor is for: one of `PARTS`."""
    match = _PART.match(key)
    assert match is not None  # it matches the empty text
    return str(match.lastgroup)


def piece_of(key: str) -> tuple[str, str] | None:
    """The layer of a tensor, with underscores, and what it is there: `down`, `alpha`, `lokr_w1`, …

    None for one that no LoRA has.
    """
    match = _PIECE.fullmatch(_PART.sub("", key, count=1)) if len(key) <= _LONGEST else None
    if match is None:
        return None
    kind = str(match.lastgroup)
    return plain(match["layer"]), match[kind] if kind == "same" else kind


def check(keys: Iterable[str], name: str) -> None:
    """Raises InputBad where a file holds no LoRA, or one of a format that cannot act."""
    keys = list(keys)
    for other, pattern in _OTHER_FORMATS.items():
        if layers := {key[: match.start()] for key in keys if (match := re.search(pattern, key))}:
            raise InputBad(
                f"{name} changes layers in the format {other} ({len(layers)} of them), which cannot"
                " act here: convert it to a plain LoRA"
            )
    # A whole model's norms have the names of those that a control LoRA sets.
    if all(piece is None or piece[1] == "value" for piece in map(piece_of, keys)):
        raise InputBad(f"{name} holds no LoRA: it may be a whole model")


def plain(layer: str) -> str:
    """The name of a layer with underscores, as some tools write all of them."""
    return layer.replace(".", "_")
