"""The envelope of the protocol, in and out, and what the server says in it.

What is optional and not there is absent, never null: clients refuse null. An acknowledgement never carries an `error`,
which would end a client's process.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from patchbay.codebuff.usage import usage_report
from patchbay.dialects.surrogates import mend_text
from patchbay_codebuff_ws.ports import JsonObject

LONGEST_ID = 1_000
"""Of a prompt's id, which is in every frame about the prompt."""

# Of lists and objects in a frame, those signs within its texts included: all of them are made at once, and everybody
# waits meanwhile.
_MOST_VALUES = 4_000_000

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """A frame is no JSON object."""


@dataclass(frozen=True, slots=True)
class Message:
    """A frame of a client, as it was said.

    Attributes:
        txid: What its acknowledgement names; None: it has none that could be named.
        kind: `identify`, `ping`, `subscribe`, `unsubscribe`, `action`, or whatever else was said.
        body: All of it; nothing in it has been checked.
    """

    txid: int | None
    kind: str
    body: JsonObject

    @property
    def action(self) -> JsonObject:
        """What an `action` is about; empty if it says nothing readable."""
        data = self.body.get("data")
        return data if isinstance(data, dict) else {}


def read(text: str) -> Message:
    """Reads a frame.

    Raises:
        Unreadable: It is no JSON object, or one of too many parts.
    """
    if text.count("[") + text.count("{") > _MOST_VALUES:
        raise Unreadable("it has too many lists and objects")
    try:
        body = loads(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Unreadable(str(error)) from None
    if not isinstance(body, dict):
        raise Unreadable("it is no object")
    txid = body.get("txid")
    known = isinstance(txid, int) and not isinstance(txid, bool)
    return Message(txid if known else None, text_of(body.get("type")), body)


def loads(text: str) -> Any:
    """The JSON of a frame. Raises msgspec.DecodeError, RecursionError or UnicodeError."""
    collects = gc.isenabled()
    # To look for cycles among millions of lists, where there are none, takes several times as long as all else.
    gc.disable()
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError):
        # JavaScript cuts emoji in half; no decoder takes the halves.
        mended = mend_text(text.encode(errors="replace"))
        return _decode(mended)
    finally:
        if collects:
            gc.enable()


def write(message: Mapping[str, Any]) -> str:
    """One message as the text of a frame; what is no number in JSON becomes null."""
    try:
        return _encode(message).decode()
    except UnicodeError:
        return _encode(_whole(message)).decode()


def _whole(value: Any) -> Any:
    """The value without the halves of characters that a text from JavaScript may hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    return value


def text_of(value: object) -> str:
    """The value if it is a text, else nothing."""
    return value if isinstance(value, str) else ""


def is_id(text: str) -> bool:
    """Whether a prompt may be called so."""
    return 0 < len(text) <= LONGEST_ID


def ack(txid: int | None, *, success: bool = True) -> str:
    return write(
        {"type": "ack", "success": success} if txid is None else {"type": "ack", "txid": txid, "success": success}
    )


def action(data: JsonObject) -> str:
    return write({"type": "action", "data": data})


def response_chunk(prompt_id: str, chunk: str | JsonObject) -> str:
    return action({"type": "response-chunk", "userInputId": prompt_id, "chunk": chunk})


def subagent_chunk(prompt_id: str, agent_id: str, agent_type: str, chunk: str, prompt: str | None) -> str:
    data: JsonObject = {
        "type": "subagent-response-chunk",
        "userInputId": prompt_id,
        "agentId": agent_id,
        "agentType": agent_type,
        "chunk": chunk,
    }
    if prompt is not None:
        data["prompt"] = prompt
    return action(data)


def prompt_response(prompt_id: str, session_state: JsonObject, output: JsonObject) -> str:
    return action(
        {
            "type": "prompt-response",
            "promptId": prompt_id,
            "sessionState": session_state,
            "toolCalls": [],
            "toolResults": [],
            "output": output,
        }
    )


def prompt_error(prompt_id: str, message: str, *, error: str = "") -> str:
    data: JsonObject = {"type": "prompt-error", "userInputId": prompt_id, "message": message}
    if error:
        data["error"] = error
    return action(data)


def usage_response(used: int) -> str:
    return action({"type": "usage-response", **usage_report(used)})


def init_response(used: int, message: str = "") -> str:
    data: JsonObject = {"type": "init-response", **usage_report(used)}
    if message:
        data["message"] = message
    return action(data)


def cost_response(user_input_id: str, amount: int, agent_id: str) -> str:
    return action({"type": "message-cost-response", "promptId": user_input_id, "credits": amount, "agentId": agent_id})


def steps_log(user_input_id: str, agent_id: str, level: str, data: object, message: str | None) -> str:
    said: JsonObject = {
        "type": "handlesteps-log-chunk",
        "userInputId": user_input_id,
        "agentId": agent_id,
        "level": level,
        "data": data,
    }
    if message is not None:
        said["message"] = message
    return action(said)


def read_files(request_id: str, paths: Sequence[str]) -> str:
    return action({"type": "read-files", "filePaths": list(paths), "requestId": request_id})


def tool_call_request(
    user_input_id: str,
    request_id: str,
    name: str,
    tool_input: JsonObject,
    *,
    timeout_ms: int | None,
    mcp_config: JsonObject | None,
) -> str:
    data: JsonObject = {
        "type": "tool-call-request",
        "userInputId": user_input_id,
        "requestId": request_id,
        "toolName": name,
        "input": tool_input,
    }
    if timeout_ms is not None:
        data["timeout"] = timeout_ms
    if mcp_config is not None:
        data["mcpConfig"] = mcp_config
    return action(data)


def mcp_tools_request(request_id: str, config: JsonObject, names: Sequence[str] | None) -> str:
    data: JsonObject = {"type": "request-mcp-tool-data", "requestId": request_id, "mcpConfig": config}
    if names is not None:
        data["toolNames"] = list(names)
    return action(data)


def request_reconnect() -> str:
    return action({"type": "request-reconnect"})
