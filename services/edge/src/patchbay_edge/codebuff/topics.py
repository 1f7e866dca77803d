"""Messages of operators to all of Codebuff's clients that follow a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from patchbay.errors import UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.state.codebuff_topics import Topics
from patchbay.state.connection import RedisUnavailable
from patchbay_edge.bodies import read_bytes, read_json
from patchbay_edge.operators import require_json, require_operator

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

log = structlog.get_logger(__name__)

_LONGEST_TOPIC = 1_000


def topics_router(edge: Edge) -> APIRouter:
    """The endpoint, for operators only."""
    router = APIRouter()
    topics = Topics(edge.redis, replica_id=edge.id, timeout=edge.settings.redis.timeout_seconds)

    @router.post("/v1/codebuff/topics/{topic:path}")
    async def publish(topic: str, request: Request) -> JSONResponse:
        operator = require_operator(edge.callers, request)
        require_json(request)
        message = read_json(await read_bytes(request), dict[str, Any])
        if not topic or len(topic) > _LONGEST_TOPIC:
            raise InvalidRequest(f"topic: must have from 1 to {_LONGEST_TOPIC} characters", "topic")
        try:
            await topics.publish(topic, message)
        except RedisUnavailable as error:
            message_lost = "nobody was told: Redis is away"
            raise PatchbayError(make_error(UNAVAILABLE, message_lost, retry_after=1)) from error
        log.info("codebuff_topic", topic=topic, key_id=operator.caller.key_id)
        return JSONResponse({"topic": topic}, status_code=202)

    return router
