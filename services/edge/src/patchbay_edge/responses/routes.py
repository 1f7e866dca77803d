"""Stored responses: `GET` and `DELETE /v1/responses/{id}`, `GET /v1/responses/{id}/input_items`.

https://platform.openai.com/docs/api-reference/responses/get
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request, Response

from patchbay.errors import NOT_FOUND, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.state.connection import RedisUnavailable
from patchbay.state.responses import Context
from patchbay_edge.endpoints import CODEX_PREFIX

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

_DEFAULT_LIMIT = 20
_MOST = 100

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def responses_router(edge: Edge) -> APIRouter:
    """The endpoints, for whoever may use the API; each sees only the responses of its own key."""
    router = APIRouter()

    async def get_response(response_id: str, request: Request) -> Response:
        return Response((await _context(edge, request, response_id)).response, media_type="application/json")

    async def delete_response(response_id: str, request: Request) -> dict[str, object]:
        owner = edge.callers.identify(request.headers).owner
        try:
            known = await edge.responses.delete(owner, response_id)
        except RedisUnavailable as error:
            raise _away() from error
        if not known:
            raise _not_found(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    async def list_input_items(response_id: str, request: Request) -> Response:
        context = await _context(edge, request, response_id)
        page = _page(context, request)
        return Response(msgspec.json.encode(page), media_type="application/json")

    for base in [*(f"{prefix}/v1" for prefix in edge.endpoints.prefixes), CODEX_PREFIX]:
        router.get(f"{base}/responses/{{response_id}}")(get_response)
        router.delete(f"{base}/responses/{{response_id}}")(delete_response)
        router.get(f"{base}/responses/{{response_id}}/input_items")(list_input_items)
    return router


async def _context(edge: Edge, request: Request, response_id: str) -> Context:
    owner = edge.callers.identify(request.headers).owner
    try:
        context = await edge.responses.load(owner, response_id)
    except RedisUnavailable as error:
        raise _away() from error
    if context is None:
        raise _not_found(response_id)
    return context


def _page(context: Context, request: Request) -> dict[str, object]:
    """https://platform.openai.com/docs/api-reference/responses/input-items"""
    query = request.query_params
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"Invalid value: '{order}'. Supported values are: 'asc', 'desc'.", "order")
    items = [_with_id(context, number, item) for number, item in enumerate(context.own_input)]
    if order == "desc":
        items.reverse()
    ids = [item_id for item_id, _ in items]
    after = query.get("after")
    if after is not None:
        if after not in ids:
            raise InvalidRequest(f"Item with id '{after}' not found.", "after")
        items = items[ids.index(after) + 1 :]
    page = items[: _limit(query.get("limit"))]
    return {
        "object": "list",
        "data": [item for _, item in page],
        "first_id": page[0][0] if page else None,
        "last_id": page[-1][0] if page else None,
        "has_more": len(page) < len(items),
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isdecimal() or len(text) > len(str(_MOST)) or not 1 <= int(text) <= _MOST:
        raise InvalidRequest(f"Invalid 'limit': expected an integer from 1 to {_MOST}.", "limit")
    return int(text)


def _with_id(context: Context, number: int, item: bytes) -> tuple[str, msgspec.Raw]:
    """An item with its id, the same every time."""
    fields = _fields_of(item)
    given = fields.get("id")
    if given is not None and bytes(given).startswith(b'"'):
        return msgspec.json.decode(given, type=str), msgspec.Raw(item)
    made = hashlib.sha256(f"{context.response_id}/{number}".encode()).hexdigest()
    item_id = f"msg_{made[:48]}"
    return item_id, msgspec.Raw(msgspec.json.encode({**fields, "id": item_id}))


def _not_found(response_id: str) -> PatchbayError:
    message = f"Response with id '{response_id}' not found."
    return PatchbayError(make_error(NOT_FOUND, message, parameter="response_id"))


def _away() -> PatchbayError:
    return PatchbayError(make_error(UNAVAILABLE, "stored responses are not at hand just now; try again", retry_after=1))
