"""Signing in to ChatGPT from a terminal: with a browser on this machine, or with a code to type elsewhere."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from patchbay.codex.login import Login
from patchbay.codex.oauth import DEVICE_SECONDS, Issuer, Pkce
from patchbay.codex.signing_in import CALLBACK_PATH, CALLBACK_PORTS, redirect_uri
from patchbay_cli.printable import printable
from patchbay_cli.problems import CommandFailed

_BROWSER_SECONDS = 900.0
_MOST_BYTES = 65_536
_READ_SECONDS = 5.0

Say = Callable[[str], None]


async def with_browser(issuer: Issuer, say: Say, show: Callable[[str], None], *, ports: Sequence[int] = ()) -> Login:
    """Signs in with a browser, which comes back to this machine.

    Args:
        issuer: Gives the tokens.
        say: Tells the operator something.
        show: Opens a page in a browser, where there is one.
        ports: Where the browser may come back to; empty: what the issuer knows.

    Raises:
        CommandFailed: The sign-in was cancelled, took too long, or there is no free port.
        IssuerError: The issuer does not give the tokens.
    """
    pkce, state = Pkce.make(), secrets.token_urlsafe(32)
    callback = _Callback(state)
    server, port = await _listen(callback, ports or CALLBACK_PORTS)
    async with server:
        redirect = redirect_uri(port)
        url = issuer.authorize_url(redirect_uri=redirect, pkce=pkce, state=state)
        say(f"Sign in at this page:\n\n  {url}\n")
        say("On a machine without a browser, use --device.")
        show(url)
        try:
            async with asyncio.timeout(_BROWSER_SECONDS):
                code = await callback.code
        except TimeoutError as error:
            raise CommandFailed(f"nobody has signed in within {_BROWSER_SECONDS / 60:g} minutes") from error
        return await issuer.exchange(code, redirect_uri=redirect, verifier=pkce.verifier)


async def with_device(issuer: Issuer, say: Say) -> Login:
    """Signs in with a code that somebody types at a page, on whatever machine.

    Raises:
        CommandFailed: Nobody typed it in time.
        IssuerError: The issuer does not give the tokens.
    """
    device = await issuer.device_start()
    say(f"Visit {printable(device.page)} and type the code {printable(device.user_code)}")
    try:
        async with asyncio.timeout(DEVICE_SECONDS):
            grant = await issuer.device_poll(device)
            while grant is None:
                await asyncio.sleep(device.interval)
                grant = await issuer.device_poll(device)
    except TimeoutError as error:
        raise CommandFailed(f"nobody has typed the code within {DEVICE_SECONDS / 60:g} minutes") from error
    return await issuer.device_finish(grant)


async def _listen(callback: _Callback, ports: Sequence[int]) -> tuple[asyncio.Server, int]:
    taken: OSError | None = None
    for port in ports:
        try:
            return await asyncio.start_server(callback.serve, "127.0.0.1", port, limit=_MOST_BYTES), port
        except OSError as error:
            taken = error
    said = " and ".join(str(port) for port in ports)
    raise CommandFailed(
        f"the browser cannot come back to this machine: port {said} of 127.0.0.1 cannot be used; use --device"
    ) from taken


class _Callback:
    """Waits for the browser, and takes the code that it brings."""

    def __init__(self, state: str) -> None:
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._state = state

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request of a browser."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            words = head.split(b" ", 2)
            target = urlsplit(words[1].decode("latin-1")) if len(words) == 3 and words[0] == b"GET" else None
            status, text = ("404 Not Found", "There is nothing here.")
            if target is not None and target.path == CALLBACK_PATH:
                status, text = self._take({name: values[0] for name, values in parse_qs(target.query).items()})
            body = text.encode()
            lines = (f"HTTP/1.1 {status}", "content-type: text/plain; charset=utf-8", f"content-length: {len(body)}")
            writer.write("\r\n".join((*lines, "connection: close", "", "")).encode() + body)
            await writer.drain()
        except (TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            # Whatever that was, it was not the browser we wait for.
            return
        finally:
            writer.close()

    def _take(self, query: dict[str, str]) -> tuple[str, str]:
        if not hmac.compare_digest(query.get("state", "").encode(), self._state.encode()):
            return "400 Bad Request", "This is not the sign-in that waits here: begin again."
        if self.code.done():
            return "200 OK", "You may close this page."
        if error := query.get("error") or ("" if query.get("code") else "no code"):
            words = query.get("error_description", "")
            said = printable(f"{error}: {words}" if words else error)[:300]
            self.code.set_exception(CommandFailed(f"the sign-in was refused ({said})"))
            return "200 OK", "The sign-in was refused. You may close this page."
        self.code.set_result(query["code"])
        return "200 OK", "You are signed in. You may close this page."
