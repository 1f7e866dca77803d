"""Who calls: Patchbay's own keys, and the provider credential a caller may bring along."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from patchbay.errors import AUTHENTICATION, PatchbayError, make_error
from patchbay.settings import ApiKey, Security
from patchbay.state.admission import Limits
from patchbay_proto.v1.provider_pb2 import Caller, Credential

# A Patchbay key, for callers whose usual header holds their own provider key (`credentials: pass_through`).
KEY_HEADER = "x-patchbay-key"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller, once it is known."""

    caller: Caller
    # The key's own limits; None: the configured defaults.
    limits: Limits | None
    # What the caller sent as a provider credential; never a Patchbay key.
    credential: Credential | None
    # Whether the key is an operator's.
    operator: bool = False

    @property
    def owner(self) -> str:
        """Whose what the caller leaves here is: the key's, or that of the provider credential in place of one."""
        if self.caller.key_id or self.credential is None:
            return self.caller.key_id
        # The same at every edge, and no key's id.
        return "\0" + hashlib.sha256(self.credential.secret.encode()).hexdigest()


class Callers:
    """Knows the configured keys, as digests."""

    def __init__(self, security: Security, defaults: Limits) -> None:
        self._required = security.require_api_key
        self._pepper = secrets.token_bytes(32)
        self._keys = [
            (self._digest(key.key.get_secret_value().encode()), _identity(key, defaults)) for key in security.api_keys
        ]

    @property
    def has_keys(self) -> bool:
        """Whether any keys are configured."""
        return bool(self._keys)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """The caller behind a request's headers (names in lower case).

        Raises:
            PatchbayError: AUTHENTICATION when a key is required and none, or a wrong one, is there.
        """
        offered = _offered(headers)
        own = _stripped(headers.get(KEY_HEADER, ""))
        known = self._find(own) if own else None
        credential = None
        for candidate in offered:
            match = self._find(candidate.secret)
            if match is None:
                # The first that is no key of ours is the provider's; a key of ours goes nowhere else.
                credential = credential or candidate
            elif not own:
                known = known or match
        if known is not None:
            return replace(known, credential=credential)
        if self._required:
            message = "an API key is required, as x-api-key or as a bearer token"
            if own or offered:
                message = "the API key is not known here"
            raise PatchbayError(make_error(AUTHENTICATION, message))
        return Identity(Caller(), None, credential)

    def _find(self, secret: str) -> Identity | None:
        if not self._keys:
            return None
        # Headers come as latin-1 text, which gives back the bytes that the client sent.
        digest = self._digest(secret.encode("latin-1"))
        found = None
        # Every key is compared, in constant time, so that the time taken tells nothing.
        for candidate, identity in self._keys:
            if hmac.compare_digest(candidate, digest):
                found = identity
        return found

    def _digest(self, secret: bytes) -> bytes:
        return hmac.digest(self._pepper, secret, hashlib.sha256)


def _identity(key: ApiKey, defaults: Limits) -> Identity:
    caller = Caller(key_id=key.id, organization=key.organization or "", user=key.user or "")
    limits = None
    if key.requests_per_minute is not None or key.concurrent_requests is not None:
        limits = Limits(
            requests_per_minute=key.requests_per_minute or defaults.requests_per_minute,
            concurrent_requests=key.concurrent_requests or defaults.concurrent_requests,
            max_connections=defaults.max_connections,
        )
    return Identity(caller, limits, None, key.operator)


def _offered(headers: Mapping[str, str]) -> list[Credential]:
    """What the usual headers hold, `x-api-key` before the bearer."""
    offered = []
    if secret := _stripped(headers.get("x-api-key", "")):
        offered.append(Credential(scheme=Credential.SCHEME_API_KEY, secret=secret))
    scheme, _, secret = _stripped(headers.get("authorization", "")).partition(" ")
    if scheme.lower() == "bearer" and (secret := _stripped(secret)):
        offered.append(Credential(scheme=Credential.SCHEME_BEARER, secret=secret))
    return offered


def _stripped(header: str) -> str:
    """A header without what HTTP has around it. The white space of latin-1 is half of a character of a key's."""
    return header.strip(" \t")
