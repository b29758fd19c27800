"""The prompt `night_from_a_pack`, and completions for its arguments and for flux:// addresses."""

import json
from collections.abc import Mapping
from typing import Any

from mcp import types
from mcp.shared.exceptions import MCPError

from composer.packs import list_packs
from runner.mcp_server import resources
from runner.settings import Home
from specs import schemas

NIGHT = "night_from_a_pack"
_ARGUMENTS = {
    "pack": ("The pack's id (flux://packs)", True),
    "subjects": ("Names with commas between them, or `all` (the default)", False),
    "variables": ("Names with commas between them, or `all`", False),
    "count": ("Pictures of each prompt, each with its own seed (default 1)", False),
    "window": ("The hours in which pictures may be made, such as 23:00-07:00", False),
}
_TEXT = """\
Prepare a night's run of pictures from the prompt pack {name}.

The pack: {pack}

1. Call flux_generate with dry_run true, {arguments}. Tell me how many pictures it makes, two or\
 three of the final prompts, what is left out and why, and every warning. If the audit finds a\
 violation, show me where, and stop.
2. When I agree, make the same call without dry_run. The window holds pictures back until its\
 hours; the job survives restarts of everything.
3. Call flux_get_job for it, and tell me the job's id, its state, and whether a runner is running.\
 In the morning, flux_get_job shows the pictures, four at a time, and\
 flux_search_gallery with pack {name} finds them all.
"""


def listing() -> types.ListPromptsResult:
    """The one prompt."""
    arguments = [
        types.PromptArgument(name=name, description=description, required=required)
        for name, (description, required) in _ARGUMENTS.items()
    ]
    prompt = types.Prompt(
        name=NIGHT, title="A night from a pack", arguments=arguments,
        description="Plan and submit a night of pictures from one of your prompt packs",
    )  # fmt: skip
    return types.ListPromptsResult(prompts=[prompt])


def get(home: Home, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    """The prompt, filled in. Raises MCPError for an unknown prompt, argument or pack."""
    name, arguments = params.name, params.arguments or {}
    if name != NIGHT:
        raise _refusal(f"there is no prompt {name[:100]!r}; there is {NIGHT}")
    unknown = sorted(set(arguments) - set(_ARGUMENTS))
    if unknown:
        raise MCPError(
            types.INVALID_PARAMS, f"{NIGHT} takes {', '.join(_ARGUMENTS)}, not {unknown[0]!r}"
        )
    chosen = arguments.get("pack", "").strip()
    packs = _packs(home)
    if chosen not in packs:
        known = ", ".join(packs) or "none"
        raise MCPError(
            types.INVALID_PARAMS, f"there is no pack {chosen[:100]!r}; there is: {known}"
        )
    text = _TEXT.format(
        name=json.dumps(chosen),
        pack=json.dumps(resources.pack(home, chosen), ensure_ascii=False),
        arguments=", ".join(f"{k} {json.dumps(v)}" for k, v in _fields(chosen, arguments).items()),
    )
    message = types.PromptMessage(role="user", content=types.TextContent(text=text))
    return types.GetPromptResult(description=f"A night from {chosen}", messages=[message])


def _refusal(text: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, text)


def _fields(pack: str, arguments: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of the flux_generate call that the prompt asks for."""
    compose: dict[str, Any] = {"pack": pack}
    for name in ("subjects", "variables"):
        names = [part.strip() for part in arguments.get(name, "").split(",") if part.strip()]
        if names:
            compose[name] = names[0] if len(names) == 1 else names
    compose.setdefault("subjects", "all")
    count = arguments.get("count", "").strip()
    window = arguments.get("window", "").strip()
    return {
        "compose": compose,
        **({"count": int(count)} if count.isascii() and count.isdecimal() else {}),
        **({"window": window} if window else {}),
    }


def complete(home: Home, params: types.CompleteRequestParams) -> types.CompleteResult:
    """The values of an argument that begin with what was typed of it."""
    name, prefix = params.argument.name, params.argument.value.casefold()
    chosen = (params.context.arguments if params.context else None) or {}
    if name == "pack":
        values = _packs(home)
    elif name in ("subjects", "variables"):
        pack = resources.pack(home, chosen["pack"]) if chosen.get("pack") in _packs(home) else {}
        values = [*pack.get(name, []), "all"]
    elif name == "kind":
        values = list(schemas.kinds())
    elif name == "id":
        values = resources.job_ids(home)
    else:
        values = []
    matching = [value for value in values if value.casefold().startswith(prefix)]
    shown = matching[:100]
    more = len(matching) > len(shown)
    completion = types.Completion(values=shown, total=len(matching), has_more=more)
    return types.CompleteResult(completion=completion)


def _packs(home: Home) -> list[str]:
    return list(list_packs(home.prompts))
