"""JSON Web Tokens as the issuer makes them. Nobody checks their signature, so it is none."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time

import msgspec

from patchbay_standin.script import JsonObject

_AUTH = "https://api.openai.com/auth"
_PROFILE = "https://api.openai.com/profile"

_encode = msgspec.json.Encoder().encode


def write_jwt(claims: JsonObject) -> str:
    """A token with these claims."""
    head = {"alg": "RS256", "kid": "standin", "typ": "JWT"}
    signed = f"{_segment(_encode(head))}.{_segment(_encode(claims))}"
    return f"{signed}.{_segment(hashlib.sha512(signed.encode()).digest() * 4)}"


def access_claims(
    *, issuer: str, client_id: str, email: str, account_id: str, user_id: str, plan: str, expires: float
) -> JsonObject:
    """The claims of an access token."""
    return {
        **_common(issuer, user_id, expires),
        "aud": ["https://api.openai.com/v1"],
        "client_id": client_id,
        "scp": ["openid", "profile", "email", "offline_access"],
        _AUTH: {
            "chatgpt_account_id": account_id,
            "chatgpt_plan_type": plan,
            "chatgpt_user_id": user_id,
            "user_id": user_id,
        },
        _PROFILE: {"email": email, "email_verified": True},
    }


def id_claims(
    *, issuer: str, client_id: str, email: str, account_id: str, user_id: str, plan: str, expires: float
) -> JsonObject:
    """The claims of an id token."""
    return {
        **_common(issuer, user_id, expires),
        "aud": [client_id],
        "email": email,
        "email_verified": True,
        _AUTH: {
            "chatgpt_account_id": account_id,
            "chatgpt_plan_type": plan,
            "chatgpt_user_id": user_id,
            "chatgpt_subscription_active_start": "2026-01-01T00:00:00+00:00",
            "chatgpt_subscription_active_until": "2027-01-01T00:00:00+00:00",
            "organizations": [{"id": f"org-{user_id}", "is_default": True, "role": "owner", "title": "Personal"}],
            "user_id": user_id,
        },
    }


def _common(issuer: str, user_id: str, expires: float) -> JsonObject:
    return {
        "iss": issuer,
        "sub": f"auth0|{user_id}",
        "iat": int(time.time()),
        "exp": int(expires),
        "jti": secrets.token_hex(16),
    }


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
