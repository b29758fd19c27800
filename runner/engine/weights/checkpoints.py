"""Reads the weights of one component as they were published: in a folder, in shards, in one file.

Tensor by tensor, so that 24 GB can be converted in little memory. Writes nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.engine.hub.single_files import Header, header
from runner.engine.hub.sources import read_json
from runner.errors import ModelMissing

_SHARD_BYTES = 2 * 2**30


def is_stored(folder: Path) -> bool:
    """Whether a component's folder was published quantised; reads its configuration only."""
    config = read_json(folder / "config.json") or {}
    return bool(config.get("quantization_config"))


def size(source: Path) -> int:
    """The bytes of a file, or of the files right inside a folder."""
    if source.is_file():
        return source.stat().st_size
    return sum(file.stat().st_size for file in source.iterdir() if file.is_file())


def text_encoder(cls: Any, folder: Path, layers: int, load: Callable[..., Any]) -> Any:
    """A text encoder, with its first `layers` layers where that is less than it has and not 0.

    Gives the states after each of these layers, bit by bit as the whole one does. `load` is called
    with the options that `from_folder` gets for it.
    """
    if not layers:
        return load()
    config = cls.config_class.from_pretrained(folder, local_files_only=True)
    if config.num_hidden_layers <= layers:
        return load()
    config.num_hidden_layers = layers
    config.layer_types = config.layer_types[:layers]
    model = load(config=config)
    inner = model.base_model
    config = inner.config
    last = type(inner.layers[-1])

    class Through(last):  # type: ignore[misc, valid-type]
        """The layer behind them: what comes out of the last is normalised, and not to be read.

        transformers records the states of its own class of layers.
        """

        def __init__(self) -> None:
            super(last, self).__init__()

        def forward(self, hidden_states: Any, **others: Any) -> Any:
            return hidden_states

    inner.layers.append(Through())
    config.num_hidden_layers += 1
    config.layer_types = [*config.layer_types, config.layer_types[-1]]
    return model


def from_folder(cls: Any, folder: Path, **options: Any) -> Any:
    """The model of a component's folder; `options` go to the class's `from_pretrained`.

    Raises ModelMissing where a weight is missing, has another shape, or would be left out.
    """
    options = {"local_files_only": True, "use_safetensors": True, **options}
    if is_stored(folder):
        return cls.from_pretrained(folder, **options)
    is_ours = cls.__module__.startswith("diffusers.")
    options |= {"output_loading_info": True} | (
        {} if is_ours else {"ignore_mismatched_sizes": True}
    )
    try:
        model, found = cls.from_pretrained(folder, **options)
    except ValueError:
        if is_ours:  # which names one tensor of another shape, if that is it
            _compare_files(cls, folder, _files(folder))
        raise
    modules = {name for name, _ in model.named_modules() if name}

    def would_be_left_out(name: str) -> bool:
        """False for parts that a class of transformers does without, such as a decoder."""
        module = name.rpartition(".")[0]
        return is_ours or module in modules or module.partition(".")[2] in modules

    reshaped = [name for name, *_ in found["mismatched_keys"]]
    unused = filter(would_be_left_out, found["unexpected_keys"])
    _account(folder.name, set(found["missing_keys"]).difference(reshaped), unused, reshaped)
    return model


def empty(cls: Any, folder: Path) -> Any:
    """A model of diffusers as the configuration in a folder says, without weights."""
    import accelerate

    with accelerate.init_empty_weights():
        return cls.from_config(cls.load_config(folder, local_files_only=True))


def from_single(cls: Any, folder: Path, single: Path, dtype: Any) -> Any:
    """The model of a safetensors file, on the CPU; `folder` holds its configuration.

    Weights in 8 bits are multiplied with their scales. Raises ModelMissing where a weight is
    missing, has another shape, or would be left out.
    """
    import torch
    from safetensors import safe_open

    model, found = empty(cls, folder), header(single)
    _compare(single.name, _blank(found, _weights(found)), model)
    scales = found.scales()
    tensors = {}
    with safe_open(single, framework="pt") as opened:
        for name, stored in _weights(found).items():
            tensor = opened.get_tensor(stored)
            if stored in scales:
                scale = opened.get_tensor(scales[stored]).to(torch.float32)
                tensor = tensor.to(torch.float32) * scale.reshape(-1, *[1] * (tensor.ndim - 1))
            tensors[name] = tensor.to(dtype)
    model.load_state_dict(_converted(model, tensors), strict=True, assign=True)
    return model.eval()


def from_gguf(cls: Any, folder: Path, single: Path, device: Any) -> Any:
    """The model of a GGUF file, on the device, as it was quantised; raises as `from_single`."""
    import torch
    from diffusers import GGUFQuantizationConfig

    found = header(single)
    _compare(single.name, _blank(found, _weights(found)), empty(cls, folder))
    return cls.from_single_file(
        str(single),
        config=str(folder),
        local_files_only=True,
        dtype=torch.bfloat16,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
        device=str(device),
    )


def tensors(cls: Any, folder: Path, single: Path | None) -> Iterator[tuple[str, Any]]:
    """Every tensor on the CPU with its name, one at a time where the files are safetensors.

    Shapes are those of the model's state dict; dtypes those of the safetensors files, else bf16.
    """
    import torch
    from safetensors import safe_open

    files = _files(folder)
    if single is not None:
        yield from from_single(cls, folder, single, torch.bfloat16).state_dict().items()
    elif not files:
        yield from from_folder(cls, folder, dtype=torch.bfloat16).state_dict().items()
    else:
        _compare_files(cls, folder, files)
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)


def _weights(found: Header) -> dict[str, str]:
    """The weights of a transformer in a file: their names as they are known, and in the file."""
    return {name: each for name, each in found.transformer().items() if found.needed(each)}


def _blank(found: Header, names: Mapping[str, str]) -> dict[str, Any]:
    """Tensors without content, of the shapes in a file; `names` are as of `Header.transformer`."""
    import torch

    return {name: torch.empty(found.shapes[each], device="meta") for name, each in names.items()}


def _compare_files(cls: Any, folder: Path, files: Iterable[Path]) -> None:
    """Raise ModelMissing where the tensors of a folder are not those of its configuration."""
    has: dict[str, Any] = {}
    for found in map(header, files):
        has |= _blank(found, {name: name for name in found.shapes})
    _compare(folder.name, has, empty(cls, folder))


def _compare(what: str, tensors: dict[str, Any], model: Any) -> None:
    """Raise ModelMissing where tensors are not those of the model."""
    has, wants = _converted(model, tensors), model.state_dict()
    reshaped = [name for name in has.keys() & wants if has[name].shape != wants[name].shape]
    _account(what, wants.keys() - has, has.keys() - wants, reshaped)


def _converted(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors in the names and shapes of diffusers, with all that its converter has no use for."""
    from diffusers.loaders import single_file_model as files

    wanted = model.state_dict().keys()
    if wanted <= tensors.keys():
        return tensors
    name = files._get_single_file_loadable_mapping_class(type(model))
    left = dict(tensors)
    try:
        made = files.SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"](
            checkpoint=left, config=model.config
        )
    except (LookupError, ValueError, RuntimeError):  # of names or shapes that it does not know
        return tensors
    # It garbles names that are diffusers' already.
    return min(tensors, {**left, **made}, key=lambda each: len(wanted ^ each.keys()))


def _account(
    what: str, missing: Iterable[str], unused: Iterable[str], reshaped: Iterable[str]
) -> None:
    """Raise ModelMissing, with counts and examples, where weights would be made up or left out."""
    said = [
        f"{len(names)} of its tensors {why}, like {names[0]}"
        for names, why in (
            (sorted(missing), "are missing"),
            (sorted(unused), "would be left out"),
            (sorted(reshaped), "have another shape"),
        )
        if names
    ]
    if said:
        raise ModelMissing(f"{what} does not fit the model that it is for: {'; '.join(said)}")


def in_shards(named: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Contiguous tensors by name, in groups: one ends with the tensor that brings it to 2 GiB."""
    shard: dict[str, Any] = {}
    total = 0
    for name, tensor in named:
        shard[name] = tensor.contiguous()
        total += tensor.nbytes
        if total >= _SHARD_BYTES:
            yield shard
            shard, total = {}, 0
    if shard:
        yield shard


def _files(folder: Path) -> list[Path]:
    """The safetensors of a component, without variants (`model.fp16.safetensors`)."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / name for name in names})
    return sorted(folder.glob("*.safetensors"), key=lambda file: len(file.name))[:1]
