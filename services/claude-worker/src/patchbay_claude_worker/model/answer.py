"""Turns what the program says of an answer into the stream that the API would have sent.

The program's partial events are the upstream's own, except for those that it makes up when an answer fails: it closes
open blocks, ends the message with `stop_reason: null`, apologises in an assistant message, and may go on by itself
after an answer that ended too early. None of that is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from patchbay_claude_worker.cli.messages import Message


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None


class _RateLimit(msgspec.Struct):
    status: str = ""
    resets_at: float | None = msgspec.field(default=None, name="resetsAt")


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_rate_limit = msgspec.json.Decoder(_RateLimit).decode

_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
# The program's words before the API's own.
_PREFIX = re.compile(
    r"\A(?:Failed to authenticate\. )?API Error: (?:\d{3} |Request rejected \(\d{3}\) · )?|\APlease run /login · "
)
# And after them; it also names the host that it asks.
_ADVICE = re.compile(r"\.? This is a server-side issue, usually temporary — try again in a moment\..*\Z", re.DOTALL)
# The program's words instead of the API's own: what the API says then. Claude Code itself, and others, act on some.
_API_WORDS = {
    "Invalid API key · Fix external API key": "invalid x-api-key",
    "Invalid auth token · Fix external auth token": "Invalid bearer token",
    "Prompt is too long": "prompt is too long",
    "Credit balance is too low": "Your credit balance is too low to access the Anthropic API. Please go to Plans & "
    "Billing to upgrade or purchase credits.",
    "due to tool use concurrency issues.": "messages: `tool_use` ids were found without `tool_result` blocks "
    "immediately after",
    "duplicate tool_use ID in conversation history.": "messages: `tool_use` ids must be unique",
    "orphaned tool_result in conversation history.": "messages: unexpected `tool_use_id` found in `tool_result` blocks",
}
_NO_MODEL = re.compile(r"There's an issue with the selected model \((.*)\)\. It may not exist.*", re.DOTALL)
# What becomes of a sign-in that has ended, whatever the status.
_SIGN_IN_ENDED = re.compile(r"run /login\b|OAuth token revoked|Login expired|login reached its time limit")
# The same by status.
_OWN_WORDS = {500: "Internal server error", 529: "Overloaded", 413: "Request exceeds the maximum size"}
_TYPE_OF_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUS_OF_TYPE = {kind: status for status, kind in _TYPE_OF_STATUS.items()}
_NOT_SIGNED_IN = "authentication_failed"
_NOT_RENEWED = "Could not refresh your login"
_LOST = "connection_failed"
_LOST_WORDS = "The connection to the provider was lost."
_STATUS_OF_CAUSE = {_LOST: 502, "timeout": 504}


@dataclass(frozen=True, slots=True)
class Failure:
    """How an answer failed, as the API would have said it.

    Attributes:
        retry_after: In seconds.
        lost: The connection to the API failed: it has said nothing.
    """

    status: int
    kind: str
    message: str
    request_id: str = ""
    retry_after: float | None = None
    lost: bool = False

    def body(self) -> bytes:
        """The API's error body, which is the data of its error event too."""
        error: dict[str, object] = {"type": "error", "error": {"type": self.kind, "message": self.message}}
        if self.request_id:
            error["request_id"] = self.request_id
        return msgspec.json.encode(error)

    def frame(self) -> bytes:
        """The API's error event."""
        return b"event: error\ndata: " + self.body() + b"\n\n"


@dataclass(slots=True)
class AnswerStream:
    """Reads one answer. `feed` each message until `ended` or `failure` is set.

    Args:
        now: The time, in seconds since the epoch.
        refusal: What to say when the upstream does not take the program's credential; empty: what it says itself.
    """

    now: Callable[[], float]
    refusal: str = ""
    started: bool = False
    # The answer is complete: nothing that follows is part of it.
    ended: bool = False
    failure: Failure | None = None
    # The end of a block, until it is known that the upstream said so.
    _held: list[bytes] = field(default_factory=list)
    # The upstream's stream broke: what follows until the result is made up.
    _broken: bool = False
    _request_id: str = ""
    # The program's word for what went wrong, where it has one.
    _error: str = ""
    _resets_at: float | None = None

    def feed(self, message: Message) -> bytes:
        """The frames that a message is worth, often none."""
        match message.type:
            case "stream_event" if not self._broken and message.parent_tool_use_id is None:
                return self._event(message.event)
            case "assistant":
                self._request_id = message.request_id or self._request_id
                self._error = message.error or self._error
            case "rate_limit_event":
                self._note_rate_limit(message.rate_limit_info)
            case "result":
                self.failure = self._failed(message)
        return b""

    def _event(self, raw: msgspec.Raw) -> bytes:
        event = _decode_event(raw)
        if event.type == "message_start" and self.started:
            # A second answer, which nobody asked for: whoever reads this ends the process, and its request with it.
            self._broken = True
            self.failure = Failure(502, "api_error", _LOST_WORDS, self._request_id, lost=True)
            return b""
        self.started = True
        frame = b"event: %s\ndata: %s\n\n" % (event.type.encode(), bytes(raw))
        if event.type == "content_block_stop":
            self._held.append(frame)
            return b""
        if event.type == "message_stop":
            # The upstream's own comes behind its stop reason, where this has ended already.
            self._broken = True
            return b""
        if event.type == "message_delta":
            if event.delta is None or event.delta.stop_reason is None:
                # Usage so far, as some servers report it, or the program's words for an answer that broke off.
                return b""
            self.ended = True
            return self._release() + frame + _STOP
        return self._release() + frame

    def _release(self) -> bytes:
        if not self._held:
            return b""
        held, self._held = b"".join(self._held), []
        return held

    def _note_rate_limit(self, raw: msgspec.Raw) -> None:
        try:
            limit = _decode_rate_limit(raw)
        except msgspec.DecodeError:
            return
        if limit.status == "rejected":
            self._resets_at = limit.resets_at

    def _failed(self, result: Message) -> Failure:
        words = result.result or ""
        status = result.api_error_status or _STATUS_OF_TYPE.get(result.api_error_type or "", 0)
        if self._error == _NOT_SIGNED_IN and (not status or (self.refusal and _SIGN_IN_ENDED.search(words))):
            # It has not even asked, or what it has asked with is no longer any good.
            return Failure(401, _TYPE_OF_STATUS[401], self._no_credential(words), self._request_id)
        status = status or _STATUS_OF_CAUSE.get(result.api_error or "", 500)
        kind = result.api_error_type or _TYPE_OF_STATUS.get(status, "api_error")
        message = _api_words(words)
        if result.api_error_status in _OWN_WORDS or not message:
            message = _OWN_WORDS.get(status, "The provider's answer broke off.")
        elif result.api_error in _STATUS_OF_CAUSE:
            message = _LOST_WORDS
        if status == 401 and self.refusal:
            message = self.refusal
        retry_after = None
        if status == 429 and self._resets_at is not None:
            retry_after = max(0.0, self._resets_at - self.now())
        return Failure(status, kind, message, self._request_id, retry_after, result.api_error == _LOST)

    def _no_credential(self, words: str) -> str:
        if words.startswith(_NOT_RENEWED):
            # The reason is the worker's disk or the like, and signing in again would not help.
            return words
        return self.refusal or "The claude program has no credential."


def _api_words(words: str) -> str:
    """What the API said, as far as the program's words still have it."""
    words = _ADVICE.sub("", _PREFIX.sub("", words)).strip()
    if (named := _NO_MODEL.match(words)) is not None:
        return f"model: {named[1]}"
    return _API_WORDS.get(words, words)
