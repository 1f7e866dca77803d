"""The services that search the web and documentation, if any are configured."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import structlog

from patchbay.settings.codebuff import CodebuffSearch

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 60.0
_MAX_BYTES = 4 * 1024 * 1024


async def search(
    service: CodebuffSearch | None, body: dict[str, Any], *, answer: str, seconds: float = _TIMEOUT_SECONDS
) -> dict[str, Any]:
    """Asks a service and gives a tool's result: `{answer: text}`, or an `errorMessage`.

    Args:
        seconds: How long all of it may take.
    """
    if service is None:
        return {"errorMessage": "This search is not configured on this server."}
    headers = {"content-type": "application/json"}
    if service.api_key is not None:
        headers["authorization"] = f"Bearer {service.api_key.get_secret_value()}"
    try:
        async with (
            # Of all of it: httpx has one only for each piece.
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=seconds) as client,
            client.stream("POST", service.url, content=msgspec.json.encode(body), headers=headers) as response,
        ):
            received = bytearray()
            async for piece in response.aiter_bytes():
                received += piece
                if len(received) > _MAX_BYTES:
                    return {"errorMessage": "The search gave too much."}
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("search_failed", url=service.url, error=repr(error))
        return {"errorMessage": "The search service cannot be reached."}
    if response.status_code >= 400:
        log.warning("search_failed", url=service.url, status=response.status_code)
        return {"errorMessage": f"The search service answered with status {response.status_code}."}
    try:
        value = msgspec.json.decode(received)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if isinstance(value, dict):
        for name in ("result", answer):
            if isinstance(value.get(name), str):
                return {answer: value[name]}
        if isinstance(value.get("error"), str):
            return {"errorMessage": value["error"]}
    return {"errorMessage": "The search service gave no result."}
