"""Which path is which endpoint: the prefix before `/v1`, the operation after it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from patchbay.dialects.anthropic import DIALECT as ANTHROPIC
from patchbay.dialects.base import Dialect
from patchbay.dialects.openai_chat import DIALECT as OPENAI_CHAT
from patchbay.dialects.openai_responses import DIALECT as OPENAI_RESPONSES
from patchbay.dispatch.routing import SDK_PREFIX

AnyDialect: TypeAlias = Dialect[Any]


class Operation(Enum):
    """What a client wants."""

    CHAT = "chat"
    COUNT_TOKENS = "count_tokens"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of the API, ready to be served."""

    # The path prefix that routes may match, for example `/api`; empty for none.
    prefix: str
    operation: Operation
    dialect: AnyDialect
    # The conversation that the path names; empty: none.
    session: str = ""


_OPERATIONS: dict[str, tuple[Operation, AnyDialect]] = {
    "/v1/messages": (Operation.CHAT, ANTHROPIC),
    "/v1/messages/count_tokens": (Operation.COUNT_TOKENS, ANTHROPIC),
    "/v1/chat/completions": (Operation.CHAT, OPENAI_CHAT),
    "/v1/responses": (Operation.CHAT, OPENAI_RESPONSES),
    "/v1/responses/input_tokens": (Operation.COUNT_TOKENS, OPENAI_RESPONSES),
    "/v1/responses/compact": (Operation.COMPACT, OPENAI_RESPONSES),
}

# Served whatever the routes say, as SDK_PREFIX is: every backend, and every backend for clients told a base URL
# without `/v1`.
API_PREFIX = "/api"
CODEX_PREFIX = "/codex"
_CODEX_OPERATIONS = {
    path.removeprefix("/v1"): (operation, dialect)
    for path, (operation, dialect) in _OPERATIONS.items()
    if dialect is not ANTHROPIC
}


# A session is named in the path by clients that can be told nothing but a base URL.
_SESSION_PATH = re.compile(CODEX_PREFIX + r"/([^/]+)/responses")


class Endpoints:
    """The paths served.

    Args:
        prefixes: The prefixes of the configured routes; `/api`, `/sdk`, `/codex` and none are always served.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = sorted({"", API_PREFIX, SDK_PREFIX, CODEX_PREFIX, *(prefix.rstrip("/") for prefix in prefixes)})
        self._by_path = {
            prefix + path: Endpoint(prefix, operation, dialect)
            for prefix in self.prefixes
            for path, (operation, dialect) in _OPERATIONS.items()
        }
        for path, (operation, dialect) in _CODEX_OPERATIONS.items():
            self._by_path[CODEX_PREFIX + path] = Endpoint(CODEX_PREFIX, operation, dialect)

    def find(self, path: str) -> Endpoint | None:
        """The endpoint of a path; None when another part of the edge serves it, or nothing does."""
        found = self._by_path.get(path)
        if found is None and (named := _SESSION_PATH.fullmatch(path)) is not None:
            return Endpoint(CODEX_PREFIX, Operation.CHAT, OPENAI_RESPONSES, named[1])
        return found


def dialect_of(path: str, headers: Iterable[str]) -> AnyDialect:
    """The dialect to speak with a client whose request named no endpoint: by its path, else by its headers."""
    if "/messages" in path or "anthropic-version" in headers:
        return ANTHROPIC
    return OPENAI_RESPONSES if path.partition("/responses")[1] else OPENAI_CHAT
