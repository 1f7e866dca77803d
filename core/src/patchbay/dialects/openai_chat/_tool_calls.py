"""Puts the fragments of streamed tool calls together.

By the protocol a fragment names its call by `index`, and the first one brings `id` and `name`. Servers leave out the
index, repeat the id or the name in every fragment, give every call the index 0, or give no id; each is understood here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.openai_chat._chunks import Function, ToolCall, is_present
from patchbay.dialects.openai_chat._reasoning import extra_content_data

_ID_LENGTH = 24


class BrokenToolCall(Exception):
    """A fragment belongs to a call that the answer has gone on from."""


@dataclass(slots=True)
class _Call:
    key: int
    index: int | None
    # As the server gave it; empty when it did not.
    id: str
    name: str = ""
    text_input: bool = False
    is_open: bool = False
    # Its input so far: until it is open, and for calls without an id, whose end must be seen in it.
    input: str = ""


class ToolCalls:
    """The tool calls of one answer."""

    def __init__(self, builder: EventBuilder, names: Mapping[str, str]) -> None:
        self._builder = builder
        self._names = names
        self._calls: dict[int, list[_Call]] = {}
        self._ids: set[str] = set()
        self._answer_id = ""

    def name_answer(self, answer_id: str) -> None:
        """Tells the answer's id, from which the ids of calls without one are made."""
        self._answer_id = answer_id

    def read(self, fragment: ToolCall, *, choice: int, whole: bool) -> None:
        """Reads one entry of `tool_calls`; `whole` when it is not a fragment but all of a call.

        Raises:
            BrokenToolCall: When its call has already been closed.
        """
        custom = fragment.custom
        function = fragment.function or Function()
        name = _string(custom.name if custom else function.name)
        text = _string(custom.input) if custom else arguments_of(function)
        index = fragment.index if isinstance(fragment.index, int) else None
        calls = self._calls.setdefault(choice, [])
        call = None if whole else _find(calls, index, _string(fragment.id), name, text)
        if call is None:
            call = _Call(len(calls), index, _string(fragment.id), text_input=custom is not None)
            calls.append(call)
        call.id = call.id or _string(fragment.id)
        self._add(call, name, text, choice, fragment.extra_content)

    def read_function_call(self, function: Function, *, choice: int) -> None:
        """Reads the deprecated `function_call`, of which an answer has one."""
        calls = self._calls.setdefault(choice, [])
        if not calls:
            calls.append(_Call(0, None, ""))
        self._add(calls[0], _string(function.name), arguments_of(function), choice, None)

    def flush(self) -> None:
        """Opens what never got a name: nothing that came is lost."""
        for choice, calls in self._calls.items():
            for call in calls:
                if not call.is_open:
                    self._open(call, choice)

    def _add(self, call: _Call, name: str, text: str, choice: int, extra_content: msgspec.Raw | None) -> None:
        if not call.is_open:
            call.name = call.name or name
            call.input += text
            if extra_content is not None and is_present(extra_content):
                self._builder.redacted_thinking(extra_content_data(bytes(extra_content)), choice=choice)
            if call.name:
                self._open(call, choice)
            return
        if not text:
            return
        if not self._builder.has_open_tool(call.key, choice=choice):
            raise BrokenToolCall
        if not call.id:
            call.input += text
        self._builder.tool_input(call.key, text, choice=choice)

    def _open(self, call: _Call, choice: int) -> None:
        name = self._names.get(call.name, call.name)
        self._builder.tool_call(
            call.key, call_id=self._unique_id(call, choice), name=name, choice=choice, text_input=call.text_input
        )
        call.is_open = True
        self._builder.tool_input(call.key, call.input, choice=choice)

    def _unique_id(self, call: _Call, choice: int) -> str:
        call_id = call.id
        if not call_id:
            seed = f"{self._answer_id}/{choice}/{call.key}/{call.name}"
            call_id = "call_" + hashlib.sha256(seed.encode()).hexdigest()[:_ID_LENGTH]
        elif call_id in self._ids:
            call_id = f"{call_id}_{call.key}"
        self._ids.add(call_id)
        return call_id


def arguments_of(function: Function) -> str:
    """The arguments' text; some servers send an object in its place."""
    raw = bytes(function.arguments)
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str)
    return "" if raw == b"null" else raw.decode()


def _string(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else ""


def _find(calls: list[_Call], index: int | None, call_id: str, name: str, text: str) -> _Call | None:
    """The call that a fragment goes on with; None when it begins a new one."""
    for call in reversed(calls):
        if call_id and call.id == call_id and (index is None or call.index in (None, index)):
            return call
    last = next((call for call in reversed(calls) if index is None or call.index == index), None)
    if last is None or not name or not last.name:
        return last
    if call_id or last.id:
        # A name with another id begins another call; without an id it is a repetition where an index says so.
        return last if not call_id and index is not None else None
    return last if not text or not _is_complete(last.input) else None


def _is_complete(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True
