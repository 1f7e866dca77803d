"""What every protocol's requests go through: read, find the script, fail or answer as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from patchbay_standin.answer import compose
from patchbay_standin.body import decode_body
from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.exchange import Exchange
from patchbay_standin.library import HEADER, Library, UnknownModel
from patchbay_standin.playback import Playback
from patchbay_standin.prompt import Prompt
from patchbay_standin.records import Outcome, Records
from patchbay_standin.script import Script, ScriptError
from patchbay_standin.wire import Wire

JSON: Final = (b"content-type", b"application/json")

_UNSCRIPTED: Final = Script()


class Answering:
    """Answers requests of any protocol with their scripts."""

    def __init__(self, records: Records, library: Library) -> None:
        self._records = records
        self._library = library

    async def answer(self, exchange: Exchange, wire: Wire) -> Outcome:
        """Answers a request for a model's words. Raises ClientGone."""
        entry = exchange.entry
        try:
            body = await self.begin(exchange, wire)
            prompt = wire.read(body)
            entry.model = prompt.model
            script = self._script(exchange, prompt)
        except ProviderError as error:
            return await self.refuse(exchange, wire, error)
        except UnknownModel as error:
            return await self.refuse(exchange, wire, wire.no_such_model(str(error)))
        except ScriptError as error:
            return await self.refuse(exchange, wire, invalid_request(str(error)))
        if script.first_byte_delay_ms:
            await exchange.sleep_until(asyncio.get_running_loop().time() + script.first_byte_delay_ms / 1000)
        if script.cut_after == -1:
            await exchange.cut()
            return "cut"
        if script.error is not None:
            return await self.refuse(exchange, wire, ProviderError.scripted(script.error))
        answer = compose(prompt, script, number=entry.number, created=int(entry.started), call_prefix=wire.call_prefix)
        headers = [*wire.headers(entry.number), *_own_headers(exchange, script)]
        playback = Playback(exchange, wire, script, number=entry.number)
        return await (playback.stream if prompt.stream else playback.whole)(answer, prompt, headers)

    async def begin(self, exchange: Exchange, wire: Wire) -> bytes:
        """Reads and records the body, and checks the key. Raises ProviderError and ClientGone."""
        exchange.entry.protocol = wire.name
        body = await exchange.read_body()
        try:
            wire.authenticate(exchange.headers)
            body = decode_body(body, exchange.headers, compressed=wire.reads_compressed)
        finally:
            self._records.keep_body(exchange.entry, body)
        return body

    async def refuse(self, exchange: Exchange, wire: Wire, error: ProviderError) -> Outcome:
        """Answers with an error."""
        number = exchange.entry.number
        headers = dict([JSON, *wire.headers(number)])
        headers.update((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        body = wire.error_body(error, number) if error.raw_body is None else error.raw_body.encode()
        await exchange.reply(error.status, list(headers.items()), body)
        return "error"

    async def reply(self, exchange: Exchange, wire: Wire, body: bytes) -> Outcome:
        """Answers with JSON."""
        await exchange.reply(200, [JSON, *wire.headers(exchange.entry.number)], body)
        return "completed"

    def _script(self, exchange: Exchange, prompt: Prompt) -> Script:
        # It is not the turn that a script, or its next attempt, is meant for.
        if prompt.warms_up:
            return _UNSCRIPTED
        return self._library.find(exchange.headers.get(HEADER), prompt.model)


def _own_headers(exchange: Exchange, script: Script) -> Iterator[tuple[bytes, bytes]]:
    for name in script.echo_headers:
        value = exchange.headers.get(name.lower().encode())
        if value is not None:
            yield b"x-standin-echo-" + name.lower().encode(), value
    for name, text in script.headers.items():
        yield name.lower().encode(), text.encode()
