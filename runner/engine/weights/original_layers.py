"""Keeps a module's layers as they were before the first LoRA, and restores them to the byte.

A LoRA replaces layers by wrapped ones, may widen a layer, and may overwrite a few weights. The
original layers are kept as objects, so restoring them computes nothing and leaves no rounding.
Offloading hooks change only where they have to follow the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class OriginalLayers:
    """A module's layers in their order, and the values that a LoRA overwrites."""

    children: dict[str, dict[str, Any]]
    modules: dict[str, Any]
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
            in_channels=getattr(module.config, "in_channels", None),
        )

    def overwrite(self, module: Any, values: Mapping[str, Any]) -> None:
        """Set the weights of these layers to other values, which `restore` undoes."""
        import torch

        with torch.no_grad():
            for name, value in values.items():
                weight = module.get_submodule(name).weight
                self.values.setdefault(name, weight.detach().clone())
                weight.copy_(value)

    def follow(self, module: Any) -> None:
        """Where layers are streamed from RAM, make the hooks those of the layers of now."""
        from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

        _maybe_remove_and_reapply_group_offloading(module)

    def restore(self, module: Any) -> None:
        """Undo every LoRA of the module, also one that failed halfway through loading."""
        import torch

        for name, children in self.children.items():
            parent = self.modules[name] if name else module
            if dict(parent._modules) != children:
                parent._modules.clear()
                parent._modules.update(children)
        with torch.no_grad():
            for name, value in self.values.items():
                module.get_submodule(name).weight.copy_(value)
        if self.in_channels is not None and module.config.in_channels != self.in_channels:
            module.config.in_channels = self.in_channels
        self.follow(module)
