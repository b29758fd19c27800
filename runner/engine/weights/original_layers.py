"""What a module was before the first LoRA, so that it can be put back to the byte.

A LoRA replaces layers by wrapped ones, may widen a layer, and may write over a few weights. The
original layers are objects that are only kept aside: putting them back computes nothing. Never
touches offloading hooks but to have them follow the layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_LEFT_BEHIND = (
    "peft_config",
    "_hf_peft_config_loaded",
    "_overwritten_params",
    "_transformer_norm_layers",
)
"""What loading leaves on the module itself."""


@dataclass(frozen=True)
class Untouched:
    """A module's layers in their order, and the values that a LoRA writes over."""

    children: dict[str, dict[str, Any]]
    modules: dict[str, Any]
    attributes: dict[str, Any]
    in_channels: int | None
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: Any) -> Untouched:
        """The module as it is now; to be taken before anything is put into it."""
        # Without the module itself, which would never be let go of again.
        modules = {name: each for name, each in module.named_modules() if name}
        children = {name: dict(each._modules) for name, each in modules.items()}
        return cls(
            children={"": dict(module._modules), **children},
            modules=modules,
            attributes={name: vars(module)[name] for name in _LEFT_BEHIND if name in vars(module)},
            in_channels=getattr(module.config, "in_channels", None),
        )

    def keep(self, module: Any, names: Iterable[str]) -> None:
        """Keep the values of these parameters, which are about to be written over."""
        for name in names:
            if name not in self.values:
                self.values[name] = module.get_parameter(name).detach().clone()

    def put_back(self, module: Any) -> None:
        """Make the module what it was. May be called in the middle of anything."""
        import torch
        from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

        for name, children in self.children.items():
            holder = self.modules[name] if name else module
            if dict(holder._modules) != children:
                holder._modules.clear()
                holder._modules.update(children)
        with torch.no_grad():
            for name, value in self.values.items():
                module.get_parameter(name).copy_(value)
        for name in _LEFT_BEHIND:
            vars(module).pop(name, None)
        vars(module).update(self.attributes)
        if self.in_channels is not None and module.config.in_channels != self.in_channels:
            module.config.in_channels = self.in_channels
        # Where layers come from the host's memory one by one, the hooks have to be those of the
        # layers that are there now.
        _maybe_remove_and_reapply_group_offloading(module)
