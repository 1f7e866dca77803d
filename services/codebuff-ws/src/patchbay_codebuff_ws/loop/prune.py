"""Keeps a conversation within the model's window: old terminal outputs and files go first, then the middles of long
results, then the oldest messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patchbay_codebuff_ws.loop.files import file_entries
from patchbay_codebuff_ws.loop.history import (
    both_ends,
    json_text,
    system_notice,
    tool_calls,
    tool_result,
    user_message,
)
from patchbay_codebuff_ws.ports import JsonObject

# Code has about three characters a token; to say too many is the safe side.
_CHARACTERS_PER_TOKEN = 3
# What an image takes, whatever its bytes.
_MEDIA_TOKENS = 1_600
_KEPT_TERMINAL_OUTPUTS = 5
_FILE_TOKENS = 100_000
_LEFT_SHARE = 0.6
# What the last results may take of that. Left out as a whole, they would be asked for again and again.
_RESULTS_SHARE = 0.8
OMITTED = system_notice("Previous messages were left out, because the conversation became too long.")


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return len(text) // _CHARACTERS_PER_TOKEN + 1


def message_tokens(message: Mapping[str, Any]) -> int:
    """About how many tokens a message has."""
    content = message.get("content")
    if isinstance(content, str):
        return text_tokens(content)
    parts = content if isinstance(content, list) else [content]
    total = 0
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") in ("image", "file", "media"):
            total += _MEDIA_TOKENS
        elif part.get("type") == "tool-result":
            total += sum(
                _MEDIA_TOKENS if one.get("type") == "media" else text_tokens(json_text(one))
                for one in part.get("output") or ()
            )
        else:
            total += text_tokens(json_text(part))
    return total


def pruned(history: Sequence[JsonObject], *, limit: int, overhead: int) -> list[JsonObject]:
    """The conversation, shortened only if it and `overhead` (prompts, tools) have more than `limit` tokens.

    It is shortened well below the limit, since all that a provider has cached of it is lost then.
    """
    messages = list(history)
    if _file_tokens(messages) > _FILE_TOKENS:
        messages = _without_old_files(messages, _FILE_TOKENS // 2)
    if _total(messages) + overhead <= limit:
        return messages
    messages = _without_terminal_outputs(messages)
    if _total(messages) + overhead <= limit:
        return messages
    left = max(int(limit * _LEFT_SHARE) - overhead, 0)
    return _without_oldest(_without_middles(messages, int(left * _RESULTS_SHARE)), left)


def _total(messages: Sequence[JsonObject]) -> int:
    return sum(map(message_tokens, messages))


def _file_tokens(messages: Sequence[JsonObject]) -> int:
    return sum(
        text_tokens(entry["content"])
        for message in messages
        for entry in file_entries(message)
        if isinstance(entry.get("content"), str)
    )


def _without_old_files(messages: Sequence[JsonObject], left: int) -> list[JsonObject]:
    """Leaves out the contents of files, oldest first, until no more than `left` tokens of them remain."""
    result = list(messages)
    over = _file_tokens(messages) - left
    for at, message in enumerate(messages):
        entries = file_entries(message)
        if over <= 0:
            break
        if not entries:
            continue
        omitted: list[JsonObject] = []
        for entry in entries:
            content = entry.get("content")
            if over > 0 and isinstance(content, str):
                over -= text_tokens(content)
                entry = {"path": entry["path"], "contentOmittedForLength": True}
            omitted.append(entry)
        result[at] = _with_output(message, omitted)
    return result


def _without_terminal_outputs(messages: Sequence[JsonObject]) -> list[JsonObject]:
    result = list(messages)
    left = _KEPT_TERMINAL_OUTPUTS
    for at in reversed(range(len(result))):
        found = tool_result(result[at])
        if found is None or found.get("toolName") != "run_terminal_command":
            continue
        left -= 1
        if left >= 0:
            continue
        value = next((part.get("value") for part in found.get("output") or () if part.get("type") == "json"), None)
        if isinstance(value, dict) and "stdout" in value:
            short = {key: value[key] for key in ("command", "exitCode") if key in value}
            result[at] = _with_output(result[at], {**short, "stdoutOmittedForLength": True})
    return result


def _without_middles(messages: Sequence[JsonObject], most: int) -> list[JsonObject]:
    """Shortens what the last calls of tools gave, if all of it has more than so many tokens."""
    result = list(messages)
    last = max((at for at, message in enumerate(messages) if message.get("role") == "assistant"), default=-1)
    places = [at for at in range(last + 1, len(messages)) if tool_result(messages[at]) is not None]
    share = most // max(len(places), 1)
    if not share or sum(message_tokens(messages[at]) for at in places) <= most:
        return result
    for at in places:
        if message_tokens(messages[at]) <= share:
            continue
        found = tool_result(messages[at]) or {}
        parts = found.get("output") or []
        values = [part.get("value") for part in parts if part.get("type") == "json"]
        whole = values[0] if len(values) == 1 else values
        text = whole if isinstance(whole, str) else json_text(whole)
        shown = both_ends(text, share * _CHARACTERS_PER_TOKEN)
        others = [part for part in parts if part.get("type") != "json"]
        result[at] = {**messages[at], "content": {**found, "output": [{"type": "json", "value": shown}, *others]}}
    return result


def _with_output(message: JsonObject, value: object) -> JsonObject:
    return {**message, "content": {**(tool_result(message) or {}), "output": [{"type": "json", "value": value}]}}


def _without_oldest(messages: Sequence[JsonObject], left: int) -> list[JsonObject]:
    over = _total(messages) - left
    gone: set[int] = set()
    calls: set[str] = set()
    for at, message in enumerate(messages):
        if message.get("role") == "assistant":
            # Some models give each answer's calls the same ids: a result belongs to the call before it.
            calls.clear()
        answers = tool_result(message)
        is_answer = answers is not None and answers.get("toolCallId") in calls
        # What has called a tool and what the tool gave go together.
        if (over <= 0 or message.get("keepDuringTruncation")) and not is_answer:
            continue
        gone.add(at)
        over -= message_tokens(message)
        calls.update(str(call.get("toolCallId")) for call in tool_calls(message))
    if not gone:
        return list(messages)
    first = min(gone)
    result: list[JsonObject] = []
    for at, message in enumerate(messages):
        if at == first:
            result.append(user_message(OMITTED))
        if at not in gone and message.get("content") != OMITTED:
            result.append(message)
    return result
