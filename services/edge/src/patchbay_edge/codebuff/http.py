"""The HTTP API for Codebuff's clients that run their agents themselves, but for their chats (see `chat`)."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from patchbay.codebuff.agents import PUBLISHER, VERSION, builtin_agents, published
from patchbay.codebuff.login import known_user
from patchbay.codebuff.search import search
from patchbay.dispatch.callers import Identity
from patchbay.errors import NOT_FOUND, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.settings.codebuff import CodebuffSearch
from patchbay.state.codebuff_runs import Run, Status, cancellation
from patchbay.state.codebuff_usage import CodebuffUsage
from patchbay.state.connection import RedisUnavailable
from patchbay_edge.bodies import read_body, read_bytes, read_json
from patchbay_edge.codebuff.cli import cli_router
from patchbay_edge.codebuff.identity import identify
from patchbay_edge.codebuff.login import login_router
from patchbay_edge.codebuff.topics import topics_router
from patchbay_edge.operators import is_operator

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

log = structlog.get_logger(__name__)

_BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 4
_MEDIA_TOKENS = 1600
# More than any model takes; a client that is refused estimates by itself.
_MOST_COUNTED_BYTES = 16 * 1024 * 1024
_MEDIA = frozenset({"image", "file", "media", "image_url"})
# Searches that failed: the client shows the model the reason, and does not ask again.
_SEARCH_FAILED = 400
SEARCH_SECONDS = 25.0
"""How long a search may take: after 30 s the client asks again, three times in all, and each of them may cost."""


# What clients say of their runs is kept, so each part of it has an end. What JavaScript has no number for is null.
_Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
_Credits = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)] | None
_Name = Annotated[str, msgspec.Meta(max_length=500)]
_Names = Annotated[list[_Name], msgspec.Meta(max_length=1000)]


class _RunRequest(msgspec.Struct, frozen=True, rename="camel"):
    action: Literal["START", "FINISH"]
    agent_id: _Name = ""
    ancestor_run_ids: _Names = []
    run_id: str = ""
    status: Status = "completed"
    total_steps: _Count = 0
    direct_credits: _Credits = None
    total_credits: _Credits = None
    error_message: str | None = None


class _StepRequest(msgspec.Struct, frozen=True, rename="camel"):
    step_number: _Count
    credits: _Credits = None
    child_run_ids: _Names | None = None
    error_message: str | None = None


class _WebSearch(msgspec.Struct, frozen=True):
    query: str
    depth: str = "standard"


class _DocsSearch(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    library_title: str
    topic: str | None = None
    max_tokens: int | None = None


class _TokenCount(msgspec.Struct, frozen=True):
    messages: list[Any] = []
    system: Any = None
    tools: Any = None


def codebuff_router(edge: Edge) -> APIRouter:
    """The endpoints; none, where Codebuff's clients are not served."""
    router = APIRouter()
    settings = edge.settings.codebuff
    if not settings.enabled:
        return router
    api = _Api(edge)
    router.get("/api/healthz")(api.health)
    router.get("/api/v1/me")(api.me)
    router.get("/api/v1/agents/{publisher}/{agent_id}/{version}")(api.agent)
    router.post("/api/v1/agent-runs")(api.run)
    router.post("/api/v1/agent-runs/{run_id}/steps")(api.step)
    router.post("/api/v1/token-count")(api.count_tokens)
    router.post("/api/v1/web-search")(api.web_search)
    router.post("/api/v1/docs-search")(api.docs_search)
    router.get("/v1/codebuff/runs/{run_id}")(api.show)
    router.include_router(cli_router(edge))
    router.include_router(login_router(edge))
    router.include_router(topics_router(edge))
    return router


class _Api:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._runs = edge.codebuff_runs
        self._usage = CodebuffUsage(edge.redis, timeout=edge.settings.redis.timeout_seconds)

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def me(self, request: Request, fields: str = "id") -> dict[str, str | None]:
        identity = self._identify(request)
        known = known_user(identity.caller)
        return {name: known.get(name) for name in fields.split(",") if name}

    async def agent(self, request: Request, publisher: str, agent_id: str, version: str) -> dict[str, object]:
        self._identify(request)
        found = builtin_agents().get(agent_id) if publisher == PUBLISHER else None
        if found is None or version not in ("latest", VERSION):
            raise _not_found(f"there is no agent {publisher}/{agent_id}@{version}")
        return {"id": agent_id, "publisher": PUBLISHER, "version": VERSION, "data": published(found)}

    async def run(self, request: Request) -> dict[str, object]:
        identity = self._identify(request)
        body = await read_body(request, _RunRequest)
        if body.action == "START":
            if not body.agent_id:
                raise InvalidRequest("agentId: Field required", "agentId")
            run_id = str(uuid.uuid4())
            await self._runs.start(
                run_id,
                agent_id=body.agent_id,
                ancestor_run_ids=body.ancestor_run_ids,
                owner=identity.owner,
            )
            return {"runId": run_id}
        if not body.run_id:
            raise InvalidRequest("runId: Field required", "runId")
        run = await self._own_run(identity, body.run_id)
        if run is not None:
            direct = round(body.direct_credits or 0)
            await self._runs.finish(
                body.run_id,
                status=body.status,
                total_steps=body.total_steps,
                direct_credits=direct,
                total_credits=round(body.total_credits or 0),
                error=body.error_message or "",
            )
            # The agents that it started tell of their own.
            await self._count(identity, body.run_id, direct)
        if body.status == "cancelled":
            await self._cancel(identity.owner, body.run_id)
        return {"success": True}

    async def _count(self, identity: Identity, run_id: str, used: int) -> None:
        """Counts what a run has used, once however often its end is told."""
        if used <= 0:
            return
        try:
            if await self._runs.is_first_to_count(run_id):
                await self._usage.add(identity.owner, used)
        except RedisUnavailable as error:
            log.warning("codebuff_usage_not_counted", credits=used, error=str(error))

    async def _cancel(self, owner: str, run_id: str) -> None:
        self._edge.codebuff_chats.cancel(cancellation(owner, run_id))
        try:
            await self._runs.cancel(owner, run_id)
        except RedisUnavailable as error:
            failure = make_error(UNAVAILABLE, "the run is cancelled at this edge; no other could be told")
            raise PatchbayError(failure) from error

    async def step(self, request: Request, run_id: str) -> dict[str, object]:
        identity = self._identify(request)
        body = await read_body(request, _StepRequest)
        if await self._own_run(identity, run_id) is not None:
            await self._runs.step(
                run_id,
                number=body.step_number,
                model="",
                input_tokens=0,
                output_tokens=0,
                cost=round(body.credits or 0),
                child_run_ids=body.child_run_ids or (),
                error=body.error_message or "",
            )
        return {"stepId": f"{run_id}:{body.step_number}"}

    async def _own_run(self, identity: Identity, run_id: str) -> Run | None:
        """The caller's run; None: it is not known, or nobody can say.

        Raises:
            PatchbayError: NOT_FOUND for somebody else's.
        """
        try:
            run = await self._runs.find(run_id)
        except RedisUnavailable:
            return None
        if run is not None and run.start.owner != identity.owner:
            raise _not_found(f"there is no run {run_id}")
        return run

    async def show(self, request: Request, run_id: str) -> dict[str, object]:
        identity = self._identify(request)
        try:
            run = await self._runs.find(run_id)
        except RedisUnavailable as error:
            raise PatchbayError(make_error(UNAVAILABLE, "runs cannot be looked up at the moment")) from error
        if run is None or not (run.start.owner == identity.owner or is_operator(identity, self._edge.callers, request)):
            raise _not_found(f"there is no run {run_id}")
        return run.described()

    async def count_tokens(self, request: Request) -> dict[str, int]:
        self._identify(request)
        limit = min(self._edge.settings.limits.max_request_bytes, _MOST_COUNTED_BYTES)
        body = await read_bytes(request, limit)
        # Looking through a large one takes seconds, and every other client would wait for that.
        return {"inputTokens": await asyncio.to_thread(_count, body)}

    async def web_search(self, request: Request) -> JSONResponse:
        service = self._edge.settings.codebuff.web_search
        return await self._search(request, _WebSearch, service, answer="result")

    async def docs_search(self, request: Request) -> JSONResponse:
        service = self._edge.settings.codebuff.docs_search
        return await self._search(request, _DocsSearch, service, answer="documentation")

    async def _search(
        self,
        request: Request,
        shape: type[_WebSearch | _DocsSearch],
        service: CodebuffSearch | None,
        *,
        answer: str,
    ) -> JSONResponse:
        self._identify(request)
        asked: msgspec.Struct = await read_body(request, shape)
        found = await search(service, msgspec.to_builtins(asked), answer=answer, seconds=SEARCH_SECONDS)
        if "errorMessage" in found:
            return JSONResponse({"error": found["errorMessage"]}, status_code=_SEARCH_FAILED)
        return JSONResponse(found)

    def _identify(self, request: Request) -> Identity:
        return identify(self._edge.callers, request.headers)


def _count(body: bytes) -> int:
    """What a conversation comes to, in tokens.

    Raises:
        InvalidRequest: It is none.
    """
    asked = read_json(body, _TokenCount)
    try:
        tokens = sum(_tokens(part) for part in (asked.messages, asked.system, asked.tools))
    except RecursionError:
        raise InvalidRequest("the body: is nested too deeply") from None
    return tokens + _MESSAGE_TOKENS * len(asked.messages)


def _tokens(value: object) -> int:
    """What a part of a conversation comes to, at the most; the client's own shapes are of no dialect."""
    if isinstance(value, str):
        return -(-len(value.encode(errors="surrogatepass")) // _BYTES_PER_TOKEN)
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _MEDIA:
            return _MEDIA_TOKENS
        return sum(1 + _tokens(one) for one in value.values())
    if isinstance(value, list):
        return sum(_tokens(one) for one in value)
    return 1


def _not_found(message: str) -> PatchbayError:
    return PatchbayError(make_error(NOT_FOUND, message))
