"""The stand-in as an ASGI application."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from patchbay_standin.admin import Admin
from patchbay_standin.answering import Answering
from patchbay_standin.anthropic import AnthropicWire
from patchbay_standin.anthropic.request import count_tokens
from patchbay_standin.chatgpt import PREFIX, ChatGptCall, ChatGptEndpoints
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import ClientGone, Exchange, Receive, Scope, Send
from patchbay_standin.library import Library, UnknownModel
from patchbay_standin.models import list_models
from patchbay_standin.oauth import Accounts, Issuer
from patchbay_standin.openai import CodeBuddyWire, OpenAIWire
from patchbay_standin.openai_responses import ConnectionMemory, ResponsesCall, ResponsesEndpoints, Shelf
from patchbay_standin.records import Outcome, Records
from patchbay_standin.timers import TimerWheel
from patchbay_standin.websocket import NewCall, WebSocketMode
from patchbay_standin.wire import Wire

ADMIN_PREFIX: Final = "/standin/"

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_GREETING: Final = b"patchbay-standin: a scripted provider, not a language model\n"

_ANTHROPIC: Final = AnthropicWire()
_OPENAI: Final = OpenAIWire()
_CODEBUDDY: Final = CodeBuddyWire()


class Standin:
    """The scripted provider, for any ASGI server.

    Args:
        keep_records: Whether `GET /standin/requests` has anything to show; the counts are always kept.
    """

    def __init__(self, *, keep_records: bool = True) -> None:
        self.records = Records(keep=keep_records)
        self.library = Library()
        self.accounts = Accounts()
        self._shelf = Shelf()
        self._answering = Answering(self.records, self.library)
        self._issuer = Issuer(self.accounts, self.records)
        self._responses = ResponsesEndpoints(self._answering, self.library, self._shelf)
        self._chatgpt = ChatGptEndpoints(self._answering, self.library, self.accounts, self._responses)
        self._websocket = WebSocketMode(self._answering, self.library, self._recorded)
        self._admin = Admin(self.records, self.library, accounts=self.accounts, issuer=self._issuer, shelf=self._shelf)
        self._wheel: TimerWheel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await _lifespan(receive, send)
            case "websocket":
                await self._websocket.serve(scope, receive, send, self._new_call(scope["path"]))
            case "http" if scope["path"].startswith(ADMIN_PREFIX):
                await self._admin.serve(scope, receive, send)
            case "http":
                await self._recorded(scope, receive, send, self._route)
            case kind:
                raise ValueError(f"cannot serve {kind}")

    async def _recorded(
        self, scope: Scope, receive: Receive, send: Send, route: Callable[[Exchange], Awaitable[Outcome]]
    ) -> None:
        """Serves one request, and keeps what it was and how it ended."""
        records = self.records
        entry = records.begin(
            scope["method"], scope["path"], query=scope.get("query_string", b""), headers=scope["headers"]
        )
        exchange = Exchange((scope, receive, send), entry, stats=records.stats, wheel=self._timers())
        outcome: Outcome = "aborted"
        try:
            outcome = await route(exchange)
        except ClientGone:
            outcome = "aborted"
        except Exception:
            outcome = "error"
            raise
        finally:
            records.end(entry, outcome)
            await exchange.close()

    def _timers(self) -> TimerWheel:
        loop = asyncio.get_running_loop()
        if self._wheel is None or self._loop is not loop:
            self._wheel, self._loop = TimerWheel(loop), loop
        return self._wheel

    def _new_call(self, path: str) -> NewCall | None:
        """What answers the frames of a connection to a path."""
        if path == f"{PREFIX}codex/responses":
            memory = ConnectionMemory(None)
            return functools.partial(ChatGptCall, memory, self.accounts, self.library, is_socket=True)
        if path.endswith("/responses"):
            return functools.partial(ResponsesCall, ConnectionMemory(self._shelf), is_socket=True)
        return None

    async def _route(self, exchange: Exchange) -> Outcome:
        path, method = exchange.scope["path"], exchange.scope["method"]
        wire = _wire_of(exchange)
        outcome = await self._issuer.serve(exchange)
        if outcome is None and path.startswith(PREFIX):
            outcome = await self._chatgpt.serve(exchange)
            if outcome is None:
                await exchange.reply(404, [(b"content-type", b"application/json")], b'{"detail":"Not Found"}')
                outcome = "error"
        if outcome is None and "/responses" in path:
            outcome = await self._responses.serve(exchange)
        if outcome is None:
            outcome = await self._completions(exchange)
        if outcome is not None:
            return outcome
        message = f"Invalid URL ({method} {path})" if wire is _OPENAI else "Not Found"
        kind = "invalid_request_error" if wire is _OPENAI else None
        return await self._answering.refuse(exchange, wire, ProviderError(status=404, message=message, type=kind))

    async def _completions(self, exchange: Exchange) -> Outcome | None:
        """Messages, Chat Completions and models; None: the path is none of theirs."""
        path, method = exchange.scope["path"], exchange.scope["method"]
        if method == "POST":
            if path.endswith("/v1/messages"):
                return await self._answering.answer(exchange, _ANTHROPIC)
            if path.endswith("/v1/messages/count_tokens"):
                return await self._count_tokens(exchange)
            if path.endswith("/v2/chat/completions"):
                return await self._answering.answer(exchange, _CODEBUDDY)
            if path.endswith("/chat/completions"):
                return await self._answering.answer(exchange, _OPENAI)
        elif method == "GET" and "/models" in path:
            return await self._models(exchange)
        elif method in ("GET", "HEAD") and path == "/":
            await exchange.reply(200, [_TEXT], _GREETING)
            return "completed"
        return None

    async def _count_tokens(self, exchange: Exchange) -> Outcome:
        try:
            count = count_tokens(await self._answering.begin(exchange, _ANTHROPIC))
        except ProviderError as error:
            return await self._answering.refuse(exchange, _ANTHROPIC, error)
        return await self._answering.reply(exchange, _ANTHROPIC, msgspec.json.encode({"input_tokens": count}))

    async def _models(self, exchange: Exchange) -> Outcome:
        wire = _wire_of(exchange)
        exchange.entry.protocol = wire.name
        try:
            wire.authenticate(exchange.headers)
            body = list_models(exchange.scope["path"], self.library.names(), anthropic=wire is _ANTHROPIC)
        except UnknownModel as error:
            return await self._answering.refuse(exchange, wire, wire.no_such_model(str(error)))
        except ProviderError as error:
            return await self._answering.refuse(exchange, wire, error)
        return await self._answering.reply(exchange, wire, body)


def _wire_of(exchange: Exchange) -> Wire:
    """The protocol of a request whose path does not tell."""
    return _ANTHROPIC if b"anthropic-version" in exchange.headers else _OPENAI


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
