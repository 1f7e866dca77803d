"""The endpoints of the Responses API over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import parse_qs

import msgspec

from patchbay_standin.answering import Answering
from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.exchange import Exchange
from patchbay_standin.library import HEADER, Library, UnknownModel
from patchbay_standin.openai_responses.call import NONCE, ResponsesCall
from patchbay_standin.openai_responses.checks import bounded, listed
from patchbay_standin.openai_responses.items import kind_of
from patchbay_standin.openai_responses.response import response_id
from patchbay_standin.openai_responses.sealing import seal
from patchbay_standin.openai_responses.shelf import Kept, Shelf
from patchbay_standin.prompt import Prompt
from patchbay_standin.records import Outcome
from patchbay_standin.script import JsonObject, ScriptError

_PATH: Final = re.compile(r".*/responses/(?P<id>[^/]+)(?P<rest>/input_items|/cancel)?")
_PAGE: Final = 20
_MAX_PAGE: Final = 100

_encode = msgspec.json.Encoder().encode


class ResponsesEndpoints:
    """Serves everything under `.../responses`."""

    def __init__(self, answering: Answering, library: Library, shelf: Shelf) -> None:
        self._answering = answering
        self._library = library
        self._shelf = shelf

    async def serve(self, exchange: Exchange) -> Outcome | None:
        """Answers a request; None: it is for none of the endpoints."""
        method, path = exchange.scope["method"], exchange.scope["path"]
        call = ResponsesCall(self._shelf)
        if method == "POST":
            if path.endswith("/responses"):
                return await self._answering.answer(exchange, call)
            if path.endswith("/responses/input_tokens"):
                return await self.converted(exchange, call, _count)
            if path.endswith("/responses/compact"):
                return await self.converted(exchange, call, compacted)
        found = _PATH.fullmatch(path)
        if found is None or method not in ("GET", "DELETE", "POST"):
            return None
        try:
            await self._answering.begin(exchange, call)
            body = self._stored(method, found["id"], found["rest"] or "", exchange)
        except ProviderError as error:
            return await self._answering.refuse(exchange, call, error)
        return await self._answering.reply(exchange, call, body)

    async def converted(
        self, exchange: Exchange, call: ResponsesCall, convert: Callable[[ResponsesCall, Prompt, int], JsonObject]
    ) -> Outcome:
        """Answers a request that asks for no words of a model with what `convert` makes of it."""
        try:
            prompt = call.read(_with_model(await self._answering.begin(exchange, call)))
            exchange.entry.model = prompt.model
            script = self._library.find(exchange.headers.get(HEADER), prompt.model)
        except ProviderError as error:
            return await self._answering.refuse(exchange, call, error)
        except UnknownModel as error:
            return await self._answering.refuse(exchange, call, call.no_such_model(str(error)))
        except ScriptError as error:
            return await self._answering.refuse(exchange, call, invalid_request(str(error)))
        if script.error is not None:
            return await self._answering.refuse(exchange, call, ProviderError.scripted(script.error))
        return await self._answering.reply(exchange, call, _encode(convert(call, prompt, exchange.entry.number)))

    def _stored(self, method: str, identity: str, rest: str, exchange: Exchange) -> bytes:
        kept = self._shelf.find(identity)
        if kept is None:
            raise ProviderError(
                status=404,
                message=f"Response with id '{identity}' not found.",
                type="invalid_request_error",
            )
        match method, rest:
            case "GET", "":
                return _encode(kept.response)
            case "GET", "/input_items":
                return _encode(_page(kept, exchange.scope.get("query_string", b"").decode("latin-1")))
            case "DELETE", "":
                self._shelf.remove(identity)
                return _encode({"id": identity, "object": "response", "deleted": True})
            case "POST", "/cancel":
                raise invalid_request("Cannot cancel a synchronous response.")
        raise ProviderError(
            status=404, message=f"Invalid URL ({method} {exchange.scope['path']})", type="invalid_request_error"
        )


def compacted(call: ResponsesCall, prompt: Prompt, number: int) -> JsonObject:
    """A conversation as what its user said, and one item for all the rest."""
    identity = response_id(NONCE, number)
    said = call.conversation(identity)
    kept = [item for item in said if kind_of(item) == "message" and item.get("role") == "user"]
    secret = {"id": f"cmp_{identity[5:]}", "type": "compaction", "encrypted_content": seal(identity, call.owner)}
    return {
        "id": identity,
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*kept, secret],
        "usage": {
            "input_tokens": prompt.tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt.tokens + 1,
        },
    }


def _count(call: ResponsesCall, prompt: Prompt, number: int) -> JsonObject:
    return {"object": "response.input_tokens", "input_tokens": prompt.tokens}


def _with_model(body: bytes) -> bytes:
    """Both endpoints can do without a model."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    return body if "model" in fields else _encode({"model": msgspec.Raw(b'"gpt-standin"'), **fields})


def _page(kept: Kept, query: str) -> JsonObject:
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    listed("order", asked.get("order"), ("asc", "desc"))
    limit = int(asked["limit"]) if asked.get("limit", "").isdigit() else _PAGE
    bounded("limit", limit, low=1, high=_MAX_PAGE)
    items: Sequence[JsonObject] = kept.input if asked.get("order") == "asc" else kept.input[::-1]
    after = asked.get("after")
    if after is not None:
        ids = [item["id"] for item in items]
        items = items[ids.index(after) + 1 :] if after in ids else []
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }
