"""Reads the weights of one component as they were published: in a folder, in shards, in one file.

Tensor by tensor, so that 24 GB can be converted in little memory. Writes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from runner.engine.hub.single_files import header
from runner.engine.hub.sources import loaded, read_json
from runner.engine.weights.loading import counted
from runner.errors import ModelMissing

_SHARD_BYTES = 2 * 2**30


def is_stored(folder: Path) -> bool:
    """Whether a component's folder was published quantised; reads its configuration only."""
    config = read_json(folder / "config.json") or {}
    return bool(config.get("quantization_config"))


def scheme(single: Path) -> str:
    """The layout of a safetensors file, where it is one of BFL's quantiser; reads its header."""
    return "" if single.suffix.lower() == ".gguf" else header(single).scheme()


def size(source: Path) -> int:
    """The bytes of a file, or of the files right inside a folder."""
    if source.is_file():
        return source.stat().st_size
    return sum(file.stat().st_size for file in source.iterdir() if file.is_file())


def text_encoder(cls: Any, folder: Path, layers: int, load: Callable[..., Any]) -> Any:
    """A text encoder with its first `layers` layers, where it has more; 0 means all.

    The states after each of them are those of the whole one, bit by bit. Of one that sees, only the
    part that reads is left. `load` is called with a class, and the options for `from_folder`.
    """
    whole = cls.config_class.from_pretrained(folder, local_files_only=True) if layers else None
    config = whole and whole.get_text_config()
    if config is None or config.num_hidden_layers <= layers:
        return load(cls)
    config.num_hidden_layers = layers
    if types := getattr(config, "layer_types", None):
        config.layer_types = types[:layers]
    options = {"config": config}
    if config is not whole:
        from transformers import AutoModel

        cls = AutoModel._model_mapping[type(config)]
        options["key_mapping"] = {r"^model\.language_model\.": ""}
    model = load(cls, **options)
    inner, config = model.base_model, model.config
    last = type(inner.layers[-1])  # the class whose states transformers records

    class Through(last):  # type: ignore[misc, valid-type]
        """Follows the last layer, because what comes last is normalised and not to be read."""

        def __init__(self) -> None:
            super(last, self).__init__()

        def forward(self, hidden_states: Any, **others: Any) -> Any:
            return hidden_states

    inner.layers.append(Through())
    config.num_hidden_layers += 1
    if types:
        config.layer_types = [*types[:layers], types[layers - 1]]
    return model


def from_folder(cls: Any, folder: Path, **options: Any) -> Any:
    """The model of a component's folder; `options` go to the class's `from_pretrained`.

    Raises ModelMissing where a weight is missing, has another shape, or would be left out.
    """
    options = {"local_files_only": True, "use_safetensors": True, **options}
    if is_stored(folder):
        return cls.from_pretrained(folder, **options)
    from_diffusers = cls.__module__.startswith("diffusers.")
    if not from_diffusers:
        options["ignore_mismatched_sizes"] = True  # they are told below
    try:
        model, found = cls.from_pretrained(folder, output_loading_info=True, **options)
    except ValueError:  # as diffusers says it of a tensor of another shape
        if from_diffusers:
            _compare_files(cls, folder)
        raise
    modules = {name for name, _ in model.named_modules() if name}

    def is_of_use(name: str) -> bool:
        """False for parts that a class of transformers does without, such as a decoder."""
        module = name.rpartition(".")[0]
        return from_diffusers or module in modules or module.partition(".")[2] in modules

    reshaped = {name for name, *_ in found["mismatched_keys"]}
    unused = set(filter(is_of_use, found["unexpected_keys"]))
    _account(folder.name, set(found["missing_keys"]) - reshaped, unused, reshaped)
    return model


def empty(cls: Any, folder: Path) -> Any:
    """A model of diffusers as the configuration in a folder says, without weights."""
    import accelerate

    with accelerate.init_empty_weights():
        return cls.from_config(cls.load_config(folder, local_files_only=True))


def from_single(cls: Any, folder: Path, single: Path, dtype: Any) -> Any:
    """The model of a safetensors file, on the CPU; `folder` holds its configuration.

    Raises as `from_folder`.
    """
    model = empty(cls, folder)
    model.load_state_dict(dict(_of_single(model, single, dtype)), strict=True, assign=True)
    return model.eval()


def _of_single(model: Any, single: Path, dtype: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a safetensors file in a model's names, those in 8 bits times their scales.

    They are converted as they are stored, and the scale of each row beside them, because diffusers'
    converters only cut and join rows. So one at a time is unpacked.
    """
    import torch
    from safetensors import safe_open

    found = header(single)
    names, scales = found.transformer(), found.scales()
    _compare(single.name, {name: found.shapes[stored] for name, stored in names.items()}, model)
    tensors, by_row = {}, {}
    with safe_open(single, framework="pt") as opened:
        for name, stored in names.items():
            tensor = tensors[name] = opened.get_tensor(stored)
            scale = opened.get_tensor(scales[stored]).float() if stored in scales else torch.ones(1)
            flat = [1] * (tensor.ndim - 1)
            by_row[name] = scale.reshape(-1, *flat).expand(len(tensor), *flat)
    tensors, by_row = _converted(model, tensors), _converted(model, by_row)
    exact = in_float32(model)
    for name in counted(list(tensors), len(tensors)):
        tensor = tensors.pop(name)
        tensor = tensor.float() * by_row[name] if scales else tensor
        yield name, tensor.to(torch.float32 if name in exact else dtype)


def in_float32(model: Any) -> set[str]:
    """The tensors of a model of diffusers that are in float32 whatever the others are in."""
    parts = set(model._keep_in_fp32_modules or ())
    return {name for name in model.state_dict() if parts & set(name.split("."))}


def from_gguf(cls: Any, folder: Path, single: Path, device: Any) -> Any:
    """The model of a GGUF file, on the device, as it was quantised. Raises as `from_folder`."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    found, stored = header(single), load_gguf_checkpoint(str(single))
    names = found.transformer()
    shapes = {name: found.shapes[each] for name, each in names.items()}
    _compare(single.name, shapes, empty(cls, folder))
    tensors = {name: stored[each] for name, each in names.items()}
    return _as_quantised(cls, folder, tensors, GGUFQuantizationConfig, device)


def from_bfl(cls: Any, folder: Path, single: Path, device: Any) -> Any:
    """The model of a file that has a `scheme`, on the device, as it is. Raises as `from_folder`."""
    from diffusers import BFLQuantizationConfig
    from safetensors import safe_open

    found = header(single)
    names, by_row = found.transformer(), found.scales()
    shapes = {name: found.shapes[stored] for name, stored in names.items()}
    tensors: dict[str, Any] = {}
    with safe_open(single, framework="pt") as opened:
        for name, stored in counted(names.items(), len(names)):
            tensors[name] = opened.get_tensor(stored)
            ours, theirs = name.removesuffix(".weight"), stored.removesuffix(".weight")
            if stored in by_row:
                scale = opened.get_tensor(by_row[stored]).float().flatten()
                tensors[f"{ours}.weight_scale"] = scale.expand(len(tensors[name])).contiguous()
            elif f"{theirs}.weight_scale_2" in found.shapes:
                shapes[name] = (shapes[name][0], 2 * shapes[name][1])  # of two numbers in a byte
                tensors[f"{ours}.weight_scale"] = opened.get_tensor(f"{theirs}.weight_scale")
                for end in ("weight_scale_2", "input_scale"):
                    tensors[f"{ours}.{end}"] = opened.get_tensor(f"{theirs}.{end}").reshape(())
    _compare(single.name, shapes, empty(cls, folder))
    return _as_quantised(cls, folder, tensors, BFLQuantizationConfig, device)


def _as_quantised(cls: Any, folder: Path, tensors: Any, config: Any, device: Any) -> Any:
    """The model of tensors that stay in few bits and compute in bfloat16, on the device."""
    import torch

    return cls.from_single_file(
        tensors,
        config=str(folder),
        local_files_only=True,
        dtype=torch.bfloat16,
        quantization_config=config(compute_dtype=torch.bfloat16),
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
        yield from _of_single(empty(cls, folder), single, torch.bfloat16)
    elif not files:
        yield from from_folder(cls, folder, dtype=torch.bfloat16).state_dict().items()
    else:
        _compare_files(cls, folder)
        for file in counted(files, len(files)):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)


def _compare_files(cls: Any, folder: Path) -> None:
    """Raise ModelMissing where the tensors of a folder are not those of its configuration."""
    shapes = {n: shape for file in _files(folder) for n, shape in header(file).shapes.items()}
    _compare(folder.name, shapes, empty(cls, folder))


def _compare(what: str, shapes: Mapping[str, tuple[int, ...]], model: Any) -> None:
    """Raise ModelMissing where tensors are not those of the model."""
    import torch

    blank = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    has, wants = _converted(model, blank), model.state_dict()
    reshaped = {name for name in has.keys() & wants if has[name].shape != wants[name].shape}
    _account(what, wants.keys() - has, has.keys() - wants, reshaped)


def _converted(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors in the names and shapes of diffusers, with all that its converter has no use for."""
    from diffusers.loaders import single_file_model as files

    wanted, left = model.state_dict().keys(), dict(tensors)
    if wanted <= tensors.keys():
        return tensors
    try:
        name = files._get_single_file_loadable_mapping_class(type(model))
        convert = files.SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"]
        made = convert(checkpoint=left, config=model.config)
    except (LookupError, ValueError, RuntimeError):  # of names or shapes that it does not know
        return tensors
    # It garbles names that are diffusers' already.
    return min(tensors, {**left, **made}, key=lambda each: len(wanted ^ each.keys()))


def _account(what: str, missing: Set[str], unused: Set[str], reshaped: Set[str]) -> None:
    """Raise ModelMissing, with counts and examples, where weights would be made up or left out."""
    faults = {"are missing": missing, "would be left out": unused, "have another shape": reshaped}
    said = [
        f"{len(names)} of its tensors {why}, like {min(names)}"
        for why, names in faults.items()
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
    return [file for file in loaded(folder) if file.suffix == ".safetensors"]
