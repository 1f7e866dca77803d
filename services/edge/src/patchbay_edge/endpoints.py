"""Which path is which endpoint: the prefix before `/v1`, the operation after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from patchbay.dialects.anthropic import DIALECT as ANTHROPIC
from patchbay.dialects.base import Dialect
from patchbay.dialects.openai_chat import DIALECT as OPENAI_CHAT

AnyDialect: TypeAlias = Dialect[Any]


class Operation(Enum):
    """What a client wants."""

    CHAT = "chat"
    COUNT_TOKENS = "count_tokens"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of the API, ready to be served."""

    # The path prefix that routes may match, for example `/api`; empty for none.
    prefix: str
    operation: Operation
    dialect: AnyDialect


_OPERATIONS: dict[str, tuple[Operation, AnyDialect]] = {
    "/v1/messages": (Operation.CHAT, ANTHROPIC),
    "/v1/messages/count_tokens": (Operation.COUNT_TOKENS, ANTHROPIC),
    "/v1/chat/completions": (Operation.CHAT, OPENAI_CHAT),
}

# Both are served whatever the routes say: every backend, and the ones that are Claude Code.
API_PREFIX = "/api"
SDK_PREFIX = "/sdk"


class Endpoints:
    """The paths served.

    Args:
        prefixes: The prefixes of the configured routes; `/api`, `/sdk` and none are always served.
    """

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = sorted({"", API_PREFIX, SDK_PREFIX, *(prefix.rstrip("/") for prefix in prefixes)})
        self._by_path = {
            prefix + path: Endpoint(prefix, operation, dialect)
            for prefix in self.prefixes
            for path, (operation, dialect) in _OPERATIONS.items()
        }

    def find(self, path: str) -> Endpoint | None:
        """The endpoint of a path; None when another part of the edge serves it, or nothing does."""
        return self._by_path.get(path)


def dialect_of(path: str, headers: Iterable[str]) -> AnyDialect:
    """The dialect to speak with a client whose request named no endpoint: by its path, else by its headers."""
    if "/messages" in path or "anthropic-version" in headers:
        return ANTHROPIC
    return OPENAI_CHAT
