"""What is read of the first generation's actions, and what is said in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject

_RESULT = "[TOOL_RESULT]"
_QUOTA = 1_000_000


def complete(
    prompt_id: str,
    response: str,
    *,
    changes: Sequence[JsonObject] = (),
    applied: Sequence[JsonObject] = (),
    usage: JsonObject | None = None,
) -> str:
    """The frame that ends a prompt.

    Args:
        applied: The changes that the client has made already.
        usage: See `usage`.
    """
    return wire.action(
        {
            "type": "response-complete",
            "userInputId": prompt_id,
            "response": response,
            "changes": list(changes),
            "changesAlreadyApplied": list(applied),
            "addedFileVersions": [],
            "resetFileVersions": False,
            **(usage or {}),
        }
    )


def usage(used: int, *, session: int) -> JsonObject:
    """What a caller has used this month, and the socket so far, in credits."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    return {
        "usage": used,
        "limit": _QUOTA,
        "subscription_active": True,
        "next_quota_reset": next_month.isoformat(),
        "session_credits_used": session,
    }


def context_of(action: JsonObject) -> JsonObject | None:
    """The project as the second generation tells of it."""
    context = action.get("fileContext")
    if not isinstance(context, dict):
        return None
    here = text_of(context.get("currentWorkingDirectory"))
    rest = {name: value for name, value in context.items() if name not in ("currentWorkingDirectory", "fileVersions")}
    return {"projectRoot": here, "cwd": here, **rest}


def tool_result(messages: object) -> str | None:
    """What a tool has given, if that is what was said last."""
    last = next(reversed(objects(messages)), None)
    if last is None or last.get("role") != "user":
        return None
    content = last.get("content")
    blocks = objects(content)
    if any(block.get("type") == "tool_result" for block in blocks):
        return said(content)
    text = said(content)
    return text.partition(_RESULT)[2].strip() if _RESULT in text else None


def said(content: object) -> str:
    """The text of a message, with that of its blocks."""
    if isinstance(content, str):
        return content
    texts = []
    for block in objects(content):
        if block.get("type") == "text":
            texts.append(text_of(block.get("text")))
        elif block.get("type") == "tool_use":
            texts.append(
                f"[Called {text_of(block.get('name'))} with {msgspec.json.encode(block.get('input')).decode()}]"
            )
        elif block.get("type") == "tool_result":
            texts.append(said(block.get("content")))
    return "\n".join(texts)


def objects(value: object) -> list[JsonObject]:
    """Those of a list's items that are objects."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
