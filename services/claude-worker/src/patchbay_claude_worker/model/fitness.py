"""Whether the program sends what it is told to send: tried once, before any request depends on it.

Everything in model mode rests on `CLAUDE_CODE_EXTRA_BODY`. A program that does not take it, because a machine's managed
settings forbid it or a version does without, would send a placeholder instead of the client's messages, and the model
would answer that. So the program is asked to send a word of ours to a server of ours, on loopback and with a made-up
key.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import msgspec
import structlog

from patchbay.errors import UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay_claude_worker.cli.process import CliProcess, Guardian, ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.program import Command, ProgramMissing
from patchbay_claude_worker.model.command import command
from patchbay_claude_worker.model.request import model_request

log = structlog.get_logger(__name__)

PROBE_PATH = "/patchbay-probe"
_LONGEST_SECONDS = 15.0
_UNFIT = (
    "this claude program does not send what it is told to: it ignores CLAUDE_CODE_EXTRA_BODY, as managed settings that "
    "forbid experimental betas have it do; use another program (cli_path), or kind: anthropic"
)
_REFUSAL_BODY = b'{"type":"error","error":{"type":"invalid_request_error","message":"only a probe"}}'
_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_REFUSAL_BODY)
) + _REFUSAL_BODY


class Fitness:
    """Knows whether a backend's program can be used.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        assert backend.claude_cli is not None
        self._backend = backend
        self._seconds = min(_LONGEST_SECONDS, backend.claude_cli.pool.silence_seconds)
        self._tried = asyncio.Event()
        self._trying: asyncio.Task[None] | None = None
        # Why the program cannot be used; empty: it can, or that is not known.
        self.trouble = ""

    def start(self, guardian: Guardian) -> None:
        """Tries the program, beside all else.

        Args:
            guardian: Has the directory for the process's home, and clears up behind it.
        """
        self._trying = asyncio.create_task(self._try(guardian), name="claude-probe")

    async def require(self) -> None:
        """Passes where the program can be used, and where that cannot be found out.

        Raises:
            PatchbayError: UNAVAILABLE, with the reason.
        """
        await self._tried.wait()
        if self.trouble:
            raise PatchbayError(make_error(UNAVAILABLE, self.trouble, retryable=False))

    async def aclose(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait([self._trying])

    async def _try(self, guardian: Guardian) -> None:
        word = f"patchbay-probe-{secrets.token_hex(8)}"
        try:
            async with asyncio.timeout(self._seconds):
                sent = await self._sent(word, guardian)
            self.trouble = "" if word in sent else _UNFIT
            if self.trouble:
                log.error("claude_unfit", backend=self._backend.name, detail=self.trouble)
        except (ProgramMissing, ProcessDied, ProcessHangs, TimeoutError, OSError) as error:
            # That it does not run at all is the pool's to say.
            log.warning("claude_not_probed", backend=self._backend.name, error=str(error) or "it took too long")
        finally:
            self._tried.set()

    async def _sent(self, word: str, guardian: Guardian) -> str:
        """What the messages are that the program sends when it is told to send this word."""
        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
                body = await reader.readexactly(length)
                if head.startswith("post ") and not received.done():
                    received.set_result(body)
                writer.write(_REFUSAL)
                await writer.drain()
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PROBE_PATH}"
        process = await CliProcess.spawn(
            lambda home: self._command(home, url), directory=guardian.directory, marker=guardian.marker
        )
        try:
            messages = [{"role": "user", "content": word}]
            body = msgspec.json.encode({"model": "claude-probe", "max_tokens": 1, "messages": messages})
            request = model_request(body, betas="", keeps_account=False)
            await process.send(request.lines, seconds=self._seconds)
            draining = asyncio.create_task(_drain(process), name="claude-probe-output")
            either: set[asyncio.Future[Any]] = {received, draining}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
                await asyncio.wait([draining])
            if not received.done():
                draining.result()
            fields = msgspec.json.decode(received.result(), type=dict[str, msgspec.Raw])
            return bytes(fields.get("messages", b"")).decode(errors="replace")
        finally:
            server.close()
            await asyncio.shield(asyncio.ensure_future(process.clear()))

    def _command(self, home: Path, url: str) -> Command:
        made = command(self._backend, home)
        # Not through a proxy, and with nobody's key.
        direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        own = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "probe", "CLAUDE_CODE_SIMPLE": "1"}
        environ = {**made.environ, **own, **direct}
        for secret in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CONFIG_DIR"):
            environ.pop(secret, None)
        return Command(made.arguments, environ, made.cwd)


async def _drain(process: CliProcess) -> None:
    """Reads what the program says, until it ends."""
    while True:
        await process.read()
