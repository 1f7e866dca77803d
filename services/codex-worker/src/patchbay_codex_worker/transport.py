"""The ChatGPT backend as an upstream: HTTP, with one of the operator's accounts for each request.

What the backend says of an account (its token is refused, it is at its limit) is no answer to the client as long as
there is a token or an account to try instead.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog

from patchbay.canonical import Error
from patchbay.dialects.openai_responses import DIALECT as RESPONSES
from patchbay.errors import QUOTA_EXCEEDED, PatchbayError, make_error
from patchbay.upstream.http import MAX_ERROR_BYTES, HttpUpstream
from patchbay.upstream.transport import PeekedResponse, Response, read_all
from patchbay_codex_worker.accounts import Account, AccountPool
from patchbay_codex_worker.accounts.quota import sound
from patchbay_codex_worker.reasoning import readable

log = structlog.get_logger(__name__)

SESSION_HEADER = "session-id"
USAGE_LIMIT = "usage_limit_reached"


class AccountResponse(PeekedResponse):
    """An answer, and the account it was given to."""

    def __init__(self, response: Response, account: Account, body: bytes | None = None) -> None:
        super().__init__(response, body)
        self.account = account


class AccountUpstream:
    """Sends requests with the accounts of a pool.

    Args:
        pool: The accounts.
        http: The backend.
    """

    def __init__(self, pool: AccountPool, http: HttpUpstream) -> None:
        self._pool = pool
        self._http = http
        # The origins of workspaces that have their own.
        self._elsewhere: dict[str, HttpUpstream] = {}

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[AccountResponse]:
        """Sends a request with an account, and with another one when that cannot go on.

        Args:
            headers: `session-id` names the conversation, which stays with its account.

        Raises:
            PatchbayError: As `AccountPool.pick` does, and as HTTP does.
        """
        tried: list[str] = []
        session = headers.get(SESSION_HEADER, "")
        account = await self._pool.pick(session)
        reasoning = True
        while True:
            try:
                credential = await account.headers()
            except PatchbayError as error:
                account = await self._another(session, tried, account, otherwise=error)
                continue
            http = self._at(account.origin)
            async with http.request(method, path, headers={**headers, **credential}, body=body) as response:
                account.saw(response.headers)
                if response.status not in (400, 401, 429):
                    yield AccountResponse(response, account)
                    return
                response.finished()
                said = await read_all(response, MAX_ERROR_BYTES)
            if response.status == 401:
                trouble = await self._trouble(account, RESPONSES.errors.read(401, response.headers, said))
                if trouble is not None:
                    account = await self._another(session, tried, account, otherwise=trouble)
                continue
            if reasoning and (changed := readable(response.status, said, body)) is not None:
                reasoning, body = False, changed
                log.info("codex_reasoning_dropped", account=account.name)
                continue
            limit = _usage_limit(said) if response.status == 429 else None
            if limit is None:
                yield AccountResponse(response, account, said)
                return
            await account.limited(limit)
            account = await self._another(session, tried, account)

    async def _trouble(self, account: Account, refusal: Error) -> PatchbayError | None:
        """What a refused token means for its account; None: there is another token to try."""
        try:
            return None if await account.unauthorized() else PatchbayError(refusal)
        except PatchbayError as error:
            return error

    def _at(self, origin: str) -> HttpUpstream:
        """The backend, at an account's own origin if it has one."""
        if not origin:
            return self._http
        if origin not in self._elsewhere:
            self._elsewhere[origin] = self._http.at(origin)
        return self._elsewhere[origin]

    async def _another(
        self, session: str, tried: list[str], account: Account, *, otherwise: PatchbayError | None = None
    ) -> Account:
        """Another account than those tried; else what kept the last one, or all of them, from answering."""
        tried.append(account.name)
        try:
            return await self._pool.pick(session, exclude=tried)
        except PatchbayError as error:
            if otherwise is not None and error.error.code != QUOTA_EXCEEDED:
                raise otherwise from None
            raise

    async def aclose(self) -> None:
        await self._pool.aclose()
        for http in (self._http, *self._elsewhere.values()):
            await http.aclose()


def _usage_limit(body: bytes) -> Error | None:
    """The account's limit that a 429 speaks of; None: it speaks of something else."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    said = document.get("error") if isinstance(document, dict) else None
    if not isinstance(said, dict) or USAGE_LIMIT not in (said.get("type"), said.get("code")):
        return None
    # How long it takes is true on any clock, when it ends only on the provider's.
    seconds, moment = _number(said.get("resets_in_seconds")), _number(said.get("resets_at"))
    if not seconds and moment is not None:
        seconds = moment - time.time()
    message = said.get("message")
    return make_error(
        QUOTA_EXCEEDED,
        message if isinstance(message, str) and message else "the usage limit has been reached",
        retry_after=max(1.0, seconds) if seconds is not None else None,
        upstream_code=USAGE_LIMIT,
    )


def _number(value: object) -> float | None:
    """A number of seconds that makes sense."""
    try:
        return sound(float(value)) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None
