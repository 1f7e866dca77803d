"""The way of a Messages API request through a process, with the interface of the HTTP transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from patchbay.canonical import Warning
from patchbay.errors import INVALID_REQUEST, TIMEOUT, UNAVAILABLE, UPSTREAM, Code, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.upstream.http import HttpUpstream
from patchbay.upstream.silence import SilenceWatch
from patchbay.upstream.transport import Response
from patchbay_claude_worker.cli.messages import Message
from patchbay_claude_worker.cli.pool import Pool
from patchbay_claude_worker.cli.process import CliProcess, ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.sign_in import CliSignIn
from patchbay_claude_worker.model.answer import AnswerStream, Failure
from patchbay_claude_worker.model.fitness import Fitness
from patchbay_claude_worker.model.request import ModelRequest, betas_of, model_request
from patchbay_claude_worker.model.whole import whole_answer

# A process that ends, or does not answer, before the answer has begun is replaced by another one so often.
_TRIES = 2
_EVENT_STREAM = "text/event-stream"
_JSON = "application/json"


class CliAnswer:
    """One answer of a process: its head is there after `open`, its body comes in pieces.

    Args:
        process: The process to ask.
        request: What to ask.
        backend: For its timeouts.
        refusal: What to say when the upstream does not take the credential; empty: what it says itself.
    """

    def __init__(self, process: CliProcess, request: ModelRequest, backend: Backend, *, refusal: str = "") -> None:
        assert backend.claude_cli is not None
        self.warnings: tuple[Warning, ...] = request.warnings
        self._process = process
        self._request = request
        self._timeouts = backend.timeouts
        self._silence = backend.claude_cli.pool.silence_seconds
        self._stream = AnswerStream(time.time, refusal)
        # What the head was waited for with.
        self._first = b""

    @property
    def status(self) -> int:
        failure = self._failed_before_its_head
        return failure.status if failure is not None else 200

    @property
    def headers(self) -> Mapping[str, str]:
        failure = self._failed_before_its_head
        headers = {"content-type": self.content_type}
        if failure is not None and failure.request_id:
            headers["request-id"] = failure.request_id
        if failure is not None and failure.retry_after is not None:
            headers["retry-after"] = str(round(failure.retry_after))
        return headers

    @property
    def content_type(self) -> str:
        streamed = self._request.stream and self._failed_before_its_head is None
        return _EVENT_STREAM if streamed else _JSON

    @property
    def _failed_before_its_head(self) -> Failure | None:
        return self._stream.failure if not (self._request.stream and self._stream.started) else None

    async def open(self) -> None:
        """Sends the request and reads until the answer's head is known: its first event, or its end for one body.

        Raises:
            ProcessDied, ProcessHangs: Before the answer began.
            PatchbayError: TIMEOUT when the upstream is silent for too long, UNAVAILABLE when there is no connection to
                it, UPSTREAM when the program refuses.
        """
        self._process.requests += 1
        await self._process.send(self._request.lines, seconds=self._silence)
        await self._read_responses()
        first_byte = self._timeouts.first_byte
        try:
            with SilenceWatch(first_byte) as watch:
                while not self._is_head_known:
                    frames = self._frames(await self._process.read())
                    if frames:
                        self._first += frames
                        watch.limit(self._timeouts.idle)
                    watch.heard()
        except TimeoutError as error:
            raise _error(TIMEOUT, "the upstream did not answer in time") from error
        except ProcessDied:
            if not self._stream.started:
                raise
            self._stream.failure = _process_ended()
        if self._stream.failure is not None and self._stream.failure.lost and not self._stream.started:
            raise _error(UNAVAILABLE, "no connection to the upstream")

    @property
    def _is_head_known(self) -> bool:
        return self._is_over or (self._request.stream and self._stream.started)

    @property
    def _is_over(self) -> bool:
        return self._stream.ended or self._stream.failure is not None

    async def _read_responses(self) -> None:
        """The program answers control requests at once, whatever the upstream does; one that does not hangs."""
        unanswered = set(self._request.control_ids)
        try:
            async with asyncio.timeout(self._silence):
                while unanswered:
                    messages = await self._process.read()
                    for message in messages:
                        if message.response is None:
                            continue
                        unanswered.discard(message.response.request_id)
                        if message.response.subtype == "error":
                            raise _error(UPSTREAM, f"the claude program refused its settings: {message.response.error}")
                    self._first += self._frames(messages)
        except TimeoutError as error:
            raise ProcessHangs(f"the claude process did not answer for {self._silence:g} s") from error

    def _frames(self, messages: list[Message]) -> bytes:
        frames = []
        for message in messages:
            frames.append(self._stream.feed(message))
            if self._is_over:
                # Now, not after the answer is passed on: after one that is empty or was cut off at a limit the program
                # asks again. (A budget that the first answer uses up would stop that, but loses the end of a refusal.)
                self._process.kill()
                break
        return b"".join(frames)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body: frames as they come, or JSON.

        Raises:
            PatchbayError: TIMEOUT after too long a silence.
        """
        if (failure := self._failed_before_its_head) is not None:
            yield failure.body()
        elif not self._request.stream:
            yield self._whole()
        else:
            async with aclosing(self._streamed()) as frames:
                async for data in frames:
                    yield data

    def _whole(self) -> bytes:
        try:
            return whole_answer(self._first)
        except (LookupError, TypeError, ValueError) as error:
            raise _error(UPSTREAM, "the upstream sent an answer that cannot be read") from error

    async def _streamed(self) -> AsyncGenerator[bytes, None]:
        data = self._first
        try:
            with SilenceWatch(self._timeouts.idle) as watch:
                while True:
                    if data:
                        watch.pause()
                        yield data
                        watch.heard()
                    if self._is_over:
                        break
                    data = self._frames(await self._process.read())
        except TimeoutError as error:
            raise _error(TIMEOUT, "the upstream did not send more of its answer in time") from error
        except ProcessDied:
            self._stream.failure = _process_ended()
        if self._stream.failure is not None:
            # The answer has begun: it ends as the API's does when it fails in the middle.
            yield self._stream.failure.frame()

    def finished(self) -> None:
        """Nothing more is needed: the process says nothing more either."""


class CliUpstream:
    """Sends chats through a pool's processes, and everything else over HTTP.

    Args:
        backend: The backend of the processes.
        pool: Its pool.
        http: The API itself, for what the program has no way to ask.
        chat_path: The path that goes through a process.
        fitness: Whether the program can be used.
        account: The operator's own sign-in, where that is the credential.
    """

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        http: HttpUpstream,
        *,
        chat_path: str,
        fitness: Fitness,
        account: CliSignIn | None = None,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._http = http
        self._chat_path = chat_path
        self._fitness = fitness
        self._account = account

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Response]:
        """Sends a request and yields the answer once its head is there. Leaving the block ends the process.

        Raises:
            PatchbayError: As the HTTP transport; also OVERLOADED when every process is busy for too long, and
                AUTHENTICATION when nobody is signed in.
        """
        if path != self._chat_path or body is None:
            async with self._http.request(method, path, headers=headers, body=body) as response:
                yield response
            return
        chat = self._read(body, headers)
        await self._fitness.require()
        if self._account is not None:
            await self._account.require()
        process, answer = await self._ask(chat)
        try:
            yield answer
        finally:
            self._pool.give_back(process)

    def _read(self, body: bytes, headers: Mapping[str, str]) -> ModelRequest:
        signed_in = self._backend.credentials == "signed_in"
        request = model_request(body, betas=betas_of(headers), keeps_account=signed_in)
        if request.warnings and self._backend.strict_parameters:
            first = request.warnings[0]
            message = f"{first.parameter}: {first.message}"
            raise PatchbayError(make_error(INVALID_REQUEST, message, parameter=first.parameter))
        return request

    async def _ask(self, request: ModelRequest) -> tuple[CliProcess, CliAnswer]:
        """A process with its answer begun. One that fails before that is replaced, once."""
        for tries_left in reversed(range(_TRIES)):
            process = await self._pool.take()
            answer = CliAnswer(process, request, self._backend, refusal=self._account.missing if self._account else "")
            reason = "cancelled"
            try:
                await answer.open()
                reason = ""
                return process, answer
            except (ProcessDied, ProcessHangs) as error:
                reason = "hung" if isinstance(error, ProcessHangs) else "crashed"
                if not tries_left:
                    raise _error(UNAVAILABLE, str(error)) from error
            finally:
                if reason:
                    self._pool.give_back(process, reason=reason)
        raise AssertionError("the last try returns or raises")

    async def aclose(self) -> None:
        await self._http.aclose()


def _process_ended() -> Failure:
    return Failure(500, "api_error", "The process that answered this request ended.")


def _error(code: Code, message: str) -> PatchbayError:
    return PatchbayError(make_error(code, message))
