"""Optional ways to make a step faster: torch.compile, other attention kernels, the step cache.

Off by default, because each changes pixels, if only by a rounding; a sidecar records which are on.
They are applied to a pipeline when it is loaded. No kernel is ever fetched: a name whose package is
not installed is refused when the runner starts, not in a job.
"""

import itertools
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any, Self

from runner.errors import JobFailed, UsageProblem
from runner.settings import Settings

log = logging.getLogger(__name__)

NATIVE, AUTO = "native", "auto"
_APPLIED = "_fluxdrop_speed"
_COMPILERS = ("cc", "gcc", "clang", "cl")


@dataclass(frozen=True)
class Backend:
    """An attention kernel: the package it comes from, and the oldest GPU that runs it.

    `package` is the name for pip, `module` the one for `import`; both are empty for torch's own
    kernels. `oldest` is the least version of the package, `capability` the least CUDA compute
    capability: (0, 0) where no GPU is needed.
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
"""The values of the setting `attention`, which its schema lists too: diffusers' names."""

_CACHING = ("FluxTransformer2DModel",)
"""The transformers on which first-block caching works. FLUX.2's blocks return tensors of different
shapes, which diffusers 0.42 cannot subtract; those of Z-Image and FLUX.3 have no cache."""

_WITHOUT_MASKS = ("FluxTransformer2DModel", "Flux2Transformer2DModel", "Flux3Transformer2DModel")
"""The transformers for which `auto` may choose a kernel: they use no attention masks, which the
kernels do not support."""


@dataclass(frozen=True)
class Speed:
    """The settings that trade exactness or a slow first image for faster steps."""

    compile: bool = False
    attention: str = NATIVE
    step_cache: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The speed settings of a home."""
        return cls(settings.compile, settings.attention, settings.step_cache)

    def check(self) -> None:
        """Raise UsageProblem for a setting that this machine cannot do; does not load torch."""
        if problem := _attention_problem(self.attention):
            raise UsageProblem(f"`attention: {self.attention}` {problem}")
        if self.compile and (problem := _compile_problem()):
            raise UsageProblem(f"`compile: true` {problem}")

    def apply(self, pipe: Any) -> None:
        """Apply the settings to a pipeline's transformer, once: pipelines share transformers.

        Raises JobFailed where the attention kernel cannot be used.
        """
        transformer = getattr(pipe, "transformer", None)
        if transformer is None or self == Speed() or hasattr(transformer, _APPLIED):
            return
        if self.attention != NATIVE:
            _set_attention(transformer, self._kernel(transformer))
        caching = self.step_cache and _caches(transformer)
        if caching:
            from diffusers import FirstBlockCacheConfig

            transformer.enable_cache(FirstBlockCacheConfig(threshold=self.step_cache))
        if self.compile:
            _compile(transformer, fullgraph=not caching)
        setattr(transformer, _APPLIED, True)

    @contextmanager
    def around(self, pipe: Any, *, twice: bool = False, masked: bool = False) -> Iterator[None]:
        """The context of one call of a pipeline: the step cache is empty before it and after it.

        `twice` says that each step computes the prompt, then the negative prompt: these must not
        reuse each other's work. Only some pipelines enter cache contexts themselves; doing it here
        makes the cache work in all of them. A call that is `masked` gets torch's own attention, for
        most other kernels take no mask. Raises JobFailed for an error of torch.compile.
        """
        names = itertools.cycle(("cond", "uncond") if twice else ("cond",))
        transformer: Any = getattr(pipe, "transformer", None)
        caching = getattr(transformer, "is_cache_enabled", False)
        try:
            with ExitStack() as contexts:
                if masked and self.attention != NATIVE:
                    _set_attention(transformer, NATIVE)
                    kernel = self._kernel(transformer)
                    contexts.callback(_set_attention, transformer, kernel)
                if caching:
                    hook = transformer.register_forward_pre_hook(
                        lambda *_: contexts.enter_context(transformer.cache_context(next(names)))
                    )
                    contexts.callback(hook.remove)
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
        """The settings in use that change pixels, as engine facts; empty with the defaults."""
        transformer = getattr(pipe, "transformer", None)
        if transformer is None or self == Speed():
            return {}
        kernel = self._kernel(transformer)
        settings = {
            "compile": self.compile,
            "attention": "" if kernel == NATIVE else kernel,
            "step_cache": self.step_cache if _caches(transformer) else 0.0,
        }
        on = {name: value for name, value in settings.items() if value}
        return {"speed": on} if on else {}

    def warnings(self, pipe: Any, steps: int) -> tuple[str, ...]:
        """Sentences for the caller about a step cache that has no effect on this image."""
        if not self.step_cache:
            return ()
        if not _caches(getattr(pipe, "transformer", None)):
            return ("this model has no step cache: `step_cache` does nothing for it",)
        if steps <= 8:  # no two of so few are similar enough to skip one of them
            return (f"`step_cache` gains nothing in {steps} steps: it is for models of 20 or more",)
        return ()

    def _kernel(self, transformer: Any) -> str:
        """The attention kernel for a transformer: the one that is set, or the best for `auto`."""
        import torch

        if self.attention != AUTO:
            return self.attention
        half = {torch.bfloat16, torch.float16}
        if type(transformer).__name__ in _WITHOUT_MASKS:
            if any(parameter.dtype in half for parameter in transformer.parameters()):
                # These compute the same as torch's, only faster. `sage` rounds to 8 bits.
                for name in ("_flash_3", "flash"):
                    if not _attention_problem(name) and _capability() >= BACKENDS[name].capability:
                        return name
        return NATIVE


def available() -> list[str]:
    """What `doctor` prints about speed on this machine, a line for each setting; loads no torch."""
    kernels = [
        name
        for name, backend in BACKENDS.items()
        if backend.package and not _attention_problem(name)
    ]
    listed = ", ".join(kernels) or "none beside torch's own (flash-attn and sageattention exist)"
    return [
        f"attention kernels installed: {listed}",
        f"compile: {_compile_problem() or 'possible'}",
        "step_cache: possible",
    ]


def _attention_problem(name: str) -> str:
    """Why an attention kernel cannot be used on this machine; empty where it is installed."""
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


def _compile_problem() -> str:
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


def _set_attention(transformer: Any, kernel: str) -> None:
    """Set the attention kernel of one transformer; those of other transformers stay."""
    from diffusers.models.attention_dispatch import attention_backend

    needed = BACKENDS[kernel].capability
    if _capability() < needed:
        raise JobFailed(
            f"`attention: {kernel}` needs an NVIDIA GPU of compute capability"
            f" {needed[0]}.{needed[1]} or newer: use `auto` in fluxdrop.yaml"
        )
    # Setting it also makes it the default of the process; leaving this block undoes that.
    with attention_backend(NATIVE):
        try:
            transformer.set_attention_backend(kernel)
        except (RuntimeError, ValueError) as error:
            raise JobFailed(
                f"`attention: {kernel}` cannot be used here: use `auto` in fluxdrop.yaml"
            ) from error


def _compile(transformer: Any, *, fullgraph: bool) -> None:
    """Compile the repeated blocks, which takes an eighth of the time of compiling everything.

    The first image of another size compiles them once more, then for all sizes. The step cache
    reads a number out of a tensor in the middle of a block, so with it `fullgraph` must be False.
    """
    import torch

    # Another LoRA, size or prompt length compiles a block again, and with `fullgraph` torch raises
    # an error where the limit is reached.
    torch._dynamo.config.recompile_limit = 64
    transformer.compile_repeated_blocks(fullgraph=fullgraph)


def _from_compiler(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, comes from torch.compile."""
    if error is None:
        return False
    modules = ("torch._dynamo", "torch._inductor")
    return type(error).__module__.startswith(modules) or _from_compiler(error.__cause__)
