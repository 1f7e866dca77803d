"""The endpoints of the ChatGPT backend over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from patchbay_standin.answering import Answering
from patchbay_standin.chatgpt.call import ChatGptCall
from patchbay_standin.chatgpt.quota import usage
from patchbay_standin.chatgpt.rules import HIDDEN_MODELS, MODELS, detail
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Exchange
from patchbay_standin.library import Library
from patchbay_standin.models import PLAIN_MODELS
from patchbay_standin.oauth import Accounts, Holder
from patchbay_standin.openai_responses import ConnectionMemory, ResponsesEndpoints
from patchbay_standin.openai_responses.endpoints import compacted
from patchbay_standin.records import Outcome
from patchbay_standin.script import JsonObject

PREFIX: Final = "/backend-api/"

_EFFORTS: Final = ("low", "medium", "high", "xhigh")
# The one bundled model that does not run in code mode.
_NOT_LITE: Final = frozenset({"gpt-5.5", *PLAIN_MODELS})

_encode = msgspec.json.Encoder().encode


class ChatGptEndpoints:
    """Serves everything under `/backend-api/`."""

    def __init__(
        self, answering: Answering, library: Library, accounts: Accounts, responses: ResponsesEndpoints
    ) -> None:
        self._answering = answering
        self._library = library
        self._accounts = accounts
        self._responses = responses

    async def serve(self, exchange: Exchange) -> Outcome | None:
        """Answers a request; None: it is for none of the endpoints."""
        method, path = exchange.scope["method"], exchange.scope["path"]
        match method, path.removeprefix(PREFIX):
            case "POST", "codex/responses":
                return await self._answering.answer(exchange, self._call())
            case "POST", "codex/responses/compact":
                return await self._responses.converted(exchange, self._call(compacts=True), compacted)
            case "GET", "codex/models":
                return await self._told(exchange, self._models)
            case "GET", "wham/usage":
                return await self._told(exchange, _usage)
            case "GET", "wham/accounts/check":
                return await self._told(exchange, _accounts_check)
        return None

    def _call(self, *, compacts: bool = False) -> ChatGptCall:
        return ChatGptCall(ConnectionMemory(None), self._accounts, self._library, compacts=compacts)

    async def _told(self, exchange: Exchange, tell: Callable[[Exchange, Holder], JsonObject]) -> Outcome:
        """Answers with what `tell` says of the account that asks."""
        call = self._call()
        try:
            await self._answering.begin(exchange, call)
            # `begin` has refused who is no one.
            assert call.holder is not None
            body = tell(exchange, call.holder)
        except ProviderError as error:
            return await self._answering.refuse(exchange, call, error)
        return await self._answering.reply(exchange, call, _encode(body))

    def _models(self, exchange: Exchange, holder: Holder) -> JsonObject:
        if not parse_qs(exchange.scope.get("query_string", b"").decode("latin-1")).get("client_version"):
            raise detail("client_version is required", status=422)
        names = [*MODELS, *HIDDEN_MODELS, *PLAIN_MODELS, *self._library.names()]
        return {"models": [_model(name, rank) for rank, name in enumerate(names)]}


def _usage(exchange: Exchange, holder: Holder) -> JsonObject:
    return usage(holder)


def _accounts_check(exchange: Exchange, holder: Holder) -> JsonObject:
    host = exchange.headers.get(b"host", b"localhost").decode("latin-1")
    account: JsonObject = {
        "id": holder.account_id,
        "plan_type": holder.report.plan,
        "structure": "personal",
        "workspace_backend_origin": f"{exchange.scope.get('scheme', 'http')}://{host}",
        "account_routing_override": holder.spec.routing,
    }
    return {
        "accounts": [account],
        "account_ordering": [holder.account_id],
        "default_account_id": holder.account_id,
    }


def _model(name: str, rank: int) -> JsonObject:
    """A model as Codex wants to know it."""
    is_lite = name in MODELS and name not in _NOT_LITE
    return {
        "slug": name,
        "display_name": name,
        "description": None,
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [{"effort": effort, "description": effort} for effort in _EFFORTS],
        "shell_type": "unified_exec",
        "visibility": "list" if name in MODELS else "hide",
        "supported_in_api": True,
        "priority": rank,
        "base_instructions": "You are a coding agent.",
        "support_verbosity": True,
        "default_verbosity": "low",
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "supports_parallel_tool_calls": not is_lite,
        "context_window": 272_000,
        "input_modalities": ["text", "image"],
        "experimental_supported_tools": [],
        "use_responses_lite": is_lite,
    }
