"""The tools: their names, the descriptions by which a model chooses, and their schemas."""

from functools import lru_cache

from mcp.types import Tool, ToolAnnotations

from runner.mcp_server import arguments, jobs, output_schemas, search

_BULK = " Answers at once with a job_id for flux_get_job."
_PROMPT = " Needs `prompt`, `compose` or prompts in `matrix`."
_MAKERS = {
    "flux_generate": (
        "text2img",
        "Make pictures from words",
        "Makes new pictures from a text prompt (text to image), or from a prompt and an `image` to"
        " start from, as far from it as `strength` says (image to image)." + _PROMPT + _BULK,
    ),
    "flux_edit": (
        "kontext",
        "Edit a picture with words",
        "Changes an existing picture as an instruction says (`make the sky stormy`) and keeps the"
        " rest, without a mask. Needs `image`." + _PROMPT + _BULK,
    ),
    "flux_fill": (
        "fill",
        "Repaint or extend a picture",
        "Repaints the white or clear part of a `mask` (inpainting), or adds pixels at the borders"
        " with `outpaint`; exactly one of the two. The prompt says what the new area shows. Needs"
        " `image`." + _PROMPT + _BULK,
    ),
    "flux_variation": (
        "redux",
        "Make variations of pictures",
        "Makes new pictures that resemble a given one (`more like this`), or blend several. Needs"
        " `image`; `prompt` is optional." + _BULK,
    ),
    "flux_structural": (
        "control",
        "Keep a picture's structure",
        "Makes a new picture that follows the outlines (`control: canny`) or the depth"
        " (`control: depth`) of a given one: another style, the same layout. Needs `image`."
        + _PROMPT
        + _BULK,
    ),
}
INSTRUCTIONS = f"""\
fluxdrop makes pictures with FLUX on this machine, one job after another; jobs outlive this server.

1. Submit with one of {", ".join(f"{name} ({title})" for name, (_, title, _) in _MAKERS.items())}.\
 It answers at once with a job_id. Ask for many pictures in one job (count, seeds, matrix, compose)\
 rather than in many jobs.
2. Call flux_get_job with wait_seconds 50 until the state is succeeded, failed, cancelled or\
 rejected. It shows the pictures.
3. Pictures can be the input of the next job: give `<job>/<file>`, even before they are made.

Leave out what you do not need: every default fits its model. Wrong arguments submit nothing, and\
 all that is wrong is said at once; dry_run says what would run. Say what should be there: of the\
 models that ship only tiny, klein-base, klein-base-9b, flux3-klein-base, dev, krea and kontext-dev\
 take a negative_prompt. Models are in flux://models, prompt packs in flux://packs.
"""


def _more(kind: str) -> str:
    names = ", ".join(arguments.rarely_needed(kind))
    return f" Also takes {names} and x_… (flux://schema/{kind})."


KIND_OF = {name: kind for name, (kind, *_) in _MAKERS.items()}
"""The tools that make pictures, and the kind of spec that each writes."""

_GET = (
    "Says where a job stands, waits up to 50 seconds for its end if asked, and shows finished"
    " pictures, 4 at a time. Call it with wait_seconds 50, again and again, until the state is"
    " succeeded, failed, cancelled or rejected. `unknown` means that no such job is known, not that"
    " it is done."
)
_CANCEL = "Stops a job: a running one at its next step. Finished pictures stay. Safe to repeat."
_SEARCH = (
    "Finds finished pictures of all jobs, newest first; without arguments the newest. `file` of a"
    " row can be an image of the other tools."
)


@lru_cache(maxsize=1)
def tools() -> dict[str, Tool]:
    """The tools by name, as they are listed."""
    adds = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )
    read_only = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    stops = ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    )
    listed = [
        Tool(
            name=name, title=title, description=words + _more(kind),
            input_schema=arguments.of_kind(kind), output_schema=output_schemas.SUBMITTED,
            annotations=adds,
        )
        for name, (kind, title, words) in _MAKERS.items()
    ]  # fmt: skip
    listed += [
        Tool(
            name="flux_get_job", title="Look at a job", description=_GET, input_schema=jobs.GET,
            output_schema=output_schemas.job(), annotations=read_only,
        ),
        Tool(
            name="flux_cancel_job", title="Cancel a job", description=_CANCEL,
            input_schema=jobs.CANCEL, output_schema=output_schemas.CANCELLED, annotations=stops,
        ),
        Tool(
            name="flux_search_gallery", title="Search finished pictures", description=_SEARCH,
            input_schema=search.arguments(), output_schema=output_schemas.FOUND,
            annotations=read_only,
        ),
    ]  # fmt: skip
    return {tool.name: tool for tool in listed}
