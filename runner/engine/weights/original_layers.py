"""Keeps a module's layers as they were before the first LoRA, and restores them to the byte.

A LoRA replaces layers by wrapped ones, may widen a layer, and may overwrite a few weights. The
original layers are kept as objects, so restoring them computes nothing and leaves no rounding.
Offloading hooks change only where they have to follow the layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

_SET_BY_LOADING = (
    "peft_config",
    "_hf_peft_config_loaded",
    "_overwritten_params",
    "_transformer_norm_layers",
)
"""The attributes that loading a LoRA sets on the module itself."""


@dataclass(frozen=True)
class OriginalLayers:
    """A module's layers in their order, and the values that a LoRA overwrites."""

    children: dict[str, dict[str, Any]]
    modules: dict[str, Any]
    attributes: dict[str, Any]
    in_channels: int | None
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: Any) -> Self:
        """The layers of a module as they are now, before any LoRA."""
        # Without the module itself: it holds this object, and the cycle would delay its release.
        modules = {name: layer for name, layer in module.named_modules() if name}
        children = {name: dict(layer._modules) for name, layer in modules.items()}
        return cls(
            children={"": dict(module._modules), **children},
            modules=modules,
            attributes={
                name: vars(module)[name] for name in _SET_BY_LOADING if name in vars(module)
            },
            in_channels=getattr(module.config, "in_channels", None),
        )

    def keep(self, module: Any, names: Iterable[str]) -> None:
        """Copy the values of these parameters, which are about to be overwritten."""
        for name in names:
            if name not in self.values:
                self.values[name] = module.get_parameter(name).detach().clone()

    def restore(self, module: Any) -> None:
        """Undo every LoRA of the module, also one that failed halfway through loading."""
        import torch
        from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

        for name, children in self.children.items():
            parent = self.modules[name] if name else module
            if dict(parent._modules) != children:
                parent._modules.clear()
                parent._modules.update(children)
        with torch.no_grad():
            for name, value in self.values.items():
                module.get_parameter(name).copy_(value)
        for name in _SET_BY_LOADING:
            vars(module).pop(name, None)
        vars(module).update(self.attributes)
        if self.in_channels is not None and module.config.in_channels != self.in_channels:
            module.config.in_channels = self.in_channels
        # Where layers are streamed from RAM, the hooks have to be those of the restored layers.
        _maybe_remove_and_reapply_group_offloading(module)
