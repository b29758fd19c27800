"""What makes a step faster, when the settings ask for it: compiling, attention kernels, step cache.

Off by default, because each of them changes pixels, if only by a rounding; what is on is a fact of
the sidecar. Applied to a pipeline once, when it is loaded. Never fetches a kernel: a name whose
package is not installed is a problem at the start, not a crash in a job.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any

from runner.errors import JobFailed, UsageProblem
from runner.settings import Settings

log = logging.getLogger(__name__)

NATIVE, AUTO = "native", "auto"
FEW_STEPS = 8
"""With so few steps no two of them are alike enough for one to stand for the other."""

_APPLIED = "_fluxdrop_speed"
_COMPILERS = ("cc", "gcc", "clang", "cl")
_RECOMPILATIONS = 64


@dataclass(frozen=True)
class Backend:
    """An attention kernel by diffusers' name: its package, and the oldest GPU that runs it.

    `module` is what the package is imported as and `package` what pip calls it; both are empty
    where the kernel is torch's own. `capability` is (0, 0) where no GPU is needed.
    """

    package: str = ""
    module: str = ""
    oldest: tuple[int, ...] = ()
    capability: tuple[int, int] = (0, 0)


BACKENDS: Mapping[str, Backend] = {
    NATIVE: Backend(),
    AUTO: Backend(),
    "_native_math": Backend(),
    "_native_flash": Backend(capability=(8, 0)),
    "_native_efficient": Backend(capability=(5, 0)),
    "_native_cudnn": Backend(capability=(8, 0)),
    "flash": Backend("flash-attn", "flash_attn", (2, 6, 3), (8, 0)),
    "_flash_3": Backend("flash-attn-3", "flash_attn_interface", (), (9, 0)),
    "sage": Backend("sageattention", "sageattention", (2, 1, 1), (8, 0)),
    "xformers": Backend("xformers", "xformers", (0, 0, 29), (7, 0)),
}
"""What the setting `attention` may say; the schema of the settings lists the same."""

_BEST_FIRST = ("_flash_3", "flash")
"""What `auto` chooses from: kernels that compute what torch computes, only faster. `sage` rounds
to 8 bits, so it has to be asked for by name."""

_CACHING = ("FluxTransformer2DModel",)
"""The transformers that first-block caching works on: FLUX.2's blocks answer in two shapes, which
diffusers 0.42 cannot subtract, and Z-Image's has no cache at all. Both are models of few steps."""

_WITHOUT_MASKS = ("FluxTransformer2DModel", "Flux2Transformer2DModel")
"""The transformers that `auto` may give another kernel: these kernels know no attention masks."""


@dataclass(frozen=True)
class Speed:
    """The settings that trade exactness or a slow first image for faster steps."""

    compile: bool = False
    attention: str = NATIVE
    step_cache: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Speed:
        """What the settings of a home ask for."""
        return cls(settings.compile, settings.attention, settings.step_cache)

    def check(self) -> None:
        """Refuse what this machine cannot do, without loading torch; for the start of a runner."""
        lacking = _lacking(self.attention)
        if lacking:
            raise UsageProblem(f"`attention: {self.attention}` {lacking}")
        if self.compile and _cannot_compile():
            raise UsageProblem(f"`compile: true` {_cannot_compile()}")

    def apply(self, pipe: Any) -> None:
        """Make a pipeline's transformer as fast as asked; doing it again changes nothing.

        Transformers are shared by pipelines, so what is on is remembered on the transformer.
        """
        transformer = getattr(pipe, "transformer", None)
        before = getattr(transformer, _APPLIED, Speed())
        if transformer is None or before == self:
            return
        _undo(before, transformer)
        if self.attention != NATIVE:
            _attend(transformer, self._kernel(transformer))
        caching = self.step_cache and _caches(transformer)
        if caching:
            from diffusers import FirstBlockCacheConfig

            transformer.enable_cache(FirstBlockCacheConfig(threshold=self.step_cache))
        if self.compile:
            _compile(transformer, whole=not caching)
        setattr(transformer, _APPLIED, self)

    @contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """To be put around the one call: the step cache is empty before it and after it.

        Only some pipelines name the context of their steps themselves; naming it out here too
        makes the cache work in all of them.
        """
        transformer: Any = getattr(pipe, "transformer", None)
        caching = getattr(transformer, "is_cache_enabled", False)
        try:
            with transformer.cache_context("cond") if caching else nullcontext():
                yield
        except Exception as error:
            if not _from_compiler(error):
                raise
            log.error("torch.compile: %s", str(error)[:2000])
            raise JobFailed(
                "the model could not be compiled on this machine:"
                " set `compile: false` in fluxdrop.yaml"
            ) from error
        finally:
            if caching:
                transformer._reset_stateful_cache()

    def facts(self, pipe: Any) -> dict[str, Any]:
        """What of this changes pixels, for the sidecar; empty where all is as by default."""
        transformer = getattr(pipe, "transformer", None)
        if transformer is None or self == Speed():
            return {}
        kernel = self._kernel(transformer)
        found = {
            "compile": self.compile,
            "attention": "" if kernel == NATIVE else kernel,
            "step_cache": self.step_cache if _caches(transformer) else 0.0,
        }
        on = {name: value for name, value in found.items() if value}
        return {"speed": on} if on else {}

    def warnings(self, pipe: Any, steps: int) -> tuple[str, ...]:
        """What a caller should know of settings that do nothing for this image."""
        if not self.step_cache:
            return ()
        if not _caches(getattr(pipe, "transformer", None)):
            return ("this model has no step cache: `step_cache` does nothing for it",)
        if steps <= FEW_STEPS:
            return (f"`step_cache` gains nothing in {steps} steps: it is for models of 20 or more",)
        return ()

    def _kernel(self, transformer: Any) -> str:
        """The attention kernel for a transformer: the one that is named, or the best for `auto`."""
        import torch

        if self.attention != AUTO:
            return self.attention
        half = {torch.bfloat16, torch.float16}
        if type(transformer).__name__ in _WITHOUT_MASKS:
            if any(each.dtype in half for each in transformer.parameters()):
                for name in _BEST_FIRST:
                    if not _lacking(name) and _capability() >= BACKENDS[name].capability:
                        return name
        return NATIVE


def available() -> list[str]:
    """What `doctor` says of speed on this machine, one line for each lever; loads no torch."""
    kernels = [name for name, each in BACKENDS.items() if each.package and not _lacking(name)]
    listed = ", ".join(kernels) or "none beside torch's own (flash-attn and sageattention exist)"
    compiling = _cannot_compile()
    return [
        f"attention kernels installed: {listed}",
        f"compile: {compiling}" if compiling else "compile: possible",
        "step_cache: possible",
    ]


def _lacking(name: str) -> str:
    """What a kernel lacks on this machine; empty where it is installed."""
    backend = BACKENDS.get(name)
    if backend is None:
        why = "is not known"
        if name.endswith("_hub"):
            why = "would fetch its code from the hub in the middle of a job"
        return f"{why}: use one of {', '.join(BACKENDS)}"
    if not backend.module:
        return ""
    wanted = ".".join(map(str, backend.oldest))
    install = f"install {backend.package}{f' {wanted} or newer' if wanted else ''}, or use `auto`"
    if util.find_spec(backend.module) is None:
        return f"needs a package that is not installed: {install}"
    if backend.oldest and _version(backend) < backend.oldest:
        return f"needs a newer package than is installed: {install}"
    return ""


def _version(backend: Backend) -> tuple[int, ...]:
    try:
        text = metadata.version(backend.package)
    except metadata.PackageNotFoundError:
        return ()
    parts = text.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _cannot_compile() -> str:
    """Why torch cannot compile a model here; empty where it can."""
    if not any(shutil.which(name) for name in _COMPILERS):
        return "needs a C compiler: install gcc or clang (Windows: the Visual Studio Build Tools)"
    if sys.platform == "win32" and util.find_spec("triton") is None:
        return "needs Triton: install the package triton-windows"
    return ""


def _caches(transformer: Any) -> bool:
    return type(transformer).__name__ in _CACHING


def _capability() -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def _attend(transformer: Any, kernel: str) -> None:
    """Set the kernel of one transformer; the others of this process keep theirs."""
    from diffusers.models.attention_dispatch import attention_backend

    needed = BACKENDS[kernel].capability
    if _capability() < needed:
        raise JobFailed(
            f"`attention: {kernel}` needs an NVIDIA GPU of compute capability"
            f" {needed[0]}.{needed[1]} or newer: use `auto` in fluxdrop.yaml"
        )
    # Setting it would also make it the process's default; leaving this block takes that back.
    with attention_backend(NATIVE):
        try:
            transformer.set_attention_backend(kernel)
        except (RuntimeError, ValueError) as error:
            raise JobFailed(
                f"`attention: {kernel}` cannot be used here: use `auto` in fluxdrop.yaml"
            ) from error


def _compile(transformer: Any, *, whole: bool) -> None:
    """Compile the repeated blocks, which takes an eighth of the time of compiling everything.

    The first other size is compiled once more, for all sizes. The step cache asks for a number in
    the middle of a block, so with it a block cannot be one graph.
    """
    import torch

    # A LoRA, a size and a length of prompt each are a reason to compile again, and a block that
    # must be one graph fails where the count is used up.
    torch._dynamo.config.recompile_limit = _RECOMPILATIONS
    transformer.compile_repeated_blocks(fullgraph=whole)


def _undo(before: Speed, transformer: Any) -> None:
    """Take back what was applied to a transformer."""
    if before.attention != NATIVE:
        transformer.reset_attention_backend()
    if getattr(transformer, "is_cache_enabled", False):
        transformer.disable_cache()
    if before.compile:
        for module in transformer.modules():
            module._compiled_call_impl = None
    if hasattr(transformer, _APPLIED):
        delattr(transformer, _APPLIED)


def _from_compiler(error: BaseException) -> bool:
    """Whether an error is torch.compile's own."""
    link: BaseException | None = error
    while link is not None:
        if type(link).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return True
        link = link.__cause__
    return False
