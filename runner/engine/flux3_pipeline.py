"""FLUX.3's modular blocks with the face of diffusers' pipelines, as the engine calls them.

diffusers has FLUX.3 as blocks only, and they do some things otherwise than a pipeline: they take no
callback, ignore keywords that they do not know, log every exception five times, and would fetch a
prompt upsampler of 18 GB from another repository. All of that is made good here, and nowhere else.
Never fetches anything, and never changes diffusers' own blocks.
"""

import copy
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runner.errors import JobFailed

NAME = "Flux3KleinPipeline"


class _Halted(BaseException):
    """Brings what a callback raised past the blocks, which log every ordinary exception."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _modular(steps: Any, without: tuple[str, ...] = (), **components: Any) -> Any:
    """A modular pipeline of these blocks, without some of them; scheduler and guider are theirs.

    The blocks are copied: nested ones belong to diffusers' module, and what is put between those
    would be in every later pipeline.
    """
    steps = copy.deepcopy(steps)
    for name in without:
        steps.sub_blocks.pop(name)
    made = steps.init_pipeline()
    made.update_components(**components)
    return made


@cache
def pipeline() -> Any:
    """The class: made on first use, because its bases are diffusers'."""
    import diffusers
    from diffusers.loaders import Flux3LoraLoaderMixin
    from diffusers.modular_pipelines import ModularPipelineBlocks
    from diffusers.modular_pipelines.flux3.decoders import Flux3DecodeStep
    from diffusers.modular_pipelines.flux3.encoders import Flux3TextEncoderStep
    from diffusers.modular_pipelines.flux3.image_processor import Flux3ImageProcessor
    from transformers import AutoTokenizer

    # What a block raises, a full device too, is the engine's to tell.
    logging.getLogger(ModularPipelineBlocks.__module__).setLevel(logging.CRITICAL)

    class AfterStep(ModularPipelineBlocks):
        """Calls a function after each step; what it raises ends the run without a log."""

        call: Callable[[int, Any, Any], None] | None = None

        def __call__(self, components: Any, block_state: Any, i: int, t: Any) -> Any:
            try:
                if self.call is not None:
                    self.call(i, t, block_state)
            except Exception as error:
                raise _Halted(error) from error
            return components, block_state

    class Flux3KleinPipeline(diffusers.DiffusionPipeline, Flux3LoraLoaderMixin):
        """Which blocks denoise follows from the transformer: a flow map is the distilled one."""

        model_cpu_offload_seq = "text_encoder->transformer->vae"
        _callback_tensor_inputs = ("latents",)

        def __init__(self, transformer: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
            super().__init__()
            self.register_modules(
                transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
            )
            self.image_processor = Flux3ImageProcessor()

        @classmethod
        def from_pretrained(cls, folder: Path, **parts: Any) -> Any:
            """A pipeline of these parts; of them only the tokenizer is read from the folder."""
            names = ("transformer", "vae", "text_encoder", "tokenizer")
            parts = {name: parts[name] for name in names if name in parts}
            if "tokenizer" not in parts:
                # As the processor that the index names, which would ask for torchvision.
                place = folder / "tokenizer"
                parts["tokenizer"] = AutoTokenizer.from_pretrained(place, local_files_only=True)
            return cls(**parts)

        def encode_prompt(self, prompt: str, max_sequence_length: int) -> tuple[Any, None]:
            """The embeddings (1, tokens in eighties, 8 widths), and None as other pipelines."""
            reader = SimpleNamespace(
                tokenizer=self.tokenizer, apply_chat_template=self.tokenizer.apply_chat_template
            )
            embeds = Flux3TextEncoderStep._get_qwen3_vl_prompt_embeds(
                self.text_encoder, reader, prompt, max_sequence_length=max_sequence_length
            )
            return embeds, None

        def __call__(
            self,
            prompt: str | None = None,
            negative_prompt: str | None = None,
            image: Any = None,
            *,
            width: int,
            height: int,
            num_inference_steps: int,
            guidance_scale: float,
            generator: Any = None,
            prompt_embeds: Any = None,
            negative_prompt_embeds: Any = None,
            max_sequence_length: int = 512,
            callback_on_step_end: Callable[..., Any] | None = None,
            callback_on_step_end_tensor_inputs: tuple[str, ...] = (),
            output_type: str = "pil",
        ) -> Any:
            """As diffusers' pipelines; the distilled model has no use for `guidance_scale`."""
            import torch

            if num_inference_steps < 1:
                raise ValueError(f"{num_inference_steps} steps: at least one has to be made")
            is_distilled = self.transformer.config.flow_map
            if is_distilled and negative_prompt_embeds is not None:
                raise JobFailed("these weights are distilled: leave `guided: true` out for them")
            guided = not is_distilled and guidance_scale > 1
            with torch.no_grad():
                if prompt_embeds is None:
                    prompt_embeds, _ = self.encode_prompt(prompt or "", max_sequence_length)
                if guided and negative_prompt_embeds is None:
                    negative_prompt_embeds, _ = self.encode_prompt(
                        negative_prompt or "", max_sequence_length
                    )
            given = {
                "prompt_embeds": prompt_embeds,
                "negative_prompt_embeds": negative_prompt_embeds if guided else None,
                "image": image,
                "width": width,
                "height": height,
                "num_inference_steps": num_inference_steps,
                "generator": generator,
            }

            def after_step(step: int, timestep: Any, state: Any) -> None:
                if callback_on_step_end is not None:
                    wanted = {n: getattr(state, n) for n in callback_on_step_end_tensor_inputs}
                    callback_on_step_end(self, step, timestep, wanted)

            latents = self._denoised(given, guidance_scale, after_step)
            if output_type == "latent":
                return SimpleNamespace(images=latents)
            decoder = _modular(Flux3DecodeStep(), vae=self.vae)
            return SimpleNamespace(
                images=decoder(latents=latents, output_type=output_type, output="images")
            )

        def _denoised(
            self, given: dict[str, Any], guidance: float, after_step: Callable[..., None]
        ) -> Any:
            """The latents (rows, 128, height / 16, width / 16) of a whole run of the blocks."""
            is_distilled = self.transformer.config.flow_map
            steps = getattr(diffusers, f"Flux3{'Distilled' if is_distilled else ''}AutoBlocks")()
            left_out = ("prompt_upsampler", "text_encoder", "decode")
            inner = _modular(steps, left_out, transformer=self.transformer, vae=self.vae)
            if not is_distilled:
                guider = diffusers.ClassifierFreeGuidance(max(1.0, guidance))  # 1 computes none
                inner.update_components(guider=guider)
            self.scheduler = inner.scheduler  # for callbacks, as other pipelines have it
            # In the blocks of `inner`, which are its own.
            watch = AfterStep()
            watch.call = after_step
            for branch in inner._blocks.sub_blocks["denoise"].sub_blocks.values():
                loop = branch.sub_blocks["denoise"]
                loop.sub_blocks["after_step"] = watch
                loop.set_progress_bar_config(disable=True)
            given = {name: value for name, value in given.items() if value is not None}
            if unknown := given.keys() - {each.name for each in inner._blocks.inputs}:
                raise TypeError(f"the blocks take no {', '.join(sorted(unknown))}")
            try:
                return inner(output="latents", **given)
            except _Halted as halted:
                reason = halted.reason
            try:
                raise reason  # in the handler, each would keep the other and all tensors alive
            finally:
                del reason

    return Flux3KleinPipeline
