"""Serves the hot paths: identifies, admits, reads, routes, answers; and says every failure in the client's dialect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import structlog

from patchbay.dialects.native import read_head
from patchbay.dialects.openai_responses import DIALECT as OPENAI_RESPONSES
from patchbay.dialects.surrogates import mend_text
from patchbay.dispatch.attempts import Attempts, UpstreamFailure
from patchbay.dispatch.callers import Callers, Identity
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import Router
from patchbay.dispatch.transport import Connections, WorkerFailure
from patchbay.errors import INTERNAL, OVERLOADED, RATE_LIMITED, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.admission import Admission, Lease
from patchbay.telemetry import metrics
from patchbay_edge.chat import OWN_SESSION_HEADER, Job, Requests, answer_chat
from patchbay_edge.codebuff.chat import PING_SECONDS, CodebuffChats, CollectedExchange, combined, combined_notes
from patchbay_edge.endpoints import CODEX_PREFIX, AnyDialect, Endpoint, Operation
from patchbay_edge.exchange import ClientGone, Exchange
from patchbay_edge.reply import upstream_headers
from patchbay_edge.responses.body import read_body as read_responses_body
from patchbay_edge.responses.compaction import compacting
from patchbay_edge.responses.turns import Turn, Turns

log = structlog.get_logger(__name__)

_COUNT_TIMEOUT_SECONDS = 60.0
# What the metrics call the limits.
_DENIED_BY = {RATE_LIMITED: "key", OVERLOADED: "connections"}


class Gateway:
    """Answers chat and token-count requests."""

    def __init__(
        self,
        settings: Settings,
        *,
        callers: Callers,
        admission: Admission,
        router: Router,
        picker: Picker,
        connections: Connections,
        turns: Turns,
        codebuff: CodebuffChats,
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._admission = admission
        self._router = router
        self._picker = picker
        self._connections = connections
        self._attempts = Attempts(picker, connections)
        self._turns = turns
        self._codebuff = codebuff
        self.draining = False
        self._running: set[asyncio.Task[object]] = set()
        self._out_of_time = False

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return len(self._running)

    def drain(self, seconds: float) -> None:
        """Refuses new requests; what still runs after `seconds` ends with an error in its own dialect."""
        self.draining = True
        asyncio.get_running_loop().call_later(seconds, self._break_off)

    def _break_off(self) -> None:
        self._out_of_time = True
        for task in self._running:
            task.cancel()

    async def serve(self, endpoint: Endpoint, exchange: Exchange) -> None:
        """Answers one request. Never raises but for cancellation."""
        started = time.monotonic()
        metrics.EDGE_IN_FLIGHT.inc()
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
        try:
            await self._serve(endpoint, exchange, started)
        except ClientGone:
            metrics.EDGE_DISCONNECTS.inc()
        except PatchbayError as error:
            await answer_error(exchange, endpoint.dialect, error)
        except Exception:
            log.exception("request_crashed", request_id=exchange.request_id, path=exchange.path)
            failure = PatchbayError(make_error(INTERNAL, f"internal error; request id {exchange.request_id}"))
            await answer_error(exchange, endpoint.dialect, failure)
        except asyncio.CancelledError:
            if not self._out_of_time or exchange.started:
                raise
            await answer_error(exchange, endpoint.dialect, _shutting_down())
        finally:
            if task is not None:
                # The task itself may be a socket's, which lives on.
                self._running.discard(task)
            metrics.EDGE_IN_FLIGHT.dec()
            self._record(endpoint, exchange, started)

    async def _serve(self, endpoint: Endpoint, exchange: Exchange, started: float) -> None:
        if self.draining:
            raise _shutting_down()
        identity = self._callers.identify(exchange.headers)
        lease = await self._admit(exchange, identity)
        try:
            job = await self._read(endpoint, exchange, identity)
            async with exchange.watch_disconnect(), self._codebuff.running(job.codebuff, exchange):
                if endpoint.operation is Operation.COUNT_TOKENS:
                    await self._count_tokens(job)
                elif job.codebuff is not None and job.codebuff.answers > 1:
                    await self._answer_several(job, job.codebuff.answers, started)
                else:
                    await self._answer(job, started)
        finally:
            await lease.release()

    async def _answer(self, job: Job, started: float) -> None:
        ping_seconds = self._settings.server.keep_alive_ping_seconds
        await answer_chat(
            job,
            self._attempts,
            hold_seconds=self._settings.server.head_hold_seconds,
            ping_seconds=ping_seconds if job.codebuff is None else min(ping_seconds, PING_SECONDS),
            started=started,
            is_out_of_time=lambda: self._out_of_time,
        )

    async def _answer_several(self, job: Job, answers: int, started: float) -> None:
        exchanges = [CollectedExchange(job.exchange) for _ in range(answers)]
        try:
            async with asyncio.TaskGroup() as group:
                for exchange in exchanges:
                    group.create_task(self._answer(replace(job, exchange=exchange), started))
        except* PatchbayError as errors:
            raise _first(errors) from errors
        job.exchange.notes |= combined_notes(exchanges)
        body = combined([bytes(exchange.body) for exchange in exchanges])
        await job.exchange.answer(200, body, {"content-type": "application/json"})

    async def _admit(self, exchange: Exchange, identity: Identity) -> Lease:
        try:
            return await self._admission.admit(
                request_id=exchange.request_id, key_id=identity.caller.key_id, limits=identity.limits
            )
        except PatchbayError as error:
            metrics.EDGE_DENIED.labels(_DENIED_BY.get(error.error.code, "redis_down")).inc()
            raise

    async def _read(self, endpoint: Endpoint, exchange: Exchange, identity: Identity) -> Job:
        body = await exchange.read_body(self._settings.limits.max_request_bytes)
        try:
            head = read_head(body)
        except InvalidRequest:
            body = _mended(body)
            head = read_head(body)
        if endpoint.operation is Operation.COMPACT:
            head = replace(head, stream=False)
        codebuff = await self._codebuff.read(endpoint, identity, body)
        if codebuff is not None:
            body = codebuff.body
            head = read_head(body)
        targets = self._router.targets(endpoint.prefix, head.model)
        turn = (
            await self._begin_turn(endpoint, exchange, identity, body) if endpoint.dialect is OPENAI_RESPONSES else None
        )
        return Job(exchange, endpoint, identity, body, head, targets, turn, codebuff)

    async def begin_warm_up(self, endpoint: Endpoint, exchange: Exchange) -> Turn:
        """The turn of a request that is not to be answered, only gone on from. It costs nothing, so it has no limits.

        Raises:
            PatchbayError: The request cannot be understood.
        """
        body = await exchange.read_body(self._settings.limits.max_request_bytes)
        request = read_responses_body(body, takes_messages=endpoint.prefix == CODEX_PREFIX)
        owner = self._callers.identify(exchange.headers).owner
        return await self._turns.begin(request, owner=owner, memory=exchange.memory)

    async def _begin_turn(self, endpoint: Endpoint, exchange: Exchange, identity: Identity, body: bytes) -> Turn:
        request = read_responses_body(body, takes_messages=endpoint.prefix == CODEX_PREFIX)
        if endpoint.operation is Operation.COMPACT:
            request = compacting(request)
        session = endpoint.session or exchange.headers.get(OWN_SESSION_HEADER, "")
        return await self._turns.begin(request, owner=identity.owner, session=session, memory=exchange.memory)

    async def _count_tokens(self, job: Job) -> None:
        target = job.targets[0]
        requests = Requests(job)
        avoid: set[str] = set()
        while True:
            worker = await self._picker.pick(target.backend.name, avoid=avoid)
            connection = self._connections.get(worker.address)
            try:
                request = requests.count_request(target, worker)
                count = await connection.count_tokens(request, timeout=_COUNT_TIMEOUT_SECONDS)
                break
            except WorkerFailure:
                if worker.id in avoid:
                    raise
                avoid.add(worker.id)
                self._picker.quarantine(worker)
        if count.HasField("error"):
            raise PatchbayError(count.error)
        headers = {"content-type": "application/json", "x-patchbay-backend": target.backend.name}
        if count.estimated:
            headers["x-patchbay-token-count"] = "estimated"
        body = b'{"input_tokens":%d}' % count.input_tokens
        if job.dialect is OPENAI_RESPONSES:
            body = b'{"object":"response.input_tokens",' + body[1:]
        await job.exchange.answer(200, body, headers)

    def _record(self, endpoint: Endpoint, exchange: Exchange, started: float) -> None:
        dialect = endpoint.dialect.name
        seconds = time.monotonic() - started
        metrics.EDGE_REQUESTS.labels(endpoint.operation.value, dialect, str(exchange.status or "gone")).inc()
        metrics.EDGE_REQUEST_SECONDS.labels(dialect).observe(seconds)
        log.info(
            "request",
            request_id=exchange.request_id,
            endpoint=endpoint.operation.value,
            dialect=dialect,
            status=exchange.status,
            complete=exchange.ended,
            seconds=round(seconds, 4),
            **exchange.notes,
        )


def _mended(body: bytes) -> bytes:
    """The body without the halves of cut emoji that JavaScript clients leave behind; no JSON decoder takes those."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return body
    return mend_text(body)


async def answer_error(exchange: Exchange, dialect: AnyDialect, failure: PatchbayError) -> None:
    """Answers with an error in the client's dialect, if no other answer has begun."""
    if exchange.started:
        # A head is out and its answer broke: the writer has said so already, or else the server cuts the connection,
        # which no client takes for the answer's end.
        return
    upstream = _failure_headers(failure)
    # The one id in the head and in the body: the upstream's, if it has answered.
    written = dialect.errors.write(failure.error, upstream.get("request-id", exchange.request_id))
    headers = {**upstream, **written.headers, "content-type": written.content_type}
    await exchange.answer(written.status, written.body, headers)


def _first(errors: BaseExceptionGroup[PatchbayError]) -> PatchbayError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PatchbayError)
    return error


def _shutting_down() -> PatchbayError:
    return PatchbayError(make_error(UNAVAILABLE, "this server is shutting down; try again", retry_after=1))


def _failure_headers(failure: PatchbayError) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    if isinstance(failure, UpstreamFailure):
        for event in failure.events:
            if event.HasField("head"):
                headers |= upstream_headers(event.head)
    return headers
