"""The hot path: one client request, from its bytes to the last byte of its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from patchbay.canonical import Chat
from patchbay.dialects.base import AnswerOptions, EventWriter
from patchbay.dialects.native import RequestHead
from patchbay.dispatch.attempts import Attempts, OpenAnswer
from patchbay.dispatch.callers import Identity
from patchbay.dispatch.routing import Target
from patchbay.errors import INTERNAL, UNAVAILABLE, PatchbayError, make_error
from patchbay.state.registry import WorkerRecord
from patchbay.telemetry import metrics
from patchbay.telemetry.meter import Meter
from patchbay_edge.codebuff.chat import CodebuffChat, DataPings
from patchbay_edge.endpoints import AnyDialect, Endpoint, Operation
from patchbay_edge.exchange import ClientGone, Exchange
from patchbay_edge.reply import Reply
from patchbay_edge.responses.compaction import CompactedWriter, SummaryEvents
from patchbay_edge.responses.keeper import Keeper
from patchbay_edge.responses.turns import Turn
from patchbay_proto.v1.provider_pb2 import ChatRequest, CountTokensRequest, Credential, NativeRequest

log = structlog.get_logger(__name__)

# Sent upstream as they came, when the upstream's profile takes them.
_FORWARDED_HEADERS = ("anthropic-beta", "anthropic-version")
# What a Codex client says of itself and its turn. Another client's `user-agent` says nothing that an upstream needs.
_CODEX_MARK = "originator"
_CODEX_HEADERS = frozenset(
    {
        _CODEX_MARK,
        "session-id",
        "thread-id",
        "user-agent",
        "version",
        "x-client-request-id",
        "x-openai-internal-codex-responses-lite",
    }
)
_CODEX_PREFIX = "x-codex-"
# Claude Code names its session in `metadata.user_id`, as JSON or, before 2.1, at the end of a text.
_SESSION_IN_USER = re.compile(r'"session_id"\s*:\s*"([^"]+)"|_session_([0-9a-f-]{36})\Z')
# The name that a client gives a conversation for us, rather than for itself.
OWN_SESSION_HEADER = "x-patchbay-session"
_SESSION_HEADERS = (
    OWN_SESSION_HEADER,
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "conversation-id",
    "conversation_id",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One request, read and identified."""

    exchange: Exchange
    endpoint: Endpoint
    identity: Identity
    body: bytes
    head: RequestHead
    targets: list[Target]
    # Of a request of the Responses API: what it goes on from.
    turn: Turn | None = None
    # Of a request of a Codebuff client's run.
    codebuff: CodebuffChat | None = None

    @property
    def dialect(self) -> AnyDialect:
        return self.endpoint.dialect


class Requests:
    """Builds the workers' requests of one job; the body is decoded only if some backend needs it so."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._chat: Chat | None = None
        self._session = job.endpoint.session or session_of(job.exchange.headers, job.head)

    @property
    def conversation(self) -> str:
        """The client's conversation among those of all callers; empty when it names none."""
        if not self._session:
            return ""
        # A session's name is the client's own choice: two callers that choose the same one must not meet.
        key_id = self._job.identity.caller.key_id
        return f"{len(key_id)}:{key_id}{self._session}"

    def chat(self) -> Chat:
        if self._chat is None:
            turn = self._job.turn
            self._chat = self._job.dialect.read_request(self._job.body if turn is None else turn.translated())
        return self._chat

    def chat_request(self, target: Target, worker: WorkerRecord) -> ChatRequest:
        job = self._job
        request = ChatRequest(
            caller=job.identity.caller,
            request_id=job.exchange.request_id,
            session_id=self._session,
            session_named=bool(job.endpoint.session) or OWN_SESSION_HEADER in job.exchange.headers,
            backend=target.backend.name,
            client_dialect=job.dialect.name,
            headers=forwarded_headers(job.exchange.headers),
            credential=self.credential(target),
        )
        if takes_native(worker, target, job.dialect):
            request.native.CopyFrom(self._native(target))
            request.model = "" if target.model == job.head.model else target.model
        else:
            request.chat.CopyFrom(self.chat())
            request.model = target.model
        return request

    def count_request(self, target: Target, worker: WorkerRecord) -> CountTokensRequest:
        job = self._job
        request = CountTokensRequest(
            caller=job.identity.caller,
            request_id=job.exchange.request_id,
            backend=target.backend.name,
            model=target.model,
            headers=forwarded_headers(job.exchange.headers),
            credential=self.credential(target),
        )
        if takes_native(worker, target, job.dialect):
            request.native.CopyFrom(self._native(target))
        else:
            request.chat.CopyFrom(self.chat())
        return request

    def _native(self, target: Target) -> NativeRequest:
        turn = self._job.turn
        body = self._job.body if turn is None else turn.body_for(target.backend)
        return NativeRequest(dialect=self._job.dialect.name, body=body)

    def credential(self, target: Target) -> Credential | None:
        """The caller's own credential, for the provider that the request was meant for and no other."""
        first = self._job.targets[0].backend
        meant = target.backend.credentials == "pass_through" and target.backend.base_url == first.base_url
        return self._job.identity.credential if meant else None


async def answer_chat(
    job: Job,
    attempts: Attempts,
    *,
    hold_seconds: float,
    ping_seconds: float,
    started: float,
    is_out_of_time: Callable[[], bool],
) -> None:
    """Answers a chat request.

    Args:
        hold_seconds: How long the answer's head may wait for its first content.
        ping_seconds: After how much silence a stream gets a ping.
        started: When the request came, on the monotonic clock.
        is_out_of_time: Whether a cancellation means that the edge's time to drain is over.

    Raises:
        PatchbayError: When it failed before any part of the answer was sent.
    """
    requests = Requests(job)
    stream = job.head.stream
    turn = job.turn
    keeper = Keeper(turn) if turn is not None and turn.keeps and job.endpoint.operation is Operation.CHAT else None
    include_usage = job.head.include_usage
    options = AnswerOptions(
        stream=stream,
        model=job.head.model,
        include_usage=include_usage,
        fallback_id=job.exchange.request_id,
        created=int(time.time()),
        echo=turn.echo if turn is not None else {},
        reasoning_format=job.targets[0].reasoning_format,
    )
    reply = Reply(
        job.exchange,
        _writer(job, options),
        stream=stream,
        hold_seconds=hold_seconds,
        ping_seconds=ping_seconds,
        keeper=keeper,
    )
    with reply:
        try:
            opened = await attempts.open(
                job.targets,
                requests.chat_request,
                is_committed=lambda: reply.committed,
                conversation=requests.conversation,
            )
            if opened.target.reasoning_format != options.reasoning_format:
                reply.written_by(_writer(job, replace(options, reasoning_format=opened.target.reasoning_format)))
            if keeper is not None:
                keeper.answered_by(opened.target.backend, native=opened.is_native)
            await _relay(job, opened, reply, started=started)
        except PatchbayError as error:
            await _fail(job, reply, error)
        except ClientGone:
            raise
        except Exception:
            log.exception("answer_crashed", request_id=job.exchange.request_id)
            failure = make_error(INTERNAL, f"internal error; request id {job.exchange.request_id}")
            await _fail(job, reply, PatchbayError(failure))
        except asyncio.CancelledError:
            if not is_out_of_time():
                raise
            await _fail(
                job, reply, PatchbayError(make_error(UNAVAILABLE, "this server shut down before the answer ended"))
            )


def _writer(job: Job, options: AnswerOptions) -> EventWriter:
    writer = job.dialect.write_events(options)
    if job.turn is not None and job.endpoint.operation is Operation.COMPACT:
        return CompactedWriter(writer, job.turn.items)
    if job.codebuff is not None and options.stream:
        return DataPings(writer, job.exchange.request_id)
    return writer


async def _fail(job: Job, reply: Reply, failure: PatchbayError) -> None:
    """Ends an answer whose head is out with an error of its dialect; raises while a status can still say it."""
    if not reply.committed:
        raise failure
    metrics.EDGE_STREAM_ERRORS.labels(job.targets[0].backend.name).inc()
    await reply.fail(failure.error)


async def _relay(job: Job, opened: OpenAnswer, reply: Reply, *, started: float) -> None:
    backend = opened.target.backend.name
    meter = Meter()
    # A backend of another dialect was asked for a summary.
    summary = SummaryEvents() if job.turn is not None and job.turn.compacts and not opened.is_native else None
    try:
        reply.describe({"x-patchbay-backend": backend}, opened.first)
        async with aclosing(opened.windows()) as windows:
            async for events in windows:
                meter.see(events)
                await reply.write(events if summary is None else summary.feed(events))
        await reply.end()
    finally:
        opened.call.close()
        meter.record(backend, opened.target.model)
        job.exchange.notes |= {"backend": backend, "model": opened.target.model, **meter.counts()}
        if reply.warnings:
            job.exchange.notes["warnings"] = reply.warnings
        if meter.failed:
            metrics.EDGE_STREAM_ERRORS.labels(backend).inc()
        if reply.first_byte_at is not None:
            metrics.EDGE_FIRST_BYTE_SECONDS.labels(job.dialect.name, backend).observe(reply.first_byte_at - started)


def takes_native(worker: WorkerRecord, target: Target, dialect: AnyDialect) -> bool:
    """Whether the backend takes this client's own body."""
    return any(record.name == target.backend.name and record.dialect == dialect.name for record in worker.backends)


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    forwarded = {name: headers[name] for name in _FORWARDED_HEADERS if name in headers}
    if _CODEX_MARK in headers:
        forwarded |= {
            name: value for name, value in headers.items() if name in _CODEX_HEADERS or name.startswith(_CODEX_PREFIX)
        }
    return forwarded


def session_of(headers: Mapping[str, str], head: RequestHead) -> str:
    """The conversation that the client names; empty when it names none. An end user's name is none: a user has many."""
    return session_in(headers) or _session_in_user(head.user) or head.session


def _session_in_user(user: str) -> str:
    found = _SESSION_IN_USER.search(user)
    return (found[1] or found[2]) if found else ""


def session_in(headers: Mapping[str, str]) -> str:
    """The conversation that a request's headers name; empty when they name none."""
    return next((headers[name] for name in _SESSION_HEADERS if name in headers), "")
