"""Sign-in with a code that is typed on another device."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from patchbay_standin.oauth.refusals import Refusal
from patchbay_standin.oauth.spec import DeviceFlow
from patchbay_standin.script import JsonObject

_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass(eq=False)
class Device:
    """A device that waits for its user."""

    client_id: str
    user_code: str
    expires: float
    polls: int = 0
    is_approved: bool = False


class Devices:
    """The devices that wait."""

    def __init__(self) -> None:
        self.flow = DeviceFlow()
        self._waiting: dict[str, Device] = {}

    def start(self, client_id: str) -> JsonObject:
        """A new device."""
        identity = f"deviceauth_{secrets.token_hex(16)}"
        code = "".join(secrets.choice(_LETTERS) for _ in range(9))
        device = Device(client_id, f"{code[:4]}-{code[4:]}", time.time() + self.flow.lifetime_s)
        self._waiting[identity] = device
        return {"device_auth_id": identity, "user_code": device.user_code, "interval": self.flow.interval}

    def approve(self, user_code: str) -> None:
        """The user has typed the code. Raises Refusal."""
        for device in self._waiting.values():
            if device.user_code == user_code:
                device.is_approved = True
                return
        raise Refusal(404, {"error": {"message": f"No device waits with the code {user_code}.", "code": "not_found"}})

    def poll(self, identity: str, user_code: str) -> Device:
        """The device, once its user has approved it; then it waits no longer. Raises Refusal."""
        device = self._waiting.get(identity)
        if device is None or device.user_code != user_code or device.expires < time.time():
            raise Refusal(404, {"error": {"message": "The code is unknown or expired.", "code": "not_found"}})
        after = self.flow.approve_after
        if not device.is_approved and (after is None or device.polls < after):
            device.polls += 1
            raise Refusal(
                403,
                {"error": {"message": "Sign-in is still pending.", "code": "deviceauth_authorization_pending"}},
            )
        del self._waiting[identity]
        return device

    def clear(self) -> None:
        """Forgets all."""
        self._waiting.clear()
