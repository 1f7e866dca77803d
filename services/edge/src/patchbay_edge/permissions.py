"""Permission requests over HTTP: shown as a list or live, answered, and asked by Claude Code that runs elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from patchbay.dialects.surrogates import mend_text
from patchbay.dispatch.callers import Identity
from patchbay.errors import (
    INVALID_REQUEST,
    NOT_FOUND,
    PERMISSION,
    UNAVAILABLE,
    InvalidRequest,
    PatchbayError,
    make_error,
)
from patchbay.state.connection import RedisUnavailable
from patchbay.state.permissions import Change, Decision, Outcome, PermissionRequest, Resolved
from patchbay_edge.chat import session_in
from patchbay_edge.exchange import ClientGone, Exchange, Receive, Scope, Send
from patchbay_edge.operators import is_operator, require_json, require_operator

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

# A tool's input may have 1 MiB; the rest is short.
_MAX_BODY_BYTES = 2 * 1024 * 1024
# How soon a stream or a waiting question notices that the edge drains.
_LOOK_SECONDS = 1.0
_MAX_AUDIT = 1000
_MAX_SESSION = 200
_FIELD = re.compile(r"`\$\.([^`]+)`|field `([^`]+)`")

_Body = TypeVar("_Body")


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `/respond`. A field that is not known could be a change of the input that is not made."""

    decision: Literal["allow", "deny"] | None = None
    allowed: bool | None = None
    updated_input: msgspec.Raw = msgspec.Raw(b"null")
    reason: Annotated[str, msgspec.Meta(max_length=2000)] | None = None

    def read(self) -> Decision:
        """The decision, without who made it. Raises InvalidRequest."""
        allowed = self.allowed if self.decision is None else self.decision == "allow"
        if allowed is None:
            raise InvalidRequest("decision is missing: allow or deny", "decision")
        if self.allowed is not None and self.allowed != allowed:
            raise InvalidRequest("allowed and decision contradict each other", "allowed")
        updated_input = None
        if bytes(self.updated_input) != b"null":
            if not allowed:
                raise InvalidRequest("a denied tool call has no input to change", "updated_input")
            updated_input = _object(self.updated_input, "updated_input")
        return Decision(allowed, updated_input, self.reason or "")


class _Question(msgspec.Struct):
    """The body of `/mcp/permission/check`: what Claude Code gives to its permission prompt tool, and more in time.

    https://code.claude.com/docs/en/cli-reference (`--permission-prompt-tool`)
    """

    tool_name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    input: msgspec.Raw
    tool_use_id: str | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0


class _Viewer(msgspec.Struct, frozen=True):
    """Whose requests a caller may see and answer (None: everybody's), and what its answers are signed with."""

    key_id: str | None
    name: str


def router(edge: Edge) -> APIRouter:
    """The endpoints under `/permissions`, and `/mcp/permission/check`."""
    routes = APIRouter()
    permissions = edge.permissions

    @routes.get("/permissions")
    async def list_pending(request: Request) -> Response:
        viewer = _viewer(edge, request)
        with _redis_answers():
            return _json({"data": await permissions.pending(key_id=viewer.key_id)})

    @routes.get("/permissions/stream")
    async def stream(request: Request) -> Response:
        viewer = _viewer(edge, request)
        if edge.gateway.draining:
            raise _shutting_down()
        return _Stream(edge, viewer)

    @routes.get("/permissions/audit")
    async def audit(request: Request) -> Response:
        require_operator(edge.callers, request)
        limit = request.query_params.get("limit", "100")
        if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MAX_AUDIT:
            raise InvalidRequest(f"limit must be a number from 1 to {_MAX_AUDIT}", "limit")
        with _redis_answers():
            return _json({"data": await permissions.audit(int(limit))})

    @routes.get("/permissions/{request_id}")
    async def show(request_id: str, request: Request) -> Response:
        viewer = _viewer(edge, request)
        with _redis_answers():
            found = await permissions.get(request_id, key_id=viewer.key_id)
        if found is None:
            raise _unknown(request_id)
        return _json(_shown(found))

    @routes.post("/permissions/{request_id}/respond")
    async def respond(request_id: str, request: Request) -> Response:
        viewer = _viewer(edge, request)
        require_json(request)
        answer = _decode(await _body(_exchange(request)), _Answer).read()
        decision = msgspec.structs.replace(answer, by=viewer.name)
        with _redis_answers():
            outcome = await permissions.respond(request_id, decision, key_id=viewer.key_id)
        if outcome is None:
            raise _unknown(request_id)
        if not outcome.now:
            raise _already(outcome)
        return _json(_resolution(outcome.resolved))

    @routes.post("/mcp/permission/check")
    async def check(request: Request) -> Response:
        identity = edge.callers.identify(request.headers)
        _viewer(edge, request)
        require_json(request)
        if edge.gateway.draining:
            raise _shutting_down()
        exchange = _exchange(request)
        lease = await edge.admission.admit(
            request_id=exchange.request_id, key_id=identity.caller.key_id, limits=identity.limits
        )
        try:
            question = _decode(await _body(exchange), _Question)
            tool_input = _object(question.input, "input")
            async with exchange.watch_disconnect():
                decision = await _ask(edge, identity, session_in(exchange.headers)[:_MAX_SESSION], question)
        except ClientGone:
            raise _client_gone() from None
        finally:
            await lease.release()
        if not decision.allowed:
            return _json({"behavior": "deny", "message": decision.reason or "permission was denied"})
        return _json({"behavior": "allow", "updatedInput": decision.updated_input or tool_input})

    return routes


async def _ask(edge: Edge, identity: Identity, session: str, question: _Question) -> Decision:
    """The answer to a question; ends with an error when the edge stops before there is one."""
    asking = asyncio.create_task(
        edge.permissions.ask(
            backend="mcp",
            session=session,
            key_id=identity.caller.key_id,
            worker_id=edge.id,
            tool_name=question.tool_name,
            input=question.input,
            timeout_seconds=question.timeout_seconds,
        ),
        name="permission-question",
    )
    loop = asyncio.get_running_loop()
    give_up_at: float | None = None
    try:
        while not asking.done():
            await asyncio.wait((asking,), timeout=_LOOK_SECONDS)
            if edge.gateway.draining and give_up_at is None:
                give_up_at = loop.time() + edge.settings.server.drain_seconds - _LOOK_SECONDS
            if give_up_at is not None and loop.time() >= give_up_at and not asking.done():
                raise _shutting_down()
        return asking.result()
    finally:
        if not asking.done():
            asking.cancel()  # it withdraws the question
            await asyncio.wait((asking,))


class _Stream(Response):
    """Every request that is pending, then what changes, until the client leaves or the edge drains."""

    def __init__(self, edge: Edge, viewer: _Viewer) -> None:
        super().__init__()
        self._edge = edge
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, request_id=scope["patchbay_request_id"])
        with suppress(ClientGone):
            async with exchange.watch_disconnect():
                await self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        loop = asyncio.get_running_loop()
        ping_seconds = self._edge.settings.server.keep_alive_ping_seconds
        async with self._edge.permissions.watch(key_id=self._viewer.key_id) as watch:
            await exchange.start(200, headers)
            # Nothing may be pending: a client should not wonder whether it is connected.
            await exchange.write(b": connected\n\n")
            written_at = loop.time()
            while not self._edge.gateway.draining:
                silent = written_at + ping_seconds - loop.time()
                changes = await watch.changes(min(max(silent, 0.0), _LOOK_SECONDS))
                if changes:
                    await exchange.write(b"".join(map(_event, changes)))
                elif loop.time() - written_at >= ping_seconds:
                    await exchange.write(b": ping\n\n")
                else:
                    continue
                written_at = loop.time()
        await exchange.end()


def _event(change: Change) -> bytes:
    # The inputs are kept without line breaks, so that each fits a line of data.
    if isinstance(change, Resolved):
        return b"event: permission_resolved\ndata: %s\n\n" % msgspec.json.encode(_resolution(change))
    return b"event: permission_request\ndata: %s\n\n" % msgspec.json.encode(change)


def _resolution(resolved: Resolved) -> dict[str, object]:
    decision = resolved.decision
    return {
        "id": resolved.request.id,
        "decision": "allow" if decision.allowed else "deny",
        "reason": decision.reason,
        "by": decision.by,
    }


def _shown(found: PermissionRequest | Resolved) -> dict[str, object]:
    """A request as it was asked and, once there is one, its answer."""
    if isinstance(found, PermissionRequest):
        return msgspec.structs.asdict(found)
    changed = found.decision.updated_input
    extra = {} if changed is None else {"updated_input": changed}
    return msgspec.structs.asdict(found.request) | _resolution(found) | extra


def _viewer(edge: Edge, request: Request) -> _Viewer:
    """What the caller may see.

    Raises:
        PatchbayError: AUTHENTICATION without a valid key where one is required, PERMISSION for anyone without a key who
            is not an operator.
    """
    identity = edge.callers.identify(request.headers)
    key_id = identity.caller.key_id
    if is_operator(identity, edge.callers, request):
        return _Viewer(None, key_id or "operator")
    if not key_id:
        raise PatchbayError(make_error(PERMISSION, "permission requests are shown to operators and to known keys only"))
    return _Viewer(key_id, key_id)


def _exchange(request: Request) -> Exchange:
    """The request's body and its client's leaving; the answer goes another way."""

    async def send(_: Any) -> None:
        raise AssertionError("what answers here is FastAPI")

    return Exchange(request.scope, request.receive, send, request_id=request.scope["patchbay_request_id"])


async def _body(exchange: Exchange) -> bytes:
    try:
        return await exchange.read_body(_MAX_BODY_BYTES)
    except ClientGone:
        raise _client_gone() from None


def _client_gone() -> PatchbayError:
    # Nobody reads it.
    return PatchbayError(make_error(INVALID_REQUEST, "the client left", http_status=499))


def _decode(body: bytes, shape: type[_Body]) -> _Body:
    try:
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # JavaScript clients leave halves of cut emoji behind, which no JSON decoder takes.
            return msgspec.json.decode(mend_text(body), type=shape)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        raise InvalidRequest(str(error), (field[1] or field[2]) if field else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from error


def _object(value: msgspec.Raw, field: str) -> msgspec.Raw:
    if not bytes(value).lstrip().startswith(b"{"):
        raise InvalidRequest(f"{field} must be an object", field)
    return value


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


@contextmanager
def _redis_answers() -> Iterator[None]:
    try:
        yield
    except RedisUnavailable as error:
        message = "permission requests cannot be reached: Redis is away"
        raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=1)) from error


def _unknown(request_id: str) -> PatchbayError:
    return PatchbayError(make_error(NOT_FOUND, f"there is no permission request {request_id}"))


def _already(outcome: Outcome) -> PatchbayError:
    decision = outcome.resolved.decision
    said = (
        f"{'allow' if decision.allowed else 'deny'} by {decision.by}{f' ({decision.reason})' * bool(decision.reason)}"
    )
    message = f"already resolved: {said}"
    failure = make_error(INVALID_REQUEST, message, http_status=409, upstream_code="already_resolved")
    return PatchbayError(failure)


def _shutting_down() -> PatchbayError:
    return PatchbayError(make_error(UNAVAILABLE, "this server is shutting down; try again", retry_after=1))
