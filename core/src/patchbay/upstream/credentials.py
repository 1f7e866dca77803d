"""Which credential goes upstream, and in which headers."""

from __future__ import annotations

from patchbay.errors import AUTHENTICATION, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.upstream.profile import KeyHeader
from patchbay_proto.v1.provider_pb2 import Credential


def auth_headers(backend: Backend, key_header: KeyHeader, caller: Credential | None) -> dict[str, str]:
    """The headers that authenticate a request to a backend.

    Args:
        backend: With `credentials: pass_through` the caller's own credential is used, in the header it came in;
            with `signed_in` none; otherwise the backend's `auth_token` (as a bearer) or `api_key`.
        key_header: Where the upstream takes an API key.
        caller: The caller's own credential, if it sent one.

    Raises:
        PatchbayError: AUTHENTICATION when there is no credential to send.
    """
    if backend.credentials == "pass_through":
        if caller is None or not caller.secret:
            raise _missing(f"the backend `{backend.name}` passes your own provider key on, and you sent none")
        if caller.scheme == Credential.SCHEME_BEARER and key_header is not KeyHeader.BOTH:
            return {"authorization": f"Bearer {caller.secret}"}
        return _key_headers(caller.secret, key_header)
    if backend.credentials == "signed_in":
        # What is signed in sends its own.
        return {}
    if backend.auth_token is not None:
        return {"authorization": f"Bearer {backend.auth_token.get_secret_value()}"}
    if backend.api_key is not None:
        return _key_headers(backend.api_key.get_secret_value(), key_header)
    if backend.kind == "openai-compatible":
        # Local servers (vLLM, Ollama, LM Studio) often want none.
        return {}
    raise _missing(f"the backend `{backend.name}` has no credential: {backend.detail}")


def _key_headers(secret: str, key_header: KeyHeader) -> dict[str, str]:
    headers = {}
    if key_header in (KeyHeader.BEARER, KeyHeader.BOTH):
        headers["authorization"] = f"Bearer {secret}"
    if key_header in (KeyHeader.X_API_KEY, KeyHeader.BOTH):
        headers["x-api-key"] = secret
    return headers


def _missing(message: str) -> PatchbayError:
    return PatchbayError(make_error(AUTHENTICATION, message))
