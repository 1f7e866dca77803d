"""Puts the fragments of streamed tool calls together.

By the protocol a fragment names its call by `index`, and the first one brings `id` and `name`. Servers leave out the
index, repeat the id or the name in every fragment, give every call the index 0, or give no id; each is understood here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from patchbay.dialects.answer_call_ids import AnswerCallIds
from patchbay.dialects.builder import EventBuilder, is_whole_object
from patchbay.dialects.openai_chat._chunks import Function, ToolCall, is_present
from patchbay.dialects.openai_chat._reasoning import extra_content_data
from patchbay.dialects.tool_names import ClientTool


class BrokenToolCall(Exception):
    """A fragment belongs to a call that the answer has gone on from."""


@dataclass(slots=True)
class _Call:
    key: int
    index: int | None
    # As the server gave it; empty when it did not.
    id: str = ""
    name: str = ""
    text_input: bool = False
    is_open: bool = False
    # Its input so far: until it is open, and for calls without an id, whose end must be seen in it.
    input: list[str] = field(default_factory=list)


class _Calls:
    """The calls of one choice, in order, and where to find them."""

    def __init__(self) -> None:
        self.all: list[_Call] = []
        self._by_id: dict[tuple[str, int | None], _Call] = {}
        self._last_of_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def add(self, index: int | None, *, text_input: bool = False) -> _Call:
        call = _Call(len(self.all), index, text_input=text_input)
        self.all.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def name(self, call: _Call, call_id: str) -> None:
        """Gives a call its id; the first one counts."""
        if call_id and not call.id:
            call.id = call_id
            self._by_id[call_id, call.index] = call
            self._last_of_id[call_id] = call

    def find(self, index: int | None, call_id: str, name: str, text: str) -> _Call | None:
        """The call that a fragment goes on with; None when it begins a new one."""
        if call_id:
            found = self._of_id(call_id, index)
            if found is not None:
                return found
        last = (self.all[-1] if self.all else None) if index is None else self._by_index.get(index)
        if last is None or not name or not last.name:
            return last
        if call_id or last.id:
            # A name with another id begins another call; without an id it is a repetition where an index says so.
            return last if not call_id and index is not None else None
        return last if not text or not is_whole_object(last.input) else None

    def _of_id(self, call_id: str, index: int | None) -> _Call | None:
        """The last call of this id; one of another index is another call."""
        if index is None:
            return self._last_of_id.get(call_id)
        candidates = (self._by_id.get((call_id, None)), self._by_id.get((call_id, index)))
        return max((call for call in candidates if call is not None), key=lambda call: call.key, default=None)


class ToolCalls:
    """The tool calls of one answer."""

    def __init__(self, builder: EventBuilder, names: Mapping[str, ClientTool]) -> None:
        self._builder = builder
        self._names = names
        self._calls: dict[int, _Calls] = {}
        self._ids = AnswerCallIds()

    def name_answer(self, answer_id: str) -> None:
        """Tells the answer's id, from which the ids of calls without one are made."""
        self._ids.name_answer(answer_id)

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
        call_id = _string(fragment.id)
        calls = self._calls_of(choice)
        call = None if whole else calls.find(index, call_id, name, text)
        if call is None:
            call = calls.add(index, text_input=custom is not None)
        calls.name(call, call_id)
        self._add(call, name, text, choice, fragment.extra_content)

    def read_function_call(self, function: Function, *, choice: int) -> None:
        """Reads the deprecated `function_call`, of which an answer has one."""
        calls = self._calls_of(choice)
        call = calls.all[0] if calls.all else calls.add(None)
        self._add(call, _string(function.name), arguments_of(function), choice, None)

    def flush(self) -> None:
        """Opens what never got a name: nothing that came is lost."""
        for choice, calls in self._calls.items():
            for call in calls.all:
                if not call.is_open:
                    self._open(call, choice)

    def _calls_of(self, choice: int) -> _Calls:
        calls = self._calls.get(choice)
        if calls is None:
            calls = self._calls[choice] = _Calls()
        return calls

    def _add(self, call: _Call, name: str, text: str, choice: int, extra_content: msgspec.Raw | None) -> None:
        if not call.is_open:
            call.name = call.name or name
            call.input.append(text)
            if extra_content is not None and is_present(extra_content):
                self._builder.redacted_thinking(extra_content_data(bytes(extra_content)), choice=choice)
            if call.name:
                self._open(call, choice)
            return
        if not text:
            return
        if not self._builder.has_open_tool(call.key, choice=choice):
            if text.isspace():
                return
            raise BrokenToolCall
        if not call.id:
            call.input.append(text)
        self._builder.tool_input(call.key, text, choice=choice)

    def _open(self, call: _Call, choice: int) -> None:
        tool = self._names.get(call.name) or ClientTool(call.name)
        self._builder.tool_call(
            call.key,
            call_id=self._ids.unique(call.id, call.key, f"{choice}/{call.key}/{call.name}"),
            tool=tool,
            choice=choice,
            text_input=call.text_input,
        )
        call.is_open = True
        self._builder.tool_input(call.key, "".join(call.input), choice=choice)


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
