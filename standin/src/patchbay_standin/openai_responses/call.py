"""One request to the Responses API and its answer.

A wire of its own for every request: an answer repeats what was asked, and goes on from an earlier one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from patchbay_standin.answer import Answer
from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.openai import OpenAIWire
from patchbay_standin.openai_responses.events import Events
from patchbay_standin.openai_responses.items import check_items, check_pairs, check_references, encrypted, kind_of
from patchbay_standin.openai_responses.output import OutputItem, Shown, output_items
from patchbay_standin.openai_responses.request import Request, decode
from patchbay_standin.openai_responses.response import ended, final_status, opened, response_id
from patchbay_standin.openai_responses.sealing import check_sealed
from patchbay_standin.openai_responses.shelf import Kept, Memory
from patchbay_standin.openai_responses.tools import choose, offered
from patchbay_standin.openai_responses.turn import Turn, length, read_turn
from patchbay_standin.prompt import Prompt, estimate_tokens
from patchbay_standin.script import JsonObject, Script
from patchbay_standin.wire import Frame

# Makes ids unique among processes: what one stored, another does not know.
NONCE: Final = secrets.token_hex(4)

_encode = msgspec.json.Encoder().encode

# The code of an error inside a stream, by the status that it would have had before.
_CODES: Final[Mapping[int, str]] = {
    400: "invalid_prompt",
    413: "context_length_exceeded",
    429: "rate_limit_exceeded",
    503: "server_is_overloaded",
    529: "server_is_overloaded",
}


class ResponsesCall(OpenAIWire):
    """A request to the platform.

    Args:
        memory: Where the response that it goes on from is found.
        is_socket: Whether it came as a frame over a WebSocket: always streamed, and `generate` has a meaning.
    """

    name = "openai-responses"

    def __init__(self, memory: Memory, *, is_socket: bool = False) -> None:
        self._memory = memory
        self.is_socket = is_socket
        self._before: list[JsonObject] = []
        self._input: list[JsonObject] = []
        self._events: Events | None = None

    def conversation(self, identity: str) -> list[JsonObject]:
        """All items so far, each with an id; those of the input have one made of the response's."""
        return [*self._before, *self._named(identity)]

    def _named(self, identity: str) -> list[JsonObject]:
        return [_with_id(item, identity, index) for index, item in enumerate(self._input)]

    @property
    def owner(self) -> str:
        """Whom encrypted content belongs to."""
        return "platform"

    @property
    def shows_output(self) -> bool:
        """Whether the last event of a stream repeats the output."""
        return True

    def socket_preface(self) -> JsonObject | None:
        """A frame that comes before the response over a WebSocket; None: there is none."""
        return None

    def no_such_model(self, model: str) -> ProviderError:
        """What the API says."""
        return invalid_request(f"The requested model '{model}' does not exist.", param="model", code="model_not_found")

    def read(self, body: bytes) -> Prompt:
        """Reads and checks the body of `POST .../responses`, or of a `response.create` frame."""
        self.request = request = self.decode(body)
        warms_up = self.is_socket and request.generate is False
        self._before = self._context(request.previous_response_id)
        self._input = _items(request.input)
        if request.input is None and request.previous_response_id is None:
            raise invalid_request(
                "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
                code="missing_required_parameter",
            )
        check_items(self._input)
        check_sealed(encrypted(self._input), self.owner)
        check_references(self._input, self._memory.item_ids)
        items = [*self._before, *self._input]
        if not warms_up:
            check_pairs(items)
        return self._prompt(request, read_turn(items), items, warms_up=warms_up)

    def decode(self, body: bytes) -> Request:
        """Reads the request and checks all but its items. Raises ProviderError."""
        return decode(body, is_socket=self.is_socket)

    def frames(self, answer: Answer, prompt: Prompt, script: Script) -> Iterator[Frame]:
        """The events of a streamed response."""
        items = self._output(answer, script)
        response = opened(self.request, answer, response_id(NONCE, answer.number))
        options = self.request.stream_options
        self._events = events = Events(
            response,
            items,
            answer,
            script=script,
            padded=options is None or options.include_obfuscation is not False,
            shows_output=self.shows_output,
        )
        yield from events.opening()
        yield from events.content()
        closing = events.closing()
        # Before the client can know it, so that it can go on at once.
        self._keep(response, answer, items, script)
        yield closing

    def body(self, answer: Answer, prompt: Prompt, script: Script) -> bytes:
        """The response as one JSON object."""
        items = self._output(answer, script)
        response = opened(self.request, answer, response_id(NONCE, answer.number))
        self._keep(response, answer, items, script)
        return _encode(ended(response, answer, [item.whole() for item in items]))

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """`{"error": {"message": ..., "type": ..., "param": ..., "code": ..., more fields}}`"""
        body = super().error_body(error, number)
        if not error.fields:
            return body
        decoded = msgspec.json.decode(body, type=dict[str, JsonObject])
        decoded["error"].update(error.fields)
        return _encode(decoded)

    def error_frame(self, error: ProviderError, number: int) -> bytes:
        """`response.failed`, or the event `error`."""
        if self._events is None:
            raise ValueError("an error inside a stream that has not begun")
        code = error.code or error.type or _CODES.get(error.status, "server_error")
        if error.event == "error":
            return self._events.error(str(code), error.message, error.param)
        return self._events.failed(str(code), error.message)

    def _output(self, answer: Answer, script: Script) -> list[OutputItem]:
        items = output_items(answer, Shown.of(self.request, script, self.owner), NONCE)
        if items and final_status(answer) == "incomplete":
            items[-1].status = "incomplete"
        return items

    def _context(self, previous: str | None) -> list[JsonObject]:
        if previous is None:
            return []
        kept = self._memory.find(previous)
        if kept is None:
            raise ProviderError(
                status=400,
                message=f"Previous response with id '{previous}' not found.",
                type="invalid_request_error",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return kept.items

    def _prompt(self, request: Request, turn: Turn, items: Sequence[JsonObject], *, warms_up: bool) -> Prompt:
        tools = [*offered(request.tools or ()), *turn.tools]
        if request.tool_choice == "required" and not tools and not request.tools:
            raise invalid_request(
                "Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice"
            )
        choice, chosen, usable = choose(request.tool_choice, tools)
        self._check_json_is_said(request, items)
        defined = sum(len(_encode(tool)) for tool in request.tools or ())
        return Prompt(
            model=request.model,
            stream=self.is_socket or bool(request.stream),
            texts=turn.texts,
            tool_results=turn.tool_results,
            tools=tuple(usable),
            choice=choice,
            chosen_tool=chosen,
            parallel=request.parallel_tool_calls is not False,
            schema=request.schema,
            max_tokens=request.max_output_tokens,
            tokens=estimate_tokens(turn.characters + defined + len(request.instructions or "")),
            custom_tools=True,
            compacts=turn.compacts,
            warms_up=warms_up,
        )

    def _check_json_is_said(self, request: Request, items: Sequence[JsonObject]) -> None:
        format_ = request.text.format if request.text is not None else None
        if format_ is None or format_.type != "json_object":
            return
        said = [request.instructions or "", *(_encode(item).decode() for item in items)]
        if not any("json" in text.lower() for text in said):
            raise invalid_request(
                "Response input messages must contain the word 'json' in some form to use 'text.format' of type"
                " 'json_object'.",
                param="input",
            )

    def _keep(self, response: JsonObject, answer: Answer, items: Sequence[OutputItem], script: Script) -> None:
        # A huge answer is meant to be told, not kept.
        if script.huge is not None:
            return
        output = [item.whole() for item in items]
        identity = str(response["id"])
        named = self._named(identity)
        conversation = [*self._before, *named, *output]
        kept = Kept(
            identity,
            ended(response, answer, output),
            named,
            conversation,
            sum(16 + length(item) for item in (*named, *output)),
        )
        self._memory.keep(kept, store=self.request.store is not False)


def _items(value: str | list[JsonObject] | None) -> list[JsonObject]:
    """The input as items."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    return value or []


def _with_id(item: JsonObject, identity: str, index: int) -> JsonObject:
    """An input item as it is shown when asked for: of a type, and with an id."""
    kind = kind_of(item)
    named: JsonObject = {"id": f"msg_{identity.removeprefix('resp_')}{index:04x}", "type": kind, **item}
    if kind == "message":
        content = item.get("content")
        named["status"] = "completed"
        if isinstance(content, str):
            part = "output_text" if item.get("role") == "assistant" else "input_text"
            named["content"] = [{"type": part, "text": content}]
    return named
