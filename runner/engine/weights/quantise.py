"""Loads transformers and text encoders, and keeps what it quantised on disk.

    fp32, bf16   as they were published
    fp8     8 bits a weight, computed in bf16; converted once, then read from `data/quantised`
    int8    8 bits a weight, and products of 8-bit integers; likewise
    nf4     4 bits by bitsandbytes; quantised on the GPU once, then read from there too
    gguf    a file that was published quantised, as it is
    stored  a folder that was published quantised, or a file of BFL's (fp8r on CUDA), as it is

Kept weights give the same numbers as fresh ones. Never fetches anything and never chooses the
precision.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from runner.engine.errors import attempted
from runner.engine.memory import devices
from runner.engine.weights import bfl, checkpoints, fp8, int8
from runner.engine.weights.kept_folders import KeptFolder
from runner.engine.weights.loading import counted

_RECIPES = {"fp8": 1, "int8": 1, "nf4": 1}
"""Versions, increased when the quantised weights change, so that older folders are made again."""

_SETTLED = "_fluxdrop_settled"
_SMALL_ENCODER = 2**30
"""Published bytes below which a text encoder is not quantised."""

_SHARE_OF_SOURCE = 0.6
"""A bound on the quantised size as a share of the published one, which is bf16 or larger."""


def load_transformer(
    cls: Any,
    folder: Path,
    precision: str,
    device: Any,
    store: Path,
    mark: str,
    single: Path | None = None,
    computes: Any = None,
) -> Any:
    """The transformer of a component's folder in this precision: on the device, in few bits.

    It computes in bfloat16 then. `store` is the folder of quantised weights, `mark` the hash of the
    weights, `single` a file (GGUF or safetensors) to take them from: `folder` then only gives the
    configuration. How it multiplies is settled by one trial on the device that `computes`, where
    that is another than the one it is loaded on.
    """
    if precision in ("fp32", "bf16"):
        dtype = devices.dtype_of(precision)
        if single is None:
            return checkpoints.from_folder(cls, folder, dtype=dtype)
        return checkpoints.from_single(cls, folder, single, dtype)
    if precision == "gguf":
        assert single is not None
        model = checkpoints.from_gguf(cls, folder, single, device)
    elif precision == "stored" and single is not None:
        model = checkpoints.from_bfl(cls, folder, single, device)
    elif precision == "stored":
        model = _from_folder(cls, folder, device)
    else:
        make = _transformer_nf4 if precision == "nf4" else partial(_eight_bits, precision)
        model = make(cls, folder, device, store, mark, single)
    found: dict[str, Any] = {}
    if precision == "int8" and not int8.settle(model, computes or device):
        found = {"weight_only": True}
    elif precision == "stored" and single is not None:
        found = {"scheme": checkpoints.scheme(single), "rounds_inputs": bfl.settle(model)}
    setattr(model, _SETTLED, found)
    return _for_inference(model)


def facts(pipe: Any) -> Mapping[str, Any]:
    """What was settled of the transformer, as engine facts; empty for what is always the same."""
    return dict(getattr(getattr(pipe, "transformer", None), _SETTLED, {}))


def warnings(pipe: Any) -> tuple[str, ...]:
    """Sentences for the caller about a pipeline that does not compute as it was asked to."""
    if not facts(pipe).get("weight_only"):
        return ()
    return (
        "this device did not multiply 8-bit integers in a trial, so with `precision: int8` only the"
        " weights are in 8 bits: other pixels, and no faster than bf16",
    )


def load_text_encoder(
    cls: Any, folder: Path, precision: str, device: Any, store: Path, mark: str, layers: int = 0
) -> Any:
    """A text encoder in this precision, on the device; no small one is in nf4, but in bf16.

    One that was published quantised is loaded as it is. `store` is the folder of quantised weights,
    `mark` the hash of the weights, `layers` as of `checkpoints.text_encoder`.
    """
    from transformers import BitsAndBytesConfig

    is_stored = checkpoints.is_stored(folder)
    if precision != "nf4" or is_stored or checkpoints.size(folder) < _SMALL_ENCODER:
        dtype = devices.dtype_of(precision)
        plain = partial(checkpoints.from_folder, folder=folder, dtype=dtype)
        model = checkpoints.text_encoder(cls, folder, layers, plain)
        return _for_inference(model if is_stored else model.to(device))
    kept = KeptFolder(store, folder, mark, f"nf4-{layers}", _RECIPES["nf4"])

    def load(cls: Any, **options: Any) -> Any:
        config = BitsAndBytesConfig(**_nf4())
        fresh = partial(_from_folder, cls, folder, device, config, **options)
        return _nf4_kept(cls, kept, folder, device, fresh)

    return _for_inference(checkpoints.text_encoder(cls, folder, layers, load))


def _eight_bits(
    precision: str, cls: Any, folder: Path, device: Any, store: Path, mark: str, single: Path | None
) -> Any:
    """A model in fp8 or int8: converted tensor by tensor into the store, where it has room for it.

    Read from there the first time too, so that a first start and a later one do the same.
    """
    from safetensors.torch import load_file, save_file

    source = single or folder
    model = checkpoints.empty(cls, folder)
    layers, exact = list(fp8.matrices(model)), checkpoints.in_float32(model)
    rounded, compute = {
        "fp8": (fp8.rounded, fp8.compute_in_bf16),
        "int8": (int8.rounded, int8.multiply_in_int8),
    }[precision]
    compute(model)

    def converted() -> Iterator[tuple[str, Any]]:
        return fp8.cast(checkpoints.tensors(cls, folder, single), layers, exact, rounded)

    def write(aside: Path) -> None:
        for number, shard in enumerate(checkpoints.in_shards(converted())):
            save_file(shard, aside / f"{number:05}.safetensors")

    def fill(state: dict[str, Any]) -> Any:
        model.load_state_dict(state, strict=True, assign=True)
        return model.to(device)

    def read() -> Any:
        state: dict[str, Any] = {}
        files = sorted(kept.folder.glob("*.safetensors"))
        for file in counted(files, len(files)):
            state |= load_file(file, device=str(device))
        return fill(state)

    kept = KeptFolder(store, source, mark, precision, _RECIPES[precision])
    if (filled := _read_back(kept, read)) is not None:
        return filled
    if kept.make(int(_SHARE_OF_SOURCE * checkpoints.size(source)), write):
        return read()
    return fill({name: tensor.to(device) for name, tensor in converted()})


def _transformer_nf4(
    cls: Any, folder: Path, device: Any, store: Path, mark: str, single: Path | None
) -> Any:
    import torch
    from diffusers import BitsAndBytesConfig

    outside = _outside_blocks(checkpoints.empty(cls, folder))
    config = BitsAndBytesConfig(**_nf4(), llm_int8_skip_modules=outside)

    def fresh() -> Any:
        if single is None:
            return _from_folder(cls, folder, device, config)
        model = checkpoints.from_single(cls, folder, single, torch.bfloat16)
        return _four_bits(model, config, device)

    source = single or folder
    kept = KeptFolder(store, source, mark, "nf4", _RECIPES["nf4"])
    return _nf4_kept(cls, kept, source, device, fresh)


def _four_bits(model: Any, config: Any, device: Any) -> Any:
    """A loaded model in 4 bits, by diffusers' own quantizer.

    Needed because diffusers' `from_single_file` takes every file for one that is quantised already.
    """
    from diffusers.quantizers import DiffusersAutoQuantizer

    quantizer = DiffusersAutoQuantizer.from_config(config, pre_quantized=False)
    quantizer.validate_environment()
    state = model.state_dict()
    quantizer.preprocess_model(model=model, device_map={"": str(device)}, keep_in_fp32_modules=[])
    for name, tensor in state.items():
        if quantizer.check_if_quantized_param(model, tensor, name, state):
            quantizer.create_quantized_param(model, tensor, name, device, state)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    return model.to(device)


def _nf4_kept(
    cls: Any, kept: KeptFolder, source: Path, device: Any, fresh: Callable[[], Any]
) -> Any:
    """A model in nf4: read from its kept folder, or made by `fresh` and kept there."""
    model = _read_back(kept, lambda: _from_folder(cls, kept.folder, device))
    if model is None:
        model = fresh()
        kept.make(int(_SHARE_OF_SOURCE * checkpoints.size(source)), model.save_pretrained)
    return model


def _read_back(kept: KeptFolder, read: Callable[[], Any]) -> Any:
    """The model of a kept folder that is whole and can be read; None where it has to be made."""
    return attempted(read) if kept.is_whole() else None  # a full device says nothing about it


def _nf4() -> dict[str, Any]:
    """The settings of NF4, the same for diffusers and transformers.

    The scales are quantised too: 0.5 GiB less for FLUX.1, so that it fits a card of 12 GB whole.
    """
    import torch

    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.bfloat16,
        "bnb_4bit_use_double_quant": True,
    }


def _outside_blocks(model: Any) -> list[str]:
    """The parts to leave in bf16: small, read once a step, and sensitive.

    bitsandbytes knows them by their last name, so one that occurs inside a block too is left out.
    """
    inside = {part for name in fp8.matrices(model) for part in name.split(".")}
    return [name for name, _ in model.named_children() if name not in inside]


def _from_folder(cls: Any, folder: Path, device: Any, quantised: Any = None, **options: Any) -> Any:
    import torch

    if quantised is not None:
        options["quantization_config"] = quantised
    return checkpoints.from_folder(
        cls, folder, dtype=torch.bfloat16, device_map={"": str(device)}, **options
    )


def _for_inference(model: Any) -> Any:
    """The model without gradients and dropout."""
    return model.eval().requires_grad_(False)
