"""What Codebuff's CLI asks beside its socket: usage, whether an agent or a repository is known, whether all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from patchbay.codebuff.agents import PUBLISHER, builtin_agents
from patchbay.codebuff.usage import usage_report
from patchbay.errors import PERMISSION, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.state.codebuff_usage import CodebuffUsage
from patchbay.state.connection import RedisUnavailable
from patchbay_edge.bodies import read_bytes, read_json
from patchbay_edge.codebuff.identity import identify

if TYPE_CHECKING:
    from patchbay_edge.app import Edge


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    auth_token: str | None = None


def cli_router(edge: Edge) -> APIRouter:
    """The endpoints."""
    router = APIRouter()
    usage = CodebuffUsage(edge.redis, timeout=edge.settings.redis.timeout_seconds)

    @router.get("/healthz")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @router.get("/api/v1/usage")
    @router.post("/api/v1/usage")
    @router.post("/api/usage")
    async def report(request: Request) -> JSONResponse:
        body = await read_bytes(request)
        asked = read_json(body, _Usage) if body.strip() else _Usage()
        try:
            owner = identify(edge.callers, request.headers, asked.auth_token or "").owner
        except PatchbayError as refused:
            # The CLI shows `message`.
            said = {"message": refused.error.message, "error": {"message": refused.error.message}}
            return JSONResponse(said, status_code=refused.error.http_status)
        try:
            used = await usage.total(owner)
        except RedisUnavailable as error:
            raise PatchbayError(make_error(UNAVAILABLE, "usage is not known: Redis is away", retry_after=1)) from error
        return JSONResponse({"type": "usage-response", **usage_report(used)})

    @router.post("/api/orgs/is-repo-covered")
    async def is_repo_covered(request: Request) -> dict[str, bool]:
        identify(edge.callers, request.headers)
        # Nobody pays here, for no repository.
        return {"isCovered": False}

    @router.get("/api/agents/validate-name")
    async def validate_name(request: Request) -> dict[str, Any]:
        try:
            identify(edge.callers, request.headers)
        except PatchbayError as refused:
            raise PatchbayError(make_error(PERMISSION, refused.error.message)) from refused
        name = request.query_params.get("agentId", "")
        if not name:
            raise InvalidRequest("agentId: is missing", "agentId")
        found = builtin_agents().get(name.removeprefix(f"{PUBLISHER}/").partition("@")[0])
        if found is None:
            return {"valid": False}
        return {"valid": True, "source": "builtin", "normalizedId": found.id, "displayName": found.display_name}

    return router
