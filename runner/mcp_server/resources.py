"""flux:// addresses: statuses, pictures, models, packs and schemas as resources.

Listed are the models, the packs, the schemas, and all jobs, newest first, with their first
pictures. Other pictures are read by their addresses.
"""

import base64
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mcp import types
from mcp.shared.exceptions import MCPError

from composer.packs import list_packs, read_pack
from runner.files import names_in
from runner.mcp_server import pictures
from runner.mcp_server.jobs import status_of
from runner.settings import Home
from runner.spool.disk.disk import leaving_out
from specs import schemas
from specs.errors import SpecInvalid

log = logging.getLogger(__name__)

_JSON = "application/json"
_PAGE = 25
_TEMPLATES = (
    ("flux://jobs/{id}/status", "job-status", "Status of a job", _JSON),
    ("flux://jobs/{id}/images/{n}", "job-image", "Picture of a job, counted from 1", None),
    ("flux://schema/{kind}", "spec-schema", "JSON Schema of one kind of spec", _JSON),
)


def templates() -> types.ListResourceTemplatesResult:
    """The addresses with a variable part."""
    listed = [
        types.ResourceTemplate(
            uri_template=uri, name=name, description=description, mime_type=media_type
        )
        for uri, name, description, media_type in _TEMPLATES
    ]
    return types.ListResourceTemplatesResult(resource_templates=listed)


def listing(home: Home, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    """One page: first the resources that do not depend on jobs, then jobs, the newest first.

    The cursor is the number of jobs on the pages before. Raises MCPError for any other text.
    """
    cursor = params.cursor if params else None
    start = int(cursor) if cursor and cursor.isascii() and cursor.isdecimal() else 0
    if cursor and (not start or len(cursor) > 9):
        raise MCPError(types.INVALID_PARAMS, f"{cursor!r} is not a cursor of this list")
    resources = [] if start else _fixed_resources()
    jobs = job_ids(home)
    for job_id in jobs[start : start + _PAGE]:
        with leaving_out(home.job(job_id), log.warning):
            resources += _job_resources(home, job_id)
    after = start + _PAGE
    return types.ListResourcesResult(
        resources=resources, next_cursor=str(after) if after < len(jobs) else None
    )


def _fixed_resources() -> list[types.Resource]:
    spec_schemas = [
        types.Resource(
            uri=f"flux://schema/{kind}", name=f"schema-{kind}", mime_type=_JSON,
            description=f"JSON Schema of a {kind} spec. {schemas.load(kind)['description']}",
        )
        for kind in schemas.kinds()
    ]  # fmt: skip
    models = "Every model: kinds, licence, size, and whether it is on this machine"
    packs = "Every prompt pack: its subjects and variables"
    return [
        types.Resource(uri="flux://models", name="models", description=models, mime_type=_JSON),
        types.Resource(uri="flux://packs", name="packs", description=packs, mime_type=_JSON),
        *spec_schemas,
    ]


def job_ids(home: Home) -> list[str]:
    """The jobs of the outbox, the newest first, without opening any of them."""
    folders = []
    for name in names_in(home.outbox):
        with leaving_out(home.job(name), log.warning):
            status = os.lstat(home.job(name))
            if name != "drops" and stat.S_ISDIR(status.st_mode):
                folders.append((status.st_mtime_ns, name))
    return [name for _, name in sorted(folders, reverse=True)]


def _job_resources(home: Home, job_id: str) -> list[types.Resource]:
    status = status_of(home, job_id)
    if "images" not in status:
        return []
    description = f"{status.get('kind')} job, {status['state']}"
    resources = [
        types.Resource(
            uri=f"flux://jobs/{job_id}/status", name=f"{job_id} status", description=description,
            mime_type=_JSON,
        )
    ]  # fmt: skip
    for row in pictures.page(home, status, 0):
        media_type = pictures.type_of(row["file"])
        resources.append(types.Resource(uri=row["uri"], name=row["file"], mime_type=media_type))
    return resources


def read(home: Home, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    """The content at an address. Raises MCPError where there is none."""
    uri = str(params.uri)
    scheme, _, path = uri.partition("://")
    parts = [unquote(part) for part in path.split("/")]
    if scheme == "flux" and len(uri) <= 400:
        match parts:
            case ["models"]:
                return _text(uri, {"models": models(home)})
            case ["packs"]:
                packs = [pack(home, name) for name in list_packs(home.prompts)]
                return _text(uri, {"packs": packs})
            case ["schema", name]:
                if name in schemas.names():
                    return _text(uri, schemas.bundle(name))
            case ["jobs", job_id, "status"]:
                status = status_of(home, job_id)
                if status["state"] != "unknown":
                    return _text(uri, status)
            case ["jobs", job_id, "images", number] if number.isascii() and number.isdecimal():
                file = pictures.file_of(home, job_id, int(number[:6]))
                data = pictures.read(home, job_id, file) if file else None
                if file is not None and data is not None:
                    blob, media_type = base64.b64encode(data).decode(), pictures.type_of(file)
                    content = types.BlobResourceContents(uri=uri, mime_type=media_type, blob=blob)
                    return types.ReadResourceResult(contents=[content])
    raise MCPError(types.INVALID_PARAMS, f"there is no resource {uri[:400]}", {"uri": uri[:400]})


def _text(uri: str, value: Any) -> types.ReadResourceResult:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    content = types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)
    return types.ReadResourceResult(contents=[content])


def models(home: Home) -> list[dict[str, Any]]:
    """Every model, and whether it is on this machine; without any path of its disk."""
    from runner.catalogue import model_rows

    rows = model_rows(home)
    for row in rows:
        del row["path"]
        for name in ("repo", "file"):
            if row[name] and Path(row[name]).is_absolute():
                row[name] = None
    return rows


def pack(home: Home, name: str) -> dict[str, Any]:
    """A pack with its subjects and variables; `error` says why it cannot be read."""
    try:
        content = read_pack(home.prompts, name)
    except SpecInvalid as error:
        return {"id": name, "error": str(error)}
    return {
        "id": content.id,
        "name": content.name,
        "version": content.version,
        "description": content.description,
        "subjects": list(content.subjects),
        "variables": list(content.variables),
        "defaults": dict(content.defaults),
    }
