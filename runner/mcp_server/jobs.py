"""flux_get_job and flux_cancel_job: the status of a job as the outbox has it, never a guess.

A job without a status is `submitted` while its file waits in the inbox, else `unknown`; unknown
never means done. Waiting polls the status file, for 50 seconds at most: hosts give a call a minute.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
from anyio.to_thread import run_sync

from runner import client
from runner.files import is_there
from runner.job import FINAL_STATES
from runner.mcp_server import pictures
from runner.mcp_server.runner_presence import Attendance
from runner.settings import Home
from runner.spool.store.names import CANCEL_SUFFIX, is_safe_id
from specs import schemas

MOST_WAIT_SECONDS = 50
_POLL_SECONDS = 0.1
_CANCEL_SECONDS = 10.0

JOB_ID: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "description": "From a submission, or the name of a folder in outbox/.",
}
GET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "job_id": JOB_ID,
        "wait_seconds": {
            "type": "number",
            "minimum": 0,
            "maximum": MOST_WAIT_SECONDS,
            "default": 0,
            "description": "Answer when the job is over, or after so many seconds.",
        },
        "pictures": {
            "enum": ["none", "thumbnail", "full"],
            "default": "thumbnail",
            "description": "How to show finished pictures, at most 4: not at all, 256 pixels wide,"
            " or as large as one answer may carry.",
        },
        "offset": {
            "type": "integer",
            "minimum": 0,
            "maximum": 10_000,
            "default": 0,
            "description": "How many pictures to skip: next_offset of the answer before.",
        },
    },
    "required": ["job_id"],
    "additionalProperties": False,
}
CANCEL: dict[str, Any] = {**GET, "properties": {"job_id": JOB_ID}}


def status_of(home: Home, job_id: str) -> dict[str, Any]:
    """The status of a job; `unknown` for text that cannot be an id, such as a path.

    So is one that says what no runner says: hosts refuse an answer that breaks its schema.
    """
    from specs.messages import validator

    unknown = {"id": job_id, "state": "unknown"}
    found = client.status(home, job_id) if is_safe_id(job_id) else unknown
    is_sound = "images" not in found or validator(schemas.bundle("status")).is_valid(found)
    return found if is_sound else unknown


async def get_job(
    home: Home,
    attendance: Attendance,
    arguments: Mapping[str, Any],
    report: Callable[[float, float, str], Awaitable[None]],
) -> tuple[dict[str, Any], list[Any]]:
    """The result of flux_get_job, and the content of its page of pictures.

    `report` gets (progress, total, message) whenever the progress has risen.
    """
    job_id = str(arguments["job_id"])
    deadline = time.monotonic() + float(arguments.get("wait_seconds", 0))
    status = await run_sync(status_of, home, job_id)
    look = client.patient(partial(status_of, home, job_id))
    reported = -1.0
    while _may_change(status):
        total = float((status.get("images") or {}).get("total") or 1)
        done = total * _fraction(status)
        if done > reported:
            reported = done
            await report(done, total, _progress_text(status))
        seconds = min(_POLL_SECONDS, deadline - time.monotonic())
        if seconds <= 0:
            break
        await anyio.sleep(seconds)
        found = await run_sync(look)
        status = found or status
    return await run_sync(_result, home, attendance, status, arguments)


def _may_change(status: Mapping[str, Any]) -> bool:
    return status["state"] not in (*FINAL_STATES, "unknown")


def _fraction(status: Mapping[str, Any]) -> float:
    """How much of a job is done, from 0 to 1."""
    images, progress = status.get("images"), status.get("progress")
    if not images or not images["total"]:
        return 0.0
    over = images["done"] + images["failed"] + images["skipped"]
    return max(float(over / images["total"]), float(progress["fraction"]) if progress else 0.0)


def _progress_text(status: Mapping[str, Any]) -> str:
    progress, images = status.get("progress"), status.get("images")
    if not progress or not images:
        why = status.get("message") or status.get("reason")
        return f"{status['state']}: {why}" if why else str(status["state"])
    step = f" {progress['step']}/{progress['steps']}" if progress.get("step") else ""
    left = progress.get("eta_seconds")
    eta = f", about {left:.0f} s left" if left else ""
    return f"image {progress['image']} of {images['total']}: {progress['phase']}{step}{eta}"


def _result(
    home: Home, attendance: Attendance, status: dict[str, Any], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    job_id, offset = str(status["id"]), int(arguments.get("offset", 0))
    accepted = "images" in status
    rows = pictures.page(home, status, offset) if accepted else []
    after = offset + pictures.PAGE
    done = status["images"]["done"] if accepted else 0
    result = {
        **status,
        "outputs": rows,
        "next_offset": after if after < done else None,
        "status_file": str(home.job(job_id) / "status.json") if accepted else None,
    }
    if status["state"] not in FINAL_STATES:
        result["runner"] = attendance.look() if _may_change(status) else attendance.peek()
    result["next"] = _next_step(home, result)
    content, smaller = pictures.contents(
        home, job_id, rows, str(arguments.get("pictures", "thumbnail"))
    )
    if smaller:
        result["pictures"] = smaller
    return result, content


def _next_step(home: Home, result: Mapping[str, Any]) -> str:
    state = result["state"]
    if state == "unknown":
        return (
            "no job of this id was ever seen here, or its folder was moved away; it is not known"
            " to be done: check the id, or search with flux_search_gallery"
        )
    if state == "rejected":
        return "mend what `errors` says, and submit again"
    if more := result["next_offset"]:
        return f"call flux_get_job with offset {more} for more pictures"
    if state == "failed":
        return (
            f"say what `errors` says ({result.get('reason')}: {result.get('message')}); when that"
            " is mended, submit the same again under another id"
        )
    if state == "cancelled":
        return "it was cancelled: submit the same again under another id to have it made"
    if state in FINAL_STATES:
        return "show `outputs` to the user; each `path` can be the image of another call"
    if is_there(home.inbox / f"{result['id']}{CANCEL_SUFFIX}"):
        return "it is asked to stop: nothing more will be made of it, and a runner ends it"
    if not result["runner"]["running"]:
        return str(result["runner"]["message"])
    return f"call flux_get_job again, with wait_seconds {MOST_WAIT_SECONDS}"


async def cancel_job(
    home: Home, attendance: Attendance, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of flux_cancel_job; waits up to ten seconds for a running runner to obey."""
    job_id = str(arguments["job_id"])
    status = await run_sync(status_of, home, job_id)
    if not _may_change(status):
        return _outcome(job_id, status, requested=False)
    await run_sync(client.cancel, home, job_id)
    runner = await run_sync(attendance.peek)
    if runner["running"]:
        await run_sync(client.wait_until_over, home, job_id, _CANCEL_SECONDS)
    status = await run_sync(status_of, home, job_id)
    return {**_outcome(job_id, status, requested=True), "runner": runner}


def _outcome(job_id: str, status: Mapping[str, Any], *, requested: bool) -> dict[str, Any]:
    state = status["state"]
    images = status.get("images") or {}
    kept = f"; {images['done']} finished pictures are kept" if images.get("done") else ""
    if state == "unknown":
        outcome, message = "unknown", "no job of this id is known, and nothing was done"
    elif state == "cancelled" and requested:
        outcome, message = "cancelled", f"it is cancelled{kept}"
    elif state in FINAL_STATES:
        outcome, message = "was_over", f"it was over already ({state}); nothing changed{kept}"
    else:
        outcome = "asked"
        message = "it is asked to stop, and does so at its next step or when a runner sees it"
    return {"job_id": job_id, "outcome": outcome, "state": state, "message": message}
