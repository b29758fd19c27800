"""Hand-written diffusers for the five kinds, as a careful user writes it: what benches compare to.

Nothing of the runner but the quiet import of diffusers. A pipeline is handed over as a tuple,
because variations have two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.library import PARTS, PRIOR
from tests.random_twin import PARTS as CLASSES

Pipes = tuple[Any, ...]


def import_all() -> Any:
    """diffusers, with every class that the kinds need imported."""
    from runner.engine.memory import devices

    diffusers = devices.frameworks()
    for part in (*PARTS.values(), PRIOR):
        getattr(diffusers, CLASSES[part])
    return diffusers


def load(
    kind: str,
    folder: Callable[[str], Path],
    *,
    dtype: Any,
    place: Callable[[Any], object] = lambda pipe: None,
    **given: Any,
) -> Pipes:
    """The pipelines of a kind: `place` puts each where it is to run, `given` goes to the main one.

    The prior of a variation gets the text encoders of the main pipeline, so that they are loaded
    once.
    """
    diffusers = import_all()

    def one(part: str, **more: Any) -> Any:
        pipe = getattr(diffusers, CLASSES[part]).from_pretrained(folder(part), dtype=dtype, **more)
        pipe.set_progress_bar_config(disable=True)
        place(pipe)
        return pipe

    main = one(PARTS[kind], **given)
    if kind != "redux":
        return (main,)
    text = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return one(PRIOR, **{name: getattr(main, name) for name in text}), main


def encode(pipes: Pipes, prompt: str, length: int) -> dict[str, Any]:
    """A prompt's embeddings, under the names of the arguments that take them."""
    import torch

    with torch.no_grad():
        words, pooled, _ = pipes[-1].encode_prompt(prompt, None, max_sequence_length=length)
    return {"prompt_embeds": words, "pooled_prompt_embeds": pooled}


def draw(
    kind: str,
    pipes: Pipes,
    words: Mapping[str, Any],
    pictures: Mapping[str, Any],
    *,
    side: int,
    steps: int,
    seed: int,
    **more: Any,
) -> Any:
    """One picture. `words` is a prompt or its embeddings, as the pipeline takes them."""
    import torch

    image = pictures["image"]
    own: Mapping[str, Mapping[str, Any]] = {
        "kontext": {"image": image, "max_area": side * side, "_auto_resize": False},
        "fill": {"image": image, "mask_image": pictures["mask"]},
        "control": {"control_image": image},
    }
    if kind == "redux":
        # The prior scales in place what it is given.
        words = dict(pipes[0](image, **{name: value.clone() for name, value in words.items()}))
    return pipes[-1](
        **words, **own.get(kind, {}), **more, width=side, height=side, num_inference_steps=steps,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images[0]  # fmt: skip


def pictures(side: int) -> dict[str, Any]:
    """An image and a mask of this size."""
    from PIL import Image

    gradient = Image.linear_gradient("L").resize((side, side))
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (side // 4, side // 4, side // 2, side // 2))
    return {"image": gradient.convert("RGB"), "mask": mask}
