"""Chats of Codebuff's clients that run their agents themselves: whose run each is, its model, and how it is cancelled.

Such a client does not close the stream of a prompt that its user has stopped, and looks for that only when something is
said. So a silent model is given blank thoughts, and what the client says of its run ends the stream here, at whichever
edge it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableMapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from patchbay.canonical import ChatEvent
from patchbay.codebuff.agents import builtin_agents
from patchbay.codebuff.models import choose_model
from patchbay.dialects.base import EventWriter
from patchbay.dialects.openai_chat import DIALECT as OPENAI_CHAT
from patchbay.dispatch.callers import Identity
from patchbay.errors import INVALID_REQUEST, UPSTREAM, InvalidRequest, PatchbayError, make_error
from patchbay.settings.codebuff import Codebuff
from patchbay.state.codebuff_runs import CodebuffRuns, Run, cancellation
from patchbay.state.connection import RedisUnavailable
from patchbay_edge.endpoints import API_PREFIX, Endpoint, Operation
from patchbay_edge.exchange import Exchange

_MARK = b'"codebuff_metadata"'
# Their server's own business: which of OpenRouter's providers answers, and what its usage report holds.
_DROPPED = ("codebuff_metadata", "provider", "usage")
# What ends a step of agents that write their tool calls as text. These use the provider's, and some models take no
# stop sequence at all.
_TEXT_STOP = '"cb_easp"'
_MAX_ANSWERS = 16
PING_SECONDS = 2.0
"""How long at the most a run's stream may be silent: so long a user waits for what he has stopped to end."""
_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")


class _Metadata(msgspec.Struct, frozen=True):
    run_id: str = ""
    client_id: str = ""
    cost_mode: str = "normal"
    n: int | None = None


@dataclass(frozen=True, slots=True)
class CodebuffChat:
    """A chat of a run.

    Attributes:
        body: The request without what is Codebuff's own.
        name: The run, as other edges hear of it.
        answers: How many answers are wanted, in one.
        run: The run as it was when the chat came; None: it is not known.
        model: The model that is asked.
    """

    body: bytes
    name: str
    answers: int
    run: Run | None
    model: str


class CodebuffChats:
    """Knows the chats of runs, and ends those that are cancelled."""

    def __init__(self, settings: Codebuff, runs: CodebuffRuns) -> None:
        self._settings = settings
        self._runs = runs
        self._running: dict[str, set[_Running]] = {}

    async def read(self, endpoint: Endpoint, identity: Identity, body: bytes) -> CodebuffChat | None:
        """The chat that a body asks for; None: it is of no run, like any other client's.

        Raises:
            PatchbayError: INVALID_REQUEST, also for a run that was cancelled.
        """
        may_be = endpoint.prefix == API_PREFIX and endpoint.dialect is OPENAI_CHAT
        if not (self._settings.enabled and may_be and endpoint.operation is Operation.CHAT and _MARK in body):
            return None
        fields = _read_field("codebuff_metadata", body, dict[str, msgspec.Raw])
        if "codebuff_metadata" not in fields:
            return None
        metadata = _read_field("codebuff_metadata", fields["codebuff_metadata"], _Metadata)
        run = await self._run(identity.owner, metadata.run_id)
        for name in _DROPPED:
            fields.pop(name, None)
        if "stop" in fields:
            _without_text_stop(fields)
        model = ""
        if "model" in fields:
            own = _read_field("model", fields["model"])
            if isinstance(own, str):
                model = self._model("" if run is None else run.start.agent_id, metadata.cost_mode, own)
                fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        answers = metadata.n or 1
        if not 1 <= answers <= _MAX_ANSWERS:
            raise InvalidRequest(f"codebuff_metadata.n: must be from 1 to {_MAX_ANSWERS}", "codebuff_metadata.n")
        if answers > 1:
            fields["stream"] = msgspec.Raw(b"false")
        elif "stream" in fields and _read_field("stream", fields["stream"]) is True:
            # It does not ask for what it takes: the cost of an answer, which it counts its credits by.
            fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
        name = cancellation(identity.owner, metadata.run_id)
        return CodebuffChat(msgspec.json.encode(fields), name, answers, run, model)

    async def _run(self, owner: str, run_id: str) -> Run | None:
        """The caller's run; None: it is not known."""
        try:
            run = await self._runs.find(run_id)
        except RedisUnavailable:
            return None
        if run is None or run.start.owner != owner:
            return None
        if run.end is not None and run.end.status == "cancelled":
            raise _cancelled()
        return run

    def _model(self, agent_id: str, cost_mode: str, own: str) -> str:
        if own.isdecimal():
            # A model of their server's own making, which nobody else has.
            own = builtin_agents()["file-picker"].model
        # Agents are started as `publisher/id@version` as well.
        name = agent_id.rpartition("/")[2].partition("@")[0]
        return choose_model(self._settings.models, agent_id=name, cost_mode=cost_mode, own=own)

    @asynccontextmanager
    async def running(self, chat: CodebuffChat | None, exchange: Exchange) -> AsyncIterator[None]:
        """Ends the block when its run is cancelled, and the answer with it.

        Raises:
            PatchbayError: It was cancelled before its answer began.
        """
        task = asyncio.current_task()
        if chat is None or task is None:
            yield
            return
        running = _Running(task, task.cancelling())
        self._running.setdefault(chat.name, set()).add(running)
        try:
            yield
        except asyncio.CancelledError:
            if not running.cancelled or task.uncancel() > running.cancelling:
                raise
            if not exchange.started:
                raise _cancelled() from None
            if not exchange.ended:
                await exchange.end(b"data: [DONE]\n\n")
        finally:
            others = self._running[chat.name]
            others.discard(running)
            if not others:
                del self._running[chat.name]
        if chat.run is not None:
            await self._keep(chat, chat.run, exchange)

    async def _keep(self, chat: CodebuffChat, run: Run, exchange: Exchange) -> None:
        """Keeps what an answer used: the client says only that a step is done."""
        tokens = {name: count for name, count in exchange.notes.items() if isinstance(count, int)}
        await self._runs.chat(
            run.run_id,
            exchange.request_id,
            after=run.last_step,
            model=chat.model,
            input_tokens=sum(tokens.get(name, 0) for name in _INPUT),
            output_tokens=tokens.get("output_tokens", 0),
        )

    def cancel(self, name: str) -> None:
        """Ends the chats that this edge answers for a run."""
        for running in self._running.get(name, ()):
            if not running.cancelled:
                running.cancelled = True
                running.task.cancel()

    async def run(self) -> None:
        """Hears of runs that are cancelled at other edges, until it is cancelled itself."""
        async with aclosing(self._runs.cancellations()) as names:
            async for name in names:
                self.cancel(name)


@dataclass(eq=False, slots=True)
class _Running:
    task: asyncio.Task[Any]
    cancelling: int
    cancelled: bool = False


class DataPings:
    """A stream's writer whose pings are thoughts of nothing but a space.

    The client passes over comments, and over chunks without text, before it looks whether its user has stopped it; and
    thoughts are no part of its conversation.
    """

    def __init__(self, writer: EventWriter, answer_id: str) -> None:
        self._writer = writer
        self.content_type = writer.content_type
        chunk = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"reasoning_content": " "}, "finish_reason": None}],
        }
        self._ping = b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        """See `EventWriter.feed`."""
        return self._writer.feed(events)

    def close(self) -> bytes:
        """See `EventWriter.close`."""
        return self._writer.close()

    def ping(self) -> bytes:
        """See `EventWriter.ping`."""
        return self._ping


class CollectedExchange(Exchange):
    """Keeps an answer instead of sending it."""

    def __init__(self, whole: Exchange) -> None:
        self.body = bytearray()
        scope: MutableMapping[str, Any] = {"headers": [], "path": whole.path}
        super().__init__(scope, _nothing, self._keep, request_id=whole.request_id)
        self.headers = whole.headers

    async def _keep(self, message: MutableMapping[str, Any]) -> None:
        self.body += message.get("body", b"")


async def _nothing() -> MutableMapping[str, Any]:
    raise AssertionError("the body has been read")


def combined(bodies: Sequence[bytes]) -> bytes:
    """One answer whose text is a JSON array of the answers' texts, and whose usage is that of all.

    Raises:
        PatchbayError: One of them is no chat completion.
    """
    try:
        answers = [msgspec.json.decode(body, type=dict[str, Any]) for body in bodies]
        texts = [answer["choices"][0]["message"].get("content") or "" for answer in answers]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise PatchbayError(make_error(UPSTREAM, "one of the answers cannot be read")) from error
    whole = answers[0]
    message = {"role": "assistant", "content": msgspec.json.encode(texts).decode()}
    whole["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usages = [answer["usage"] for answer in answers if isinstance(answer.get("usage"), dict)]
    if usages:
        whole["usage"] = _added_up(usages)
    return msgspec.json.encode(whole)


def _added_up(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of several objects, those within them included: the client's credits are of both."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for usage in usages for name in usage):
        values = [usage[name] for usage in usages if name in usage]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if numbers:
            total[name] = sum(numbers)
        elif inner := [value for value in values if isinstance(value, dict)]:
            total[name] = _added_up(inner)
    return total


def combined_notes(exchanges: Sequence[Exchange]) -> dict[str, str | int]:
    """What is noted of several answers as of one: what the first says, and the sum of what is counted."""
    notes = dict(exchanges[0].notes)
    for exchange in exchanges[1:]:
        for name, value in exchange.notes.items():
            sofar = notes.get(name, 0)
            if isinstance(value, int) and isinstance(sofar, int):
                notes[name] = sofar + value
    return notes


def _read_field(name: str, raw: bytes | msgspec.Raw, shape: Any = Any) -> Any:
    """A field's value. What was not looked at so far may be no UTF-8.

    Raises:
        InvalidRequest: It names the field.
    """
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{name}: {error}", name) from error


def _without_text_stop(fields: dict[str, msgspec.Raw]) -> None:
    stop = _read_field("stop", fields["stop"])
    if isinstance(stop, list):
        left = [one for one in stop if one != _TEXT_STOP]
        if left:
            fields["stop"] = msgspec.Raw(msgspec.json.encode(left))
        else:
            del fields["stop"]
    elif stop == _TEXT_STOP:
        del fields["stop"]


def _cancelled() -> PatchbayError:
    return PatchbayError(make_error(INVALID_REQUEST, "this run was cancelled", http_status=409))
