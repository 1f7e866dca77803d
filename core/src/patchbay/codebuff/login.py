"""What signing in is over HTTP and over the WebSocket alike: how a key is sealed on its way, and who has signed in."""

from __future__ import annotations

from patchbay.settings import Security
from patchbay.state.sealing import Sealer, make_sealer
from patchbay_proto.v1.provider_pb2 import Caller


def login_sealer(security: Security) -> Sealer | None:
    """Seals keys on their way, also where no other secret is sealed: all replicas know the same keys. None: there are
    no keys."""
    keys = "\n".join(key.key.get_secret_value() for key in security.api_keys)
    return make_sealer(security.sealing_keys() or ((keys,) if keys else ()))


def known_user(caller: Caller) -> dict[str, str | None]:
    """What is known of a caller, under the names that clients ask for."""
    name = caller.user or caller.key_id or "local"
    return {
        "id": caller.key_id or "local",
        "email": caller.user if "@" in caller.user else None,
        "name": name,
        "organization": caller.organization or None,
        "discord_id": None,
    }


def signed_in_user(caller: Caller, token: str, *, fingerprint_id: str, secret: str) -> dict[str, str | None]:
    """Who has signed in, as the CLI keeps it.

    Args:
        secret: The sign-in's.
    """
    user = known_user(caller)
    return {
        "id": user["id"],
        "email": user["email"] or "",
        "name": user["name"],
        "authToken": token,
        "fingerprintId": fingerprint_id,
        "fingerprintHash": secret,
    }
