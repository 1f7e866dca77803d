"""The stand-in as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec

from patchbay_standin.admin import Admin
from patchbay_standin.answer import compose
from patchbay_standin.anthropic import AnthropicWire
from patchbay_standin.anthropic.request import count_tokens
from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.exchange import ClientGone, Exchange, Receive, Scope, Send
from patchbay_standin.library import HEADER, Library, UnknownModel
from patchbay_standin.models import list_models
from patchbay_standin.openai import CodeBuddyWire, OpenAIWire
from patchbay_standin.playback import Playback
from patchbay_standin.records import Outcome, Records
from patchbay_standin.script import Script, ScriptError
from patchbay_standin.timers import TimerWheel
from patchbay_standin.wire import Wire

ADMIN_PREFIX: Final = "/standin/"

_JSON: Final = (b"content-type", b"application/json")
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
        self._admin = Admin(self.records, self.library)
        self._wheel: TimerWheel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"cannot serve {scope['type']}")
        elif scope["path"].startswith(ADMIN_PREFIX):
            await self._admin.serve(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        records = self.records
        entry = records.begin(
            scope["method"], scope["path"], query=scope.get("query_string", b""), headers=scope["headers"]
        )
        exchange = Exchange((scope, receive, send), entry, stats=records.stats, wheel=self._timers())
        outcome: Outcome = "aborted"
        try:
            outcome = await self._route(exchange)
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

    async def _route(self, exchange: Exchange) -> Outcome:
        path, method = exchange.scope["path"], exchange.scope["method"]
        if method == "POST":
            if path.endswith("/v1/messages"):
                return await self._chat(exchange, _ANTHROPIC)
            if path.endswith("/v1/messages/count_tokens"):
                return await self._count_tokens(exchange)
            if path.endswith("/v2/chat/completions"):
                return await self._chat(exchange, _CODEBUDDY)
            if path.endswith("/chat/completions"):
                return await self._chat(exchange, _OPENAI)
        elif method == "GET" and "/models" in path:
            return await self._models(exchange)
        elif method in ("GET", "HEAD") and path == "/":
            await exchange.reply(200, [_TEXT], _GREETING)
            return "completed"
        wire = _wire_of(exchange)
        message = f"Invalid URL ({method} {path})" if wire is _OPENAI else "Not Found"
        kind = "invalid_request_error" if wire is _OPENAI else None
        return await self._refuse(exchange, wire, ProviderError(status=404, message=message, type=kind))

    async def _chat(self, exchange: Exchange, wire: Wire) -> Outcome:
        entry = exchange.entry
        body = await self._begin(exchange, wire)
        try:
            wire.authenticate(exchange.headers)
            _check_encoding(exchange)
            prompt = wire.read(body)
            entry.model = prompt.model
            script = self.library.find(exchange.headers.get(HEADER), prompt.model)
        except ProviderError as error:
            return await self._refuse(exchange, wire, error)
        except UnknownModel as error:
            return await self._refuse(exchange, wire, _not_found(wire, str(error)))
        except ScriptError as error:
            return await self._refuse(exchange, wire, invalid_request(str(error)))
        if script.first_byte_delay_ms:
            await exchange.sleep_until(asyncio.get_running_loop().time() + script.first_byte_delay_ms / 1000)
        if script.cut_after == -1:
            await exchange.cut()
            return "cut"
        if script.error is not None:
            return await self._refuse(exchange, wire, ProviderError.scripted(script.error))
        answer = compose(prompt, script, number=entry.number, created=int(entry.started), call_prefix=wire.call_prefix)
        headers = [*wire.headers(entry.number), *_own_headers(exchange, script)]
        playback = Playback(exchange, wire, script, number=entry.number)
        return await (playback.stream if prompt.stream else playback.whole)(answer, prompt, headers)

    async def _count_tokens(self, exchange: Exchange) -> Outcome:
        body = await self._begin(exchange, _ANTHROPIC)
        try:
            _ANTHROPIC.authenticate(exchange.headers)
            _check_encoding(exchange)
            count = count_tokens(body)
        except ProviderError as error:
            return await self._refuse(exchange, _ANTHROPIC, error)
        headers = [_JSON, *_ANTHROPIC.headers(exchange.entry.number)]
        await exchange.reply(200, headers, msgspec.json.encode({"input_tokens": count}))
        return "completed"

    async def _models(self, exchange: Exchange) -> Outcome:
        wire = _wire_of(exchange)
        exchange.entry.protocol = wire.name
        try:
            wire.authenticate(exchange.headers)
            body = list_models(exchange.scope["path"], self.library.names(), anthropic=wire is _ANTHROPIC)
        except UnknownModel as error:
            return await self._refuse(exchange, wire, _not_found(wire, str(error)))
        except ProviderError as error:
            return await self._refuse(exchange, wire, error)
        await exchange.reply(200, [_JSON, *wire.headers(exchange.entry.number)], body)
        return "completed"

    async def _begin(self, exchange: Exchange, wire: Wire) -> bytes:
        exchange.entry.protocol = wire.name
        body = await exchange.read_body()
        self.records.keep_body(exchange.entry, body)
        return body

    async def _refuse(self, exchange: Exchange, wire: Wire, error: ProviderError) -> Outcome:
        number = exchange.entry.number
        headers = dict([_JSON, *wire.headers(number)])
        headers.update((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        body = wire.error_body(error, number) if error.raw_body is None else error.raw_body.encode()
        await exchange.reply(error.status, list(headers.items()), body)
        return "error"


def _wire_of(exchange: Exchange) -> Wire:
    """The protocol of a request whose path does not tell."""
    return _ANTHROPIC if b"anthropic-version" in exchange.headers else _OPENAI


def _not_found(wire: Wire, model: str) -> ProviderError:
    return ProviderError(status=404, message=wire.no_such_model(model))


def _check_encoding(exchange: Exchange) -> None:
    encoding = exchange.headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        raise invalid_request(f"Unsupported content encoding: {encoding.decode('latin-1')}", status=415)


def _own_headers(exchange: Exchange, script: Script) -> Iterator[tuple[bytes, bytes]]:
    for name in script.echo_headers:
        value = exchange.headers.get(name.lower().encode())
        if value is not None:
            yield b"x-standin-echo-" + name.lower().encode(), value
    for name, text in script.headers.items():
        yield name.lower().encode(), text.encode()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
