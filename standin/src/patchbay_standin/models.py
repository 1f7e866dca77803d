"""The model list: every scenario is a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from patchbay_standin.library import UnknownModel
from patchbay_standin.script import JsonObject

# The answer is the default one for any model; these make a list that a client may choose from.
PLAIN_MODELS: Final = ("standin", "claude-standin", "gpt-standin")

_CREATED: Final = 1_735_689_600
_CREATED_AT: Final = "2025-01-01T00:00:00Z"


def list_models(path: str, names: Sequence[str], *, anthropic: bool) -> bytes:
    """The list for a path ending in `/models`, one model for `/models/<id>`.

    Raises:
        UnknownModel: When there is no such model.
    """
    models = [*PLAIN_MODELS, *names]
    wanted = path.partition("/models")[2].strip("/")
    if wanted and wanted not in models:
        raise UnknownModel(wanted)
    show = _anthropic_model if anthropic else _openai_model
    if wanted:
        return msgspec.json.encode(show(wanted))
    data = [show(name) for name in models]
    if anthropic:
        return msgspec.json.encode(
            {"data": data, "has_more": False, "first_id": models[0], "last_id": models[-1]},
        )
    return msgspec.json.encode({"object": "list", "data": data})


def _anthropic_model(name: str) -> JsonObject:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": _CREATED_AT,
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }


def _openai_model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "patchbay-standin"}
