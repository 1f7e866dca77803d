"""What differs between upstreams of one dialect: a profile is data, and adding a provider is adding one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from patchbay.dialects.base import Dialect

Quirks = TypeVar("Quirks")


class KeyHeader(Enum):
    """The headers in which an upstream takes its key."""

    BEARER = "authorization"
    X_API_KEY = "x-api-key"
    # CodeBuddy wants the same key in both.
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Generic[Quirks]):
    """One kind of upstream.

    Paths are appended to the backend's `base_url`.
    """

    kind: str
    dialect: Dialect[Quirks]
    quirks: Quirks
    chat_path: str
    models_path: str | None = None
    # None: the upstream has no counter, and counts are estimates.
    count_tokens_path: str | None = None
    # The request fields that the counter takes.
    count_tokens_fields: frozenset[str] = frozenset()
    key_header: KeyHeader = KeyHeader.BEARER
    # Sent with each request, unless the client's forwarded headers say otherwise; names in lower case.
    headers: Mapping[str, str] = field(default_factory=dict)
    # The client's headers that go upstream unchanged; names in lower case.
    forwarded_headers: frozenset[str] = frozenset()
    # Whether a client's own body may go upstream as it is, when the dialects match.
    native: bool = True
    # The models to list when the upstream has no list.
    models: tuple[str, ...] = ()
    owned_by: str = ""
