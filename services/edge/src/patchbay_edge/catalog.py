"""Which models there are: what the backends offer, by the names that lead to them here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import Router
from patchbay.dispatch.transport import Connections
from patchbay.errors import NOT_FOUND, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay_proto.v1.provider_pb2 import Credential, ListModelsRequest, Model

_TIMEOUT_SECONDS = 10.0
_KEEP_SECONDS = 60.0


class Catalog:
    """Lists models; each backend's list is kept for a minute."""

    def __init__(
        self, router: Router, backends: Mapping[str, Backend], picker: Picker, connections: Connections
    ) -> None:
        self._router = router
        self._backends = backends
        self._picker = picker
        self._connections = connections
        self._kept: dict[str, tuple[float, Sequence[Model]]] = {}

    async def models(self, prefix: str, credential: Credential | None) -> list[Model]:
        """Every model, under a name that a request with this path prefix may use. Silent backends are left out.

        Raises:
            PatchbayError: NOT_FOUND when no backend is there for this prefix.
        """
        offered = self._router.offered(prefix)
        lists = await asyncio.gather(
            *(self._of_backend(backend, self._meant_for(backend, credential)) for backend in offered)
        )
        named: dict[str, Model] = {}
        for alias in self._router.aliases(prefix):
            backend = self._router.targets(prefix, alias)[0].backend.name
            named[alias] = Model(id=alias, display_name=alias, backend=backend, owned_by="patchbay")
        for models in lists:
            for model in models:
                name = self._name(prefix, model)
                listed = Model()
                listed.CopyFrom(model)
                listed.id = name
                named.setdefault(name, listed)
        return list(named.values())

    async def model(self, prefix: str, name: str, credential: Credential | None) -> Model:
        """One model by its name here.

        Raises:
            PatchbayError: NOT_FOUND.
        """
        for model in await self.models(prefix, credential):
            if model.id == name:
                return model
        message = f"there is no model `{name}` here"
        raise PatchbayError(make_error(NOT_FOUND, message, parameter="model", upstream_code="model_not_found"))

    def _meant_for(self, backend: Backend, credential: Credential | None) -> Credential | None:
        """The caller's credential, if there is only one provider that it can be meant for."""
        providers = {other.base_url for other in self._backends.values() if other.credentials == "pass_through"}
        return credential if providers == {backend.base_url} else None

    async def _of_backend(self, backend: Backend, credential: Credential | None) -> Sequence[Model]:
        own = backend.credentials == "pass_through"
        kept = self._kept.get(backend.name)
        if kept is not None and not own and time.monotonic() - kept[0] < _KEEP_SECONDS:
            return kept[1]
        request = ListModelsRequest(backend=backend.name, credential=credential if own else None)
        try:
            worker = await self._picker.pick(backend.name)
            connection = self._connections.get(worker.address)
            response = await connection.list_models(request, timeout=_TIMEOUT_SECONDS)
        except PatchbayError:
            return kept[1] if kept is not None else ()
        if not own and not response.failures:
            self._kept[backend.name] = (time.monotonic(), response.models)
        return response.models

    def _name(self, prefix: str, model: Model) -> str:
        """The plain id when it leads to this backend, else with the backend's name before it."""
        try:
            plain = self._router.targets(prefix, model.id)[0].backend.name == model.backend
        except PatchbayError:
            plain = False
        return model.id if plain else f"{model.backend}/{model.id}"


def anthropic_list(models: Sequence[Model]) -> dict[str, object]:
    """https://docs.anthropic.com/en/api/models-list"""
    data = [anthropic_model(model) for model in models]
    return {
        "data": data,
        "has_more": False,
        "first_id": models[0].id if models else None,
        "last_id": models[-1].id if models else None,
    }


def anthropic_model(model: Model) -> dict[str, object]:
    created = datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model.id, "display_name": model.display_name or model.id, "created_at": created}


def openai_list(models: Sequence[Model]) -> dict[str, object]:
    """https://platform.openai.com/docs/api-reference/models/list"""
    return {"object": "list", "data": [openai_model(model) for model in models]}


def openai_model(model: Model) -> dict[str, object]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by or model.backend}


# For a model whose own instructions Codex does not know.
_CODEX_INSTRUCTIONS = (
    "You are a coding agent that works in a terminal on the user's machine. Read the code before you change it, make "
    "the smallest change that does what is asked, run what shows that it works, and say briefly what you did."
)
_CODEX_EFFORTS = {
    "low": "Answers fast, with little reasoning",
    "medium": "Weighs speed against depth",
    "high": "Reasons more, for hard problems",
}


_decode_fields = msgspec.json.Decoder(dict[str, object]).decode


def codex_list(models: Sequence[Model]) -> dict[str, object]:
    """What the Codex CLI takes for a model list. It refuses the whole list for one entry that lacks a field."""
    return {"models": [_codex_model(model, priority) for priority, model in enumerate(models)]}


def _codex_model(model: Model, priority: int) -> dict[str, object]:
    if model.codex_json:
        # What the provider itself tells Codex: its prompt, its tools, its limits.
        return {**_decode_fields(model.codex_json), "slug": model.id, "priority": priority}
    return {
        "slug": model.id,
        "display_name": model.display_name or model.id,
        "description": f"{model.id} through {model.backend}",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [
            {"effort": effort, "description": description} for effort, description in _CODEX_EFFORTS.items()
        ],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "base_instructions": _CODEX_INSTRUCTIONS,
        "support_verbosity": False,
        "supports_parallel_tool_calls": True,
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "input_modalities": ["text", "image"],
        "experimental_supported_tools": [],
    }
