"""The lines that the `claude` program reads and writes: its stream-json protocol, as far as it is used here.

What goes in and out is described at https://code.claude.com/docs/en/agent-sdk; the control requests are those of
claude-agent-sdk, whose sources are their documentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from patchbay.dialects.surrogates import mend_text

log = structlog.get_logger(__name__)

NULL = msgspec.Raw(b"null")


class Response(msgspec.Struct):
    """The answer to a control request of ours."""

    subtype: str
    request_id: str = ""
    error: str = ""


class Message(msgspec.Struct):
    """A line from the program: the fields that some of its types have, and only where they are read here."""

    type: str
    subtype: str = ""
    # stream_event: an event of the Messages API, as the upstream sent it.
    event: msgspec.Raw = NULL
    # control_response
    response: Response | None = None
    # control_request: a question of the program's
    request: msgspec.Raw = NULL
    # user, assistant: a whole message; result: none
    message: msgspec.Raw = NULL
    request_id: str | None = None
    session_id: str = ""
    # Of what a subagent does: the call that started it.
    parent_tool_use_id: str | None = None
    # assistant: set on the program's own words about an error
    error: str | None = None
    # result
    is_error: bool = False
    result: str | None = None
    api_error: str | None = None
    api_error_status: int | None = None
    api_error_type: str | None = None
    terminal_reason: str | None = None
    usage: msgspec.Raw = NULL
    # rate_limit_event
    rate_limit_info: msgspec.Raw = NULL
    # transcript_mirror
    file_path: str = msgspec.field(default="", name="filePath")
    entries: msgspec.Raw = NULL


_decode = msgspec.json.Decoder(Message).decode


def read_message(line: bytes) -> Message | None:
    """One line of the program's; None for what is no message, as some builds print a word of their own.

    Halves of surrogate pairs, which JavaScript leaves of a cut emoji and no JSON decoder takes, are mended.
    """
    if not line.startswith(b"{"):
        return None
    try:
        return _decode(line)
    except msgspec.DecodeError:
        try:
            return _decode(mend_text(line))
        except msgspec.DecodeError as error:
            log.warning("claude_line_unreadable", error=str(error), bytes=len(line))
            return None


def control_request(request_id: str, subtype: str, **fields: object) -> bytes:
    """A control request's line."""
    request = {"subtype": subtype, **fields}
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def control_response(request_id: str, answer: object) -> bytes:
    """The line that answers a control request of the program's."""
    response = {"subtype": "success", "request_id": request_id, "response": answer}
    return _line({"type": "control_response", "response": response})


def control_refusal(request_id: str, reason: str) -> bytes:
    """The line that says that a control request of the program's cannot be answered."""
    return _line(
        {"type": "control_response", "response": {"subtype": "error", "request_id": request_id, "error": reason}}
    )


def initialize(request_id: str, **fields: object) -> bytes:
    """The first request of a session; `systemPrompt` or `appendSystemPrompt` among its fields."""
    return control_request(request_id, "initialize", hooks=None, **fields)


def apply_settings(request_id: str, *, model: str | None, environment: dict[str, str]) -> bytes:
    """Changes model and environment of a process that runs."""
    settings: dict[str, object] = {"env": environment}
    if model:
        settings["model"] = model
    return control_request(request_id, "apply_flag_settings", settings=settings)


def user_message(content: object, *, should_query: bool = True) -> bytes:
    """A user's message, to be taken word for word: no file of `@path` is read, no `/command` is run.

    Args:
        content: A text, or content blocks of the Messages API.
        should_query: False puts it into the history without asking the model.
    """
    line: dict[str, object] = {
        "type": "user",
        "message": {"role": "user", "content": content},
        "parent_tool_use_id": None,
        "session_id": "",
        "client_composed": True,
    }
    if not should_query:
        line["shouldQuery"] = False
    return _line(line)


def assistant_message(content: Sequence[object], *, model: str) -> bytes:
    """An earlier answer, for the history. With another model than the request's its thinking would be taken out."""
    message = {"role": "assistant", "model": model, "content": content}
    return _line({"type": "assistant", "message": message, "parent_tool_use_id": None, "session_id": ""})


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"
